"""Everything `bucatini filter` was asked for. Does not: look at the host, or open anything."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bucatini.base.address import text, unmap
from bucatini.base.errors import ConfigError
from bucatini.config.value_words import kind_of, read_address, read_interface, read_mac, read_number
from bucatini.config.vm import LinkSpec
from bucatini.guard.rule_grammar import Pattern, parse_rule
from bucatini.guard.rules import RuleTable
from bucatini.observe.settings import ObserveSettings

__all__ = ["MAX_EXPOSED", "FilterConfig", "filter_config", "read_exposure"]

RESERVED = (0, *range(240, 256))
"""First bytes of IPv4 addresses that no host has (RFC 6890)."""
MAX_EXPOSED = 256
"""Each is a descriptor, and an entry in the host's translation."""


class FilterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One guest between its link and a bridge."""

    link: LinkSpec
    """Where the guest is; `fd` may be any number here."""
    mac: bytes
    """The guest's."""
    bridge: str
    host_tap: str | None = None
    """Name of the TAP on the bridge; None: after our process."""
    vm_net_type: Literal["nat", "host"] = "nat"
    gateways: tuple[bytes, ...] = ()
    """Packed addresses of routers and DHCP servers; empty: those of the bridge."""
    addresses: tuple[bytes, ...] = ()
    """Packed addresses that are the guest's without a lease."""
    allow: tuple[Pattern, ...] = ()
    block: tuple[Pattern, ...] = ()
    expose: tuple[tuple[int, int], ...] = ()
    """TCP ports, of the host and of the guest."""
    faithful: bool = False
    """Decide as Softnet 0.19.0."""
    control: str | None = None
    """Path of the control socket."""
    control_fd: int | None = None
    """A connected UNIX stream socket, inherited."""
    user: str | None = None
    """Name or number to become after set-up; None: who started us."""
    group: str | None = None
    observe: ObserveSettings = ObserveSettings()

    def check(self) -> None:
        """Raise ConfigError, naming the option and the value, for whatever in here cannot be."""
        if len(self.mac) != 6 or self.mac[0] & 1 or not any(self.mac):
            raise ConfigError(f"--mac {self.mac.hex(':')}: must be the MAC address of one station")
        RuleTable(self.allow, self.block)
        if self.faithful:
            self._check_faithful()
        if self.control_fd is not None and self.link == LinkSpec("fd", str(self.control_fd)):
            raise ConfigError(f"--control-fd {self.control_fd}: --fd has it already")
        for address in self.addresses:
            if address in self.gateways:
                raise ConfigError(f"--address {text(address)}: is given as --gateway too; the guest needs another")
        self._check_ports()
        if self.control in ("", "-"):
            raise ConfigError(f"--control {self.control!r}: must be the path of a socket")
        if self.observe.verbose and self.observe.quiet:
            raise ConfigError("-v and -q exclude each other")

    def _check_faithful(self) -> None:
        for rule in (*self.allow, *self.block):
            if rule.direction:
                raise ConfigError(f"--faithful: Softnet 0.19.0 has no rules with a direction, such as {str(rule)!r}")
            if rule.prefix is not None and len(rule.prefix.address) != 4:
                raise ConfigError(f"--faithful: Softnet 0.19.0 has no rules for IPv6, such as {str(rule)!r}")
        if self.addresses:
            raise ConfigError(f"--address {text(self.addresses[0])}: excluded by --faithful, which knows leases only")

    def _check_ports(self) -> None:
        if len(self.expose) > MAX_EXPOSED:
            raise ConfigError(f"--expose: {len(self.expose)} ports; at most {MAX_EXPOSED} are accepted")
        seen: dict[int, int] = {}
        for external, internal in self.expose:
            if external in seen:
                raise ConfigError(f"--expose {external}:{internal}: port {external} leads to {seen[external]} already")
            seen[external] = internal


def filter_config(arguments: Any) -> FilterConfig:
    """The configuration that the options of the command line make, checked. Raises ConfigError."""
    if arguments.link is None:
        raise ConfigError("no link given; accepted: --fd, --dgram, --socket, --seqpacket, --vhost-user")
    link = LinkSpec(*arguments.link)
    link.check()
    for option, value in (("--mac", arguments.mac), ("--bridge", arguments.bridge)):
        if value is None:
            raise ConfigError(f"{option} is missing; it is needed to know the guest and its network")
    if arguments.vm_net_type not in ("nat", "host"):
        raise ConfigError(f"--vm-net-type {arguments.vm_net_type!r}: accepted: nat, host")
    control_fd = arguments.control_fd
    config = FilterConfig(
        link=link,
        mac=read_mac("--mac", arguments.mac),
        bridge=read_interface("--bridge", arguments.bridge),
        host_tap=None if arguments.host_tap is None else read_interface("--host-tap", arguments.host_tap),
        vm_net_type=arguments.vm_net_type,
        gateways=tuple(_read_host("--gateway", each) for each in arguments.gateway),
        addresses=tuple(_read_host("--address", each) for each in arguments.address),
        allow=tuple(parse_rule(each, "--allow") for each in arguments.allow),
        block=tuple(parse_rule(each, "--block") for each in arguments.block),
        expose=tuple(read_exposure(each) for each in arguments.expose),
        faithful=arguments.faithful,
        control=arguments.control,
        control_fd=None if control_fd is None else read_number("--control-fd", control_fd, 0, 1 << 20),
        user=arguments.user,
        group=arguments.group,
        observe=ObserveSettings(
            pcap=arguments.pcap,
            events=arguments.events,
            summary=arguments.summary,
            verbose=arguments.verbose,
            quiet=arguments.quiet,
        ),
    )
    config.check()
    return config


def _read_host(option: str, written: str) -> bytes:
    address = unmap(read_address(option, written))
    if kind_of(address) != "unicast" or (len(address) == 4 and address[0] in RESERVED):
        raise ConfigError(f"{option} {written!r}: must be the address of one host on the guest's network")
    return address


def read_exposure(written: str, option: str = "--expose") -> tuple[int, int]:
    """`EXTERNAL:INTERNAL`, a port of the host and one of the guest. Raises ConfigError naming `option`."""
    external, colon, internal = written.partition(":")
    if not colon or not all(each.isascii() and each.isdecimal() and len(each) <= 5 for each in (external, internal)):
        raise ConfigError(f"{option} {written!r}: accepted: EXTERNAL:INTERNAL, two ports")
    ports = int(external), int(internal)
    if not all(1 <= port <= 65535 for port in ports):
        raise ConfigError(f"{option} {written!r}: a port is a number from 1 to 65535")
    return ports
