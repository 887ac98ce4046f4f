"""What an older kernel lacks is forced off, one thing at a time, and every MTU is tried: the same bytes arrive.

In each case four TCP transfers run at once with UDP echoes of all sizes. The smallest MTU has smaller ones: a Linux
sender makes no segment below 48 bytes (net.ipv4.tcp_min_snd_mss), so it fragments each, and a datagram may have at most
256 fragments (`stack.reassembly`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.inprocess import Host, Outcome, Scenario
from support.transfer import Job, Result, expected

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun"),
]

SIZE = 32 << 20
DATAGRAMS = (1, 100, 1400, 20000, 60000)
COUNT = 20
"""Datagrams of each size."""
TSO = ("tso4", "tso6")
USO = ("uso4", "uso6")


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


def plan(families: tuple[int, ...], size: int, datagrams: tuple[int, ...]) -> list[Job]:
    jobs = [Job(f"{way} {family}", family, way, size) for way in ("up", "down") for family in families]
    return jobs + [
        Job(f"udp {family} {length}", family, "udp", length, stream=COUNT)
        for family in families
        for length in datagrams
    ]


def check(host: Host, jobs: list[Job], **forced: object) -> Outcome:
    """Do all jobs at once; every byte arrives."""
    with host.serve() as server:
        outcome = host.run(Scenario(server.command(jobs), **forced))  # type: ignore[arg-type]
    assert outcome.status == 0, outcome.stderr
    by_end = {(result.name, result.end): result for result in outcome.results() + server.results}
    for job in jobs:
        check_job(job, by_end)
    assert (outcome.tcp_left, outcome.sockets_left) == (0, 0)
    return outcome


def check_job(job: Job, by_end: dict[tuple[str, str], Result]) -> None:
    at_guest = by_end[job.name, "guest"]
    if job.direction == "udp":
        assert (at_guest.error, at_guest.bytes) == ("", COUNT * job.size), at_guest
        return
    at_host = by_end[job.name, "host"]
    assert (at_guest.error, at_host.error) == ("", ""), (at_guest, at_host)
    receiver = at_host if job.direction == "up" else at_guest
    assert (receiver.bytes, receiver.digest) == (job.size, expected(0, job.size))


@pytest.mark.parametrize(
    "offloads",
    [(), ("checksum",), ("checksum", *TSO), ("checksum", *USO)],
    ids=["none", "checksum", "no-uso", "no-tso"],
)
def test_offloads_not_granted(host: Host, offloads: tuple[str, ...]) -> None:
    outcome = check(host, plan((4, 6), SIZE, DATAGRAMS), offloads=offloads)
    assert set(outcome.offloads) <= set(offloads)


def test_no_peek_offset(host: Host) -> None:
    """SO_PEEK_OFF on TCP came with Linux 6.9."""
    check(host, plan((4, 6), SIZE, DATAGRAMS), peek_offset=False)


def test_no_peek_offset_over_a_lossy_link(host: Host) -> None:
    """Going back to the first unacknowledged byte, without a peek offset."""
    check(host, [Job(f"down {family}", family, "down", SIZE) for family in (4, 6)], peek_offset=False, loss=0.01)


@pytest.mark.parametrize("mtu", [1280, 1500, 9000, 65520])
def test_mtu(host: Host, mtu: int) -> None:
    check(host, plan((4, 6), SIZE, DATAGRAMS), mtu=mtu)


def test_least_mtu(host: Host) -> None:
    check(host, plan((4,), 2 << 20, (1, 100, 1400, 10000)), mtu=68, ipv6=False)
