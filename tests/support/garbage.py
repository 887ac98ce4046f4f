"""A guest that has lost its mind, and a host side to match: frames by the thousand, plausible enough to get deep.

`Garbage` makes frames: valid ones, valid ones with bytes changed or cut, chains of extension headers, fragments, and
noise. It hears what the stack sends and answers about half of it as a TCP would, so that flows reach every state.
"""

from __future__ import annotations

import random
import struct

from bucatini.base.address import pack
from bucatini.wire.checksum import finish, partial, pseudo_header
from support.frames import GATEWAY4, GATEWAY6, GATEWAY_MAC, GUEST4, GUEST6, GUEST_MAC, PEER4, PEER6, mac

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
PORTS = (7, 7, 7, 7, 9, 53, 53, 80, 0)
"""Of the peer: 7 echoes, 9 is closed, 53 is the resolver."""
GUEST_PORTS = (*range(40000, 40006), 8000)
LIMIT = 65000


class Garbage:
    """Everything it does follows from `seed`. `here4` is an address of the host that is not loopback."""

    def __init__(self, seed: int, here4: str) -> None:
        self.random = random.Random(seed)
        self.destinations = {
            4: [
                pack(a) for a in (GATEWAY4, GATEWAY4, GATEWAY4, PEER4, here4, GUEST4, "224.0.0.251", "255.255.255.255")
            ],
            6: [
                pack(a) for a in (GATEWAY6, GATEWAY6, GATEWAY6, PEER6, GUEST6, "ff02::1", "::ffff:127.0.0.1", "fe80::1")
            ],
        }
        self.sources = {4: pack(GUEST4), 6: pack(GUEST6)}
        self.conversations: dict[tuple[bytes, int, int], tuple[int, int]] = {}
        """Peer, its port, ours: the number we send next, the number it sends next."""

    # -- what comes back

    def hear(self, frame: bytes) -> None:
        """A frame to the guest, virtio-net header first: TCP numbers are remembered."""
        packet = frame[26:]
        if len(packet) < 40:
            return
        if packet[0] >> 4 == 4 and packet[9] == 6:
            peer, at, size = packet[12:16], 20, 4
        elif packet[0] >> 4 == 6 and packet[6] == 6:
            peer, at, size = packet[8:24], 40, 16
        else:
            return
        assert len(peer) == size
        peer_port, port, seq, ack, offset, flags = struct.unpack_from("!HHIIBB", packet, at)
        length = len(packet) - at - (offset >> 4 << 2) + bool(flags & SYN) + bool(flags & FIN)
        key = (peer, peer_port, port)
        if flags & RST:
            self.conversations.pop(key, None)
        elif flags & ACK:
            self.conversations[key] = (ack, (seq + length) & 0xFFFFFFFF)
        else:
            self.conversations[key] = (self.random.getrandbits(32), (seq + length) & 0xFFFFFFFF)
        if len(self.conversations) > 64:
            self.conversations.pop(next(iter(self.conversations)))

    # -- frames

    def frame(self) -> bytes:
        """One frame, virtio-net header first."""
        choose = self.random.random()
        if choose < 0.03:
            return self.random.randbytes(self.random.choice((0, 1, 11, 12, 25, 26, 30, 60, 100, 1500)))
        frame = self._made()
        if choose < 0.25:
            frame = self._changed(frame)
        return frame

    def _changed(self, frame: bytes) -> bytes:
        changed = bytearray(frame)
        for _ in range(self.random.choice((1, 1, 1, 2, 5))):
            at = min(int(self.random.expovariate(1 / 40)), len(changed) - 1)
            changed[at] = self.random.choice(
                (0, 255, self.random.getrandbits(8), changed[at] ^ 1 << self.random.randrange(8))
            )
        # The gateway answers whatever address asks; ours is easier to check.
        changed[18:24] = mac(GUEST_MAC)
        if self.random.random() < 0.2:
            del changed[self.random.randrange(len(changed)) :]
        return bytes(changed)

    def _made(self) -> bytes:
        rng = self.random
        if rng.random() < 0.03:
            return self._ethernet(self._arp(), 0x0806, bytes(12))
        version = rng.choice((4, 4, 6))
        if self.conversations and rng.random() < 0.6:
            peer, peer_port, port = rng.choice(list(self.conversations))
            version = 4 if len(peer) == 4 else 6
            transport = self._segment(peer_port, port, *self.conversations[(peer, peer_port, port)])
            return self._network(version, 6, transport, peer)
        destination = rng.choice(self.destinations[version])
        kind = rng.random()
        if kind < 0.35:
            transport, protocol = self._opening(), 6
        elif kind < 0.65:
            transport, protocol = self._datagram(), 17
        elif kind < 0.95:
            transport, protocol = self._icmp(version), 1 if version == 4 else 58
        else:
            transport, protocol = rng.randbytes(rng.randrange(100)), rng.getrandbits(8)
        return self._network(version, protocol, transport, destination)

    def _ethernet(self, packet: bytes, ethertype: int, header: bytes) -> bytes:
        target = mac(GATEWAY_MAC)
        if self.random.random() < 0.02:
            target = self.random.choice(
                (b"\xff" * 6, b"\x33\x33\0\0\0\1", b"\x01\0\x5e\0\0\1", self.random.randbytes(6))
            )
        return header + target + mac(GUEST_MAC) + ethertype.to_bytes(2, "big") + packet

    def _arp(self) -> bytes:
        target = self.random.choice((pack(GATEWAY4), pack(PEER4), pack(GUEST4)))
        return (
            b"\0\1\x08\0\6\4\0"
            + bytes([self.random.choice((1, 1, 1, 2, 9))])
            + mac(GUEST_MAC)
            + pack(GUEST4)
            + bytes(6)
            + target
        )

    def _network(self, version: int, protocol: int, transport: bytes, destination: bytes) -> bytes:
        rng = self.random
        source = self.sources[version]
        if rng.random() < 0.02:
            source = rng.choice((bytes(len(source)), rng.randbytes(len(source)), destination))
        header = bytearray(12)
        if rng.random() < 0.5:
            transport = _with_checksum(transport, protocol, source, destination)
        else:
            header[0] = rng.choice((1, 2, 3))
        if protocol == 17 and rng.random() < 0.3:
            header[1] = 5
            header[4:6] = rng.choice((0, 1, 7, 100, 1400, 65535)).to_bytes(2, "little")
        transport = transport[:LIMIT]
        if rng.random() < 0.08:
            packet = self._fragment(version, protocol, transport, source, destination)
        elif version == 4:
            packet = self._ipv4(protocol, transport, source, destination, 0x4000, 0)
        else:
            chain, first = self._chain(protocol) if rng.random() < 0.1 else (b"", protocol)
            packet = _ipv6(first, chain + transport, source, destination)
        return self._ethernet(packet, 0x0800 if version == 4 else 0x86DD, bytes(header))

    def _ipv4(self, protocol: int, body: bytes, source: bytes, destination: bytes, field: int, number: int) -> bytes:
        options = self.random.randbytes(4 * self.random.randrange(1, 11)) if self.random.random() < 0.03 else b""
        if options and self.random.random() < 0.5:
            options = bytes([1]) * len(options)
        total = min(20 + len(options) + len(body), 65535)
        head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, total, number, field, 64, protocol, 0)
        head += source + destination + options
        return head[:10] + finish(partial(head)).to_bytes(2, "big") + head[12:] + body

    def _chain(self, protocol: int) -> tuple[bytes, int]:
        kinds = [self.random.choice((0, 43, 44, 51, 60, 135, 139, 140)) for _ in range(self.random.randrange(1, 11))]
        chain = b""
        for kind, following in zip(kinds, [*kinds[1:], protocol], strict=True):
            units = self.random.choice((0, 0, 0, 1, 2, 255))
            length = 8 if kind == 44 else (units + 2) * 4 if kind == 51 else (units + 1) * 8
            body = bytearray(self.random.randbytes(min(length, 200)))
            body[:2] = bytes((following, units))
            if kind == 44 and self.random.random() < 0.5:
                body[2:4] = b"\0\0"
            chain += bytes(body)
        return chain, kinds[0]

    def _fragment(self, version: int, protocol: int, transport: bytes, source: bytes, destination: bytes) -> bytes:
        rng = self.random
        number = rng.randrange(4)
        size = rng.choice((8, 64, 512, 1400, 1401))
        offset = rng.choice((0, 0, size & ~7, 2 * (size & ~7), 65528, 8 * rng.randrange(8192)))
        body = transport[offset : offset + size] or rng.randbytes(size)
        more = offset + size < len(transport) if rng.random() < 0.8 else rng.random() < 0.5
        if version == 4:
            return self._ipv4(protocol, body, source, destination, more << 13 | offset >> 3, number)
        head = struct.pack("!BBHI", protocol, 0, offset & 0xFFF8 | more, number)
        return _ipv6(44, head + body, source, destination)

    # -- transports, with the checksum field zero

    def _body(self) -> bytes:
        return self.random.randbytes(self.random.choice((0, 0, 1, 8, 100, 536, 1460, 1460, 4000, 30000, 64000)))

    def _opening(self) -> bytes:
        """A segment out of the blue, most often a SYN."""
        rng = self.random
        flags = rng.choice((SYN, SYN, SYN, SYN, SYN | 0xC0, rng.getrandbits(8)))
        options = rng.choice(
            (
                b"",
                b"\x02\x04\x05\xb4\x01\x03\x03\x07",
                b"\x02\x04\0\1",
                b"\x03\x03\xff\0",
                rng.randbytes(4 * rng.randrange(11)),
            )
        )
        return self._tcp(
            rng.choice(GUEST_PORTS),
            rng.choice(PORTS),
            rng.getrandbits(32),
            rng.getrandbits(32),
            flags,
            options,
            self._body() if rng.random() < 0.1 else b"",
        )

    def _segment(self, peer_port: int, port: int, seq: int, ack: int) -> bytes:
        """A segment of a conversation: what a TCP would send, or nearly."""
        rng = self.random
        seq += rng.choice((0,) * 12 + (-1, 1, -100, 1000, 70000, 1 << 31, rng.getrandbits(32)))
        ack -= rng.choice((0,) * 12 + (1, -1, 100, 1460, 1 << 31, rng.getrandbits(32)))
        flags = rng.choice(
            (ACK,) * 12 + (ACK | PSH, ACK | FIN, ACK | FIN, RST, RST | ACK, SYN, SYN | ACK, 0, rng.getrandbits(8))
        )
        body = self._body() if rng.random() < 0.5 else b""
        options = rng.randbytes(4 * rng.randrange(11)) if rng.random() < 0.05 else b""
        return self._tcp(port, peer_port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, flags, options, body)

    def _tcp(self, port: int, peer_port: int, seq: int, ack: int, flags: int, options: bytes, body: bytes) -> bytes:
        window = self.random.choice((65535, 65535, 65535, 0, 1, 100, self.random.getrandbits(16)))
        words = 5 + len(options) // 4 if self.random.random() < 0.98 else self.random.randrange(16)
        urgent = self.random.getrandbits(16) if flags & 32 else 0
        return (
            struct.pack("!HHIIBBHHH", port, peer_port, seq, ack, words << 4, flags, window, 0, urgent) + options + body
        )

    def _datagram(self) -> bytes:
        rng = self.random
        port = rng.choice(PORTS)
        body = self._query() if port == 53 else self._body()
        length = 8 + len(body) if rng.random() < 0.97 else rng.getrandbits(16)
        return struct.pack("!HHHH", rng.choice((*GUEST_PORTS, 0)), port, min(length, 65535), 0) + body

    def _query(self) -> bytes:
        """A DNS message: a query, or header and noise."""
        rng = self.random
        name = rng.choice(
            (
                b"\x04host\x08bucatini\x08internal\0",
                b"\x01a\0",
                b"\xc0\x0c",
                b"\x3f" + bytes(63) + b"\0",
                b"\x03abc",
                b"",
            )
        )
        flags = rng.choice((0x0100, 0x0100, 0, 0x8180, rng.getrandbits(16)))
        counts = rng.choice(((1, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0), (2, 0, 0, 1), (65535, 1, 1, 1)))
        head = struct.pack("!HH4H", rng.getrandbits(16), flags, *counts)
        return (
            head
            + name
            + struct.pack("!HH", rng.choice((1, 28, 255, 252, 41)), 1)
            + rng.randbytes(rng.choice((0, 0, 0, 1, 11, 30)))
        )

    def _icmp(self, version: int) -> bytes:
        rng = self.random
        echo, unreachable = (8, 3) if version == 4 else (128, 1)
        kind = rng.choice(
            (echo, echo, echo, unreachable, unreachable, rng.getrandbits(8), 133, 134, 135, 135, 136, 137)
        )
        code = 0 if rng.random() < 0.8 else rng.getrandbits(8)
        head = struct.pack("!BBHHH", kind, code, 0, rng.randrange(4), rng.getrandbits(16))
        if kind == unreachable and rng.random() < 0.8:
            return head + self._quote(version)
        if kind in (135, 136) and rng.random() < 0.7:
            target = rng.choice((pack(GATEWAY6), pack(GUEST6), pack("fe80::1")))
            return head[:4] + bytes(4) + target + rng.choice((b"", b"\1\1" + mac(GUEST_MAC), b"\1\0", rng.randbytes(8)))
        return head + self._body()

    def _quote(self, version: int) -> bytes:
        """The packet that an error of ours is about: of a conversation, or nearly."""
        same = [key for key in self.conversations if len(key[0]) == (4 if version == 4 else 16)]
        if not same:
            return self.random.randbytes(self.random.randrange(80))
        peer, peer_port, port = self.random.choice(same)
        ports = struct.pack("!HH", peer_port, port) + bytes(4)
        guest = self.sources[version]
        quote = self._ipv4(6, ports, peer, guest, 0, 0) if version == 4 else _ipv6(6, ports, peer, guest)
        return quote[: self.random.choice((len(quote),) * 4 + (len(quote) - 1, 20, 0))]


def _ipv6(following: int, body: bytes, source: bytes, destination: bytes) -> bytes:
    return struct.pack("!IHBB", 0x60000000, min(len(body), 65535), following, 64) + source + destination + body


def _with_checksum(transport: bytes, protocol: int, source: bytes, destination: bytes) -> bytes:
    at = {6: 16, 17: 6, 1: 2, 58: 2}.get(protocol)
    if at is None or len(transport) < at + 2:
        return transport
    transport = transport[:LIMIT]
    pseudo = 0 if protocol == 1 else pseudo_header(source, destination, protocol, len(transport))
    return transport[:at] + finish(partial(transport, pseudo)).to_bytes(2, "big") + transport[at + 2 :]
