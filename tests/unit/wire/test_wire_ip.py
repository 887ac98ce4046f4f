"""The family-neutral view chooses by the packet's version and describes both alike."""

from __future__ import annotations

from bucatini.wire.ip import BAD_VERSION, REASONS, TRUNCATED, IpView
from bucatini.wire.ipv4 import emit_ipv4
from bucatini.wire.ipv6 import emit_ipv6
from bucatini.wire.octets import load_bytes


def test_one_view_serves_both_families_in_turn() -> None:
    view = IpView()
    four = memoryview(bytearray(28))
    emit_ipv4(four, 0, 28, 17, b"\x0a\0\0\1", b"\x0a\0\0\2")
    six = memoryview(bytearray(48))
    emit_ipv6(six, 0, 8, 17, b"\x20" * 16, b"\x30" * 16)
    for buf, version, length, source in (
        (four, 4, 4, b"\x0a\0\0\1"),
        (six, 6, 16, b"\x20" * 16),
        (four, 4, 4, b"\x0a\0\0\1"),
    ):
        assert view.parse(buf, 0, len(buf)) == 0
        assert (view.version, view.address_length, view.protocol) == (version, length, 17)
        assert load_bytes(buf, view.source_at, view.address_length) == source
        assert view.end - view.payload_at == 8


def test_nothing_and_neither() -> None:
    view = IpView()
    assert view.parse(memoryview(bytearray(4)), 4, 4) == TRUNCATED
    assert view.parse(memoryview(bytearray(b"\x50" * 60)), 0, 60) == BAD_VERSION


def test_every_reason_has_words() -> None:
    assert sorted(REASONS) == [1, 2, 3, 4, 5, 6]
    assert len(set(REASONS.values())) == 6
