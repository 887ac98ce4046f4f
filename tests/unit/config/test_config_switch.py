"""What a SwitchConfig refuses, the grammar of its rules and networks, and which addresses are whose."""

from __future__ import annotations

from typing import Any

import pytest

from bucatini.base.address import pack, text
from bucatini.base.errors import ConfigError
from bucatini.config.network import NetworkOptions
from bucatini.config.switch import LinkRule, SwitchConfig, SwitchGuest, read_network
from bucatini.config.vm import LinkSpec

MAC = bytes.fromhex("02000000000a")
NO_IPV4 = NetworkOptions(ipv4=False)


def guest(name: str = "a", kind: Any = "socket", **more: Any) -> SwitchGuest:
    return SwitchGuest(link=LinkSpec(kind, more.pop("where", name)), name=name, **more)


def config(*guests: SwitchGuest, **more: Any) -> SwitchConfig:
    made = SwitchConfig(guests=guests or (guest("a"), guest("b")), **more)
    made.check()
    return made


# -- addresses


def test_the_network_of_a_slot() -> None:
    assert config().pool == (pack("172.16.0.0"), 24)
    assert config(slot=1).pool == (pack("172.16.1.0"), 24)
    assert config(slot=4095).pool == (pack("172.31.255.0"), 24)
    assert config(slot=4096, segment=(pack("10.0.0.0"), 8)).pool == (pack("10.0.0.0"), 8)


def test_what_each_guest_has() -> None:
    first, second = (config(slot=7).addressing_of(number) for number in (0, 1))
    assert first.gateway_mac == second.gateway_mac == bytes.fromhex("026d73000701")
    assert first.gateway_ipv4 == second.gateway_ipv4 == pack("172.16.7.1")
    assert [text(each.guest_ipv6 or b"") for each in (first, second)] == ["fd42:6d73:62:7::2", "fd42:6d73:62:8::2"]
    assert config().addressing_of(0, pack("10.0.0.9")).gateway_ipv4 == pack("10.0.0.9")


def test_without_a_family() -> None:
    six = config(network=NO_IPV4).addressing_of(1)
    assert (six.guest_ipv4, six.gateway_ipv4) == (None, None)
    four = config(network=NetworkOptions(ipv6=False)).addressing_of(1)
    assert (four.guest_ipv6, four.gateway_ipv6) == (None, None)


def test_one_guest_alone() -> None:
    made = config(guest("a"), guest("b", publish=("8080:80",), tcp_in=("22",), udp_in=("53",)))
    own = made.of_guest(1)
    assert (own.publish, own.network.tcp_in, own.network.udp_in) == (("8080:80",), ("22",), ("53",))
    assert made.of_guest(0).publish == ()


# -- what cannot be


@pytest.mark.parametrize(
    ("guests", "more", "complaint"),
    [
        ((), {}, "no link given"),
        ((guest("a"), guest("b", where="a")), {}, "--socket a has it already"),
        ((guest("a"), guest("a", where="b")), {}, "--name 'a': two guests have this name"),
        ((guest("A"),), {}, "--name 'A': must be"),
        ((guest("", where="x"),), {}, "--name '': must be"),
        ((guest("-a"),), {}, "--name '-a': must be"),
        ((guest("a.b"),), {}, "--name 'a.b': must be"),
        ((guest("x" * 64),), {}, "must be 1 to 63"),
        ((guest("a", mac=MAC), guest("b", mac=MAC)), {}, "--mac 02:00:00:00:00:0a: a has it already"),
        ((guest("a", mac=bytes.fromhex("026d73000001")),), {}, "--mac 02:6d:73:00:00:01: is the gateway's"),
        ((guest("a", kind="dgram"),), {"one_off": True}, "--one-off: --dgram a does not tell"),
        ((guest("a", kind="fd", where="2"),), {}, "must be the number of a descriptor"),
        ((guest("a"),), {"rules": (LinkRule("a", "b"),)}, "--link a:b: no guest is called 'b'; there are a"),
        ((guest("a"),), {"rules": (LinkRule("a", "a"),)}, "--link a:a: a guest reaches itself"),
        ((guest("a"), guest("b")), {"rules": (LinkRule("a", "b"),) * 4097}, "--link: 4097 rules, each range"),
        ((guest("a"),), {"slot": 4096}, "--slot 4096: there are 4096 IPv4 networks"),
        ((guest("a"), guest("b")), {"slot": 65535}, "--slot 65535: at most 65534 for 2 guests"),
        ((guest("a"), guest("b")), {"segment": (pack("10.0.0.0"), 30)}, "--network 10.0.0.0/30: has room for 1 of 2"),
        ((guest("a"),), {"segment": (pack("127.0.0.0"), 8)}, "--network 127.0.0.0/8: "),
        ((guest("a"),), {"guest_length": 8}, "--guest-length 8: must be from 24, the network's own, to 30"),
        ((guest("a"),), {"segment": (pack("8.8.8.0"), 24)}, "--network 8.8.8.0/24: is public; accepted: networks that"),
        ((guest("a"),), {"segment": (pack("10.0.0.0"), 7)}, "--network 10.0.0.0/7: is public"),
        ((guest("a"),), {"network": NO_IPV4, "lease_file": "x"}, "-6: there are no leases without IPv4"),
        ((guest("a"),), {"network": NO_IPV4, "guest_length": 30}, "-6: there are no leases without IPv4"),
        ((guest("a"),), {"network": NetworkOptions(dhcp=False)}, "--no-dhcp: guests of a segment"),
        ((guest("a"),), {"lease_file": ""}, "--lease-file '': must be the path"),
        ((guest("a", publish=("x",)),), {}, "--publish"),
    ],
)
def test_one_line_says_what_is_wrong(guests: tuple[SwitchGuest, ...], more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SwitchConfig(guests=guests, **more).check()
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


# -- words


def test_networks() -> None:
    assert read_network("10.1.2.0/24") == (pack("10.1.2.0"), 24)
    assert read_network("10.0.0.0/8") == (pack("10.0.0.0"), 8)


@pytest.mark.parametrize(
    "written",
    ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/31", "10.0.0.0/0", "10.0.0.1/24", "fd00::/64", "x/24", "10.0.0.0/+8"],
)
def test_networks_that_cannot_be(written: str) -> None:
    with pytest.raises(ConfigError, match="--network"):
        read_network(written)
