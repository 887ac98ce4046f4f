"""The grammar of `-p/--publish`.

    SPEC  = [ADDR:]PORTS[:PORTS][/tcp|/udp]        host ports, guest ports (the same when left out)
    ADDR  = IPv4 | [IPv6]                          where the host listens; every address of both families when left out
    PORTS = N | N-N                                1..65535; both ranges of one spec have the same width

Two readers must never take one text for two things: no names, no zones, no signs, blanks or leading zeros, no port 0,
and IPv6 always in brackets. Does not: bind anything, or know whether a port is free.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bucatini.base.address import Endpoint, pack, text, unmap
from bucatini.base.errors import ConfigError
from bucatini.base.verdict import INGRESS

__all__ = ["MAX_FORWARDS", "Forward", "parse_publish", "parse_publish_all"]

MAX_FORWARDS = 65535
"""Published ports in all. Each is a socket of the host; the same number bounds one range by nature."""

_PROTOCOLS = {"tcp": 6, "udp": 17}
_ACCEPTED = "accepted: [ADDR:]HOST:GUEST[/tcp|/udp], for example 8080:80, 127.0.0.1:8080:80 or [::1]:53-54:53-54/udp"


class Forward(NamedTuple):
    """One forwarded port. INGRESS: the host listens and the guest answers. EGRESS: the guest's own loopback listens on
    `guest_port` and the host's loopback answers on `host_port`; address and device mean nothing then.
    """

    protocol: int
    """IP protocol number: 6 or 17."""
    address: bytes | None
    """Packed; None: every address of both families."""
    host_port: int
    guest_port: int
    direction: str = INGRESS
    device: str = ""
    """Interface of the host whose peers are served (SO_BINDTODEVICE); empty: any."""
    optional: bool = False
    """One of many meant together (`all`, exclusions): a port that cannot be had is left out in silence."""

    def __str__(self) -> str:
        name = "tcp" if self.protocol == _PROTOCOLS["tcp"] else "udp"
        host = str(self.host_port) if self.address is None else str(Endpoint(self.address, self.host_port))
        device = f"%{self.device}" if self.device else ""
        return f"{host}{device}:{self.guest_port}/{name}"


def parse_publish_all(written: Iterable[str], option: str = "--publish") -> tuple[Forward, ...]:
    """All specs of one command line, in order. Raises ConfigError, also when two ask for the same host port.

    "The same" includes every address against one address: the kernel would refuse the second with EADDRINUSE, here
    the user learns which two options disagree.
    """
    forwards: list[Forward] = []
    taken: dict[tuple[int, int], list[tuple[bytes | None, str]]] = {}
    for spec in written:
        for forward in parse_publish(spec, option):
            holders = taken.setdefault((forward.protocol, forward.host_port), [])
            for address, other in holders:
                if _overlap(address, forward.address):
                    raise ConfigError(f"{option} {spec!r}: {other!r} already publishes host port {forward.host_port}")
            holders.append((forward.address, spec))
            forwards.append(forward)
            if len(forwards) > MAX_FORWARDS:
                raise ConfigError(f"{option} {spec!r}: more than {MAX_FORWARDS} published ports in all")
    return tuple(forwards)


def parse_publish(written: str, option: str = "--publish") -> tuple[Forward, ...]:
    """The forwards of one spec, in port order. Raises ConfigError naming `option`, the text and the part at fault."""
    try:
        return _parse(written)
    except ValueError as error:
        raise ConfigError(f"{option} {written!r}: {error}; {_ACCEPTED}") from None


def _parse(written: str) -> tuple[Forward, ...]:
    ports, slash, name = written.partition("/")
    protocol = _PROTOCOLS.get(name.lower()) if slash else _PROTOCOLS["tcp"]
    if protocol is None:
        raise ValueError(f"protocol {name!r} is not tcp or udp")
    address, host, guest = _split(ports)
    packed = None if address is None else _bind_address(address)
    host_ports = _range(host, "host port")
    guest_ports = host_ports if guest is None else _range(guest, "guest port")
    if len(host_ports) != len(guest_ports):
        raise ValueError(f"{host!r} is {len(host_ports)} ports and {guest!r} is {len(guest_ports)}")
    return tuple(Forward(protocol, packed, h, g) for h, g in zip(host_ports, guest_ports, strict=True))


def _split(ports: str) -> tuple[str | None, str, str | None]:
    """Text of the address, the host ports and the guest ports."""
    address: str | None = None
    rest = ports
    if ports.startswith("["):
        address, bracket, rest = ports[1:].partition("]:")
        if not bracket:
            raise ValueError(f"{ports!r} has no ']:' after the address")
        if ":" not in address:
            raise ValueError(f"address {address!r} in brackets is not IPv6")
    parts = rest.split(":")
    if address is None and (len(parts) == 3 or (len(parts) == 2 and not _looks_like_ports(parts[0]))):
        address = parts.pop(0)
    if len(parts) > 2:
        hint = ", an IPv6 address goes in brackets" if len(parts) > 3 else ""
        raise ValueError(f"{rest!r} has too many ':'{hint}")
    return address, parts[0], parts[1] if len(parts) == 2 else None


def _looks_like_ports(part: str) -> bool:
    """Is a first part of two meant as ports? An address holds a dot, a name holds letters."""
    return "." not in part and not any(character.isalpha() for character in part)


def _bind_address(written: str) -> bytes:
    """Packed address to listen on; multicast and broadcast are no address of a host."""
    if "%" in written:
        raise ValueError(f"address {written!r} has a zone, which is not accepted")
    try:
        packed = pack(written)
    except ValueError:
        names = "; names are not accepted, write 127.0.0.1 or [::1]" if written.lower() == "localhost" else ""
        raise ValueError(f"address {written!r} is not an IP address{names}") from None
    if unmap(packed) != packed:
        raise ValueError(f"address {written!r} is IPv4 in IPv6 clothes: write {text(unmap(packed))}")
    if packed[0] >= 224 if len(packed) == 4 else packed[0] == 0xFF:
        raise ValueError(f"address {written!r} is not a unicast address")
    return packed


def _range(written: str, what: str) -> range:
    first, dash, last = written.partition("-")
    low = _port(first, what)
    high = _port(last, what) if dash else low
    if high < low:
        raise ValueError(f"{what} range {written!r} runs backwards")
    return range(low, high + 1)


def _port(written: str, what: str) -> int:
    # Digits alone are not enough: int() also takes "+1", " 1", "1_0", "010" and digits of other scripts.
    if written.isascii() and written.isdigit() and len(written) <= 5 and not written.startswith("0"):
        number = int(written)
        if number <= 65535:
            return number
    raise ValueError(f"{what} {written!r} is not a number from 1 to 65535")


def _overlap(one: bytes | None, other: bytes | None) -> bool:
    """Would both listeners claim some address of one family?"""
    if one is None or other is None:
        return True
    return len(one) == len(other) and (one == other or not any(one) or not any(other))
