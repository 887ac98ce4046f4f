"""guard.reach: public addresses beside what the policy calls public, and what an address may turn out to mean."""

from __future__ import annotations

import pytest

from bucatini.base.address import pack, text
from bucatini.guard.binding import Binding
from bucatini.guard.reach import is_global_ipv4, is_open, is_public, readings
from bucatini.policy.groups import BLOCKS, classify, find_block

NOT_GLOBAL = (
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
    "192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 255.255.255.255/32"
).split()


def number(address: str) -> int:
    return int.from_bytes(pack(address), "big")


@pytest.mark.parametrize("prefix", NOT_GLOBAL)
def test_softnets_list_to_its_edges(prefix: str) -> None:
    """First and last address are not global; their neighbours are, unless another row holds them."""
    head, _, length = prefix.partition("/")
    first = number(head)
    last = first + (1 << 32 - int(length)) - 1
    assert not is_global_ipv4(first)
    assert not is_global_ipv4(last)
    ranges = [(number(p.split("/")[0]), 1 << 32 - int(p.split("/")[1])) for p in NOT_GLOBAL]
    for neighbour in (first - 1, last + 1):
        if 0 <= neighbour < 1 << 32:
            assert is_global_ipv4(neighbour) is not any(start <= neighbour < start + size for start, size in ranges)


@pytest.mark.parametrize(
    "address",
    ["192.0.0.9", "192.0.0.10", "192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.1", "224.0.0.251",
     "239.255.255.250"],
)  # fmt: skip
def test_global_perhaps_unexpectedly(address: str) -> None:
    assert is_global_ipv4(number(address))
    assert is_public(pack(address)) is (number(address) >> 28 != 0xE), "groups are global, and nobody's address"


def edges() -> list[bytes]:
    """First, last and both neighbours of every block the policy knows."""
    found = set()
    for block in BLOCKS:
        size = len(block.prefix.address)
        first = int.from_bytes(block.prefix.address, "big")
        last = first + (1 << 8 * size - block.prefix.length) - 1
        for each in (first - 1, first, last, last + 1):
            if 0 <= each < 1 << 8 * size:
                found.add(each.to_bytes(size, "big"))
    return sorted(found)


@pytest.mark.parametrize("address", edges(), ids=text)
def test_public_is_what_the_policy_calls_public(address: bytes) -> None:
    """But 192.88.99.0/24, as Softnet has it, and metadata services at public addresses, which Softnet does not know."""
    block = find_block(address)
    expected = block.group == "public" or block.name == "6to4-relay" or address == pack("168.63.129.16")
    assert is_public(address) is expected, classify(address)


@pytest.mark.parametrize(
    ("address", "carried"),
    [
        ("10.0.0.1", None),
        ("2606:4700::1", None),
        ("64:ff9b::a00:1", "10.0.0.1"),
        ("64:ff9b::1:a00:1", None),
        ("64:ff9b:1::a00:1", None),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2002:a00:1::5", "10.0.0.1"),
        ("::10.0.0.1", None),
    ],
)
def test_readings(address: str, carried: str | None) -> None:
    packed = pack(address)
    assert readings(packed) == ((packed,) if carried is None else (packed, pack(carried)))


def test_open_is_public_gateways_and_names() -> None:
    bound = Binding(b"\2\0\0\0\0\1", [pack("192.168.0.1"), pack("fe80::1")])
    bound.lease(pack("192.168.0.2"), 600, 0.0, [pack("10.9.9.9")])
    for address in ("1.1.1.1", "2606:4700::1", "192.168.0.1", "fe80::1"):
        assert is_open(pack(address), 22, bound)
    assert is_open(pack("10.9.9.9"), 53, bound)
    for address in ("10.9.9.9", "192.168.0.3", "224.0.0.251", "ff02::fb", "fe80::2"):
        assert not is_open(pack(address), 22, bound)
