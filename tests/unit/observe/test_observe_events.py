"""The event log: one JSON object per line with stable keys, whatever the event holds."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import Endpoint, pack
from bucatini.base.events import (
    ICMP,
    TCP,
    UDP,
    Ending,
    Event,
    FlowClosed,
    FlowOpened,
    FlowRefused,
    FrameDropped,
    Refusal,
)
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.observe.events import EventLog, timestamp
from bucatini.observe.output import open_output

EPOCH_NS = 1_700_000_000_000_000_000
GUEST = Endpoint(pack("172.16.0.2"), 40000)
PEER = Endpoint(pack("2001:db8::1"), 443)

KEYS = {
    "flow-opened": ["time", "event", "flow", "protocol", "direction", "guest", "peer", "host", "rule"],
    "flow-refused": ["time", "event", "protocol", "direction", "guest", "peer", "rule", "reason", "times"],
    "flow-closed": [
        *("time", "event", "flow", "protocol", "direction", "guest", "peer", "host", "rule"),
        *("sent", "received", "seconds", "how"),
    ],
    "frame-dropped": ["time", "event", "reason", "times", "mac", "source", "destination"],
}

endpoints = st.builds(
    Endpoint, st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), st.integers(0, 65535)
)
common = (st.sampled_from([TCP, UDP, ICMP]), st.sampled_from([EGRESS, INGRESS]), endpoints, endpoints)
counts = st.integers(0, 2**63 - 1)
events = st.one_of(
    st.builds(FlowOpened, st.integers(1, 2**40), *common, st.none() | endpoints, st.text()),
    st.builds(FlowRefused, *common, st.text(), st.sampled_from(Refusal)),
    st.builds(
        FlowClosed,
        st.integers(1, 2**40),
        *common,
        st.none() | endpoints,
        st.text(),
        counts,
        counts,
        st.floats(0, 1e7),
        st.sampled_from(Ending),
    ),
    st.builds(
        FrameDropped,
        st.sampled_from([reason for reason in DropReason if reason]),
        counts,
        st.none() | st.binary(min_size=6, max_size=6),
        *(st.none() | st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16),) * 2,
    ),
)


def logged(path: Path, *seen: tuple[Event, float]) -> list[dict[str, object]]:
    log = EventLog(
        open_output(str(path), "--events", append=False), name="x", epoch_ns=EPOCH_NS, on_failure=pytest.fail
    )
    for event, now in seen:
        log.on_event(event, now)
    log.close()
    text = path.read_text("utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]  # str.splitlines also splits at U+0085


def test_each_event_in_full(tmp_path: Path) -> None:
    host = Endpoint(pack("127.0.0.1"), 8000)
    rows = logged(
        tmp_path / "e",
        (FlowOpened(1, TCP, EGRESS, GUEST, PEER, host, "allow host"), 0.0),
        (FlowRefused(UDP, EGRESS, GUEST, PEER, "", Refusal.TABLE_FULL), 0.25),
        (FlowClosed(1, TCP, EGRESS, GUEST, PEER, None, "allow host", 10, 20, 1.23456789, Ending.PEER_RESET), 1.5),
        (FrameDropped(DropReason.ARP_SPOOF, 3, bytes(5) + b"\x01", pack("10.0.0.1"), None), 2.0),
    )
    shared = {"direction": "egress", "guest": "172.16.0.2:40000", "peer": "[2001:db8::1]:443"}
    assert rows == [
        {
            "time": "2023-11-14T22:13:20.000000Z",
            "event": "flow-opened",
            "flow": 1,
            "protocol": "tcp",
            **shared,
            "host": "127.0.0.1:8000",
            "rule": "allow host",
        },
        {
            "time": "2023-11-14T22:13:20.250000Z",
            "event": "flow-refused",
            "protocol": "udp",
            **shared,
            "rule": None,
            "reason": "flow table full",
            "times": 1,
        },
        {
            "time": "2023-11-14T22:13:21.500000Z",
            "event": "flow-closed",
            "flow": 1,
            "protocol": "tcp",
            **shared,
            "host": None,
            "rule": "allow host",
            "sent": 10,
            "received": 20,
            "seconds": 1.234568,
            "how": "reset by peer",
        },
        {
            "time": "2023-11-14T22:13:22.000000Z",
            "event": "frame-dropped",
            "reason": "arp-spoof",
            "times": 3,
            "mac": "00:00:00:00:00:01",
            "source": "10.0.0.1",
            "destination": None,
        },
    ]


@given(st.lists(st.tuples(events, st.floats(0, 1e9)), max_size=4))
def test_any_event_is_one_line_with_the_documented_keys(
    tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[Event, float]]
) -> None:
    rows = logged(tmp_path_factory.mktemp("events") / "e", *seen)
    assert len(rows) == len(seen)
    for row, (event, _) in zip(rows, seen, strict=True):
        kebab = re.sub(r"(?<=.)([A-Z])", r"-\1", type(event).__name__).lower()
        assert row["event"] == kebab
        assert list(row) == KEYS[kebab]
        if not isinstance(event, FrameDropped):
            assert row["rule"] == (event.rule or None if isinstance(event, FlowRefused) else event.rule)


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_time_is_rfc3339_with_microseconds(ns: int) -> None:
    written = timestamp(ns)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", written)
    read = datetime.fromisoformat(written)
    assert read.tzinfo == UTC
    assert int(read.replace(microsecond=0).timestamp()) * 10**6 + read.microsecond == ns // 1000


def test_lines_of_an_earlier_run_stay(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_text("{}\n")
    log = EventLog(open_output(str(path), "--events", append=True), name="x", epoch_ns=0, on_failure=pytest.fail)
    log.on_event(FlowRefused(TCP, EGRESS, GUEST, PEER, "r", Refusal.POLICY), 1.0)
    log.flush()
    assert path.read_text().count("\n") == 2
    assert path.read_text().startswith("{}\n")
    log.close()


def test_a_broken_pipe_stops_the_log_with_one_warning() -> None:
    warnings: list[str] = []
    reader, writer = os.pipe()
    log = EventLog(writer, name="--events p", epoch_ns=0, on_failure=warnings.append)
    os.close(reader)
    for _ in range(3):
        log.on_event(FlowRefused(TCP, EGRESS, GUEST, PEER, "r", Refusal.POLICY), 1.0)
        log.flush()
    log.close()
    assert warnings == ["--events p: Broken pipe; nothing more is written to it, traffic goes on"]
    assert log.lost == 0
