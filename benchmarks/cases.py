"""What is measured: each case takes one sample of one or more rows from a running engine.

Servers are started for one sample and ended after it; every wait is bounded. A case records values as it gets them, so
that what was measured before a failure counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.lab import BenchError, Lab, Space, poll_until, stop
from benchmarks.peers import ECHO_PORT, Peer, Session
from benchmarks.rows import DIRECTIONS, FAMILIES, MTUS, STREAMS, UDP_SIZES, tcp_key

BULK_PORT, COUNT_PORT, SINK_PORT = 6002, 6003, 6004
FLOW_STEPS = (1000, 10000)

Record = Callable[[str, float], None]


@dataclass(frozen=True)
class Bench:
    """What every case needs. `seconds` is the length of one sample, `udp_rate` in packets/s (0: unpaced)."""

    lab: Lab
    seconds: float
    udp_rate: float

    def probe(self, space: Space, *words: object) -> dict[str, Any]:
        """Run the probe to its end in `space`."""
        return space.run_json([self.lab.probe, *map(str, words)], self.seconds + 15)


@dataclass(frozen=True)
class Case:
    """One measurement. `mtu` None: the engine's own default. `keys` are the rows it fills, all lost if it fails.

    `measure` gets a session; or, for a case that starts engines itself (`fresh`), the peer."""

    groups: frozenset[str]
    keys: tuple[str, ...]
    mtu: int | None
    measure: Callable[[Bench, Session, Record], None] | None = None
    fresh: Callable[[Bench, Peer, Record], None] | None = None


def iperf(bench: Bench, client: Space, server: Space, host: str, port: int, *options: str) -> tuple[float, int]:
    """One iperf3 test, one server per test. Returns bits per second and bytes, as the receiver counts them."""
    log = bench.lab.log("iperf3-server")
    process = server.start(["iperf3", "-s", "-1", "-p", str(port)], log=log)
    try:
        server.wait_port("tcp", port, process)
        argv = ["iperf3", "-J", "-c", host, "-p", str(port), "-t", f"{bench.seconds:g}", "--connect-timeout", "3000"]
        report = client.run_json([*argv, *options], bench.seconds + 12)
    finally:
        stop(process)
    if "error" in report:
        raise BenchError(f"iperf3: {report['error']}")
    received = report["end"]["sum_received"]
    return float(received["bits_per_second"]), int(received["bytes"])


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


def published_bulk(direction: str, bench: Bench, session: Session, record: Record) -> None:
    """Bulk transfer between a client on the host's loopback and a server in the guest."""
    options = ["-R"] if direction == "out" else []
    rate, _ = iperf(bench, session.host, session.guest, "127.0.0.1", session.bulk_port, *options)
    record(f"published.{direction}", rate / 1e9)


def published_latency(bench: Bench, session: Session, record: Record) -> None:
    """Ping-pong and short connections to a server in the guest."""
    server = session.guest.start([bench.lab.probe, "echo", str(session.echo_port)], log=bench.lab.log("echo"))
    try:
        session.guest.wait_port("tcp", session.echo_port, server)
        times = bench.probe(session.host, "rtt", "127.0.0.1", session.echo_port, bench.seconds)
        record("published.rtt.median", times["median"])
        record("published.rtt.p99", times["p99"])
        result = bench.probe(session.host, "crr", "127.0.0.1", session.echo_port, bench.seconds)
        record("published.crr", result["count"] / result["seconds"])
    finally:
        stop(server)


def start_up(_: Bench, peer: Peer, record: Record) -> None:
    """How long a command that does nothing takes."""
    record("start", peer.start_up() * 1e3)


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


def read_json(log: Path) -> dict[str, Any]:
    """The JSON object that a finished process wrote."""
    text = log.read_text()
    try:
        return dict(json.loads(text))
    except ValueError:
        raise BenchError((text.strip() or "the server printed nothing").splitlines()[-1]) from None


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
    for direction in ("in", "out"):
        key = f"published.{direction}"
        cases.append(Case(frozenset({"published"}), (key,), None, partial(published_bulk, direction)))
    short = ("published.rtt.median", "published.rtt.p99", "published.crr")
    cases.append(Case(frozenset({"published"}), short, None, published_latency))
    cases.append(Case(frozenset({"start"}), ("start",), None, fresh=start_up))
    memory = ("memory.idle.rss", "memory.idle.pss", "memory.1000.pss", "memory.10000.pss", "memory.10000.growth")
    cases.append(Case(frozenset({"memory"}), memory, None, fresh=resident_memory))
    return cases
