"""What is measured: each case takes one sample of one or more rows from a running engine.

Servers are started for one sample and ended after it; every wait is bounded. A case records values as it gets them, so
that what was measured before a failure counts.
"""

from __future__ import annotations

import time
from functools import partial

from benchmarks import processes
from benchmarks.forwarding import forwarding_cases
from benchmarks.lab import BenchError, poll_until, stop
from benchmarks.peers import Peer
from benchmarks.rows import DIRECTIONS, FAMILIES, MTUS, STREAMS, UDP_SIZES, tcp_key
from benchmarks.sampling import Bench, Case, Record, iperf, read_json
from benchmarks.session import BULK_PORT, ECHO_PORT, Session

COUNT_PORT, SINK_PORT = 6003, 6004
FLOW_STEPS = (1000, 10000)


def tcp_bulk(
    direction: str, mtu: int, streams: int, family: int, bench: Bench, session: Session, record: Record
) -> None:
    """Bulk transfer between the guest and the host's loopback, and the CPU time that it took the engine."""
    options = ["-P", str(streams), *(["-R"] if direction == "down" else [])]
    # An IPv6 address may come late, by router advertisement.
    bench.probe(session.guest, "reach", session.gateway[family], ECHO_PORT, 10)
    pids = session.engine()
    before = processes.cpu_seconds(pids)
    rate, size = iperf(bench, session.guest, session.host, session.gateway[family], BULK_PORT, *options)
    spent = processes.cpu_seconds(pids) - before
    if size == 0:
        raise BenchError("no byte arrived")
    record(tcp_key(direction, mtu, streams, family), rate / 1e9)
    if pids and streams == 1 and family == 4:
        record(f"cpu.{direction}.{mtu}", spent / (size / 1e9))


def latency(bench: Bench, session: Session, record: Record) -> None:
    """Ping-pong of one byte from the guest, over TCP and UDP."""
    for verb, protocol in (("rtt", "tcp"), ("urtt", "udp")):
        times = bench.probe(session.guest, verb, session.gateway[4], ECHO_PORT, bench.seconds)
        record(f"rtt.{protocol}.median", times["median"])
        record(f"rtt.{protocol}.p99", times["p99"])


def short_connections(bench: Bench, session: Session, record: Record) -> None:
    """Connect, one request, one response, close, one after the other."""
    result = bench.probe(session.guest, "crr", session.gateway[4], ECHO_PORT, bench.seconds)
    record("crr", result["count"] / result["seconds"])
    record("crr.p99", result["p99"])


def datagrams(size: int, direction: str, bench: Bench, session: Session, record: Record) -> None:
    """A flood of datagrams: how many per second arrive, and which fraction is lost."""
    flood = (COUNT_PORT, size, bench.seconds, bench.udp_rate)
    verb = "count" if direction == "up" else "push"
    log = bench.lab.log(verb)
    server = session.host.start([bench.lab.probe, verb, str(COUNT_PORT)], log=log)
    try:
        session.host.wait_port("udp", COUNT_PORT, server)
        client = bench.probe(session.guest, "flood" if direction == "up" else "pull", session.gateway[4], *flood)
        poll_until(f"the end of probe {verb}", 10, lambda: server.poll() is not None)
    finally:
        stop(server)
    other = read_json(log)
    counted, sent = (other, client["sent"]) if direction == "up" else (client, other["sent"])
    if not counted["packets"]:
        raise BenchError(f"no datagram of {size} bytes arrived")
    # An engine may deliver late what it had queued: the longer of both times is the fair divisor.
    record(f"udp.{direction}.{size}", counted["packets"] / max(counted["seconds"], bench.seconds))
    record(f"udp.{direction}.{size}.loss", max(0.0, 1 - counted["packets"] / sent))


def start_up(_: Bench, peer: Peer, record: Record) -> None:
    """How long a command that does nothing takes."""
    seconds = peer.start_up()
    if seconds is not None:
        record("start", seconds * 1e3)


def resident_memory(bench: Bench, peer: Peer, record: Record) -> None:
    """A fresh engine when idle, then with more and more connections that stay open and idle."""
    session = peer.open(None)
    if not session.tag:
        return
    sink = session.host.start([bench.lab.probe, "sink", str(SINK_PORT)], log=bench.lab.log("sink"))
    session.helpers.append(sink)
    try:
        session.host.wait_port("tcp", SINK_PORT, sink)
        time.sleep(0.3)
        idle = processes.memory(session.engine())
        record("memory.idle.rss", idle.rss / 1e6)
        record("memory.idle.pss", idle.pss / 1e6)
        opened = 0
        for wanted in FLOW_STEPS:
            open_flows(bench, session, wanted - opened, opened)
            opened = wanted
            time.sleep(0.3)
            now = processes.memory(session.engine())
            record(f"memory.{wanted}.pss", now.pss / 1e6)
        record(f"memory.{opened}.growth", (now.pss - idle.pss) / 1e6)
    finally:
        session.close()


def open_flows(bench: Bench, session: Session, count: int, before: int) -> None:
    """Open that many TCP connections from the guest; they stay open until the session ends."""
    log = bench.lab.log("flows")
    argv = [bench.lab.probe, "flows", session.gateway[4], str(SINK_PORT), str(count)]
    process = session.guest.start(argv, log=log)
    session.helpers.append(process)
    poll_until(f"{count} connections", 30, lambda: process.poll() is not None or log.stat().st_size)
    opened = read_json(log)["opened"]
    if opened < count:
        raise BenchError(f"only {before + opened:,} flows opened: {read_json(log)['error']}")


def all_cases() -> list[Case]:
    """Every case, in the order of the table; neighbours share sessions."""
    cases = []
    for mtu in MTUS:
        for family in FAMILIES:
            for streams in STREAMS:
                for direction in DIRECTIONS:
                    with_cpu = streams == 1 and family == 4
                    keys = (tcp_key(direction, mtu, streams, family), *([f"cpu.{direction}.{mtu}"] if with_cpu else []))
                    measure = partial(tcp_bulk, direction, mtu, streams, family)
                    cases.append(Case(frozenset({"tcp", "cpu"} if with_cpu else {"tcp"}), keys, mtu, measure))
    rtt = tuple(f"rtt.{protocol}.{which}" for protocol in ("tcp", "udp") for which in ("median", "p99"))
    cases.append(Case(frozenset({"latency"}), rtt, None, latency))
    cases.append(Case(frozenset({"latency"}), ("crr", "crr.p99"), None, short_connections))
    for size in UDP_SIZES:
        for direction in DIRECTIONS:
            key = f"udp.{direction}.{size}"
            cases.append(Case(frozenset({"udp"}), (key,), None, partial(datagrams, size, direction)))
    cases += forwarding_cases()
    cases.append(Case(frozenset({"start"}), ("start",), None, fresh=start_up, brief=True))
    memory = ("memory.idle.rss", "memory.idle.pss", "memory.1000.pss", "memory.10000.pss", "memory.10000.growth")
    cases.append(Case(frozenset({"memory"}), memory, None, fresh=resident_memory))
    return cases
