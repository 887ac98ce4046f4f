"""Measurements of forwarded ports: local ones in both directions, and many at once.

"published": a client on the host's loopback and a server in the guest. "outward": a client on the guest's own loopback
and a server on the host's. No frame need cross the guest's link in either, so an engine can move the data by splice(2).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial

from benchmarks import processes
from benchmarks.lab import RESERVED_PORTS, BenchError, Place, stop
from benchmarks.peers import Peer
from benchmarks.sampling import Bench, Case, Record, iperf
from benchmarks.session import BULK_PORT, ECHO_PORT, Session

LOOPBACK = "127.0.0.1"


def published_bulk(direction: str, bench: Bench, session: Session, record: Record) -> None:
    """Bulk transfer between a client on the host's loopback and a server in the guest."""
    options = ["-R"] if direction == "out" else []
    rate, _ = iperf(bench, session.host, session.guest, LOOPBACK, session.bulk_port, *options)
    record(f"published.{direction}", rate / 1e9)


def outward_bulk(direction: str, bench: Bench, session: Session, record: Record) -> None:
    """Bulk transfer between a client on the guest's loopback and a server on the host's."""
    if not session.forwards_out:
        return
    options = ["-R"] if direction == "in" else []
    rate, _ = iperf(bench, session.guest, session.host, LOOPBACK, BULK_PORT, *options)
    record(f"outward.{direction}", rate / 1e9)


def published_latency(bench: Bench, session: Session, record: Record) -> None:
    """Ping-pong and short connections to a server in the guest."""
    with guest_echo(bench, session):
        stream_latency("published", bench, session.host, session.echo_port, record)


def outward_latency(bench: Bench, session: Session, record: Record) -> None:
    """Ping-pong and short connections from the guest's loopback to the echo server of the host."""
    if session.forwards_out:
        stream_latency("outward", bench, session.guest, ECHO_PORT, record)


def published_datagrams(bench: Bench, session: Session, record: Record) -> None:
    """Ping-pong of datagrams with a server in the guest."""
    with guest_echo(bench, session):
        datagram_latency("published", bench, session.host, session.echo_port, record)


def outward_datagrams(bench: Bench, session: Session, record: Record) -> None:
    """Ping-pong of datagrams from the guest's loopback with the echo server of the host."""
    if session.forwards_out:
        datagram_latency("outward", bench, session.guest, ECHO_PORT, record)


@contextlib.contextmanager
def guest_echo(bench: Bench, session: Session) -> Iterator[None]:
    """An echo server at the published port of the guest."""
    server = session.guest.start([bench.lab.probe, "echo", str(session.echo_port)], log=bench.lab.log("echo"))
    try:
        for table in ("tcp", "udp"):
            session.guest.wait_port(table, session.echo_port, server)
        yield
    finally:
        stop(server)


def stream_latency(key: str, bench: Bench, client: Place, port: int, record: Record) -> None:
    """One byte to and fro on one connection, then one connection after the other."""
    times = bench.probe(client, "rtt", LOOPBACK, port, bench.seconds)
    record(f"{key}.rtt.median", times["median"])
    record(f"{key}.rtt.p99", times["p99"])
    result = bench.probe(client, "crr", LOOPBACK, port, bench.seconds)
    record(f"{key}.crr", result["count"] / result["seconds"])


def datagram_latency(key: str, bench: Bench, client: Place, port: int, record: Record) -> None:
    """One byte to and fro in datagrams."""
    times = bench.probe(client, "urtt", LOOPBACK, port, bench.seconds)
    record(f"{key}.urtt.median", times["median"])
    record(f"{key}.urtt.p99", times["p99"])


def many_ports_start(_: Bench, peer: Peer, record: Record) -> None:
    """How long a command that does nothing takes when a thousand ports are forwarded to it."""
    seconds = peer.start_up(RESERVED_PORTS)
    if seconds is not None:
        record("ports.start", seconds * 1e3)


def many_ports_memory(_: Bench, peer: Peer, record: Record) -> None:
    """A fresh idle engine with a thousand ports; fails if fewer are bound."""
    session = peer.open_range(RESERVED_PORTS)
    if session is None:
        return
    try:
        bound = len(session.host.ports("tcp") & set(RESERVED_PORTS))
        if bound != len(RESERVED_PORTS):
            raise BenchError(f"only {bound:,} of {len(RESERVED_PORTS):,} ports are bound")
        time.sleep(0.3)
        record("ports.pss", processes.memory(session.engine()).pss / 1e6)
    finally:
        session.close()


def forwarding_cases() -> list[Case]:
    """All of the above, in the order of the table."""
    cases = []
    for name, bulk, streams, datagrams in (
        ("published", published_bulk, published_latency, published_datagrams),
        ("outward", outward_bulk, outward_latency, outward_datagrams),
    ):
        group = frozenset({name})
        cases += [Case(group, (f"{name}.{way}",), None, partial(bulk, way)) for way in ("in", "out")]
        cases.append(Case(group, (f"{name}.rtt.median", f"{name}.rtt.p99", f"{name}.crr"), None, streams))
        cases.append(Case(group, (f"{name}.urtt.median", f"{name}.urtt.p99"), None, datagrams))
    ports = frozenset({"ports"})
    cases.append(Case(ports, ("ports.start",), None, fresh=many_ports_start, brief=True))
    cases.append(Case(ports, ("ports.pss",), None, fresh=many_ports_memory))
    return cases
