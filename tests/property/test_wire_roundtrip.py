"""parse(emit(x)) == x for every wire format, wherever in the buffer it stands, and emit touches nothing else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bucatini.wire.arp import ArpRepr, emit_arp, parse_arp
from bucatini.wire.checksum import finish, internet, partial
from bucatini.wire.ethernet import emit_ethernet, mac_text, parse_mac
from bucatini.wire.icmp import IcmpView, emit_icmp
from bucatini.wire.ip import IpView
from bucatini.wire.ipv4 import emit_ipv4
from bucatini.wire.ipv6 import emit_fragment_header, emit_ipv6
from bucatini.wire.ndp import (
    NdpOption,
    NeighborAdvertisement,
    NeighborSolicitation,
    Prefix,
    RouterAdvertisement,
    RouterSolicitation,
    emit_ndp,
    parse_ndp,
)
from bucatini.wire.octets import load16, load32, load_bytes, store16, store32, store_bytes
from bucatini.wire.tcp import TcpOptions, TcpView, emit_tcp, syn_options
from bucatini.wire.udp import UdpView, emit_udp
from bucatini.wire.virtio_net import VirtioNetHeader

BYTE = st.integers(0, 0xFF)
WORD = st.integers(0, 0xFFFF)
LONG = st.integers(0, 0xFFFFFFFF)
MAC = st.binary(min_size=6, max_size=6)
FOUR = st.binary(min_size=4, max_size=4)
SIX = st.binary(min_size=16, max_size=16)
AT = st.integers(0, 40)
MANY = settings(max_examples=200)


def canvas(at: int, length: int) -> bytearray:
    return bytearray(b"\xa5" * (at + length + 8))


def only(data: bytearray, at: int, length: int) -> None:
    """Nothing outside `at..at+length` was written."""
    assert data[:at] == b"\xa5" * at
    assert data[at + length :] == b"\xa5" * 8


@MANY
@given(AT, WORD, LONG, st.binary(max_size=20))
def test_octets(at: int, word: int, long: int, raw: bytes) -> None:
    data = canvas(at, 6 + len(raw))
    buf = memoryview(data)
    store16(buf, at, word)
    store32(buf, at + 2, long)
    store_bytes(buf, at + 6, raw)
    only(data, at, 6 + len(raw))
    assert (load16(buf, at), load32(buf, at + 2), load_bytes(buf, at + 6, len(raw))) == (word, long, raw)


@MANY
@given(st.binary(max_size=100), st.binary(max_size=100))
def test_checksum_agrees_with_the_definition(first: bytes, second: bytes) -> None:
    data = first + second
    total = sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert partial(data) == total
    assert internet(data) == finish(total) == ~total & 0xFFFF
    if len(first) % 2 == 0:
        assert partial(second, partial(first)) == total


@MANY
@given(AT, MAC, MAC, WORD)
def test_ethernet(at: int, destination: bytes, source: bytes, ethertype: int) -> None:
    data = canvas(at, 14)
    emit_ethernet(memoryview(data), at, destination, source, ethertype)
    only(data, at, 14)
    assert data[at : at + 14] == destination + source + ethertype.to_bytes(2, "big")
    assert parse_mac(mac_text(source)) == source


@MANY
@given(AT, st.integers(0, 60), BYTE, FOUR, FOUR, BYTE, WORD, WORD, BYTE)
def test_ipv4(
    at: int, payload: int, protocol: int, source: bytes, destination: bytes, ttl: int, ident: int, field: int, tos: int
) -> None:
    data = canvas(at, 20 + payload)
    buf = memoryview(data)
    emit_ipv4(buf, at, 20 + payload, protocol, source, destination, ttl, ident, field, tos)
    only(data, at, 20 + payload)
    view = IpView()
    assert view.parse(buf, at, len(data)) == 0
    assert (view.version, view.header_at, view.payload_at, view.end) == (4, at, at + 20, at + 20 + payload)
    assert load_bytes(buf, view.source_at, 4) == source
    assert load_bytes(buf, view.destination_at, 4) == destination
    assert (view.protocol, view.hop_limit, view.identification, view.traffic_class) == (protocol, ttl, ident, tos)
    assert view.fragment_offset // 8 | view.more_fragments << 13 | view.dont_fragment << 14 == field & 0x7FFF
    assert view.fragment == (field & 0x3FFF != 0)


@MANY
@given(AT, st.integers(0, 60), st.sampled_from([6, 17, 58, 59, 50, 132]), SIX, SIX, BYTE, BYTE, st.integers(0, 0xFFFFF))
def test_ipv6(
    at: int, payload: int, protocol: int, source: bytes, destination: bytes, hops: int, traffic: int, label: int
) -> None:
    data = canvas(at, 40 + payload)
    buf = memoryview(data)
    emit_ipv6(buf, at, payload, protocol, source, destination, hops, traffic, label)
    only(data, at, 40 + payload)
    view = IpView()
    assert view.parse(buf, at, len(data)) == 0
    assert (view.version, view.header_at, view.payload_at, view.end) == (6, at, at + 40, at + 40 + payload)
    assert load_bytes(buf, view.source_at, 16) == source
    assert load_bytes(buf, view.destination_at, 16) == destination
    assert (view.protocol, view.hop_limit, view.traffic_class) == (protocol, hops, traffic)
    assert load32(buf, at) & 0xFFFFF == label


@MANY
@given(AT, st.sampled_from([6, 17, 58]), st.integers(0, 8191), st.booleans(), LONG)
def test_ipv6_fragment_header(at: int, protocol: int, units: int, more: bool, identification: int) -> None:
    data = canvas(at, 48)
    buf = memoryview(data)
    emit_ipv6(buf, at, 8, 44, bytes(16), bytes(16))
    emit_fragment_header(buf, at + 40, protocol, units * 8, more, identification)
    only(data, at, 48)
    view = IpView()
    assert view.parse(buf, at, at + 48) == 0
    assert (view.protocol, view.fragment_offset, view.more_fragments) == (protocol, units * 8, more)
    assert (view.identification, view.fragment_header_at, view.fragment) == (
        identification,
        at + 40,
        bool(units) or more,
    )


@MANY
@given(
    AT,
    WORD,
    WORD,
    LONG,
    LONG,
    BYTE,
    WORD,
    st.integers(0, 10).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n)),
)
def test_tcp(
    at: int, source: int, destination: int, seq: int, ack: int, flags: int, window: int, options: bytes
) -> None:
    length = 20 + len(options)
    data = canvas(at, length)
    buf = memoryview(data)
    emit_tcp(buf, at, source, destination, seq, ack, flags, window, options)
    only(data, at, length)
    view = TcpView()
    assert view.parse(buf, at, len(data))
    assert (view.source_port, view.destination_port, view.seq, view.ack) == (source, destination, seq, ack)
    assert (view.flags, view.window, view.checksum, view.urgent) == (flags, window, 0, 0)
    assert (view.options_at, view.payload_at, view.end) == (at + 20, at + length, len(data))
    assert load_bytes(buf, view.options_at, len(options)) == options


@MANY
@given(st.integers(1, 0xFFFF), st.integers(-1, 14))
def test_syn_options(mss: int, scale: int) -> None:
    data = bytearray(syn_options(mss, scale))
    found = TcpOptions()
    found.parse(memoryview(data), 0, len(data))
    assert (found.mss, found.window_scale, found.sack_permitted, found.timestamps) == (mss, scale, False, False)


@MANY
@given(AT, WORD, WORD, st.integers(0, 60), WORD)
def test_udp(at: int, source: int, destination: int, payload: int, checksum: int) -> None:
    data = canvas(at, 8)
    emit_udp(memoryview(data), at, source, destination, 8 + payload, checksum)
    only(data, at, 8)
    data += bytes(payload)
    view = UdpView()
    assert view.parse(memoryview(data), at, len(data))
    assert (view.source_port, view.destination_port, view.length, view.checksum) == (
        source, destination, 8 + payload, checksum,
    )  # fmt: skip
    assert (view.payload_at, view.end) == (at + 8, at + 8 + payload)


@MANY
@given(AT, BYTE, BYTE, WORD, WORD, WORD)
def test_icmp(at: int, kind: int, code: int, identifier: int, sequence: int, checksum: int) -> None:
    data = canvas(at, 8)
    emit_icmp(memoryview(data), at, kind, code, identifier, sequence, checksum)
    only(data, at, 8)
    view = IcmpView()
    assert view.parse(memoryview(data), at, len(data))
    assert (view.type, view.code, view.identifier) == (kind, code, identifier)
    assert (view.sequence, view.checksum) == (sequence, checksum)


@MANY
@given(AT, st.tuples(BYTE, BYTE, WORD, WORD, WORD, WORD))
def test_virtio_net(at: int, values: tuple[int, ...]) -> None:
    names = ("flags", "gso_type", "hdr_len", "gso_size", "csum_start", "csum_offset")
    header = VirtioNetHeader()
    for name, value in zip(names, values, strict=True):
        setattr(header, name, value)
    data = canvas(at, 12)
    header.emit(memoryview(data), at)
    only(data, at, 12)
    found = VirtioNetHeader()
    found.parse(memoryview(data), at)
    assert tuple(getattr(found, name) for name in names) == values


@MANY
@given(st.builds(ArpRepr, WORD, MAC, FOUR, MAC, FOUR))
def test_arp(arp: ArpRepr) -> None:
    data = bytearray(emit_arp(arp))
    assert len(data) == 28
    assert parse_arp(memoryview(data), 0, 28) == arp


UNICAST = SIX.filter(lambda address: address[0] != 0xFF)
MAYBE_MAC = st.none() | MAC
OPTION = st.builds(
    NdpOption,
    BYTE.filter(lambda kind: kind not in (1, 3, 5)),
    st.integers(1, 4).flatmap(lambda n: st.binary(min_size=8 * n - 2, max_size=8 * n - 2)),
)
PREFIX = st.builds(Prefix, SIX, BYTE, st.booleans(), st.booleans(), LONG, LONG)
NDP = st.one_of(
    st.builds(NeighborSolicitation, UNICAST, MAYBE_MAC),
    st.builds(NeighborAdvertisement, UNICAST, st.booleans(), st.booleans(), st.booleans(), MAYBE_MAC),
    st.builds(RouterSolicitation, MAYBE_MAC),
    st.builds(
        RouterAdvertisement, BYTE, st.booleans(), st.booleans(), WORD, LONG, LONG, MAYBE_MAC, st.none() | LONG,
        st.lists(PREFIX, max_size=3).map(tuple), st.lists(OPTION, max_size=3).map(tuple),
    ),
)  # fmt: skip


@MANY
@given(NDP)
def test_ndp(message: NeighborSolicitation) -> None:
    data = bytearray(emit_ndp(message))
    found = parse_ndp(memoryview(data), 0, len(data))
    assert type(found) is type(message)
    assert found == message
