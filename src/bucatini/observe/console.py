"""Lines on the terminal while a command runs: each flow event in words (`-v`), or only a hint at the end.

The terminal belongs to the command, so without `-v` nothing is printed while it runs. A command may have put the
terminal into raw mode (an editor, ssh): lines then end in CR LF, which is harmless elsewhere.
"""

from __future__ import annotations

import os

from bucatini.base.address import text
from bucatini.base.events import Event, FlowClosed, FlowEvent, FlowOpened, FlowRefused, FrameDropped, Refusal
from bucatini.base.reasons import describe
from bucatini.base.verdict import INGRESS
from bucatini.observe.output import Output
from bucatini.observe.words import duration_text, endpoint_text, plural, size_text

__all__ = ["Console", "RefusalHint", "sentence"]

_CAPACITY = 64 << 10


class Console:
    """Listener that writes a line for each event to `fd`, which it does not own. A stopped terminal loses lines."""

    __slots__ = ("_end", "_output")

    def __init__(self, fd: int = 2) -> None:
        self._output = Output(fd, name="stderr", on_failure=_ignore, capacity=_CAPACITY, owned=False)
        self._end = b"\r\n" if os.isatty(fd) else b"\n"

    def on_event(self, event: Event, now: float) -> None:
        """Buffer the sentence of `event`."""
        self.say(sentence(event))

    def say(self, line: str) -> None:
        """Buffer any line, after the name of the program."""
        self._output.append(b"bucatini: ", line.encode("utf-8", "replace"), self._end)

    def flush(self) -> None:
        """Write what is buffered, without waiting. Called at the end of a turn."""
        self._output.flush()

    def close(self) -> None:
        """Write the rest, and say how many lines were lost."""
        lost = self._output.lost
        self._output.flush()
        if lost:
            self.say(f"{plural(lost, 'line')} lost: the terminal was too slow")
        self._output.close()


class RefusalHint:
    """Listener that counts refusals, for the one line a run without `-v` ends with. `noun` is what is refused."""

    __slots__ = ("_counts", "_noun")

    def __init__(self, noun: str = "connection") -> None:
        self._noun = noun
        self._counts: dict[Refusal, int] = {}

    def on_event(self, event: Event, now: float) -> None:
        """Count it if it is a refusal."""
        if isinstance(event, FlowRefused):
            self._counts[event.reason] = self._counts.get(event.reason, 0) + event.times

    def line(self) -> str | None:
        """The hint, None when nothing was refused."""
        if not self._counts:
            return None
        parts = []
        for reason, count in sorted(self._counts.items()):
            why = "by policy" if reason is Refusal.POLICY else f"({reason})"
            parts.append(f"{plural(count, self._noun)} refused {why}")
        return f"{', '.join(parts)}; --summary or -v shows them"


def sentence(event: Event) -> str:
    """`event` in words, one line, such as `tcp 172.16.0.2:4000 -> 192.0.2.1:443 allowed (public)`."""
    if isinstance(event, FrameDropped):
        return _dropped(event)
    guest, peer = endpoint_text(event.guest), endpoint_text(event.peer)
    source, destination = (peer, guest) if event.direction == INGRESS else (guest, peer)
    return f"{event.protocol} {source} -> {destination} {_what(event)}"


def _dropped(event: FrameDropped) -> str:
    ends = " -> ".join(text(address) for address in (event.source, event.destination) if address)
    sender = "" if event.mac is None else f" from {event.mac.hex(':')}"
    carrying = f" ({ends})" if ends else ""
    return f"{plural(event.times, 'frame')}{sender}{carrying} dropped: {describe(event.reason)}"


def _what(event: FlowEvent) -> str:
    match event:
        case FlowOpened():
            via = "" if event.host is None else f", at {endpoint_text(event.host)} of the host"
            return f"allowed ({event.rule}){via}"
        case FlowRefused():
            again = f", {event.times} times" if event.times > 1 else ""
            if event.reason is Refusal.POLICY:
                return f"refused by policy ({event.rule}){again}"
            return f"refused: {event.reason}{again}"
        case FlowClosed():
            sizes = f"{size_text(event.sent_bytes)} sent, {size_text(event.received_bytes)} received"
            return f"{event.how} after {duration_text(event.duration)}: {sizes}"


def _ignore(line: str) -> None:
    """Nobody can be told that telling fails."""
