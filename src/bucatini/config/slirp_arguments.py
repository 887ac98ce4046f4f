"""From a command line of slirp4netns(1) to a checked configuration.

Options may stand anywhere before `--`; the last occurrence wins. Addresses come from one IPv4 network: gateway and host
at 2, name server at 3, guest at 100; of IPv6 fd00::/64 with the same numbers. Callers look for option names in the help
text before they use them, so each stands there in full.

Does not: look at the host, make the API socket, or print.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from bucatini import __version__
from bucatini.base.address import pack, text
from bucatini.base.errors import ConfigError
from bucatini.config.getopt_words import Answer, Getopt, Option, UsageError, option_lines
from bucatini.config.network import NetworkOptions
from bucatini.config.slirp import SlirpConfig
from bucatini.config.value_words import (
    read_address,
    read_interface,
    read_mac,
    read_number,
    read_path,
    read_socket_path,
)

__all__ = ["parse_slirp", "slirp_usage"]

_Value = TypeVar("_Value")

DEFAULT_MTU = 1500
MIN_MTU = 68
MAX_MTU = 65521
"""What a Linux TAP takes: 65535 less the Ethernet header."""

_MAX_DESCRIPTOR = (1 << 31) - 1
_MAX_PID = (1 << 31) - 1

_GATEWAY, _SERVER, _GUEST = 2, 3, 100
_NETWORK6 = pack("fd00::")
_GUEST6 = pack("fd00::100")
_MAC_PREFIX = b"\x52\x55"
"""libslirp's own MAC addresses: these, then the IPv4 address."""

_OPTIONS = (
    Option("configure", "c", help="set addresses and routes in the namespace, bring the interface up"),
    Option("exit-fd", "e", "FD", "end when something happens on this descriptor"),
    Option("ready-fd", "r", "FD", 'write "1" to this descriptor when ready'),
    Option("mtu", "m", "MTU", "bytes of an IP packet, 68 to 65521 (default=1500)"),
    Option("enable-ipv6", "6", help="IPv6 too"),
    Option("api-socket", "a", "PATH", "serve the API on this socket"),
    Option("cidr", "", "CIDR", "IPv4 network, prefix length 1 to 25 (default=10.0.2.0/24)"),
    Option("disable-host-loopback", help="the gateway does not mean the host's loopback"),
    Option("netns-type", "", "TYPE", "what the first word is: path or pid (default=pid)"),
    Option("userns-path", "", "PATH", "user namespace to join"),
    Option("enable-sandbox", help="accepted without effect"),
    Option("enable-seccomp", help="accepted without effect"),
    Option("outbound-addr", "", "IPv4", "source address, or interface, of IPv4 sockets on the host"),
    Option("outbound-addr6", "", "IPv6", "source address, or interface, of IPv6 sockets on the host"),
    Option("disable-dns", help="no name server at address 3"),
    Option("macaddress", "", "MAC", "MAC address of the interface (with --configure)"),
    Option("target-type", "", "TYPE", "netns; bess is not supported (default=netns)"),
    Option("help", "h", help="show this help"),
    Option("version", "v", help="show the version"),
)


class _Cidr(NamedTuple):
    """An IPv4 network."""

    network: int
    prefix_length: int

    def host(self, number: int) -> bytes:
        """The packed address of a host in it."""
        return (self.network + number).to_bytes(4, "big")


_DEFAULT_CIDR = _Cidr(0x0A000200, 24)


def parse_slirp(words: Sequence[str]) -> SlirpConfig | Answer:
    """The configuration that `words` (without the program's name) make, or the text of `--help` or `--version`.

    Raises UsageError for words that are no command line of slirp4netns, any other ConfigError for one that cannot be
    had.
    """
    line = Getopt(_OPTIONS, words, permute=True)
    last: dict[str, str] = {}
    for option in line:
        if option.name == "help":
            return Answer(slirp_usage())
        if option.name == "version":
            return Answer(f"slirp4netns version 1.2.0\nbucatini {__version__}\n")
        last[option.name] = option.value
    return _Reader(last).config(line.rest)


def slirp_usage() -> str:
    """What --help prints, and what goes to stderr behind an unknown option."""
    return (
        "usage: slirp4netns [OPTION]... PID|PATH TAPNAME\n"
        "Connect the network namespace of a process, or a named one, to the host's network.\n\n"
        + option_lines(_OPTIONS, joint="=", column=31)
    )


class _Reader:
    """Reads the last value of each option."""

    __slots__ = ("_last",)

    def __init__(self, last: dict[str, str]) -> None:
        self._last = last

    def config(self, rest: Sequence[str]) -> SlirpConfig:
        last = self._last
        self._refuse_bess()
        netns_type = self._value("netns-type", _read_netns_type) or "pid"
        if len(rest) < 2:
            raise UsageError(f"{'PID' if netns_type == 'pid' else 'PATH'} or TAPNAME is missing")
        tap = read_interface("TAPNAME", rest[1])
        cidr = self._value("cidr", _read_cidr) or _DEFAULT_CIDR
        return SlirpConfig(
            pid=read_number("PID", rest[0], 1, _MAX_PID) if netns_type == "pid" else None,
            netns=read_path("PATH", rest[0]) if netns_type == "path" else None,
            tap=tap,
            network=self._network(cidr, tap),
            configure="configure" in last,
            exit_fd=self._value("exit-fd", _read_descriptor),
            ready_fd=self._value("ready-fd", _read_descriptor),
            userns_path=self._value("userns-path", read_path),
            api_socket=self._value("api-socket", read_socket_path),
            enable_sandbox="enable-sandbox" in last,
            enable_seccomp="enable-seccomp" in last,
            disable_dns="disable-dns" in last,
            disable_host_loopback="disable-host-loopback" in last,
            notes=self._notes(rest[2:]),
        )

    def _network(self, cidr: _Cidr, tap: str) -> NetworkOptions:
        ipv6 = "enable-ipv6" in self._last
        gateways = (cidr.host(_GATEWAY), *([_host6(_GATEWAY)] if ipv6 else []))
        servers = (cidr.host(_SERVER), *([_host6(_SERVER)] if ipv6 else []))
        if "disable-dns" in self._last:
            servers = ()
        loopback = () if "disable-host-loopback" in self._last else gateways
        source4, interface4 = self._outbound("outbound-addr", 4)
        source6, interface6 = self._outbound("outbound-addr6", 16)
        return NetworkOptions(
            ipv6=ipv6,
            mtu=self._value("mtu", _read_mtu) or DEFAULT_MTU,
            addresses=(cidr.host(_GUEST), *([_GUEST6] if ipv6 else [])),
            prefix_length=cidr.prefix_length,
            gateways=gateways,
            mac=_MAC_PREFIX + gateways[0],
            config_net="configure" in self._last,
            copy_routes=False,
            copy_addresses=False,
            guest_interface=tap,
            guest_mac=self._mac(),
            outbound=source4 + source6,
            outbound_interface4=interface4,
            outbound_interface6=interface6,
            dns=servers,
            dns_forward=servers,
            search=(),
            dhcp_dns=True,
            map_host_loopback=loopback,
            map_gateway=bool(loopback),
            # What is configured here must not be configured once more by the kernel.
            router_advertisements="configure" not in self._last,
            # A published port leads to an address of the guest; peers on the host's loopback come from the gateway.
            splice=False,
        )

    def _value(self, name: str, read: Callable[[str, str], _Value]) -> _Value | None:
        return read(f"--{name}", self._last[name]) if name in self._last else None

    def _refuse_bess(self) -> None:
        kind = self._last.get("target-type", "netns")
        if kind == "bess":
            raise ConfigError("--target-type 'bess': not supported; must be netns, User Mode Linux has no socket here")
        if kind != "netns":
            raise ConfigError(f"--target-type {kind!r}: must be netns")

    def _outbound(self, name: str, length: int) -> tuple[tuple[bytes, ...], str | None]:
        """Source addresses (at most one), or an interface."""
        if name not in self._last:
            return (), None
        option, written = f"--{name}", self._last[name]
        family = "IPv4" if length == 4 else "IPv6"
        try:
            address = read_address(option, written, ("multicast", "broadcast", "unspecified"))
        except ConfigError:
            if ":" in written or written.replace(".", "").isdigit():
                raise ConfigError(f"{option} {written!r}: must be an {family} address of this host") from None
            return (), read_interface(option, written)
        if len(address) != length:
            raise ConfigError(f"{option} {written!r}: must be an {family} address, or the name of an interface")
        return (address,), None

    def _mac(self) -> bytes | None:
        mac = self._value("macaddress", read_mac)
        if mac is not None and "configure" not in self._last:
            raise ConfigError(f"--macaddress {self._last['macaddress']!r}: needs --configure")
        return mac

    def _notes(self, superfluous: Sequence[str]) -> tuple[str, ...]:
        notes = []
        if superfluous:
            notes.append(f"{superfluous[0]!r}: ignored, too many arguments")
        if "enable-sandbox" in self._last:
            notes.append("--enable-sandbox: accepted without effect, no mount namespace is made")
        if "enable-seccomp" in self._last:
            notes.append("--enable-seccomp: accepted without effect, system calls are not filtered")
        return tuple(notes)


def _host6(number: int) -> bytes:
    return _NETWORK6[:15] + bytes((number,))


def _read_mtu(option: str, written: str) -> int:
    return read_number(option, written, MIN_MTU, MAX_MTU)


def _read_descriptor(option: str, written: str) -> int:
    return read_number(option, written, 0, _MAX_DESCRIPTOR)


def _read_netns_type(option: str, written: str) -> str:
    if written not in ("pid", "path"):
        raise ConfigError(f"{option} {written!r}: must be pid or path")
    return written


def _read_cidr(option: str, written: str) -> _Cidr:
    """The words of slirp4netns for its three errors are kept: scripts look for them."""
    address, _, bits = written.partition("/")
    try:
        network = int.from_bytes(read_address(option, address), "big")
        length = read_number(option, bits, 0, 32)
    except ConfigError:
        raise ConfigError(f"invalid CIDR: {option} {written!r}: must be an IPv4 network such as 10.0.2.0/24") from None
    if ":" in address:
        raise ConfigError(f"invalid CIDR: {option} {written!r}: must be an IPv4 network such as 10.0.2.0/24")
    if not 1 <= length <= 25:
        raise ConfigError(f"{option} {written!r}: prefix length needs to be 1-25")
    first = network >> 32 - length << 32 - length
    if network != first:
        right = f"{text(first.to_bytes(4, 'big'))}/{length}"
        raise ConfigError(f"{option} {written!r}: CIDR needs to be a network address like {right}, not like {written}")
    return _Cidr(network, length)
