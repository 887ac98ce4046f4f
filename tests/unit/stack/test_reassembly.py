"""Reassembly: any order, repetitions, attacks, every bound with its counter; fragments of scapy as well as ours."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet import fragment as scapy_fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, fragment6

from bucatini.stack.fragmentation import fragment
from bucatini.stack.reassembly import LIFETIME_V4, LIFETIME_V6, MAXIMUM_PIECES, Reassembler
from bucatini.wire.checksum import internet
from bucatini.wire.ip import IpView


def four(size: int, source: str = "10.0.0.2") -> bytes:
    body = bytes(i * 7 & 0xFF for i in range(size))
    return bytes(IP(src=source, dst="198.51.100.7", id=0x77) / UDP(sport=1, dport=2) / body)


def six(size: int, source: str = "2001:db8::2") -> bytes:
    body = bytes(i * 7 & 0xFF for i in range(size))
    return bytes(IPv6(src=source, dst="2001:db8:f::7") / UDP(sport=1, dport=2) / body)


FAMILIES = pytest.mark.parametrize("make", [four, six])
Make = Callable[..., bytes]


def offer(table: Reassembler, packet: bytes, now: float = 0.0) -> bytes | None:
    """Offers one fragment as it would arrive: behind an Ethernet header."""
    buf = memoryview(bytearray(14) + bytearray(packet) + bytearray(5))
    view = IpView()
    assert view.parse(buf, 14, len(buf)) == 0
    assert view.fragment
    return table.offer(buf, view, now)


def feed(table: Reassembler, packets: Iterable[bytes], now: float = 0.0) -> list[bytes]:
    return [whole for packet in packets if (whole := offer(table, packet, now)) is not None]


def piece(offset: int, data: bytes, more: bool, ident: int = 5, source: str = "10.0.0.2", version: int = 4) -> bytes:
    """One handmade fragment; offset in bytes."""
    if version == 4:
        head = IP(src=source, dst="198.51.100.7", id=ident, proto=17, flags="MF" if more else 0, frag=offset // 8)
        return bytes(head / data)
    extension = IPv6ExtHdrFragment(nh=17, offset=offset // 8, m=int(more), id=ident)
    return bytes(IPv6(src="2001:db8::2", dst="2001:db8:f::7") / extension / data)


@FAMILIES
def test_fragments_in_every_order_make_the_packet(make: Make) -> None:
    packet = make(4000)
    pieces = fragment(packet, 1280, 0x77)
    assert len(pieces) == 4
    for order in itertools.permutations(pieces):
        table = Reassembler()
        assert feed(table, order) == [packet]
        assert (len(table), table.held_bytes, table.counters.completed) == (0, 0, 1)


@FAMILIES
def test_the_largest_datagram(make: Make) -> None:
    packet = make(65507 if make is four else 65527)
    assert feed(Reassembler(), reversed(fragment(packet, 1500, 0x77))) == [packet]


def test_ipv4_options_of_the_first_fragment_stay_and_the_header_is_made_right() -> None:
    data = b"\x05" * 16
    first = IP(src="10.0.0.2", dst="198.51.100.7", id=5, proto=17, flags="MF+DF", options=[b"\x94\x04\0\0"]) / data
    (whole,) = feed(Reassembler(), [piece(16, b"tail", False), bytes(first)])
    assert IP(whole).ihl == 6
    assert whole[24:] == data + b"tail"
    assert internet(whole[:24]) == 0
    assert (whole[6], whole[7]) == (0x40, 0)
    view = IpView()
    assert view.parse(memoryview(bytearray(whole)), 0, len(whole)) == 0
    assert (view.end, view.fragment) == (len(whole), False)


@pytest.mark.parametrize("before", [(), (IPv6ExtHdrHopByHop,), (IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt)])
def test_ipv6_headers_before_the_fragment_header_stay(before: tuple[type, ...]) -> None:
    packet = IPv6(src="2001:db8::2", dst="2001:db8:f::7")
    for extension in before:
        packet = packet / extension()
    packet = packet / IPv6ExtHdrFragment(id=9) / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / (b"z" * 3000)
    (whole,) = feed(Reassembler(), [bytes(part) for part in fragment6(packet, 1280)])
    view = IpView()
    assert view.parse(memoryview(bytearray(whole)), 0, len(whole)) == 0
    assert (view.fragment_header_at, view.protocol, view.payload_at) == (-1, 17, 40 + 8 * len(before) + 8)
    assert whole[view.payload_at + 8 :] == b"z" * 3000


def test_scapy_fragments_make_the_packet() -> None:
    packet = IP(four(5000))
    wholes = feed(Reassembler(), [bytes(part) for part in scapy_fragment(packet, 1000)])
    assert wholes == [bytes(packet)]


@FAMILIES
def test_datagrams_do_not_mix(make: Make) -> None:
    others = [make(3000), make(3100, "192.0.2.9" if make is four else "2001:db8::9")]
    mixed = zip(*(fragment(packet, 1280, 0x77) for packet in others), strict=True)
    assert feed(Reassembler(), itertools.chain.from_iterable(mixed)) == others
    table = Reassembler()
    assert offer(table, piece(0, bytes(8), True, ident=1)) is None
    assert offer(table, piece(8, bytes(8), False, ident=2)) is None
    assert len(table) == 2


@FAMILIES
def test_repetitions_are_ignored(make: Make) -> None:
    packet = make(3000)
    pieces = fragment(packet, 1280, 0x77)
    table = Reassembler()
    assert feed(table, [pieces[2], pieces[2], pieces[0], pieces[0], pieces[1]]) == [packet]
    assert (table.counters.duplicate, table.counters.overlapping) == (2, 0)


OVERLAPS = [
    ([(0, 24, True), (8, 8, True)], "teardrop: inside the one before"),
    ([(0, 24, True), (16, 24, True)], "over the end of the one before"),
    ([(16, 24, True), (0, 24, True)], "over the start of the one behind"),
    ([(8, 8, True), (0, 24, True)], "around another"),
    ([(0, 16, True), (0, 24, True)], "the same start, longer"),
    ([(0, 24, True), (0, 16, True)], "the same start, shorter"),
    ([(16, 8, False), (24, 8, False)], "two ends"),
    ([(24, 8, False), (8, 8, False)], "an earlier end"),
    ([(16, 8, False), (24, 8, True)], "data behind the end"),
    ([(24, 8, True), (8, 8, False)], "an end before data"),
    ([(8, 8, False), (8, 8, True)], "an end that is none"),
    ([(8, 8, True), (8, 8, False)], "no end that is one"),
]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("parts", "why"), OVERLAPS, ids=[why for _, why in OVERLAPS])
def test_an_overlap_voids_the_datagram_and_all_that_follows(
    parts: list[tuple[int, int, bool]], why: str, version: int
) -> None:
    table = Reassembler()
    for offset, length, more in parts:
        assert offer(table, piece(offset, bytes([offset + 1]) * length, more, version=version)) is None
    assert (table.counters.overlapping, table.held_bytes, len(table)) == (1, 0, 1)
    assert feed(table, [piece(at, b"c" * 8, at < 40, version=version) for at in range(0, 48, 8)]) == []
    assert table.counters.void == 6
    assert table.held_bytes == 0
    table.expire(LIFETIME_V6)
    assert len(table) == 0


def test_the_same_place_with_other_bytes_is_an_overlap() -> None:
    table = Reassembler()
    feed(table, [piece(0, b"a" * 8, True), piece(0, b"b" * 8, True)])
    assert (table.counters.overlapping, table.counters.duplicate) == (1, 0)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("offset", "data", "more"),
    [(0, b"x" * 12, True), (8, b"", False), (65528, b"x" * 9, False), (65512, b"x" * 24, False)],
)
def test_malformed_fragments_are_counted_and_leave_nothing(version: int, offset: int, data: bytes, more: bool) -> None:
    table = Reassembler()
    assert offer(table, piece(offset, data, more, version=version)) is None
    assert (table.counters.malformed, len(table), table.held_bytes) == (1, 0, 0)


def test_options_that_make_the_whole_too_long_are_malformed() -> None:
    table = Reassembler()
    last = piece(65512, b"x" * 3, False)  # 20 + 65515 bytes: just as long as may be
    options = [b"\x94\x04\0\0"]
    first = bytes(IP(src="10.0.0.2", dst="198.51.100.7", id=5, proto=17, flags="MF", options=options) / bytes(32760))
    middle = piece(32760, bytes(32752), True)
    assert feed(table, [last, first, middle]) == []
    assert (table.counters.malformed, len(table), table.held_bytes) == (1, 0, 0)


def test_a_datagram_in_too_many_pieces_is_void() -> None:
    table = Reassembler()
    feed(table, [piece(at * 8, bytes(8), True) for at in range(MAXIMUM_PIECES)])
    assert (table.counters.too_many_pieces, table.held_bytes > 0) == (0, True)
    assert offer(table, piece(MAXIMUM_PIECES * 8, bytes(8), False)) is None
    assert (table.counters.too_many_pieces, table.held_bytes) == (1, 0)


@pytest.mark.parametrize(("version", "lifetime"), [(4, LIFETIME_V4), (6, LIFETIME_V6)])
def test_time_runs_from_the_first_fragment(version: int, lifetime: float) -> None:
    table = Reassembler()
    assert table.next_deadline() is None
    offer(table, piece(8, bytes(8), True, version=version), 100.0)
    offer(table, piece(16, bytes(8), True, version=version), 110.0)
    assert table.next_deadline() == 100.0 + lifetime
    assert table.expire(99.9 + lifetime) == 0
    assert table.expire(100.0 + lifetime) == 1
    assert (table.counters.expired, len(table), table.held_bytes) == (1, 0, 0)
    assert offer(table, piece(0, bytes(8), True, version=version), 101.0 + lifetime) is None
    assert len(table) == 1


def test_offering_gives_up_what_is_late() -> None:
    table = Reassembler()
    offer(table, piece(8, bytes(8), False), 0.0)
    assert offer(table, piece(0, bytes(8), True), LIFETIME_V4) is None
    assert (table.counters.expired, len(table)) == (1, 1)


def test_at_the_bound_of_datagrams_the_oldest_goes() -> None:
    table = Reassembler()
    for ident in range(65):
        offer(table, piece(0, bytes(8), True, ident=ident))
    assert (len(table), table.counters.evicted_for_datagrams) == (64, 1)
    assert offer(table, piece(8, bytes(8), False, ident=1)) is not None
    assert offer(table, piece(8, bytes(8), False, ident=0)) is None


def test_at_the_bound_of_bytes_the_oldest_goes() -> None:
    table = Reassembler(maximum_bytes=10_000)
    for ident in range(4):
        offer(table, piece(0, bytes(4000), True, ident=ident))
        assert table.held_bytes <= 10_000
    assert (len(table), table.counters.evicted_for_bytes) == (2, 2)
    assert offer(table, piece(4000, b"end", False, ident=3)) is not None


def test_a_datagram_larger_than_the_bound_is_given_up_itself() -> None:
    table = Reassembler(maximum_bytes=1000)
    assert offer(table, piece(8, bytes(2000), True)) is None
    assert (len(table), table.held_bytes, table.counters.evicted_for_bytes) == (0, 0, 1)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12).map(lambda unit: unit * 8), st.integers(0, 40), st.booleans(), st.integers(0, 3),
            st.sampled_from([4, 6]), st.floats(0, 100),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_whatever_comes_the_books_balance(parts: list[tuple[int, int, bool, int, int, float]]) -> None:
    table = Reassembler(maximum_datagrams=3, maximum_bytes=1500)
    now = 0.0
    for offset, length, more, ident, version, pause in parts:
        if not (offset or more):
            continue
        now += pause
        packet = piece(offset, bytes([ident]) * length, more, ident, version=version)
        buf = memoryview(bytearray(packet))
        view = IpView()
        assert view.parse(buf, 0, len(buf)) == 0
        whole = table.offer(buf, view, now)
        if whole is not None:
            again = IpView()
            assert again.parse(memoryview(bytearray(whole)), 0, len(whole)) == 0
            assert not again.fragment
            assert again.end == len(whole)
        assert len(table) <= 3
        assert 0 <= table.held_bytes <= 1500
    table.expire(now + 61)
    assert (len(table), table.held_bytes) == (0, 0)
