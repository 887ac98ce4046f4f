"""What a run says about itself: captures, events, the summary, `-v`, `-q`; and that none of it can hurt the run."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fakehost import (
    GATEWAY4,
    GUEST4,
    GUEST6,
    HOST4,
    PRIVATE4,
    PRIVATE6,
    PUBLIC4,
    PUBLIC6,
    UNREACHABLE4,
    WORLD4,
    FakeHost,
    Guest,
)
from support.guests import PATIENCE

pytestmark = pytest.mark.root

PORT = 7300
CLOSED = 7301


def traffic(host: FakeHost, guest: Guest) -> None:
    """One of each: allowed, refused, closed port, unreachable, UDP, ping, a published port."""
    for address in (PUBLIC4, PUBLIC6):
        with (
            host.world.listen(address, PORT) as listener,
            guest.net.connect(address, PORT) as near,
            listener.accept()[0] as far,
        ):
            near.sendall(b"x" * 1000)
            assert len(far.recv(1000, socket.MSG_WAITALL)) == 1000
            far.sendall(b"y" * 300)
            near.recv(300, socket.MSG_WAITALL)
            near.close()
            far.recv(2000)
        with pytest.raises(ConnectionRefusedError):
            guest.net.connect(address, CLOSED)
    for address in (PRIVATE4, PRIVATE6):
        with pytest.raises(ConnectionRefusedError):
            guest.net.connect(address, PORT)
    with pytest.raises(OSError, match=r"No route|unreachable|refused"):
        guest.net.connect(UNREACHABLE4, PORT)
    with host.world.bound(PUBLIC4, PORT) as far, guest.net.bound("0.0.0.0", 7302) as near:
        near.sendto(b"u" * 50, (PUBLIC4, PORT))
        far.sendto(b"v" * 70, far.recvfrom(100)[1])
        near.recv(100)
    guest.net.run("ping", "-c1", "-W5", PUBLIC4)
    with (
        guest.net.listen("0.0.0.0", 80) as listener,
        host.world.connect(HOST4, 8580) as client,
        listener.accept()[0] as inside,
    ):
        client.sendall(b"z" * 20)
        inside.recv(20)
        client.close()
        inside.recv(20)


OPTIONS = ("-p", "8580:80")


class Reports:
    """What one run with every report left."""

    def __init__(self, guest: Guest, pcap: Path, events: Path) -> None:
        self.pcap = pcap
        self.events = [json.loads(line) for line in events.read_text().splitlines()]
        self.modes = [stat.S_IMODE(path.stat().st_mode) for path in (pcap, events)]
        self.stderr = guest.stderr


@pytest.fixture(scope="module")
def reports(host: FakeHost) -> Reports:
    pcap, events = host.folder / "all.pcapng", host.folder / "all.jsonl"
    with host.guest(*OPTIONS, "--pcap", str(pcap), "--events", str(events), "--summary", "-v") as guest:
        traffic(host, guest)
    return Reports(guest, pcap, events)


class TestEvents:
    def find(self, reports: Reports, **wanted: object) -> dict[str, object]:
        found = [event for event in reports.events if wanted.items() <= event.items()]
        assert len(found) == 1, (wanted, found)
        return found[0]

    def test_every_flow_is_opened_once_and_closed_once(self, reports: Reports) -> None:
        opened = [event["flow"] for event in reports.events if event["event"] == "flow-opened"]
        closed = [event["flow"] for event in reports.events if event["event"] == "flow-closed"]
        assert len(set(opened)) == len(opened) == 8
        assert sorted(opened) == sorted(closed)

    @pytest.mark.parametrize(("guest", "peer"), [(GUEST4, PUBLIC4), (f"[{GUEST6}]", f"[{PUBLIC6}]")])
    def test_tcp(self, reports: Reports, guest: str, peer: str) -> None:
        opened = self.find(reports, event="flow-opened", protocol="tcp", peer=f"{peer}:{PORT}")
        assert (opened["direction"], opened["rule"]) == ("egress", "policy public")
        assert str(opened["guest"]).startswith(f"{guest}:")
        closed = self.find(reports, event="flow-closed", flow=opened["flow"])
        assert (closed["sent"], closed["received"], closed["how"]) == (1000, 300, "closed")
        assert 0 < float(str(closed["seconds"])) < 60
        refused = self.find(reports, event="flow-closed", peer=f"{peer}:{CLOSED}")
        assert refused["how"] == "refused by peer"

    def test_unreachable(self, reports: Reports) -> None:
        assert self.find(reports, event="flow-closed", peer=f"{UNREACHABLE4}:{PORT}")["how"] == "unreachable"

    def test_refused(self, reports: Reports) -> None:
        refused = [event for event in reports.events if event["event"] == "flow-refused"]
        assert {(event["peer"], event["rule"], event["reason"]) for event in refused} == {
            (f"{PRIVATE4}:{PORT}", "policy public: private is not public", "policy"),
            (f"[{PRIVATE6}]:{PORT}", "policy public: private is not public", "policy"),
        }

    def test_udp_ping_and_ingress(self, reports: Reports) -> None:
        closed = self.find(reports, event="flow-closed", protocol="udp")
        assert (closed["guest"], closed["sent"], closed["received"]) == (f"{GUEST4}:7302", 50, 70)
        assert closed["how"] == "engine stopped"
        echo = self.find(reports, event="flow-closed", protocol="icmp")
        assert (echo["peer"], echo["sent"], echo["received"]) == (PUBLIC4, 56, 56)
        ingress = self.find(reports, event="flow-closed", direction="ingress")
        assert (ingress["guest"], ingress["rule"]) == (f"{GUEST4}:80", "--publish")
        assert str(ingress["peer"]).startswith(f"{WORLD4}:")
        assert (ingress["sent"], ingress["received"]) == (0, 20)

    def test_times(self, reports: Reports) -> None:
        times = [dt.datetime.fromisoformat(event["time"].replace("Z", "+00:00")) for event in reports.events]
        assert times == sorted(times)
        age = dt.datetime.now(dt.UTC) - times[-1]
        assert dt.timedelta(0) <= age < dt.timedelta(minutes=5)

    def test_files_are_their_owners(self, reports: Reports) -> None:
        assert reports.modes == [0o600, 0o600]

    def test_log_is_appended_to(self, host: FakeHost) -> None:
        path = host.folder / "twice.jsonl"
        for _ in range(2):
            host.run("--events", str(path), "ping", "-c1", "-W5", PUBLIC4)
        assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == [
            "flow-opened",
            "flow-closed",
        ] * 2


class TestSummary:
    def test_table(self, reports: Reports) -> None:
        rows = [line.split() for line in reports.stderr.splitlines()]
        header = next(row for row in rows if row[:2] == ["verdict", "proto"])
        assert header == ["verdict", "proto", "destination", "flows", "sent", "received", "time", "rule"]
        table = {tuple(row[:3]): row for row in rows[rows.index(header) :] if len(row) > 7}
        assert table["allowed", "tcp", f"{PUBLIC4}:{PORT}"][3] == "1"
        assert table["refused", "tcp", f"{PRIVATE4}:{PORT}"][3] == "1"
        assert any(line.startswith("8 flows allowed, 2 refused") for line in reports.stderr.splitlines())

    def test_without_any_flow(self, host: FakeHost) -> None:
        done = host.run("--summary", "true")
        assert "0 flows allowed, 0 refused" in done.stderr

    def test_of_a_command_that_failed(self, host: FakeHost, user: str) -> None:
        done = host.run("--summary", "sh", "-c", f"ping -c1 -W5 {PUBLIC4} >&2; exit 9", user=user)
        assert done.status == 9
        assert f"icmp   {PUBLIC4}" in done.stderr


class TestTerminal:
    def test_verbose_has_a_line_for_each(self, reports: Reports) -> None:
        said = reports.stderr
        for words in (f"{PRIVATE4}:{PORT}", f"[{PUBLIC6}]:{PORT}", "policy public: private is not public", "--publish"):
            assert words in said
        assert "policy" in said

    def refuse(self, host: FakeHost, *options: str) -> str:
        with host.guest(*options) as guest:
            with pytest.raises(ConnectionRefusedError):
                guest.net.connect(PRIVATE4, PORT)
        return guest.stderr

    def test_one_line_by_default(self, host: FakeHost) -> None:
        assert self.refuse(host) == "bucatini: 1 connection refused by policy; --summary or -v shows them\n"

    def test_nothing_when_quiet(self, host: FakeHost) -> None:
        assert self.refuse(host, "-q") == ""

    def test_quiet_keeps_what_was_asked_for(self, host: FakeHost) -> None:
        assert f"{PRIVATE4}:{PORT}" in self.refuse(host, "-q", "--summary")

    def test_nothing_to_say(self, host: FakeHost) -> None:
        with host.guest() as guest:
            guest.net.run("ping", "-c1", GATEWAY4)
        assert guest.stderr == ""

    def test_stderr_that_is_closed(self, host: FakeHost) -> None:
        done = host.run("-v", "--summary", "sh", "-c", f"ping -c1 -W5 {PUBLIC4}; exit 4", before="exec 2>&-")
        assert done.status == 4


@pytest.fixture(scope="module")
def frames(reports: Reports) -> list[dict[str, str]]:
    return read(reports.pcap)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
class TestCapture:
    def test_both_directions(self, frames: list[dict[str, str]]) -> None:
        sent = [frame for frame in frames if frame["ip.dst"] == PUBLIC4]
        assert {frame["frame.packet_flags_direction"][-1] for frame in sent} == {"2"}
        answers = [frame for frame in frames if frame["ip.src"] == PUBLIC4]
        assert {frame["frame.packet_flags_direction"][-1] for frame in answers} == {"1"}

    def test_refusals_say_why(self, frames: list[dict[str, str]]) -> None:
        refused = [frame for frame in frames if frame["ip.dst"] == PRIVATE4]
        assert "policy public: private is not public" in refused[0]["frame.comment"]
        reset = next(frame for frame in frames if frame["ip.src"] == PRIVATE4)
        assert reset["tcp.flags.reset"] in ("1", "True")

    def test_payload_is_whole(self, frames: list[dict[str, str]]) -> None:
        sent = sum(
            int(frame["tcp.len"] or 0)
            for frame in frames
            if frame["ip.dst"] == PUBLIC4 and frame["tcp.dstport"] == str(PORT)
        )
        assert sent == 1000

    def test_times_have_nanoseconds(self, frames: list[dict[str, str]]) -> None:
        times = [frame["frame.time_epoch"] for frame in frames]
        assert all(len(time.partition(".")[2]) == 9 for time in times)
        assert times == sorted(times)

    def test_nothing_is_malformed(self, reports: Reports, frames: list[dict[str, str]]) -> None:
        done = tshark(
            reports.pcap,
            "-Y",
            "_ws.malformed || tcp.checksum.status == 0 || udp.checksum.status == 0",
            "-o",
            "ip.check_checksum:TRUE",
        )
        assert done == ""

    def test_by_fifo_while_it_runs(self, host: FakeHost) -> None:
        fifo = host.folder / "fifo"
        os.mkfifo(fifo)
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
        reader.start()
        assert host.run("--pcap", str(fifo), "ping", "-c1", "-W5", GATEWAY4).status == 0
        reader.join(PATIENCE)
        (host.folder / "from-fifo").write_bytes(got[0])
        assert "Echo" in tshark(host.folder / "from-fifo")

    def test_inherited_descriptor(self, host: FakeHost) -> None:
        done = host.run("--events", "/dev/stdout", "-q", "ping", "-q", "-c1", "-W5", PUBLIC4)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert [json.loads(line)["event"] for line in lines] == ["flow-opened", "flow-closed"]


FIELDS = (
    *("frame.time_epoch", "frame.packet_flags_direction", "frame.comment", "ip.src", "ip.dst", "tcp.srcport"),
    *("tcp.dstport", "tcp.flags.reset", "tcp.len"),
)


def read(path: Path) -> list[dict[str, str]]:
    words = [word for field in FIELDS for word in ("-e", field)]
    lines = tshark(path, "-T", "fields", "-E", "separator=|", "-E", "occurrence=f", *words).splitlines()
    return [dict(zip(FIELDS, line.split("|"), strict=True)) for line in lines]


def tshark(path: Path, *words: str) -> str:
    done = subprocess.run(
        ["tshark", "-n", "-r", str(path), *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cut short" not in done.stderr
    return done.stdout


class TestFullDisk:
    """The disk is a small tmpfs that exists in the run's mount namespace only."""

    @pytest.fixture
    def sink(self, host: FakeHost) -> Iterator[tuple[int, list[int]]]:
        """A server that takes everything and counts it."""
        counted: list[int] = []
        with host.world.listen(PUBLIC4) as listener:

            def take() -> None:
                with listener.accept()[0] as sock:
                    sock.settimeout(PATIENCE)
                    total = 0
                    while part := sock.recv(1 << 18):
                        total += len(part)
                    counted.append(total)

            thread = threading.Thread(target=take)
            thread.start()
            yield listener.getsockname()[1], counted
            thread.join(PATIENCE)

    @pytest.mark.parametrize("option", ["--pcap", "--events"])
    def test_is_said_once_and_the_network_goes_on(
        self, host: FakeHost, sink: tuple[int, list[int]], option: str
    ) -> None:
        port, counted = sink
        folder = host.folder / f"full{option}"
        folder.mkdir()
        # The disk: 64 kB, and for events, which are small, none of it is left.
        fill = f"; cat /dev/zero > {folder}/fill 2> /dev/null || true; : > {folder}/log" if option == "--events" else ""
        before = f"mount -t tmpfs -o size=64k tmpfs {folder}; : > {folder}/log{fill}"
        script = f"head -c 3000000 /dev/zero > /dev/tcp/{PUBLIC4}/{port}; ping -q -c2 -i0.1 -W5 {GATEWAY4} > /dev/null"
        done = host.run(option, f"{folder}/log", "--", "bash", "-c", script, before=before)
        assert done.status == 0, done
        assert done.stderr.count("\n") == 1, done.stderr
        assert option in done.stderr
        assert "No space left" in done.stderr
        for _ in range(100):
            if counted:
                break
            threading.Event().wait(0.05)
        assert counted == [3000000]
