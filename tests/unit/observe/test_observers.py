"""All observers of a run together: what each combination of settings prints and writes."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TextIO

import pytest

from bucatini.base.address import Endpoint, pack
from bucatini.base.errors import ConfigError
from bucatini.base.events import TCP, FlowOpened, FlowRefused, Refusal
from bucatini.base.reasons import Counters, DropReason
from bucatini.base.verdict import EGRESS
from bucatini.observe.observers import Observers
from bucatini.observe.pcapng import FROM_GUEST
from bucatini.observe.settings import ObserveSettings

GUEST = Endpoint(pack("172.16.0.2"), 40000)
PEER = Endpoint(pack("10.0.0.1"), 22)
OPENED = FlowOpened(1, TCP, EGRESS, GUEST, PEER, None, "allow private")
REFUSED = FlowRefused(TCP, EGRESS, GUEST, PEER, "private", Refusal.POLICY)


def stderr_of(settings: ObserveSettings, counters: Counters | None = None) -> str:
    with tempfile.TemporaryFile("w+") as stream:
        observers = Observers(settings, stderr=stream)
        observers.on_event(OPENED, 0.0)
        observers.on_event(REFUSED, 0.0)
        if observers.capture:
            observers.capture.write(FROM_GUEST, 1, b"frame")
        observers.flush()
        observers.finish(counters, stderr=stream)
        stream.seek(0)
        return stream.read()


def test_by_default_one_hint_at_the_end() -> None:
    assert stderr_of(ObserveSettings()) == ("bucatini: 1 connection refused by policy; --summary or -v shows them\n")


def test_quiet_says_nothing() -> None:
    assert stderr_of(ObserveSettings(quiet=True)) == ""


def test_verbose_says_each_event_and_gives_no_hint() -> None:
    lines = stderr_of(ObserveSettings(verbose=True)).splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("allowed (allow private)")
    assert lines[1].endswith("refused by policy (private)")


def test_summary_has_flows_and_drops() -> None:
    counters = Counters()
    counters.drop(DropReason.VLAN)
    text = stderr_of(ObserveSettings(summary=True), counters)
    assert "1 flow allowed, 1 refused" in text
    assert "vlan: " in text
    assert "--summary" not in text


def test_files(tmp_path: Path) -> None:
    settings = ObserveSettings(pcap=str(tmp_path / "c"), events=str(tmp_path / "e"), quiet=True)
    assert stderr_of(settings) == ""
    assert b"frame" in (tmp_path / "c").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "e").read_text().splitlines()]
    assert [row["event"] for row in rows] == ["flow-opened", "flow-refused"]


def test_without_pcap_there_is_no_capture(tmp_path: Path) -> None:
    with (tmp_path / "err").open("w") as stream:
        assert Observers(ObserveSettings(), stderr=stream).capture is None


def test_a_failed_file_warns_and_the_others_go_on(tmp_path: Path) -> None:
    text = stderr_of(ObserveSettings(pcap="/dev/full", events=str(tmp_path / "e"), quiet=True))
    assert text == (
        "bucatini: --pcap /dev/full: No space left on device; nothing more is written to it, traffic goes on\n"
    )
    assert len((tmp_path / "e").read_text().splitlines()) == 2


def test_what_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    def open_now() -> int:
        return len(os.listdir("/proc/self/fd"))

    stream: TextIO
    with (tmp_path / "err").open("w") as stream:
        before = open_now()
        with pytest.raises(ConfigError, match="--pcap '/nowhere/c'"):
            Observers(ObserveSettings(events=str(tmp_path / "e"), pcap="/nowhere/c"), stderr=stream)
        assert open_now() == before


@pytest.mark.parametrize(("settings", "seen"), [(ObserveSettings(quiet=True), 1), (ObserveSettings(verbose=True), 2)])
def test_warnings_are_for_everybody_and_sayings_for_the_curious(settings: ObserveSettings, seen: int) -> None:
    with tempfile.TemporaryFile("w+") as stream:
        observers = Observers(settings, stderr=stream)
        observers.say("the compiled form runs")
        observers.warn("no IPv6 here")
        observers.finish(stderr=stream)
        stream.seek(0)
        assert stream.read().splitlines() == ["bucatini: the compiled form runs", "bucatini: no IPv6 here"][-seen:]
