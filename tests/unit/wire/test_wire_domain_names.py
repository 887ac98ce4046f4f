"""Search lists: what a name is, compression as RFC 1035 4.1.4 has it, and a reader that cannot be led in circles."""

from __future__ import annotations

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.wire.domain_names import decode_names, encode_name, encode_names

LONGEST = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 61))
"""255 bytes on the wire."""


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("example.com", b"\x07example\x03com\x00"),
        ("example.com.", b"\x07example\x03com\x00"),
        ("a", b"\x01a\x00"),
        ("_tcp.Example.ORG", b"\x04_tcp\x07Example\x03ORG\x00"),
        ("", b"\x00"),
        (".", b"\x00"),
    ],
)
def test_one_name(name: str, wire: bytes) -> None:
    assert encode_name(name) == wire
    assert encode_name(name) == dns.name.from_text(name or ".").to_wire()


def test_the_longest_name_and_label() -> None:
    assert len(encode_name(LONGEST)) == 255
    assert decode_names(encode_name(LONGEST)) == (LONGEST,)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (LONGEST + "d", "longer than 255 bytes"),
        ("a" * 64 + ".org", "1 to 63 bytes"),
        ("a..b", "1 to 63 bytes"),
        (".a", "1 to 63 bytes"),
        ("..", "1 to 63 bytes"),
        ("münchen.example", "not ASCII"),
        ("a b", "a character"),
        ("a\\.b", "a character"),
        ("a\x00b", "a character"),
        ("a\nb", "a character"),
    ],
)
def test_what_is_no_name(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        encode_name(name)
    assert encode_names(("x.example", name)) == encode_name("x.example")


def test_compression_as_in_rfc_3397() -> None:
    """The list of the RFC's example: eng.apple.com and marketing.apple.com."""
    wire = encode_names(("eng.apple.com.", "marketing.apple.com."), compress=True)
    assert wire == b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04"
    assert decode_names(wire) == ("eng.apple.com", "marketing.apple.com")


def test_a_name_that_was_there_is_one_pointer() -> None:
    assert encode_names(("b.a", "c.b.a", "b.a"), compress=True) == b"\x01b\x01a\x00\x01c\xc0\x00\xc0\x00"


def test_without_compression_every_name_is_whole() -> None:
    assert encode_names(("b.a", "b.a")) == b"\x01b\x01a\x00" * 2


def test_the_root_cannot_stand_in_a_list() -> None:
    assert encode_names((".", "", "a")) == b"\x01a\x00"


def test_what_does_not_fit_is_left_out_whole() -> None:
    names = ("aaaa.example", "bb", "c.example")
    assert encode_names(names, limit=14) == encode_name("aaaa.example")
    assert encode_names(names, limit=18) == encode_names(("aaaa.example", "bb"))
    assert encode_names(names, limit=0) == b""
    assert encode_names(("aaaa.example", "c.example"), limit=20, compress=True) == encode_name("aaaa.example") + (
        b"\x01c\xc0\x05"
    )


def test_a_name_left_out_is_not_pointed_to() -> None:
    assert encode_names(("a.looooooong", "b", "looooooong"), limit=12, compress=True) == b"\x01b\x00"


def test_pointers_end_where_fourteen_bits_do() -> None:
    names = [f"{'x' * 60}{i:03}.{'y' * 63}.{'z' * 63}" for i in range(400)]
    wire = encode_names([name.replace("y", f"{i % 10}") for i, name in enumerate(names)], compress=True)
    assert len(wire) > 0x4000
    assert decode_names(wire) is not None


@pytest.mark.parametrize(
    ("wire", "names"),
    [
        (b"", ()),
        (b"\x00" * 8, ()),
        (b"\x01a\x00\x00\x00\x00\x00\x00", ("a",)),
        (b"\x01a\x00\x00\x01b\x00\x00", ("a", "b")),
    ],
)
def test_padding_is_skipped(wire: bytes, names: tuple[str, ...]) -> None:
    assert decode_names(wire) == names


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"\x01a", id="no end"),
        pytest.param(b"\x05abc", id="label cut"),
        pytest.param(b"\xc0", id="pointer cut"),
        pytest.param(b"\xc0\x00", id="pointer to itself"),
        pytest.param(b"\x01a\xc0\x00", id="pointer to its own start"),
        pytest.param(b"\x01a\xc0\x02", id="pointer to the pointer"),
        pytest.param(b"\xc0\x04\x00\x00\x01a\x00", id="pointer ahead"),
        pytest.param(b"\x40" + b"a" * 64 + b"\x00", id="label of 64 bytes"),
        pytest.param(b"\x80a\x00", id="reserved label type"),
        pytest.param((b"\x3f" + b"a" * 63) * 4 + b"\x00", id="257 bytes"),
        pytest.param(b"\x03a.b\x00", id="dot in a label"),
        pytest.param(b"\x01\x07\x00", id="control character"),
        pytest.param(b"\x01\xff\x00", id="not ASCII"),
    ],
)
def test_malformed(wire: bytes) -> None:
    assert decode_names(wire) is None


LABEL = st.text("abcABC-_019", min_size=1, max_size=63)
NAMES = st.lists(st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda n: len(n) <= 253), max_size=12)


@given(NAMES, st.booleans(), st.integers(0, 600))
def test_both_ways(names: list[str], compress: bool, limit: int) -> None:
    assert decode_names(encode_names(names, compress=compress)) == tuple(names)
    wire = encode_names(names, compress=compress, limit=limit)
    assert len(wire) <= limit
    kept = decode_names(wire)
    assert kept is not None
    rest = iter(names)
    assert all(name in rest for name in kept), "a subsequence of what was asked for"


@given(NAMES)
def test_another_implementation_reads_the_compressed_list(names: list[str]) -> None:
    wire = encode_names(names, compress=True)
    at, found = 0, []
    while at < len(wire):
        name, used = dns.name.from_wire(wire, at)
        found.append(name.to_text(omit_final_dot=True))
        at += used
    assert found == names


@given(st.binary(max_size=120))
def test_any_bytes(wire: bytes) -> None:
    names = decode_names(wire)
    assert names is None or decode_names(encode_names(names)) == names
