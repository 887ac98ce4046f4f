"""What is measured: each case takes one sample of one or more rows from a running engine.

The measurements of the guest's link are in transfers.py, those of forwarded ports in forwarding.py, those with a
virtual machine in vm_cases.py, those of the isolation filter in filter_cases.py; here are those of the engine itself,
and the list of all.
"""

from __future__ import annotations

import time
from functools import partial

from benchmarks import processes
from benchmarks.filter_cases import filter_cases
from benchmarks.forwarding import forwarding_cases
from benchmarks.lab import BenchError, poll_until
from benchmarks.peers import Peer
from benchmarks.rows import DIRECTIONS, FAMILIES, MTUS, STREAMS, UDP_SIZES, tcp_key
from benchmarks.sampling import Bench, Case, Record, read_json
from benchmarks.session import Session
from benchmarks.transfers import datagrams, latency, short_connections, tcp_bulk
from benchmarks.vm_cases import vm_cases

SINK_PORT = 6004
FLOW_STEPS = (1000, 10000)


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
    return cases + vm_cases() + filter_cases()
