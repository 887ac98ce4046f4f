"""What a RunConfig refuses, and what it derives."""

from __future__ import annotations

import msgspec
import pytest

from bucatini.base.address import pack
from bucatini.base.errors import ConfigError
from bucatini.base.verdict import EGRESS, Request
from bucatini.config import RunConfig
from bucatini.config.network import NetworkOptions
from bucatini.observe.settings import ObserveSettings
from bucatini.policy.settings import PolicySettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": ()}, "no command given"),
        ({"network": NetworkOptions(ipv4=False, ipv6=False)}, "-4 and -6 exclude each other"),
        ({"network": NetworkOptions(mtu=67, ipv6=False)}, "--mtu 67: must be from 68 to 65521"),
        ({"network": NetworkOptions(mtu=65522)}, "--mtu 65522: must be from 68 to 65521"),
        ({"network": NetworkOptions(mtu=1279)}, "--mtu 1279: IPv6 needs at least 1280"),
        ({"slot": 65536}, "slot 65536 exceeds address pool capacity (max 65535)"),
        ({"publish": ("8080:x",)}, "--publish '8080:x'"),
        ({"publish": ("127.0.0.1:80:80",), "network": NetworkOptions(ipv4=False)}, "IPv4 is switched off by -6"),
        ({"publish": ("[::1]:80:80",), "network": NetworkOptions(ipv6=False)}, "IPv6 is switched off by -4"),
        ({"policy": PolicySettings("strict")}, "--policy 'strict'"),
        ({"policy": PolicySettings(allow=("10.0.0.300",))}, "--allow '10.0.0.300'"),
        ({"observe": ObserveSettings(pcap="-")}, "--pcap '-': must be a file"),
        ({"observe": ObserveSettings(events="")}, "--events '': must be a file"),
        ({"observe": ObserveSettings(pcap="x", events="x")}, "--pcap already writes to this file"),
        ({"observe": ObserveSettings(verbose=True, quiet=True)}, "-v and -q exclude each other"),
    ],
)
def test_refused(changes: dict[str, object], message: str) -> None:
    config = RunConfig(**{"command": ("true",), **changes})  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        config.check()
    assert message in str(caught.value)


@pytest.mark.parametrize(("mtu", "ipv6"), [(68, False), (1280, True), (65521, True), (None, True)])
def test_accepted_mtu(mtu: int | None, ipv6: bool) -> None:
    RunConfig(command=("true",), network=NetworkOptions(mtu=mtu, ipv6=ipv6)).check()


def test_addressing_follows_slot_and_families() -> None:
    addressing = RunConfig(command=("true",), slot=1, network=NetworkOptions(ipv6=False)).addressing()
    assert addressing.guest_ipv4 == pack("172.16.0.6")
    assert addressing.guest_ipv6 is None


def test_policy_is_built_for_the_gateways_given() -> None:
    gateway = pack("172.16.0.1")
    request = Request(EGRESS, 6, gateway, 80)
    closed = RunConfig(command=("true",)).build_policy([gateway])
    opened = RunConfig(command=("true",), policy=PolicySettings(allow=("host",))).build_policy([gateway])
    assert not closed.decide(request).allow
    assert opened.decide(request).allow


def test_frozen_and_closed() -> None:
    config = RunConfig(command=("true",))
    with pytest.raises(AttributeError):
        config.slot = 3  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"command": ["true"], "colour": "red"}, RunConfig)


def test_survives_json() -> None:
    config = RunConfig(command=("true", "x"), publish=("80:80",), policy=PolicySettings("open", ("host",)))
    assert msgspec.json.decode(msgspec.json.encode(config), type=RunConfig) == config
