"""Measurements of the isolation filter: a guest and its host, which talk over a bridge with or without it in between.

What the other groups measure, and what it costs who hands the frames on. Bulk transfers are taken twice: with frames of
64 KiB, as two kernels hand them to each other, and with one segment in each, as a guest without offloads does. A flood
of small datagrams counts frames: each of them is one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.filter_peers import ANY_SIZE, ONE_PER_FRAME, BridgedSession
from benchmarks.rows import BRIDGED, DIRECTIONS, MTUS, filter_key, tcp_key
from benchmarks.sampling import Bench, Case, Record
from benchmarks.session import Session
from benchmarks.transfers import datagrams, tcp_bulk
from benchmarks.vm_cases import exchanges

Measure = Callable[[Bench, Session, Record], None]
SIZE = 64


def over_bridge(
    measure: Measure, segments: int, names: dict[str, str], bench: Bench, session: Session, record: Record
) -> None:
    """Take a sample with so many segments in a frame. `names`: what `measure` calls a value, and what that is called
    here."""
    assert isinstance(session, BridgedSession)
    session.set_segments(segments)
    has_engine = bool(session.engine())

    def rename(key: str, value: float) -> None:
        if key in names and (has_engine or not names[key].startswith("cpu.")):
            record(filter_key(names[key]), value)

    measure(bench, session, rename)


def filter_cases() -> list[Case]:
    """All of the above, in the order of the table."""
    cases: list[Case] = []

    def add(measure: Measure, names: dict[str, str], segments: int = ANY_SIZE) -> None:
        keys = tuple(filter_key(name) for name in names.values() if not name.endswith(".loss"))
        run = partial(over_bridge, measure, segments, names)
        cases.append(Case(frozenset({"filter"}), keys, None, run, kind=BRIDGED))

    mtu = MTUS[0]
    for size, segments in (("64k", ANY_SIZE), ("1500", ONE_PER_FRAME)):
        for way in DIRECTIONS:
            names = {tcp_key(way, mtu, 1, 4): f"tcp.{way}.{size}", f"cpu.{way}.{mtu}": f"cpu.{way}.{size}"}
            add(partial(tcp_bulk, way, mtu, 1, 4), names, segments)
    for way in DIRECTIONS:
        udp = f"udp.{way}.{SIZE}"
        add(partial(datagrams, SIZE, way), {udp: udp, udp + ".loss": udp + ".loss", udp + ".cpu": f"cpu.udp.{way}"})
    for verb, key in (("rtt", "rtt.tcp"), ("urtt", "rtt.udp"), ("crr", "crr")):
        add(partial(exchanges, verb, key), {key: key, f"cpu.{key}": f"cpu.{key}"})
    return cases
