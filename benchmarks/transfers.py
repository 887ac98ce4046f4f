"""Measurements of the guest's link: bulk, latency, short connections and datagrams between the guest and the host.

Servers are started for one sample and ended after it; every wait is bounded. A case records values as it gets them, so
that what was measured before a failure counts.
"""

from __future__ import annotations

from benchmarks import processes
from benchmarks.lab import BenchError, poll_until, stop
from benchmarks.rows import tcp_key
from benchmarks.sampling import Bench, Record, iperf, read_json
from benchmarks.session import BULK_PORT, ECHO_PORT, Session

COUNT_PORT = 6003


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
    """A flood of datagrams: how many per second arrive, which fraction is lost, and the CPU time for each (us)."""
    flood = (COUNT_PORT, size, bench.seconds, bench.udp_rate)
    verb = "count" if direction == "up" else "push"
    log = bench.lab.log(verb)
    pids = session.engine()
    before = processes.cpu_seconds(pids)
    server = session.host.start([bench.lab.probe, verb, str(COUNT_PORT)], log=log)
    try:
        session.host.wait_port("udp", COUNT_PORT, server)
        client = bench.probe(session.guest, "flood" if direction == "up" else "pull", session.gateway[4], *flood)
        poll_until(f"the end of probe {verb}", 10, lambda: server.poll() is not None)
    finally:
        stop(server)
    spent = processes.cpu_seconds(pids) - before
    other = read_json(log)
    counted, sent = (other, client["sent"]) if direction == "up" else (client, other["sent"])
    if not counted["packets"]:
        raise BenchError(f"no datagram of {size} bytes arrived")
    # An engine may deliver late what it had queued: the longer of both times is the fair divisor.
    record(f"udp.{direction}.{size}", counted["packets"] / max(counted["seconds"], bench.seconds))
    record(f"udp.{direction}.{size}.loss", max(0.0, 1 - counted["packets"] / sent))
    if pids:
        record(f"udp.{direction}.{size}.cpu", spent / counted["packets"] * 1e6)
