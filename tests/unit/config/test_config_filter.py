"""What `filter_config` makes of options, and what a FilterConfig refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bucatini.base.address import pack
from bucatini.base.errors import ConfigError
from bucatini.config.filter import MAX_EXPOSED, FilterConfig, filter_config, read_exposure
from bucatini.config.vm import LinkSpec
from bucatini.guard.rule_grammar import parse_rule

GIVEN: dict[str, Any] = {
    "link": ("fd", "5"), "mac": "02:00:00:00:00:07", "bridge": "br0", "host_tap": None, "vm_net_type": "nat",
    "gateway": [], "address": [], "allow": [], "block": [], "expose": [], "faithful": False, "control": None,
    "control_fd": None, "user": None, "group": None, "pcap": None, "events": None, "summary": False, "verbose": False,
    "quiet": False,
}  # fmt: skip


def read(**changed: Any) -> FilterConfig:
    return filter_config(SimpleNamespace(**GIVEN | changed))


def test_defaults() -> None:
    assert read() == FilterConfig(link=LinkSpec("fd", "5"), mac=bytes.fromhex("020000000007"), bridge="br0")


def test_everything() -> None:
    config = read(
        link=("dgram", "a,b"), host_tap="tap7", vm_net_type="host", gateway=["10.0.0.1", "fe80::1"],
        address=["fd00::7"], allow=["in 10.0.0.0/8:80"], block=["@host"], expose=["2222:22", "80:80"],
        control="c.sock", control_fd="4", user="me", group="us", summary=True,
    )  # fmt: skip
    assert config.link == LinkSpec("dgram", "a,b")
    assert (config.host_tap, config.vm_net_type) == ("tap7", "host")
    assert config.gateways == (pack("10.0.0.1"), pack("fe80::1"))
    assert config.addresses == (pack("fd00::7"),)
    assert (config.allow, config.block) == ((parse_rule("in 10.0.0.0/8:80"),), (parse_rule("@host"),))
    assert config.expose == ((2222, 22), (80, 80))
    assert (config.control, config.control_fd, config.user, config.group) == ("c.sock", 4, "me", "us")
    assert config.observe.summary


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"link": None}, "no link given; accepted: --fd, --dgram, --socket, --seqpacket, --vhost-user"),
        ({"link": ("fd", "2")}, "--fd '2': must be the number of a descriptor"),
        ({"link": ("socket", "")}, "--socket '': must be a path"),
        ({"mac": None}, "--mac is missing"),
        ({"mac": "02:00:00:00:00"}, "--mac '02:00:00:00:00': must be six"),
        ({"mac": "01:00:00:00:00:07"}, "--mac '01:00:00:00:00:07': must be the address of one interface"),
        ({"bridge": None}, "--bridge is missing"),
        ({"bridge": "a/b"}, "--bridge 'a/b': must be the name of an interface"),
        ({"bridge": "x" * 16}, "must be the name of an interface"),
        ({"host_tap": "a b"}, "--host-tap 'a b': must be the name of an interface"),
        ({"vm_net_type": "bridged"}, "--vm-net-type 'bridged': accepted: nat, host"),
        ({"gateway": ["10.0.0.0/8"]}, "--gateway '10.0.0.0/8': must be an IPv4 or IPv6 address"),
        ({"gateway": ["10.0.0.1", "fd00::1"], "address": ["fd00::1"]}, "--address fd00::1: is given as --gateway too"),
        ({"control_fd": "5"}, "--control-fd 5: --fd has it already"),
        ({"faithful": True, "allow": ["fd00::/8"]}, "--faithful: Softnet 0.19.0 has no rules for IPv6"),
        ({"link": ("dgram", "a,b,c")}, "--dgram 'a,b,c': must be LOCAL or LOCAL,REMOTE"),
        ({"link": ("dgram", "a,a")}, "--dgram 'a,a': must be LOCAL or LOCAL,REMOTE"),
        ({"allow": ["10.0.0.0/33"]}, "--allow '10.0.0.0/33'"),
        ({"block": ["@Host"]}, "--block '@Host'"),
        ({"expose": ["22"]}, "--expose '22': accepted: EXTERNAL:INTERNAL"),
        ({"expose": ["22:22", "22:80"]}, "--expose 22:80: port 22 leads to 22 already"),
        ({"expose": [f"{n}:{n}" for n in range(1, MAX_EXPOSED + 2)]}, f"at most {MAX_EXPOSED} are accepted"),
        ({"faithful": True, "allow": ["in 10.0.0.0/8"]}, "--faithful: Softnet 0.19.0 has no rules with a direction"),
        ({"faithful": True, "address": ["10.0.0.7"]}, "--address 10.0.0.7: excluded by --faithful"),
        ({"control": ""}, "--control '': must be the path of a socket"),
        ({"control_fd": "-1"}, "--control-fd '-1': must be a number from 0"),
        ({"verbose": True, "quiet": True}, "-v and -q exclude each other"),
    ],
)
def test_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**changed)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["gateway", "address"])
@pytest.mark.parametrize(
    "written",
    ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1"],
)
def test_no_host_has_this_address(option: str, written: str) -> None:
    with pytest.raises(ConfigError, match=f"--{option} '{written}': must be the address of one host"):
        read(**{option: [written]})


@pytest.mark.parametrize("mac", [b"", bytes(6), bytes.fromhex("010000000007"), bytes(7)])
def test_mac_of_nobody(mac: bytes) -> None:
    with pytest.raises(ConfigError, match="must be the MAC address of one station"):
        FilterConfig(link=LinkSpec("fd", "0"), mac=mac, bridge="br0").check()


def test_any_descriptor_where_no_user_wrote_it() -> None:
    """The command softnet is given its socket as standard input."""
    FilterConfig(link=LinkSpec("fd", "0"), mac=bytes.fromhex("020000000007"), bridge="br0").check()


@pytest.mark.parametrize("written", ["1:1", "65535:65535", "2222:22", "080:80"])
def test_exposures(written: str) -> None:
    assert read_exposure(written) == tuple(map(int, written.split(":")))


@pytest.mark.parametrize(
    "written", ["", ":", "1:", ":1", "1:2:3", "0:1", "1:0", "65536:1", "1:-1", " 1:1", "a:b", "²:1"]
)
def test_no_exposures(written: str) -> None:
    with pytest.raises(ConfigError, match="--expose"):
        read_exposure(written)
