"""bucatini.base.prefix: what is a prefix, and the longest one."""

from __future__ import annotations

import pytest

from bucatini.base.address import pack
from bucatini.base.prefix import Prefix, PrefixTable, parse_prefix, truncated


@pytest.mark.parametrize(
    ("written", "length", "shown"),
    [
        ("10.0.0.0/8", 8, "10.0.0.0/8"),
        ("10.0.0.5", 32, "10.0.0.5"),
        ("10.0.0.5/32", 32, "10.0.0.5"),
        ("0.0.0.0/0", 0, "0.0.0.0/0"),
        ("2001:DB8:0::/32", 32, "2001:db8::/32"),
        ("::1", 128, "::1"),
        ("::/0", 0, "::/0"),
    ],
)
def test_an_address_or_a_cidr_is_a_prefix(written: str, length: int, shown: str) -> None:
    prefix = parse_prefix(written)
    assert prefix.length == length
    assert str(prefix) == shown
    assert parse_prefix(shown) == prefix


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("10.0.0.5/8", "host bits are set: write 10.0.0.0/8 or 10.0.0.5"),
        ("2001:db8::1/32", "host bits are set: write 2001:db8::/32 or 2001:db8::1"),
        ("10.0.0.0/33", "prefix length '33' is not a number from 0 to 32"),
        ("::/129", "from 0 to 128"),
        ("10.0.0.0/", "prefix length ''"),
        ("10.0.0.0/08", "prefix length '08'"),
        ("10.0.0.0/+8", r"prefix length '\+8'"),
        ("10.0.0.0/255.0.0.0", "prefix length '255.0.0.0'"),
        ("10.0.0.0/8/8", "prefix length '8/8'"),
        ("10.0.0.0/٨", "prefix length"),
        ("10.0.0.0/" + "9" * 5000, "prefix length"),
        ("10.0.0", "not an IP address"),
        ("010.0.0.1", "not an IP address"),
        ("", "not an IP address"),
        ("fe80::1%eth0", "not an IP address"),
    ],
)
def test_everything_ambiguous_is_refused_with_the_reason(written: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_prefix(written)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/32", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("255.255.255.255/0", "0.0.0.0/0"),
        ("2001:db8::1/33", "2001:db8::/33"),
        ("::1/127", "::/127"),
    ],
)
def test_host_bits_are_ignored_for_who_wants_it(written: str, shown: str) -> None:
    assert parse_prefix(written, host_bits=True) == parse_prefix(shown)


@pytest.mark.parametrize("written", ["10.1.2.3/33", "10.1.2.3/", "10.1.2.3/08", "10.1.2", "::1/129", ""])
def test_and_nothing_else_is(written: str) -> None:
    with pytest.raises(ValueError, match=r"prefix length|not an IP address"):
        parse_prefix(written, host_bits=True)


def test_the_prefix_that_holds_an_address() -> None:
    for address in (pack("255.255.255.255"), pack("2001:db8:ffff::1")):
        bits = 8 * len(address)
        for length in range(bits + 1):
            found = truncated(address, length)
            number = int.from_bytes(found.address, "big")
            assert found.length == length
            assert number == int.from_bytes(address, "big") & ~((1 << bits - length) - 1)
        assert truncated(address, bits) == (address, bits)
        assert truncated(address, 0) == (bytes(len(address)), 0)


def table(*rows: tuple[str, str]) -> PrefixTable[str]:
    return PrefixTable(((parse_prefix(prefix), value) for prefix, value in rows), "none")


def test_the_longest_prefix_wins_whatever_the_order() -> None:
    rows = [("10.0.0.0/8", "eight"), ("10.1.0.0/16", "sixteen"), ("10.1.2.3", "one"), ("0.0.0.0/0", "all")]
    for order in (rows, rows[::-1]):
        found = table(*order)
        assert found.find(pack("10.1.2.3")) == "one"
        assert found.find(pack("10.1.2.4")) == "sixteen"
        assert found.find(pack("10.2.0.0")) == "eight"
        assert found.find(pack("9.255.255.255")) == "all"
        assert found.find(pack("11.0.0.0")) == "all"


def test_first_and_last_address_of_the_space_and_of_neighbours() -> None:
    found = table(("0.0.0.0/1", "low"), ("128.0.0.0/1", "high"), ("255.255.255.255", "last"), ("0.0.0.0", "first"))
    assert [found.find(pack(a)) for a in ("0.0.0.0", "0.0.0.1", "127.255.255.255", "128.0.0.0")] == [
        "first",
        "low",
        "low",
        "high",
    ]
    assert found.find(pack("255.255.255.254")) == "high"
    assert found.find(pack("255.255.255.255")) == "last"


def test_families_do_not_mix() -> None:
    found = table(("0.0.0.0/0", "four"))
    assert found.find(pack("1.2.3.4")) == "four"
    assert found.find(pack("::1.2.3.4")) == "none"


def test_of_equal_prefixes_the_last_given_wins() -> None:
    assert table(("10.0.0.0/8", "a"), ("10.0.0.0/8", "b")).find(pack("10.0.0.0")) == "b"


def test_an_empty_table_answers_the_default() -> None:
    assert table().find(pack("::1")) == "none"


def test_a_prefix_knows_when_it_is_one_address() -> None:
    assert parse_prefix("::1").is_full
    assert not Prefix(bytes(4), 31).is_full
