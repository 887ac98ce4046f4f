"""Random and damaged bytes never raise out of a parser, and what a parser accepts lies inside its bounds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bucatini.wire.arp import parse_arp
from bucatini.wire.checksum import internet, transport_ok
from bucatini.wire.icmp import IcmpView
from bucatini.wire.ip import REASONS, IpView
from bucatini.wire.ndp import emit_ndp, parse_ndp
from bucatini.wire.tcp import TcpOptions, TcpView
from bucatini.wire.udp import UdpView
from bucatini.wire.virtio_net import VirtioNetHeader

MANY = settings(max_examples=200)
AT = st.integers(0, 20)


def window(at: int, body: bytes) -> tuple[memoryview, int]:
    """The body at `at` with nothing behind it: a read past the end is an IndexError."""
    return memoryview(bytearray(at) + bytearray(body)), at + len(body)


@st.composite
def ipv4(draw: st.DrawFn) -> bytes:
    """Random bytes under a plausible first byte and length and, mostly, a right checksum, so that parsing gets deep."""
    body = bytearray(draw(st.binary(min_size=20, max_size=100)))
    body[0] = 0x40 | draw(st.integers(4, 15))
    body[2:4] = draw(st.integers(len(body) - 20, len(body) + 2)).to_bytes(2, "big")
    head = (body[0] & 15) * 4
    if len(body) >= head and draw(st.integers(0, 9)):
        body[10:12] = bytes(2)
        body[10:12] = internet(body[:head]).to_bytes(2, "big")
    return bytes(body)


@st.composite
def ipv6(draw: st.DrawFn) -> bytes:
    """Random bytes, extension headers likely and short."""
    extensions = st.sampled_from([0, 43, 44, 51, 60, 135, 139, 140, 17, 6, 59])
    body = bytearray(draw(st.binary(min_size=40, max_size=40)))
    body[0] = 0x60
    body[6] = draw(extensions)
    for _ in range(draw(st.integers(0, 10))):
        length = draw(st.integers(0, 2))
        body += bytes((draw(extensions), length)) + draw(st.binary(min_size=length * 8 + 6, max_size=length * 8 + 6))
    body += draw(st.binary(max_size=10))
    body[4:6] = max(0, len(body) - 40 - draw(st.integers(-1, 10))).to_bytes(2, "big")
    return bytes(body)


@MANY
@given(AT, st.one_of(st.binary(max_size=100), ipv4(), ipv6()))
def test_ip(at: int, body: bytes) -> None:
    buf, end = window(at, body)
    view = IpView()
    reason = view.parse(buf, at, end)
    if reason:
        assert reason in REASONS
        return
    assert at == view.header_at
    assert at + (20 if view.version == 4 else 40) <= view.payload_at <= view.end <= end
    assert at < view.source_at < view.destination_at
    assert view.destination_at + view.address_length <= view.payload_at
    assert view.fragment == (view.more_fragments or view.fragment_offset > 0)
    assert 0 <= view.fragment_offset <= 65528
    assert view.extension_at < view.payload_at
    if view.version == 6:
        assert buf[view.extension_at] == view.protocol
    if view.fragment_header_at >= 0:
        assert at + 40 <= view.fragment_header_at <= view.payload_at - 8


@MANY
@given(AT, st.binary(max_size=80), st.integers(0, 15))
def test_tcp(at: int, body: bytes, words: int) -> None:
    if len(body) > 12:
        body = body[:12] + bytes((words << 4,)) + body[13:]
    buf, end = window(at, body)
    view = TcpView()
    if view.parse(buf, at, end):
        assert at + 20 == view.options_at <= view.payload_at <= view.end == end
        TcpOptions().parse(buf, view.options_at, view.payload_at)


@MANY
@given(
    AT,
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 11), st.binary(max_size=10)), max_size=6),
    st.binary(max_size=40),
)
def test_tcp_options(at: int, parts: list[tuple[int, int, bytes]], noise: bytes) -> None:
    for body in (b"".join(bytes((kind, length)) + rest for kind, length, rest in parts), noise):
        buf, end = window(at, body)
        options = TcpOptions()
        options.parse(buf, at, end)
        assert 0 <= options.mss <= 0xFFFF
        assert -1 <= options.window_scale <= 14


@MANY
@given(AT, st.binary(max_size=40), st.integers(0, 44))
def test_udp(at: int, body: bytes, length: int) -> None:
    if len(body) > 6:
        body = body[:4] + length.to_bytes(2, "big") + body[6:]
    buf, end = window(at, body)
    view = UdpView()
    if view.parse(buf, at, end):
        assert at + 8 == view.payload_at <= view.end <= end
        assert view.length == view.end - at


@MANY
@given(AT, st.binary(max_size=40))
def test_icmp_and_arp(at: int, body: bytes) -> None:
    buf, end = window(at, body)
    view = IcmpView()
    assert view.parse(buf, at, end) == (len(body) >= 8)
    if len(body) >= 8:
        assert (view.payload_at, view.end) == (at + 8, end)
    found = parse_arp(buf, at, end)
    assert found is None or len(found.sender_mac + found.sender_address + found.target_mac + found.target_address) == 20


@MANY
@given(AT, st.integers(132, 138), st.binary(min_size=7, max_size=120), st.lists(st.integers(0, 3), max_size=3))
def test_ndp(at: int, kind: int, rest: bytes, lengths: list[int]) -> None:
    options = b"".join(bytes((kind & 7, length)) + rest[: max(0, length * 8 - 2)] for length in lengths)
    for body in (bytes((kind, 0)) + rest[1:], bytes((kind, 0)) + rest[:22].ljust(22, b"\0") + options):
        buf, end = window(at, body)
        message = parse_ndp(buf, at, end)
        assert message is None or len(emit_ndp(message)) <= len(body)


@MANY
@given(st.binary(min_size=12, max_size=12))
def test_virtio_net(body: bytes) -> None:
    header = VirtioNetHeader()
    header.parse(memoryview(bytearray(body)), 0)
    data = bytearray(12)
    header.emit(memoryview(data), 0)
    assert data[:10] == body[:10]


@MANY
@given(st.binary(min_size=40, max_size=120), st.sampled_from([1, 6, 17, 58]), st.sampled_from([4, 16]))
def test_transport_checksum(body: bytes, protocol: int, length: int) -> None:
    assert transport_ok(memoryview(bytearray(body)), 0, length, length, protocol, 32, len(body)) in (True, False)
