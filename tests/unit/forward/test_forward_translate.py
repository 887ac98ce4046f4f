"""bucatini.forward.translate: each row of its two tables, and which row holds where two could."""

from __future__ import annotations

import pytest

from bucatini.base.address import Endpoint, pack
from bucatini.forward.translate import Translation

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
GATEWAY4, GATEWAY6 = pack("192.0.2.1"), pack("fe80::1")
GUEST4, GUEST6 = pack("192.0.2.9"), pack("2001:db8::9")
VISIBLE4, VISIBLE6 = pack("169.254.1.2"), pack("2001:db8:1::2")
DNS4, DNS6 = pack("169.254.0.1"), pack("2001:db8:1::53")
RESOLVER4, RESOLVER6 = pack("127.0.0.53"), pack("::1")
LOOPBACK4, LOOPBACK6 = pack("127.0.0.1"), pack("::1")
GUESTS = (GUEST4, GUEST6)

FULL = Translation(
    host_loopback=(GATEWAY4, GATEWAY6),
    guest_addresses=((VISIBLE4, GUEST4), (VISIBLE6, GUEST6)),
    dns=((DNS4, RESOLVER4), (DNS6, RESOLVER6)),
    ours=(GATEWAY4, GATEWAY6),
)


@pytest.mark.parametrize(
    ("protocol", "address", "port", "expected"),
    [
        (UDP, DNS4, 53, RESOLVER4),
        (TCP, DNS4, 53, RESOLVER4),
        (TCP, DNS4, 853, RESOLVER4),
        (UDP, DNS4, 853, RESOLVER4),
        (UDP, DNS6, 53, RESOLVER6),
        (UDP, DNS4, 54, None),
        (ICMP, DNS4, 0, None),
        (ICMP, DNS4, 53, None),
        (TCP, GATEWAY4, 80, LOOPBACK4),
        (UDP, GATEWAY4, 53, LOOPBACK4),
        (ICMP, GATEWAY4, 0, LOOPBACK4),
        (TCP, GATEWAY6, 80, LOOPBACK6),
        (ICMPV6, GATEWAY6, 0, LOOPBACK6),
        (TCP, VISIBLE4, 80, GUEST4),
        (UDP, VISIBLE6, 80, GUEST6),
        (ICMP, VISIBLE4, 0, GUEST4),
        (TCP, pack("93.184.215.14"), 443, None),
        (UDP, pack("224.0.0.251"), 5353, None),
        (TCP, GUEST4, 80, None),
    ],
)
def test_outbound(protocol: int, address: bytes, port: int, expected: bytes | None) -> None:
    assert FULL.outbound(protocol, address, port) == (None if expected is None else Endpoint(expected, port))


def test_the_first_row_of_the_table_holds() -> None:
    """As with pasta's defaults: one gateway is resolver, loopback and, here, the guest's address on the host."""
    one = Translation((GATEWAY4,), ((GATEWAY4, GUEST4),), ((GATEWAY4, RESOLVER4),))
    assert one.outbound(UDP, GATEWAY4, 53) == Endpoint(RESOLVER4, 53)
    assert one.outbound(TCP, GATEWAY4, 80) == Endpoint(LOOPBACK4, 80)
    assert one.outbound(ICMP, GATEWAY4, 0) == Endpoint(LOOPBACK4, 0)
    without = Translation((), ((GATEWAY4, GUEST4),), ((GATEWAY4, RESOLVER4),))
    assert without.outbound(TCP, GATEWAY4, 80) == Endpoint(GUEST4, 80)


def test_of_two_rows_for_one_address_the_first_holds() -> None:
    twice = Translation(
        guest_addresses=((VISIBLE4, GUEST4), (VISIBLE4, GATEWAY4), (DNS4, GUEST4)),
        dns=((DNS4, RESOLVER4), (DNS4, GATEWAY4)),
    )
    assert twice.outbound(TCP, VISIBLE4, 80) == Endpoint(GUEST4, 80)
    assert twice.outbound(TCP, DNS4, 53) == Endpoint(RESOLVER4, 53)
    assert twice.inbound(GUEST4, ()) == VISIBLE4


def test_any_number_of_addresses_mean_the_loopback() -> None:
    many = Translation(host_loopback=(GATEWAY4, VISIBLE4, GATEWAY6, VISIBLE6))
    assert [many.outbound(TCP, address, 1) for address in (GATEWAY4, VISIBLE4)] == [Endpoint(LOOPBACK4, 1)] * 2
    assert [many.outbound(TCP, address, 1) for address in (GATEWAY6, VISIBLE6)] == [Endpoint(LOOPBACK6, 1)] * 2
    assert many.inbound(LOOPBACK4, GUESTS) == GATEWAY4
    assert many.inbound(LOOPBACK6, GUESTS) == GATEWAY6


def test_a_resolver_may_be_of_the_other_family() -> None:
    crossed = Translation(dns=((DNS4, RESOLVER6),))
    assert crossed.outbound(UDP, DNS4, 53) == Endpoint(RESOLVER6, 53)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("127.0.0.1", GATEWAY4),
        ("::1", GATEWAY6),
        ("127.0.0.2", GATEWAY4),
        ("127.255.255.255", GATEWAY4),
        ("0.0.0.0", GATEWAY4),
        ("::", GATEWAY6),
        ("192.0.2.9", VISIBLE4),
        ("2001:db8::9", VISIBLE6),
        ("192.0.2.10", pack("192.0.2.10")),
        ("192.0.2.1", GATEWAY4),
        ("::2", pack("::2")),
        ("fe80::9", pack("fe80::9")),
    ],
)
def test_inbound(peer: str, expected: bytes) -> None:
    assert FULL.inbound(pack(peer), GUESTS) == expected


def test_loopback_has_an_address_of_its_own_only_by_a_mapping() -> None:
    """127.0.0.1 exactly goes by the mapping; the rest of 127/8 would not be led back to itself by it."""
    mapped = Translation(host_loopback=(VISIBLE4, VISIBLE6), ours=(GATEWAY4, GATEWAY6))
    assert mapped.inbound(LOOPBACK4, GUESTS) == VISIBLE4
    assert mapped.inbound(pack("127.0.0.2"), GUESTS) == GATEWAY4
    assert mapped.inbound(LOOPBACK6, GUESTS) == VISIBLE6


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "192.0.2.9", "::1", "::", "2001:db8::9"])
def test_without_a_mapping_a_peer_is_shown_as_us_or_refused(peer: str) -> None:
    packed = pack(peer)
    assert Translation(ours=(GATEWAY4, GATEWAY6)).inbound(packed, GUESTS) == (
        GATEWAY4 if len(packed) == 4 else GATEWAY6
    )
    assert Translation().inbound(packed, GUESTS) is None
    other = Translation(ours=(GATEWAY6 if len(packed) == 4 else GATEWAY4,))
    assert other.inbound(packed, GUESTS) is None


def test_of_several_addresses_of_ours_the_first_of_a_family_is_shown() -> None:
    assert Translation(ours=(GATEWAY4, VISIBLE4, GATEWAY6)).inbound(GUEST4, GUESTS) == GATEWAY4


def test_nothing_configured_changes_nothing() -> None:
    empty = Translation()
    assert empty.outbound(TCP, GATEWAY4, 53) is None
    assert empty.inbound(pack("8.8.8.8"), GUESTS) == pack("8.8.8.8")


def test_tables_are_values() -> None:
    assert Translation((GATEWAY4,)) == Translation((GATEWAY4,))
    assert hash(Translation((GATEWAY4,))) == hash(Translation((GATEWAY4,)))
    assert Translation((GATEWAY4,)) != Translation((VISIBLE4,))
    assert "_outbound" not in repr(FULL)


@pytest.mark.parametrize(
    "rows",
    [
        {"host_loopback": (b"abc",)},
        {"ours": (b"",)},
        {"dns": ((DNS4, b"x"),)},
        {"guest_addresses": ((VISIBLE4, GUEST6),)},
    ],
)
def test_addresses_that_cannot_be(rows: dict[str, tuple[bytes, ...]]) -> None:
    with pytest.raises(ValueError, match=r"packed address|different families"):
        Translation(**rows)  # type: ignore[arg-type]
