"""TCP headers and the options of a SYN, however badly written."""

from __future__ import annotations

import pytest

from bucatini.wire.tcp import ACK, CWR, FIN, PSH, SYN, TcpOptions, TcpView, emit_tcp, flags_text, syn_options


def test_emit_writes_the_header_of_the_book() -> None:
    data = bytearray(b"\xaa" * 30)
    emit_tcp(memoryview(data), 1, 0x1234, 80, 0xFFFFFFFF, 0x80000001, SYN | ACK, 0xFFFE, b"\x02\x04\x05\xb4")
    assert data.hex() == "aa" + "12340050ffffffff800000016012fffe00000000020405b4" + "aa" * 5


def test_every_field_is_found() -> None:
    data = bytearray(4) + bytearray.fromhex("1234 0050 fffffffe 80000001 61 c1 0102 abcd 0007 020405b4") + b"payload"
    view = TcpView()
    assert view.parse(memoryview(data), 4, len(data))
    assert (view.source_port, view.destination_port, view.seq, view.ack) == (0x1234, 80, 0xFFFFFFFE, 0x80000001)
    assert (view.flags, view.window, view.checksum, view.urgent) == (FIN | 0x40 | CWR, 0x0102, 0xABCD, 7)
    assert (view.options_at, view.payload_at, view.end) == (24, 28, 35)


@pytest.mark.parametrize(
    ("length", "offset", "fine"), [(20, 5, True), (19, 5, False), (60, 15, True), (59, 15, False), (40, 4, False)]
)
def test_the_header_must_fit(length: int, offset: int, fine: bool) -> None:
    data = bytearray(length)
    data[12] = offset << 4
    assert TcpView().parse(memoryview(data), 0, length) is fine


def options(text: str) -> TcpOptions:
    data = bytearray.fromhex(text)
    result = TcpOptions()
    result.parse(memoryview(data), 0, len(data))
    return result


def test_the_options_of_an_ordinary_syn() -> None:
    found = options("020405b4 0402 080a0000000100000000 01 030307")
    assert (found.mss, found.window_scale, found.sack_permitted, found.timestamps) == (1460, 7, True, True)


def test_no_options() -> None:
    found = options("")
    assert (found.mss, found.window_scale, found.sack_permitted, found.timestamps) == (0, -1, False, False)


@pytest.mark.parametrize(
    ("text", "mss", "scale"),
    [
        ("03030f", 0, 14),
        ("0303ff", 0, 14),
        ("030300", 0, 0),
        ("02040100 02040200", 0x100, -1),
        ("030302 030305", 0, 2),
        ("00 020405b4", 0, -1),
        ("01 01 020405b4", 1460, -1),
        ("0200 020405b4", 0, -1),
        ("0201 020405b4", 0, -1),
        ("02", 0, -1),
        ("0204 05", 0, -1),
        ("020405b4 03ff07", 1460, -1),
        ("020305 030304", 0, 4),
        ("fd02 030304", 0, 4),
        ("fd0401 03030403", 0, -1),
        ("fd0401 04 030304", 0, 4),
    ],
)
def test_odd_options(text: str, mss: int, scale: int) -> None:
    found = options(text)
    assert (found.mss, found.window_scale) == (mss, scale)


def test_parse_forgets_the_segment_before() -> None:
    found = options("020405b4 0402 080a0000000100000000 01 030307")
    found.parse(memoryview(bytearray(1)), 0, 0)
    assert (found.mss, found.window_scale, found.sack_permitted, found.timestamps) == (0, -1, False, False)


@pytest.mark.parametrize(("scale", "seen"), [(-1, -1), (0, 0), (8, 8), (15, 14)])
def test_our_own_syn_options_come_back(scale: int, seen: int) -> None:
    written = syn_options(65495, scale)
    assert len(written) % 4 == 0
    found = options(written.hex())
    assert (found.mss, found.window_scale) == (65495, seen)


def test_flags_have_names() -> None:
    assert flags_text(SYN | ACK) == "SYN,ACK"
    assert flags_text(PSH | CWR) == "PSH,CWR"
    assert flags_text(0) == "-"
