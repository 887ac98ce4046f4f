"""Bulk TCP between a guest and the host's loopback arrives byte for byte: each way, IPv4 and IPv6.

A plain transfer is 1 GiB in the compiled form and 128 MiB in the interpreted one; BUCATINI_TRANSFER_MIB says otherwise.
Those with something else to show are a quarter of that, many times what all buffers hold. The paused ones take a minute
of silence; they run beside the other tests of this file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from bucatini import _build
from support.inprocess import Engine, Host, Outcome, Scenario, Server
from support.transfer import Job, Result, expected

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(150),
    pytest.mark.xdist_group("transfers"),
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun"),
]

SIZE = int(os.environ.get("BUCATINI_TRANSFER_MIB", "1024" if _build.form() == "compiled" else "128")) << 20
QUARTER = SIZE // 4
PAUSE = float(os.environ.get("BUCATINI_PAUSE_SECONDS", "60"))
DIRECTIONS = ("up", "down")
FAMILIES = (4, 6)
BOTH_WAYS = [(direction, family) for direction in DIRECTIONS for family in FAMILIES]
BROKEN = ("ECONNRESET", "EPIPE")


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


def transfer(host: Host, jobs: Sequence[Job]) -> tuple[Outcome, list[Result]]:
    """Do all jobs at once. The outcome, and what both ends say."""
    with host.serve() as server:
        outcome = host.run(Scenario(server.command(jobs)), timeout=120)
    assert outcome.status == 0, outcome.stderr
    return outcome, outcome.results() + server.results


def verify(jobs: Sequence[Job], results: Sequence[Result]) -> None:
    """Every job ended well at both ends, and its receiver got the right bytes."""
    by_end = {(result.name, result.end): result for result in results}
    for job in jobs:
        for end in ("guest", "host"):
            result = by_end[job.name, end]
            assert (result.error, result.bytes) == ("", job.size), result
            receives = (job.direction == "down") == (end == "guest")
            assert result.digest == (expected(job.stream, job.size) if receives else ""), result


def verify_end(outcome: Outcome) -> None:
    """Nothing was left behind, and no frame of ours was refused by the link."""
    assert (outcome.tcp_left, outcome.sockets_left) == (0, 0)
    assert "link-write-failed" not in outcome.counters
    assert len(outcome.told("FlowOpened")) == len(outcome.told("FlowClosed"))


@pytest.fixture(scope="module", autouse=True)
def paused(host: Host) -> Iterator[tuple[Engine, Server, list[Job]]]:
    """Transfers whose reader sleeps for a minute in the middle, begun before all others."""
    jobs = [
        Job(f"paused {direction} {family}", family, direction, QUARTER, pause=PAUSE) for direction, family in BOTH_WAYS
    ]
    with host.serve() as server:
        with host.start(Scenario(server.command(jobs))) as engine:
            yield engine, server, jobs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_plain(host: Host, direction: str, family: int) -> None:
    jobs = [Job("plain", family, direction, SIZE)]
    outcome, results = transfer(host, jobs)
    verify(jobs, results)
    verify_end(outcome)
    closed = outcome.told("FlowClosed")
    counted = "sent_bytes" if direction == "up" else "received_bytes"
    assert [event["how"] for event in closed] == ["closed"]
    assert SIZE <= closed[0][counted] <= SIZE + 512  # the header of a transfer


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_half_closed(host: Host, direction: str) -> None:
    """The receiver has closed its sending half before the first byte comes; the other half lives on for all of them."""
    jobs = [Job(f"half {family}", family, direction, QUARTER, half=True) for family in FAMILIES]
    outcome, results = transfer(host, jobs)
    verify(jobs, results)
    verify_end(outcome)


@pytest.mark.parametrize(
    ("direction", "congestion", "total"),
    [("up", "reno", SIZE), ("up", "", SIZE // 8), ("down", "", SIZE)],
    ids=["up", "up-as-the-kernel-likes", "down"],
)
def test_two_hundred_flows_at_once(host: Host, direction: str, congestion: str, total: int) -> None:
    """Where the guest's kernel paces every flow (BBR), each gets a two-hundredth of the rate, of which Linux makes
    superframes of two segments (tcp_tso_autosize): many times the frames, hence fewer bytes. Reno makes large ones."""
    size = total // 200
    jobs = [
        Job(f"flow {number}", FAMILIES[number % 2], direction, size, stream=number, congestion=congestion)
        for number in range(200)
    ]
    outcome, results = transfer(host, jobs)
    verify(jobs, results)
    verify_end(outcome)
    # A flow or two may be through before the last has begun.
    assert outcome.most_flows > 150


@pytest.mark.parametrize("end", ["guest", "host"])
def test_reset_in_the_middle_harms_only_its_own_flow(host: Host, end: str) -> None:
    """`end` resets: the other end of that flow learns of it as a reset, and whole transfers beside it are unharmed."""
    whole = [Job(f"whole {way}", 4 if way == "up" else 6, way, QUARTER) for way in DIRECTIONS]
    broken = [Job(f"broken {way} {family}", family, way, 64 << 20, reset=end) for way, family in BOTH_WAYS]
    outcome, results = transfer(host, whole + broken)
    verify(whole, results)
    verify_end(outcome)
    by_end = {(result.name, result.end): result for result in results}
    for job in broken:
        assert by_end[job.name, end].error == ""
        assert by_end[job.name, "host" if end == "guest" else "guest"].error in BROKEN
    hows = sorted(event["how"] for event in outcome.told("FlowClosed"))
    assert hows == ["closed"] * 2 + ["reset by guest" if end == "guest" else "reset by peer"] * 4


def test_reader_paused(paused: tuple[Engine, Server, list[Job]]) -> None:
    """Last in this file: waits for what was begun first."""
    engine, server, jobs = paused
    outcome = engine.finish(timeout=PAUSE + 60)
    server.finish()
    results = outcome.results() + server.results
    verify(jobs, results)
    verify_end(outcome)
    assert all(result.seconds >= PAUSE for result in results)
