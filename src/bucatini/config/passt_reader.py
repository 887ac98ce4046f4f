"""How passt and pasta read the options they have in common.

Their rules: the last occurrence wins, but ports, name servers and search domains accumulate, and addresses have one
slot per family.

Does not: split words into options (`config.getopt_words`), look at the host (whether an interface, a user or a port can
be had), or print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from bucatini import __version__
from bucatini.base.address import text
from bucatini.base.errors import ConfigError
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.config.getopt_words import Answer, Getopt, Given, Option
from bucatini.config.network import NetworkOptions
from bucatini.config.passt_process import DEFAULT_LOG_SIZE
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

__all__ = ["DEFAULT_MAC", "DEFAULT_MTU", "Reader", "read_options"]

_Value = TypeVar("_Value")

DEFAULT_MTU = 65520
"""65535 less an Ethernet header, in whole words."""

DEFAULT_MAC = bytes.fromhex("9a559a559a55")

MIN_LOG_SIZE = 40960
"""Five buffers of 8 KiB: what is cut from a full log (30 %) is then always several lines."""

_MAX_LINK_MTU = 65521
"""A TAP takes frames of 65535 bytes, and so does passt's socket."""
_MAX_SERVERS = 3
_MAX_SEARCH = 6
_MAX_SEARCH_BYTES = 255

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


def read_options(name: str, line: Getopt, answers: Mapping[str, Callable[[], str]]) -> list[Given] | Answer:
    """All occurrences; or what the first one that asks for an answer gets: `--version` of the command `name`, or an
    option of `answers`. Raises UsageError.
    """
    given: list[Given] = []
    for occurrence in line:
        if occurrence.name == "version":
            return Answer(f"{name} of bucatini {__version__}\n")
        if occurrence.name in answers:
            return Answer(answers[occurrence.name]())
        given.append(occurrence)
    return given


class Reader:
    """Reads the occurrences of all options; order matters only among those of one subject."""

    __slots__ = ("_given", "_last", "_notes")

    _port_words = "all"
    """The word that means many ports, `all` or `auto`."""

    def __init__(self, given: Sequence[Given]) -> None:
        self._given = given
        self._last = {option.name: option.value for option in given}
        self._notes: list[str] = []

    def _process(self) -> dict[str, Any]:
        """The fields of `ProcessOptions`. Call it last: it has the notes of all that was read."""
        debug, trace, quiet = self._verbosity()
        if "stderr" in self._last:
            self._notes.append("--stderr: deprecated, without effect")
        return {
            "foreground": "foreground" in self._last,
            "debug": debug,
            "trace": trace,
            "quiet": quiet,
            "log_file": self._value("log-file", read_path),
            "log_size": self._number("log-size", MIN_LOG_SIZE, (1 << 63) - 1, DEFAULT_LOG_SIZE),
            "runas": self._value("runas", _read_runas),
            "pcap": self._value("pcap", read_path),
            "pid_file": self._value("pid", read_path),
            "notes": tuple(self._notes),
        }

    def _network(self, **own: Any) -> NetworkOptions:
        """The guest's network; `own` are fields that only one of the commands has a say in, or both differently."""
        last = self._last
        no_dns, dns = self._dns()
        loopback, map_gateway = self._mapping()
        fields = {
            "ipv4": self._family() != "ipv6-only",
            "ipv6": self._family() != "ipv4-only",
            "interface": self._value("interface", read_interface),
            "mtu": self._mtu(),
            "addresses": self._per_family("address"),
            "prefix_length": self._value("netmask", read_netmask) or None,
            "gateways": self._per_family("gateway"),
            "mac": self._value("mac-addr", read_mac) or DEFAULT_MAC,
            "outbound": self._outbound(),
            "outbound_interface4": self._value("outbound-if4", read_interface),
            "outbound_interface6": self._value("outbound-if6", read_interface),
            "dns": dns,
            "dns_forward": () if no_dns else self._per_family("dns-forward"),
            "dns_host": () if no_dns else self._per_family("dns-host"),
            "search": self._search(),
            "map_host_loopback": loopback,
            "map_gateway": map_gateway,
            "map_guest_address": self._per_family("map-guest-addr"),
            "tcp": "no-tcp" not in last,
            "udp": "no-udp" not in last,
            "icmp": "no-icmp" not in last,
            "dhcp": "no-dhcp" not in last,
            "dhcpv6": "no-dhcpv6" not in last,
            "ndp": "no-ndp" not in last,
            "router_advertisements": "no-ra" not in last,
            "freebind": "freebind" in last,
            "tcp_in": self._ports("tcp-ports"),
            "udp_in": self._ports("udp-ports"),
        }
        return NetworkOptions(**{**fields, **own})

    def _refuse(self, options: Iterable[Option], why: str) -> None:
        for option in options:
            if option.long in self._last:
                raise ConfigError(f"{option}: {why}")

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
        if mtu > _MAX_LINK_MTU:
            self._notes.append(f"--mtu {mtu}: the interface carries at most {_MAX_LINK_MTU} bytes, which is used")
        return min(mtu, _MAX_LINK_MTU)

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
            allow_all=self._port_words == "all",
            allow_auto=self._port_words == "auto",
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
