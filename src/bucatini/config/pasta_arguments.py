"""From a command line of pasta(1) to a checked configuration.

pasta's rules: options end at the first other word; the last occurrence wins, but ports, name servers and search
domains accumulate, and addresses have one slot per family. A single word of digits is a PID, other words are a command.

Does not: look at the host (whether an interface, a user, a namespace or a port can be had), or print.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from bucatini import __version__
from bucatini.base.address import text
from bucatini.base.errors import ConfigError
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.config.getopt_words import Answer, Getopt, Given
from bucatini.config.network import NetworkOptions
from bucatini.config.pasta import DEFAULT_LOG_SIZE, PastaConfig, Target
from bucatini.config.pasta_options import COMMON, PASST_ONLY, PORTS, pasta_usage
from bucatini.config.value_words import (
    kind_of,
    read_address,
    read_interface,
    read_mac,
    read_netmask,
    read_number,
    read_path,
)
from bucatini.forward.port_grammar import DEFAULT_EPHEMERAL, parse_port_specs

__all__ = ["DEFAULT_MAC", "DEFAULT_MTU", "parse_pasta"]

_Value = TypeVar("_Value")

DEFAULT_MTU = 65520
"""65535 less an Ethernet header, in whole words."""

DEFAULT_MAC = bytes.fromhex("9a559a559a55")

MIN_LOG_SIZE = 40960
"""Five buffers of 8 KiB: what is cut from a full log (30 %) is then always several lines."""

_MAX_TAP_MTU = 65521
_MAX_SERVERS = 3
_MAX_SEARCH = 6
_MAX_SEARCH_BYTES = 255
_MAX_PID = (1 << 31) - 1

_NO_HOST = frozenset(("unspecified", "multicast", "broadcast", "IPv4 in IPv6"))
_NO_NEIGHBOUR = _NO_HOST | {"loopback"}
_REFUSED = {
    "address": _NO_NEIGHBOUR,
    "gateway": _NO_NEIGHBOUR,
    "outbound": _NO_HOST - {"unspecified"},
    "dns-forward": _NO_NEIGHBOUR,
    "dns-host": _NO_HOST,
    "map-host-loopback": _NO_NEIGHBOUR,
    "map-guest-addr": _NO_NEIGHBOUR,
}
"""Kinds of addresses that an option with a slot per family cannot have."""

_PORTS = {
    "tcp-ports": (6, INGRESS, "no-tcp"),
    "udp-ports": (17, INGRESS, "no-udp"),
    "tcp-ns": (6, EGRESS, "no-tcp"),
    "udp-ns": (17, EGRESS, "no-udp"),
}
"""IP protocol, direction, and the option that excludes them."""


def parse_pasta(words: Sequence[str]) -> PastaConfig | Answer:
    """The configuration that `words` (without the program's name) make, or the text of `--help` or `--version`.

    Raises UsageError for words that are no command line of pasta, any other ConfigError for one that cannot be had.
    """
    line = Getopt((*COMMON, *PORTS, *PASST_ONLY), words)
    given: list[Given] = []
    for occurrence in line:
        if occurrence.name == "help":
            return Answer(pasta_usage())
        if occurrence.name == "version":
            return Answer(f"pasta of bucatini {__version__}\n")
        given.append(occurrence)
    return _Reader(given).config(line.rest)


class _Reader:
    """Reads the occurrences of all options; order matters only among those of one subject."""

    __slots__ = ("_given", "_last", "_notes")

    def __init__(self, given: Sequence[Given]) -> None:
        self._given = given
        self._last = {option.name: option.value for option in given}
        self._notes: list[str] = []

    def config(self, rest: Sequence[str]) -> PastaConfig:
        self._refuse_passt()
        network = self._network()
        target = self._target(rest)
        userns, netns_only = self._userns(target)
        debug, trace, quiet = self._verbosity()
        self._note_without_effect()
        return PastaConfig(
            target=target,
            network=network,
            userns=userns,
            netns_only=netns_only,
            netns_quit="no-netns-quit" not in self._last,
            foreground="foreground" in self._last or target.kind in ("shell", "command"),
            debug=debug,
            trace=trace,
            quiet=quiet,
            log_file=self._value("log-file", read_path),
            log_size=self._number("log-size", MIN_LOG_SIZE, (1 << 63) - 1, DEFAULT_LOG_SIZE),
            runas=self._value("runas", _read_runas),
            pcap=self._value("pcap", read_path),
            pid_file=self._value("pid", read_path),
            host_lo_to_ns_lo="host-lo-to-ns-lo" in self._last,
            notes=tuple(self._notes),
        )

    def _network(self) -> NetworkOptions:
        last = self._last
        no_dns, dns = self._dns()
        loopback, map_gateway = self._mapping()
        return NetworkOptions(
            ipv4=self._family() != "ipv6-only",
            ipv6=self._family() != "ipv4-only",
            interface=self._value("interface", read_interface),
            mtu=self._mtu(),
            addresses=self._per_family("address"),
            prefix_length=self._value("netmask", read_netmask) or None,
            gateways=self._per_family("gateway"),
            mac=self._value("mac-addr", read_mac) or DEFAULT_MAC,
            config_net="config-net" in last,
            copy_routes=self._copied("no-copy-routes"),
            copy_addresses=self._copied("no-copy-addrs"),
            guest_interface=self._value("ns-ifname", read_interface),
            guest_mac=self._value("ns-mac-addr", read_mac),
            outbound=self._outbound(),
            outbound_interface4=self._value("outbound-if4", read_interface),
            outbound_interface6=self._value("outbound-if6", read_interface),
            dns=dns,
            dns_forward=() if no_dns else self._per_family("dns-forward"),
            dns_host=() if no_dns else self._per_family("dns-host"),
            search=self._search(),
            dhcp_dns="dhcp-dns" in last,
            dhcp_search="dhcp-search" in last,
            map_host_loopback=loopback,
            map_gateway=map_gateway,
            map_guest_address=self._per_family("map-guest-addr"),
            tcp="no-tcp" not in last,
            udp="no-udp" not in last,
            icmp="no-icmp" not in last,
            dhcp="no-dhcp" not in last,
            dhcpv6="no-dhcpv6" not in last,
            ndp="no-ndp" not in last,
            # What is configured here must not be configured once more by the kernel.
            router_advertisements="no-ra" not in last and "config-net" not in last,
            freebind="freebind" in last,
            splice="no-splice" not in last,
            tcp_in=self._ports("tcp-ports"),
            udp_in=self._ports("udp-ports"),
            tcp_out=self._ports("tcp-ns"),
            udp_out=self._ports("udp-ns"),
            default_ports="auto",
        )

    def _refuse_passt(self) -> None:
        for option in PASST_ONLY:
            if option.long in self._last:
                why = "a link that is open already is for passt" if option.long == "fd" else "this option is passt's"
                raise ConfigError(f"{option}: {why}; pasta takes a command, a PID or --netns")

    def _all(self, *names: str) -> list[Given]:
        return [option for option in self._given if option.name in names]

    def _value(self, name: str, read: Callable[[str, str], _Value]) -> _Value | None:
        """The last value, read; values before it must be right as well."""
        value = None
        for option in self._all(name):
            value = read(f"--{name}", option.value)
        return value

    def _number(self, name: str, low: int, high: int, default: int) -> int:
        value = self._value(name, lambda option, written: read_number(option, written, low, high))
        return default if value is None else value

    def _family(self) -> str:
        """The last one of `-4` and `-6`; empty: neither."""
        chosen = self._all("ipv4-only", "ipv6-only")
        return chosen[-1].name if chosen else ""

    def _mtu(self) -> int:
        mtu = self._value("mtu", _read_mtu)
        if mtu is None:
            return DEFAULT_MTU
        if mtu > _MAX_TAP_MTU:
            self._notes.append(f"--mtu {mtu}: the interface carries at most {_MAX_TAP_MTU} bytes, which is used")
        return min(mtu, _MAX_TAP_MTU)

    def _per_family(self, name: str) -> tuple[bytes, ...]:
        """One slot per family, IPv4 first; `none` empties those of a mapping."""
        slots: dict[int, bytes] = {}
        for option in self._all(name):
            if option.value == "none" and name.startswith("map-"):
                slots.clear()
            else:
                address = read_address(f"--{name}", option.value, _REFUSED[name])
                slots[len(address)] = address
        return tuple(slots[length] for length in sorted(slots))

    def _outbound(self) -> tuple[bytes, ...]:
        """The unspecified address leaves the choice to the kernel, as no option does."""
        addresses = self._per_family("outbound")
        if bytes(15) + b"\x01" in addresses:
            raise ConfigError("--outbound '::1': must not be the loopback address, from which nothing is reached")
        return tuple(address for address in addresses if kind_of(address) != "unspecified")

    def _dns(self) -> tuple[bool, tuple[bytes, ...] | None]:
        """Whether name service was forgotten by `none`, and the servers; None: the host's."""
        servers: list[bytes] | None = None
        forgotten = False
        for option in self._all("dns"):
            if option.value == "none":
                servers, forgotten = [], True
                continue
            server = read_address("--dns", option.value)
            servers = servers or []
            if sum(len(each) == len(server) for each in servers) < _MAX_SERVERS:
                servers.append(server)
            else:
                self._notes.append(f"--dns {text(server)}: left out, a guest is told {_MAX_SERVERS} servers per family")
        return forgotten, None if servers is None else tuple(servers)

    def _search(self) -> tuple[str, ...] | None:
        """Both readings of the option: several domains in one value, and one per option."""
        domains: list[str] | None = None
        for option in self._all("search"):
            if option.value == "none":
                domains = []
                continue
            domains = (domains or []) + _read_domains("--search", option.value)
            if len(domains) > _MAX_SEARCH:
                raise ConfigError(f"--search {option.value!r}: at most {_MAX_SEARCH} search domains in all")
        return None if domains is None else tuple(domains)

    def _mapping(self) -> tuple[tuple[bytes, ...] | None, bool]:
        written = self._all("map-host-loopback")
        addresses = self._per_family("map-host-loopback")
        map_gateway = "no-map-gw" not in self._last and all(option.value != "none" for option in written)
        return addresses if written else None, map_gateway

    def _copied(self, name: str) -> bool:
        if name not in self._last:
            return True
        if "config-net" not in self._last:
            raise ConfigError(f"--{name}: needs --config-net, which copies")
        instead = "--gateway" if name == "no-copy-routes" else "--address"
        self._notes.append(f"--{name}: deprecated; {instead} does the same")
        return False

    def _ports(self, name: str) -> tuple[str, ...]:
        """The specs as they are, but read once, so that a mistake is told before anything is begun."""
        protocol, direction, switch = _PORTS[name]
        specs = tuple(option.value for option in self._all(name))
        for spec in specs:
            if switch in self._last and spec != "none":
                raise ConfigError(f"--{name} {spec!r}: excluded by --{switch}; only none goes with it")
        table = parse_port_specs(
            f"--{name}",
            specs,
            protocol=protocol,
            direction=direction,
            ephemeral=DEFAULT_EPHEMERAL,
            allow_all=False,
            allow_auto=True,
        )
        if table is not None:
            self._notes.extend(table.notes)
        return specs

    def _verbosity(self) -> tuple[bool, bool, bool]:
        """Debug, trace, quiet: each of them ends its opposite."""
        debug = trace = quiet = False
        for option in self._all("debug", "trace", "quiet"):
            quiet = option.name == "quiet"
            trace = not quiet and (trace or option.name == "trace")
            debug = not quiet
        return debug, trace, quiet

    def _target(self, rest: Sequence[str]) -> Target:
        netns = self._value("netns", read_path)
        if netns is not None:
            if rest:
                raise ConfigError(f"--netns {netns!r}: excludes a PID or command, given: {rest[0]!r}")
            if netns in (".", ".."):
                raise ConfigError(f"--netns {netns!r}: must be a name below /run/netns, or a path")
            return Target("netns", netns=netns if "/" in netns else f"/run/netns/{netns}")
        if not rest:
            return Target("shell")
        if len(rest) == 1 and re.fullmatch(r"[+-]?[0-9]+", rest[0]):
            return Target("pid", pid=read_number("PID", rest[0], 1, _MAX_PID))
        if not rest[0]:
            raise ConfigError("'': must be a PID or the name of a command")
        return Target("command", tuple(rest))

    def _userns(self, target: Target) -> tuple[str | None, bool]:
        """Path, and whether only the network namespace is meant: the later of the two options wins."""
        path: str | None = None
        only = False
        for option in self._all("userns", "netns-only"):
            only = option.name == "netns-only"
            path = None if only else read_path("--userns", option.value)
        if target.kind == "netns" and path is None:
            only = True
        return path, only

    def _note_without_effect(self) -> None:
        if "stderr" in self._last:
            self._notes.append("--stderr: deprecated, without effect")
        if "host-lo-to-ns-lo" in self._last:
            self._notes.append("--host-lo-to-ns-lo: deprecated")


def _read_mtu(option: str, written: str) -> int:
    """0, or what a link can have (RFC 791: at least 68 bytes)."""
    if written == "0":
        return 0
    try:
        return read_number(option, written, 68, 65535)
    except ConfigError:
        raise ConfigError(f"{option} {written!r}: must be a number from 68 to 65535, or 0 to announce none") from None


def _read_runas(option: str, written: str) -> str:
    """The form only; whether a name exists is the host's to know."""
    user, colon, group = written.partition(":")
    for part in (user, group) if colon else (user,):
        if not part or ":" in part or "\0" in part or (part.isdigit() and not _is_id(part)):
            raise ConfigError(f"{option} {written!r}: must be UID, UID:GID, or names in their place")
    return written


def _is_id(part: str) -> bool:
    """Numbers the kernel takes for a user or group: all ones means `unchanged` there."""
    return part.isascii() and len(part) <= 10 and int(part) < 0xFFFFFFFF


def _read_domains(option: str, written: str) -> list[str]:
    domains = written.split()
    for domain in domains:
        labels = domain.removesuffix(".").split(".")
        bounded = len(domain) <= _MAX_SEARCH_BYTES and all(1 <= len(label) <= 63 for label in labels)
        if not bounded or not domain.isprintable():
            raise ConfigError(f"{option} {written!r}: {domain!r} is no domain name")
    if not domains:
        raise ConfigError(f"{option} {written!r}: must be domain names separated by blanks, or none")
    return domains
