"""The event log: one JSON object per line (JSON Lines), for programs and audits.

Keys and their meaning are stable; new keys and new values of `event` may come. `event` is the name of the type of
the event in kebab case. A key is always present in the events that have it, `null` where there is nothing to say:

```text
flow-opened    time event flow protocol direction guest peer host rule
flow-refused   time event protocol direction guest peer rule reason times
flow-closed    time event flow protocol direction guest peer host rule sent received seconds how
frame-dropped  time event reason times mac source destination
```

`time` is RFC 3339 in UTC with microseconds. Lines are written whole, so several runs may append to one file. Does
not: read a clock; it is told once how far the engine's monotonic clock is from the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from bucatini.base.address import Endpoint, text
from bucatini.base.events import Event, FlowClosed, FlowOpened, FlowRefused, FrameDropped
from bucatini.observe.output import Output
from bucatini.observe.words import endpoint_text

__all__ = ["EventLog", "timestamp"]


class _Opened(msgspec.Struct):
    time: str
    event: str
    flow: int
    protocol: str
    direction: str
    guest: str
    peer: str
    host: str | None
    rule: str


class _Refused(msgspec.Struct):
    time: str
    event: str
    protocol: str
    direction: str
    guest: str
    peer: str
    rule: str | None
    reason: str
    times: int


class _Closed(_Opened):
    sent: int
    received: int
    seconds: float
    how: str


class _Dropped(msgspec.Struct):
    time: str
    event: str
    reason: str
    times: int
    mac: str | None
    source: str | None
    destination: str | None


class EventLog:
    """Listener that writes to descriptor `fd`, which it owns. `on_failure` hears once when writing fails.

    `epoch_ns` is the wall-clock time, in nanoseconds since 1970, at which the engine's monotonic clock was 0.
    """

    __slots__ = ("_encode", "_epoch_ns", "_output")

    def __init__(self, fd: int, *, name: str, epoch_ns: int, on_failure: Callable[[str], None]) -> None:
        self._output = Output(fd, name=name, on_failure=on_failure)
        self._epoch_ns = epoch_ns
        self._encode = msgspec.json.Encoder().encode

    @property
    def lost(self) -> int:
        """Events not written because the reader of a pipe was too slow."""
        return self._output.lost

    def on_event(self, event: Event, now: float) -> None:
        """Buffer one line."""
        if self._output.active:
            when = timestamp(self._epoch_ns + int(now * 1e9))
            self._output.append(self._encode(_record(event, when)), b"\n")

    def flush(self) -> None:
        """Write what is buffered, without waiting. Called at the end of a turn."""
        self._output.flush()

    def close(self) -> None:
        """Write the rest and close."""
        self._output.close()


def timestamp(ns: int) -> str:
    """RFC 3339 time in UTC with microseconds of `ns` nanoseconds since 1970."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"


def _record(event: Event, when: str) -> _Opened | _Refused | _Dropped:
    if isinstance(event, FrameDropped):
        mac = None if event.mac is None else event.mac.hex(":")
        source, destination = (None if each is None else text(each) for each in (event.source, event.destination))
        return _Dropped(when, "frame-dropped", event.reason.label, event.times, mac, source, destination)
    guest, peer = endpoint_text(event.guest), endpoint_text(event.peer)
    match event:
        case FlowOpened():
            return _Opened(
                when, "flow-opened", event.flow_id, event.protocol, event.direction, guest, peer,
                _optional(event.host), event.rule,
            )  # fmt: skip
        case FlowRefused():
            return _Refused(
                when, "flow-refused", event.protocol, event.direction, guest, peer, event.rule or None, event.reason,
                event.times,
            )  # fmt: skip
        case FlowClosed():
            return _Closed(
                when, "flow-closed", event.flow_id, event.protocol, event.direction, guest, peer,
                _optional(event.host), event.rule,
                event.sent_bytes, event.received_bytes, round(event.duration, 6), event.how,
            )  # fmt: skip


def _optional(endpoint: Endpoint | None) -> str | None:
    return None if endpoint is None else endpoint_text(endpoint)
