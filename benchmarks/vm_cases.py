"""Measurements with a virtual machine as the guest: what the other groups measure, and what it costs the engine.

The same programs run as with a namespace; only the way to start them differs. Every case sets the MTU of the guest's
interface itself, as one machine per peer stays up for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks import processes
from benchmarks.forwarding import published_bulk, published_datagrams, published_latency
from benchmarks.rows import DIRECTIONS, MACHINE, MTUS, tcp_key, vm_key
from benchmarks.sampling import Bench, Case, Record
from benchmarks.session import ECHO_PORT, Session
from benchmarks.transfers import datagrams, tcp_bulk
from benchmarks.vm_guest import MachineSession

Measure = Callable[[Bench, Session, Record], None]


def in_machine(
    measure: Measure, mtu: int, names: dict[str, str], bench: Bench, session: Session, record: Record
) -> None:
    """Take a sample at this MTU. `names`: what `measure` calls a value, and what that is called here."""
    assert isinstance(session, MachineSession)
    session.machine().set_mtu(mtu)

    def rename(key: str, value: float) -> None:
        if key in names:
            record(vm_key(names[key]), value)

    measure(bench, session, rename)


def exchanges(verb: str, key: str, bench: Bench, session: Session, record: Record) -> None:
    """One byte to and fro, again and again, and the engine's CPU time for each."""
    pids = session.engine()
    before = processes.cpu_seconds(pids)
    result = bench.probe(session.guest, verb, session.gateway[4], ECHO_PORT, bench.seconds)
    spent = processes.cpu_seconds(pids) - before
    record(key, result["count"] / result["seconds"] if verb == "crr" else result["median"])
    record(f"cpu.{key}", spent / result["count"] * 1e6)


def vm_cases() -> list[Case]:
    """All of the above, in the order of the table."""
    cases: list[Case] = []

    def add(measure: Measure, names: dict[str, str], mtu: int = MTUS[-1]) -> None:
        keys = tuple(vm_key(name) for name in names.values() if not name.endswith(".loss"))
        cases.append(Case(frozenset({"vm"}), keys, None, partial(in_machine, measure, mtu, names), kind=MACHINE))

    def same(*keys: str) -> dict[str, str]:
        return {key: key for key in keys}

    for mtu in MTUS:
        for direction in DIRECTIONS:
            names = {tcp_key(direction, mtu, 1, 4): f"tcp.{direction}.{mtu}", **same(f"cpu.{direction}.{mtu}")}
            add(partial(tcp_bulk, direction, mtu, 1, 4), names, mtu)
    for verb, key in (("rtt", "rtt.tcp"), ("urtt", "rtt.udp"), ("crr", "crr")):
        add(partial(exchanges, verb, key), same(key, f"cpu.{key}"))
    udp = "udp.up.1400"
    add(partial(datagrams, 1400, "up"), {udp + ".cpu": "cpu.udp", **same(udp, udp + ".loss")})
    for way in ("in", "out"):
        add(partial(published_bulk, way), same(f"published.{way}"))
    add(published_latency, same("published.rtt.median", "published.crr"))
    add(published_datagrams, same("published.urtt.median"))
    return cases
