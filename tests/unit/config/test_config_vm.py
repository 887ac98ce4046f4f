"""What a VmConfig refuses, and what belongs to which guest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bucatini.base.address import pack, text
from bucatini.base.errors import ConfigError
from bucatini.config.network import NetworkOptions
from bucatini.config.vm import LARGE_MTU, LinkSpec, VmConfig, VmGuest


def guest(where: str = "a", kind: Any = "socket", **ports: tuple[str, ...]) -> VmGuest:
    return VmGuest(link=LinkSpec(kind, where), **ports)


def refusal(*guests: VmGuest, **changed: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        VmConfig(guests=guests, **changed).check()
    return str(caught.value)


# -- links


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("socket", "a"),
        ("socket", "x" * 107),
        ("socket", "\u00e9" * 53),
        ("socket", "a,b"),
        ("vhost-user", "/run/vm.sock"),
        ("seqpacket", "a b"),
        ("dgram", "a"),
        ("dgram", "a,b"),
        ("dgram", f"{'x' * 107},{'y' * 107}"),
        ("fd", "3"),
        ("fd", "1048575"),
        ("tap", "t"),
        ("tap", "x" * 15),
        ("tap", "tap0.1"),
    ],
)
def test_links_that_can_be(kind: Any, where: str) -> None:
    LinkSpec(kind, where).check()
    VmConfig(guests=(guest(where, kind),)).check()


@pytest.mark.parametrize(
    ("kind", "where", "message"),
    [
        ("socket", "", "--socket '': must be a path of 1 to 107 bytes"),
        ("socket", "x" * 108, "must be a path of 1 to 107 bytes"),
        ("vhost-user", "\u00e9" * 54, "must be a path of 1 to 107 bytes"),
        ("seqpacket", "a\0b", r"--seqpacket 'a\x00b': must be a path"),
        ("dgram", "", "--dgram '': must be a path"),
        ("dgram", "a,", "--dgram 'a,': must be a path"),
        ("dgram", ",b", "--dgram ',b': must be a path"),
        ("dgram", ",", "--dgram ',': must be a path"),
        ("dgram", f"a,{'y' * 108}", "must be a path"),
        ("fd", "", "--fd '': must be the number of a descriptor that is open, 3 or more"),
        ("fd", "2", "--fd '2': must be the number"),
        ("fd", "-1", "--fd '-1': must be the number"),
        ("fd", "+3", "--fd '+3': must be the number"),
        ("fd", " 3", "--fd ' 3': must be the number"),
        ("fd", "3.0", "--fd '3.0': must be the number"),
        ("fd", "0x3", "--fd '0x3': must be the number"),
        ("fd", "03", "--fd '03': must be the number"),
        ("fd", "\u0663", "must be the number"),
        ("fd", "\u00b3", "must be the number"),
        ("fd", "1048576", "--fd '1048576': must be the number"),
        ("fd", "9" * 5000, "must be the number"),
        ("dgram", "a,b,c", "--dgram 'a,b,c': must be LOCAL or LOCAL,REMOTE, two paths"),
        ("dgram", "a,a", "--dgram 'a,a': must be LOCAL or LOCAL,REMOTE, two paths"),
        ("tap", "", "--tap '': must be the name of an interface, 1 to 15 bytes"),
        ("tap", "x" * 16, "must be the name of an interface"),
        ("tap", "\u00e9" * 8, "must be the name of an interface"),
        ("tap", "a/b", "must be the name of an interface"),
        ("tap", "a b", "must be the name of an interface"),
        ("tap", "a:1", "must be the name of an interface"),
        ("tap", "tap%d", "must be the name of an interface"),
    ],
)
def test_links_that_cannot_be(kind: Any, where: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LinkSpec(kind, where).check()
    assert message in str(caught.value)
    assert message in refusal(guest(where, kind))


def test_a_link_is_called_as_it_was_written() -> None:
    assert str(LinkSpec("dgram", "a,b")) == "--dgram a,b"
    assert str(LinkSpec("fd", "3")) == "--fd 3"


def test_the_files_of_a_link() -> None:
    assert LinkSpec("socket", "a,b").paths == ("a,b",)
    assert LinkSpec("dgram", "a,b,c").paths == ("a", "b,c")
    assert LinkSpec("dgram", "a").paths == ("a",)
    assert LinkSpec("fd", "3").paths == LinkSpec("tap", "t").paths == ()


def test_the_default_mtu_is_large_where_every_packet_costs() -> None:
    assert LARGE_MTU == 65520


def test_a_kind_that_is_none() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "wire", "where": "a"}, LinkSpec)


# -- several guests


def test_no_guest() -> None:
    assert refusal().startswith("no link given; accepted: --socket, --vhost-user")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (guest("a"), guest("a"), "--socket a: --socket a has it already; each guest needs a link of its own"),
        (guest("a"), guest("a", "vhost-user"), "--vhost-user a: --socket a has it already"),
        (guest("a"), guest("b,a", "dgram"), "--dgram b,a: --socket a has it already"),
        (guest("a,b", "dgram"), guest("b,c", "dgram"), "--dgram b,c: --dgram a,b has it already"),
        (guest("3", "fd"), guest("3", "fd"), "--fd 3: --fd 3 has it already"),
        (guest("t", "tap"), guest("t", "tap"), "--tap t: --tap t has it already"),
    ],
)
def test_two_guests_on_one_link(first: VmGuest, second: VmGuest, message: str) -> None:
    assert message in refusal(first, second)
    assert message in refusal(first, guest("other"), second)


def test_names_of_different_kinds_do_not_meet() -> None:
    VmConfig(guests=(guest("3"), guest("3", "fd"), guest("3", "tap"))).check()


def test_slots_count_up() -> None:
    config = VmConfig(guests=(guest("a"), guest("b"), guest("c")), slot=7)
    assert [config.of_guest(number).slot for number in range(3)] == [7, 8, 9]
    found = [config.of_guest(number).addressing().guest_ipv4 for number in range(3)]
    assert [text(each) for each in found if each is not None] == ["172.16.0.30", "172.16.0.34", "172.16.0.38"]
    assert found[0] == pack("172.16.0.30")


@pytest.mark.parametrize(("slot", "count", "good"), [(65535, 1, True), (65535, 2, False), (65533, 3, True)])
def test_slots_end(slot: int, count: int, good: bool) -> None:
    guests = tuple(guest(f"g{number}") for number in range(count))
    config = VmConfig(guests=guests, slot=slot)
    if good:
        config.check()
    else:
        assert refusal(*guests, slot=slot) == "--slot 65535: at most 65534 for 2 guests"


def test_ports_belong_to_their_guest() -> None:
    first = guest("a", publish=("8080:80",), tcp_in=("22",), udp_in=("53",))
    second = guest("b", publish=("8081:80",))
    config = VmConfig(guests=(first, second), network=NetworkOptions(mtu=1400))
    config.check()
    own = [config.of_guest(number) for number in range(2)]
    assert [each.publish for each in own] == [("8080:80",), ("8081:80",)]
    assert [each.network.tcp_in for each in own] == [("22",), ()]
    assert [each.network.udp_in for each in own] == [("53",), ()]
    assert [each.network.mtu for each in own] == [1400, 1400]
    assert [each.guests for each in own] == [(first,), (second,)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_ports_of_every_guest_are_looked_at(number: int) -> None:
    guests = [guest("a"), guest("b"), guest("c")]
    guests[number] = guest("x", publish=("8080:y",))
    assert "--publish '8080:y'" in refusal(*guests)


def test_a_family_that_is_off_is_off_for_all() -> None:
    off = NetworkOptions(ipv6=False)
    message = refusal(guest("a"), guest("b", publish=("[::1]:80:80",)), network=off)
    assert "IPv6 is switched off by -4" in message


def test_a_control_socket_serves_one() -> None:
    VmConfig(guests=(guest("a"),), control="c").check()
    message = refusal(guest("a"), guest("b"), control="c")
    assert message.startswith("--control 'c': serves one guest")


def test_what_every_guest_shares_is_looked_at() -> None:
    assert "--mtu 67" in refusal(guest("a"), network=NetworkOptions(mtu=67, ipv6=False))
    assert "-4 and -6 exclude" in refusal(guest("a"), network=NetworkOptions(ipv4=False, ipv6=False))
