"""What one guest has begun with others of its segment: a bounded table, so that an answer needs no rule of its own.

A conversation is its exact five-tuple as its beginner has it; of an echo the two addresses and the identifier. It is
there from the first packet of its beginner, and only its beginner's packets renew it: who answers cannot keep the way
back open.

| | lives for |
|---|---|
| TCP, one SYN seen | 60 s |
| TCP, on its way | 7440 s, as a NAT has to keep an idle one (RFC 5382 section 5) |
| TCP, after a FIN or RST of either end | 60 s |
| UDP, echo | 60 s |

What no rule permits any more ends at once (`keep`). When the table is full nothing new begins; nobody is put out. What
is over is swept out before that is said.

Does not: follow handshakes and sequence numbers (the two ends do), or know who may begin what (`segment` does).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bucatini.stack.classify import ICMP, TCP, UDP, Packet

__all__ = ["BRIEF", "IDLE", "MAX_CONVERSATIONS", "Conversations", "Key", "Said", "read"]

MAX_CONVERSATIONS = 8192
IDLE = 7440.0
BRIEF = 60.0
"""Seconds."""

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
ECHO = {4: (8, 0), 6: (128, 129)}
"""Request and reply: RFC 792, RFC 4443 section 4."""
ERRORS = {4: frozenset((3, 11, 12)), 6: frozenset((1, 2, 3, 4))}
"""Destination unreachable, too big, time exceeded, parameter problem."""
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp"}
IP_HEADER = {4: 20, 6: 40}

Key = tuple[str, bytes, int, bytes, int]
"""Protocol, address and port of who began, those of the other; of an echo identifier and 0."""


class Said(NamedTuple):
    """What a packet is about."""

    key: Key
    """Of the conversation that its sender began."""
    back: Key
    """Of the one that its receiver began."""
    begins: bool
    """Whether it may be the first."""
    is_syn: bool = False
    ends: bool = False
    quoted: Key | None = None
    """An ICMP error: what its receiver had sent."""

    @property
    def protocol(self) -> str:
        """tcp, udp or icmp."""
        return self.key[0]

    @property
    def port(self) -> int:
        """Where it goes."""
        return self.key[4]


def read(packet: Packet) -> Said | None:
    """The packet in `packet`; None for one that belongs to no conversation."""
    source, destination = packet.source(), packet.destination()
    if packet.kind == TCP:
        flags = packet.tcp.flags
        is_syn = flags & (FIN | SYN | RST | ACK) == SYN
        ports = packet.tcp.source_port, packet.tcp.destination_port
        return _said("tcp", source, destination, ports, not flags & RST, is_syn, bool(flags & (FIN | RST)))
    if packet.kind == UDP:
        return _said("udp", source, destination, (packet.udp.source_port, packet.udp.destination_port), True)
    if packet.kind != ICMP:
        return None
    version, kind = packet.ip.version, packet.icmp.type
    request, reply = ECHO[version]
    if kind == request:
        return _said("icmp", source, destination, (packet.icmp.identifier, 0), True)
    if kind == reply:
        return _said("icmp", source, destination, (0, packet.icmp.identifier), False)
    quoted = _quoted(packet) if kind in ERRORS[version] else None
    if quoted is None or quoted[1] != destination:
        return None
    return _said("icmp", source, destination, (0, 0), False)._replace(quoted=quoted)


def _said(
    protocol: str,
    source: bytes,
    destination: bytes,
    ports: tuple[int, int],
    begins: bool,
    is_syn: bool = False,
    ends: bool = False,
) -> Said:
    near, far = ports
    return Said((protocol, source, near, destination, far), (protocol, destination, far, source, near), begins, is_syn,
                ends)  # fmt: skip


def _quoted(packet: Packet) -> Key | None:
    """The conversation of the packet that an ICMP error quotes, as its sender began it."""
    version, at = packet.ip.version, packet.icmp.payload_at
    quote = packet.copy(at, packet.ip.end - at)
    if len(quote) < 20:
        return None
    start = (quote[0] & 15) * 4 if version == 4 else IP_HEADER[6]
    if quote[0] >> 4 != version or start < IP_HEADER[version] or len(quote) < start + 8:
        return None
    protocol = PROTOCOLS.get(quote[9 if version == 4 else 6])
    source, destination = (quote[12:16], quote[16:20]) if version == 4 else (quote[8:24], quote[24:40])
    if protocol is None:
        return None
    if protocol == "icmp":
        return protocol, source, int.from_bytes(quote[start + 4 : start + 6], "big"), destination, 0
    ports = int.from_bytes(quote[start : start + 2], "big"), int.from_bytes(quote[start + 2 : start + 4], "big")
    return protocol, source, ports[0], destination, ports[1]


class _Conversation:
    __slots__ = ("ends", "other", "until")

    def __init__(self, other: Any) -> None:
        self.other = other
        self.until = 0.0
        self.ends = False


class Conversations:
    """Those that one guest began. `now` never runs backwards."""

    def __init__(self, limit: int = MAX_CONVERSATIONS) -> None:
        self._limit = limit
        self._held: dict[Key, _Conversation] = {}
        self._next_sweep = 0.0

    def __len__(self) -> int:
        return len(self._held)

    def has(self, key: Key, now: float) -> bool:
        """Whether it is there."""
        found = self._held.get(key)
        return found is not None and now < found.until

    def go_on(self, said: Said, other: Any, now: float) -> bool:
        """A packet of the beginner to `other`, with whom it may have begun: it is there from now on. False when there
        is no room.
        """
        found = self._held.get(said.key)
        if found is None or now >= found.until or said.is_syn:
            if found is None and len(self._held) >= self._limit and not self._sweep(now):
                return False
            self._held[said.key] = found = _Conversation(other)
        found.other = other
        found.ends = found.ends or said.ends
        brief = found.ends or said.is_syn or said.protocol != "tcp"
        found.until = now + (BRIEF if brief else IDLE)
        return True

    def answered(self, said: Said, now: float) -> None:
        """A packet of the other end, whose way back is `said.back`."""
        found = self._held.get(said.back)
        if found is not None and said.ends:
            found.ends = True
            found.until = min(found.until, now + BRIEF)

    def keep(self, permits: Callable[[Any, str, int], bool]) -> None:
        """End those that the guest may not begin any more, by whom they are with, protocol and port there."""
        self._held = {key: found for key, found in self._held.items() if permits(found.other, key[0], key[4])}

    def forget(self) -> None:
        """The guest is another."""
        self._held.clear()

    def _sweep(self, now: float) -> bool:
        """Drop what is over, once a second at most; whether there is room then."""
        if now >= self._next_sweep:
            self._next_sweep = now + 1.0
            self._held = {key: found for key, found in self._held.items() if now < found.until}
        return len(self._held) < self._limit
