"""From the options of the command line to a checked configuration.

Takes any object with the attributes that the command line sets, None or empty where an option was not given. Does
not: know argparse, or print.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bucatini.base.address import pack, text, unmap
from bucatini.base.errors import ConfigError
from bucatini.config.addressing import MAX_SLOT
from bucatini.config.attach import AttachConfig
from bucatini.config.guest import LEASE, MAX_MTU, MIN_MTU
from bucatini.config.network import NetworkOptions
from bucatini.config.run import RunConfig
from bucatini.config.switch import SwitchConfig, SwitchGuest, read_network, read_rule
from bucatini.config.value_words import read_mac
from bucatini.config.vm import LinkSpec, VmConfig, VmGuest
from bucatini.observe.settings import ObserveSettings
from bucatini.policy.settings import PolicySettings

__all__ = [
    "attach_config",
    "lease_time",
    "one_per_family",
    "read_address",
    "run_config",
    "switch_config",
    "vm_config",
]

MAX_PID = 0x7FFFFFFF
INFINITE = 0xFFFFFFFF
"""A lease for ever, RFC 2131 section 3.3."""
MAX_INTERFACE = 15
"""Bytes of an interface's name (netdevice(7), IFNAMSIZ)."""


def run_config(arguments: Any, command: Sequence[str]) -> RunConfig:
    """The configuration these options make, checked. Raises ConfigError naming the option at fault."""
    config = RunConfig(command=tuple(command), **_guest(arguments))
    config.check()
    return config


def attach_config(arguments: Any, target: Sequence[str]) -> AttachConfig:
    """The same for `attach`; `target` is the words after the options: a PID or nothing."""
    if len(target) > 1 and target[1].startswith("-"):
        raise ConfigError(f"{target[1]}: options go before the PID")
    if len(target) > 1:
        raise ConfigError(f"{target[1]!r}: only one PID can be attached to")
    if target and arguments.netns is not None:
        raise ConfigError(f"--netns {arguments.netns!r}: excluded by the PID {target[0]}")
    config = AttachConfig(
        pid=_number("PID", target[0], 1, MAX_PID) if target else None,
        netns=arguments.netns,
        userns=arguments.userns,
        netns_only=arguments.netns_only,
        netns_quit=not arguments.no_netns_quit,
        **_guest(arguments),
    )
    config.check()
    return config


def vm_config(arguments: Any) -> VmConfig:
    """The same for `vm`: `arguments.guests` holds a dictionary for each link, with the ports that were given behind it;
    those given before any are the first guest's.
    """
    guests = tuple(VmGuest(**_plugged(arguments, number)) for number in range(len(arguments.guests)))
    config = VmConfig(guests=guests, one_off=arguments.one_off, **_guest(arguments))
    config.check()
    return config


def switch_config(arguments: Any) -> SwitchConfig:
    """The same for `switch`; a link without a name is called `guest` and its place among the links."""
    guests = tuple(
        SwitchGuest(name=given.get("name", f"guest{number + 1}"), **_plugged(arguments, number))
        for number, given in enumerate(arguments.guests)
    )
    config = SwitchConfig(
        guests=guests,
        rules=tuple(read_rule(each) for each in arguments.link),
        segment=None if arguments.network is None else read_network(arguments.network),
        guest_length=_number("--guest-length", arguments.guest_length, 1, 30),
        lease_file=arguments.lease_file,
        one_off=arguments.one_off,
        **_guest(arguments),
    )
    config.check()
    return config


def _plugged(arguments: Any, number: int) -> dict[str, Any]:
    """A guest's link, MAC address and ports."""
    given = arguments.guests[number]
    ports = {
        name: (*(getattr(arguments, option) if not number else ()), *given.get(option, ()))
        for name, option in (("publish", "publish"), ("tcp_in", "tcp_ports"), ("udp_in", "udp_ports"))
    }
    mac = read_mac("--mac", given["mac"]) if "mac" in given else None
    return {"link": LinkSpec(given["kind"], given["where"]), "mac": mac, **ports}


def _guest(arguments: Any) -> dict[str, Any]:
    """What both verbs share, as the fields of `config.guest.GuestConfig`."""
    policy = PolicySettings(allow=tuple(arguments.allow), deny=tuple(arguments.deny))
    if arguments.policy is not None:
        policy = PolicySettings(arguments.policy, policy.allow, policy.deny)
    return {
        "slot": _number("--slot", arguments.slot, 0, MAX_SLOT) or 0,
        "mirror_host": arguments.mirror_host,
        "network": _network(arguments),
        "policy": policy,
        "guard": not arguments.no_guard,
        "publish": tuple(arguments.publish),
        "control": arguments.control,
        "observe": ObserveSettings(
            pcap=arguments.pcap,
            events=arguments.events,
            summary=arguments.summary,
            verbose=arguments.verbose,
            quiet=arguments.quiet,
        ),
    }


def _network(arguments: Any) -> NetworkOptions:
    return NetworkOptions(
        ipv4=not arguments.ipv6_only,
        ipv6=not arguments.ipv4_only,
        interface=_interface("--interface", arguments.interface),
        mtu=_number("--mtu", arguments.mtu, MIN_MTU, MAX_MTU),
        addresses=one_per_family("--address", arguments.address),
        prefix_length=_number("--prefix-length", arguments.prefix_length, 1, 32),
        gateways=one_per_family("--gateway", arguments.gateway),
        config_net=not arguments.no_config_net,
        guest_interface=_interface("--ifname", arguments.ifname),
        outbound=one_per_family("--outbound", arguments.outbound),
        outbound_interface4=_interface("--outbound-if4", arguments.outbound_if4),
        outbound_interface6=_interface("--outbound-if6", arguments.outbound_if6),
        dns=tuple(read_address("--dns", each) for each in arguments.dns) or None,
        dns_forward=one_per_family("--dns-forward", arguments.dns_forward),
        dns_host=one_per_family("--dns-host", arguments.dns_host),
        search=tuple(_domain(each) for each in arguments.search) or None,
        dhcp_dns=True,
        dhcp_search=True,
        map_host_loopback=_mapping("--map-host-loopback", arguments.map_host_loopback),
        map_gateway=not arguments.no_map_gw,
        map_guest_address=one_per_family("--map-guest-addr", arguments.map_guest_addr),
        tcp=not arguments.no_tcp,
        udp=not arguments.no_udp,
        icmp=not arguments.no_icmp,
        dhcp=not arguments.no_dhcp,
        dhcpv6=not arguments.no_dhcpv6,
        ndp=not arguments.no_ndp,
        router_advertisements=not arguments.no_ra,
        lease=lease_time(arguments.lease_time),
        freebind=arguments.freebind,
        splice=not arguments.no_splice,
        tcp_in=tuple(arguments.tcp_ports),
        udp_in=tuple(arguments.udp_ports),
        tcp_out=tuple(arguments.tcp_ns),
        udp_out=tuple(arguments.udp_ns),
    )


def read_address(option: str, written: str) -> bytes:
    """A packed unicast address. Raises ConfigError."""
    try:
        packed = unmap(pack(written))
    except ValueError:
        raise ConfigError(f"{option} {written!r}: must be an IPv4 or IPv6 address") from None
    if not any(packed) or packed[0] == 0xFF or (len(packed) == 4 and packed[0] >= 224):
        raise ConfigError(f"{option} {written!r}: must be a unicast address")
    return packed


def one_per_family(option: str, written: Sequence[str]) -> tuple[bytes, ...]:
    """Packed addresses, at most one of each family. Raises ConfigError."""
    found: dict[int, bytes] = {}
    for each in written:
        address = read_address(option, each)
        other = found.setdefault(len(address), address)
        if other != address:
            raise ConfigError(f"{option} {each!r}: {text(other)} is given already; one address per family is accepted")
    return tuple(found.values())


def _mapping(option: str, written: Sequence[str]) -> tuple[bytes, ...] | None:
    if not written:
        return None
    if "none" in written:
        if len(written) > 1:
            raise ConfigError(f"{option} 'none': excludes {next(each for each in written if each != 'none')!r}")
        return ()
    return one_per_family(option, written)


def _domain(written: str) -> str:
    labels = written.removesuffix(".").split(".")
    if len(written) > 253 or not all(1 <= len(each) <= 63 and not set(each) & set(" \t\n,;") for each in labels):
        raise ConfigError(f"--search {written!r}: must be one domain name; the option may be repeated")
    return written


def lease_time(written: str | None) -> int:
    """Seconds; the largest number stands for ever. Raises ConfigError."""
    if written == "infinite":
        return INFINITE
    if written is not None and not written.isdecimal():
        raise ConfigError(f"--lease-time {written!r}: must be a number from 1 to {INFINITE - 1}, or infinite")
    return _number("--lease-time", written, 1, INFINITE - 1) or LEASE


def _interface(option: str, written: str | None) -> str | None:
    if written is not None and (not 1 <= len(written.encode()) <= MAX_INTERFACE or set(written) & set("/% \t\n:")):
        raise ConfigError(f"{option} {written!r}: must be the name of an interface, 1 to {MAX_INTERFACE} bytes")
    return written


def _number(option: str, written: str | None, low: int, high: int) -> int | None:
    """Decimal digits only: `int` alone would also take signs, blanks, underscores and other scripts."""
    if written is None:
        return None
    if written.isascii() and written.isdecimal() and len(written) <= 10 and low <= int(written) <= high:
        return int(written)
    raise ConfigError(f"{option} {written!r}: must be a number from {low} to {high}")
