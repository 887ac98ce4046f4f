"""bucatini.policy.groups: what an address is, against the IANA registries and the vectors of those who came before."""

from __future__ import annotations

import ipaddress

import pytest

from bucatini.base.address import pack, text
from bucatini.policy.groups import BLOCKS, GROUPS, classify, find_block, parse_group, readings, unwrap

GATEWAYS = {pack("198.18.0.1"), pack("fd42:6d73:62:2a::1")}


def group(address: str) -> str:
    return classify(pack(address), GATEWAYS)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        # The classifier table of microsandbox (3.2).
        ("127.0.0.2", "loopback"),
        ("::1", "loopback"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("fd42:6d73:62:2b::1", "private"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("169.254.169.254", "metadata"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("8.8.8.8", "public"),
        ("1.1.1.1", "public"),
        ("151.101.0.223", "public"),
        ("2606:4700:4700::1111", "public"),
        ("0.0.0.0", ""),
        ("::", ""),
        ("::ffff:169.254.169.254", "metadata"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("198.18.0.1", "host"),
        ("fd42:6d73:62:2a::1", "host"),
        ("::ffff:198.18.0.1", "host"),
        # It calls 2001:db8::1 public, because public is its fall-through; the registry says not globally reachable.
        ("2001:db8::1", ""),
        # Its gaps: everything here was public, private or link-local there.
        ("0.1.2.3", ""),
        ("240.0.0.1", ""),
        ("255.255.255.255", ""),
        ("192.0.0.1", ""),
        ("192.0.2.1", ""),
        ("198.51.100.10", ""),
        ("203.0.113.1", ""),
        ("198.19.255.255", ""),
        ("192.88.99.1", ""),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b::169.254.169.254", "metadata"),
        ("64:ff9b::8.8.8.8", "public"),
        ("64:ff9b:1::8.8.8.8", ""),
        ("2002:0a00:0001::1", ""),
        ("2002:0808:0808::1", ""),
        ("2001:0:4136:e378:8000:63bf:f5ff:fffe", ""),
        ("::10.0.0.1", ""),
        ("::8.8.8.8", ""),
        ("::ffff:0:8.8.8.8", ""),
        ("fec0::1", ""),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("169.254.170.2", "metadata"),
        ("100.100.100.200", "metadata"),
        # Registry rows that are easily missed.
        ("192.0.0.9", "public"),
        ("192.0.0.10", "public"),
        ("192.0.0.11", ""),
        ("192.31.196.1", "public"),
        ("192.52.193.1", "public"),
        ("192.175.48.1", "public"),
        ("100::1", ""),
        ("100:0:0:1::1", ""),
        ("2001:1::1", "public"),
        ("2001:1::4", ""),
        ("2001:2::1", ""),
        ("2001:20::1", "public"),
        ("2001:200::1", "public"),
        ("2620:4f:8000::1", "public"),
        ("3fff::1", ""),
        ("3fff:1000::1", "public"),
        ("5f00::1", ""),
        ("4000::1", ""),
        ("1fff::1", ""),
        ("fe00::1", ""),
    ],
)
def test_group_of(address: str, expected: str) -> None:
    assert group(address) == expected


@pytest.mark.parametrize(
    ("address", "carried"),
    [
        ("::ffff:192.0.2.33", "192.0.2.33"),
        ("::192.0.2.33", "192.0.2.33"),
        ("::ffff:0:192.0.2.33", "192.0.2.33"),
        ("64:ff9b::192.0.2.33", "192.0.2.33"),
        ("64:ff9b:1::192.0.2.33", "192.0.2.33"),
        ("2002:c000:0221::1", "192.0.2.33"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.0.2.45"),  # the example of RFC 4380
        ("::", "::"),
        ("::1", "::1"),
        ("64:ff9b::1:0:1", "64:ff9b::1:0:1"),
        ("2606:4700::1", "2606:4700::1"),
        ("192.0.2.33", "192.0.2.33"),
    ],
)
def test_unwrap(address: str, carried: str) -> None:
    assert text(unwrap(pack(address))) == carried


def test_a_mapped_address_has_one_reading_other_embeddings_two() -> None:
    assert readings(pack("::ffff:10.0.0.1")) == (pack("10.0.0.1"),)
    assert readings(pack("64:ff9b::10.0.0.1")) == (pack("64:ff9b::a00:1"), pack("10.0.0.1"))
    assert readings(pack("10.0.0.1")) == (pack("10.0.0.1"),)


def test_an_address_behind_a_translator_is_not_the_gateway() -> None:
    assert group("64:ff9b::198.18.0.1") == ""


def test_every_group_of_the_table_has_a_member_and_host_comes_from_the_caller() -> None:
    assert {block.group for block in BLOCKS} == {*GROUPS, ""} - {"host"}


def test_each_block_is_found_at_its_first_address_and_is_listed_once() -> None:
    for block in BLOCKS:
        found = find_block(block.prefix.address)
        assert found == block or found.prefix.length > block.prefix.length
    assert len({block.prefix for block in BLOCKS}) == len(BLOCKS)


def test_metadata_is_made_of_single_addresses() -> None:
    assert all(block.prefix.is_full for block in BLOCKS if block.group == "metadata")


def test_public_agrees_with_the_table_of_the_standard_library() -> None:
    """What `ipaddress` calls not global is not public here, but for the exceptions of the registry that it may lack."""
    exceptions = [block for block in BLOCKS if block.group == "public" and block.prefix.length > 3]
    constants = (ipaddress._IPv4Constants, ipaddress._IPv6Constants)  # type: ignore[attr-defined]
    for network in [network for constant in constants for network in constant._private_networks]:
        for address in (network[0], network[-1], network[network.num_addresses // 2]):
            if str(network) != "::ffff:0:0/96":  # judged by what it carries
                assert classify(address.packed) != "public" or find_block(address.packed) in exceptions, address


@pytest.mark.parametrize("word", ["link-local", "link_local", "LINK-LOCAL", "Link_Local"])
def test_group_words_forgive_case_and_underscore(word: str) -> None:
    assert parse_group(word) == "link-local"


@pytest.mark.parametrize("word", ["", "publik", "public ", "10.0.0.0/8", "any"])
def test_other_words_are_no_group(word: str) -> None:
    assert parse_group(word) == ""
