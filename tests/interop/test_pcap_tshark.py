"""tshark reads our captures: nanoseconds, direction, comments, lengths, and no complaint about the file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from bucatini.base.reasons import DropReason, describe
from bucatini.observe.output import open_output
from bucatini.observe.pcapng import FROM_GUEST, TO_GUEST, PcapngWriter

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def tshark(path: Path, *fields: str) -> list[list[str]]:
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=|"]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "cut short" not in done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "c.pcapng"
    fd = open_output(str(path), "--pcap", append=False)
    writer = PcapngWriter(fd, name="c", on_failure=pytest.fail, description="the guest's side")
    request = bytes(Ether() / IP(src="172.16.0.2", dst="10.0.0.1") / TCP(sport=1024, dport=22, flags="S"))
    reset = bytes(Ether() / IP(src="10.0.0.1", dst="172.16.0.2") / TCP(sport=22, dport=1024, flags="RA"))
    superframe = bytes(Ether() / IP(src="172.16.0.2", dst="192.0.2.1", len=0) / TCP(flags="A") / bytes(64000))
    writer.write(FROM_GUEST, 1_700_000_000_000_000_001, request, describe(DropReason.POLICY_DENIED))
    writer.write(TO_GUEST, 1_700_000_000_000_000_002, reset, "rule «private»")
    writer.write(FROM_GUEST, 1_700_000_000_999_999_999, superframe)
    writer.close()
    return path


def test_times_directions_and_comments(capture: Path) -> None:
    # frame.time_epoch holds nanoseconds; frame.packet_flags_direction is 1 inbound, 2 outbound.
    rows = tshark(capture, "frame.time_epoch", "frame.packet_flags_direction", "frame.comment", "frame.interface_name")
    times = [row[0] for row in rows]
    assert times == ["1700000000.000000001", "1700000000.000000002", "1700000000.999999999"]
    assert [int(row[1], 0) for row in rows] == [2, 1, 2]
    assert [row[2] for row in rows] == ["policy-denied: refused by policy", "rule «private»", ""]
    assert {row[3] for row in rows} == {"eth0"}


def test_frames_are_what_was_written(capture: Path) -> None:
    rows = tshark(capture, "frame.len", "ip.src", "ip.dst", "tcp.flags.syn", "tcp.flags.reset")
    assert rows[0] == ["54", "172.16.0.2", "10.0.0.1", "1", "0"]
    assert rows[1] == ["54", "10.0.0.1", "172.16.0.2", "0", "1"]
    assert rows[2][0] == str(14 + 20 + 20 + 64000)


@pytest.mark.skipif(shutil.which("capinfos") is None, reason="capinfos is not installed")
def test_capinfos_knows_the_section_and_the_interface(capture: Path) -> None:
    done = subprocess.run(["capinfos", str(capture)], capture_output=True, text=True, timeout=60, check=True)
    assert "bucatini" in done.stdout
    assert "Time precision = nanoseconds (9)" in done.stdout
    assert "Number of packets = 3" in done.stdout
