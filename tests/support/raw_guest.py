"""One TCP endpoint in a guest, written segment by segment on the guest's interface (packet(7)).

Its address is one that the guest's kernel does not have, so that the kernel neither answers for it nor resets it; the
engine serves it like any other. Frames leave without checksum offload, that is with a checksum that the engine has to
verify; frames of the engine arrive as it wrote them, superframes and virtio-net header included. `Injector` speaks for
a connection of the guest's kernel instead, whose numbers it has overheard.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from bucatini.config.addressing import derive
from support.fakehost import Namespace
from support.guests import PATIENCE

__all__ = [
    "ACK",
    "FIN",
    "PSH",
    "RST",
    "SYN",
    "URG",
    "Injector",
    "RawGuest",
    "Segment",
    "mss_option",
    "option_kinds",
    "scale_option",
    "timestamp_option",
]

FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

RAW_ADDRESS = {4: "172.31.255.7", 6: "fd42:6d73:62::7"}
PACKET_VNET_HDR = 15
SOL_PACKET = 263
PACKET_OUTGOING = 4
VNET = 10
_ports = itertools.count(20_000)


class Segment(NamedTuple):
    """A segment from the engine."""

    flags: int
    seq: int
    ack: int
    window: int
    """As it stands in the header, not scaled."""
    options: bytes
    payload: bytes
    cut: int
    """Payload bytes of each segment a superframe is to be cut into; 0 for an ordinary frame."""


class RawGuest:
    """Speaks TCP from a port of its own to `peer`.

    `iss` is its initial sequence number, `nxt` the next it sends, `rcv` the next it expects.
    """

    def __init__(
        self, net: Namespace, peer: tuple[str, int], *, address: str = "", port: int = 0, iss: int = 0x7FFF_F000
    ) -> None:
        family = 6 if ":" in peer[0] else 4
        self.family = socket.AF_INET if family == 4 else socket.AF_INET6
        self.address, self.port = address or RAW_ADDRESS[family], port or next(_ports)
        self.peer = peer
        self.source = socket.inet_pton(self.family, self.address)
        self.destination = socket.inet_pton(self.family, peer[0])
        addressing = derive(0)
        self._ethertype = b"\x08\x00" if family == 4 else b"\x86\xdd"
        self._ethernet = addressing.gateway_mac + addressing.guest_mac + self._ethertype
        self._link = net.new_socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._link.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self._link.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        self._link.bind(("eth0", 3))
        self.iss = self.nxt = iss
        self.rcv = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Reset what may be left of the conversation, and close."""
        if self.rcv:
            self.send(RST, self.nxt)
        self._link.close()

    # -- to the engine

    def send(
        self,
        flags: int,
        seq: int | None = None,
        payload: bytes = b"",
        *,
        ack: int | None = None,
        options: bytes = b"",
        window: int = 65535,
        urgent: int = 0,
        wrong_by: int = 0,
        source_port: int | None = None,
        destination_port: int | None = None,
    ) -> None:
        """One segment; `seq` and `ack` are the conversation's unless given. `wrong_by` falsifies the checksum."""
        options += b"\0" * (-len(options) % 4)
        header = struct.pack(
            "!HHIIBBHHH",
            self.port if source_port is None else source_port,
            self.peer[1] if destination_port is None else destination_port,
            (self.nxt if seq is None else seq) & 0xFFFFFFFF,
            (self.rcv if ack is None else ack) & 0xFFFFFFFF if flags & ACK else 0,
            (20 + len(options)) // 4 << 4,
            flags,
            window,
            0,
            urgent,
        )
        self.send_transport(6, bytearray(header + options + payload), 16, wrong_by)

    def send_transport(self, protocol: int, transport: bytearray, checksum_at: int, wrong_by: int = 0) -> None:
        """An IP packet around `transport`, whose checksum is put at `checksum_at`."""
        pseudo = self.source + self.destination + struct.pack("!II", len(transport), protocol)
        checksum = (_ones_complement(pseudo + transport) + wrong_by) & 0xFFFF
        transport[checksum_at : checksum_at + 2] = checksum.to_bytes(2, "big")
        self._link.send(bytes(VNET) + self._ethernet + self._ip(protocol, len(transport)) + transport)

    def _ip(self, protocol: int, length: int) -> bytes:
        if self.family == socket.AF_INET6:
            return struct.pack("!IHBB", 6 << 28, length, protocol, 64) + self.source + self.destination
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, protocol, 0)
        header += self.source + self.destination
        return header[:10] + _ones_complement(header).to_bytes(2, "big") + header[12:]

    # -- from the engine

    def receive(self, seconds: float = PATIENCE) -> Segment | None:
        """The next segment of this conversation, or None when none comes in time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._link.settimeout(left)
            try:
                frame, sender = self._link.recvfrom(1 << 17)
            except TimeoutError:
                return None
            segment = None if sender[2] == PACKET_OUTGOING else self._parse(frame)
            if segment is not None:
                return segment
        return None

    def _parse(self, frame: bytes) -> Segment | None:
        """The segment in `frame`, when it belongs to this conversation."""
        if frame[VNET + 12 : VNET + 14] != self._ethertype:
            return None
        ip = frame[VNET + 14 :]
        if self.family == socket.AF_INET:
            protocol, addresses, transport = ip[9], ip[12:20], ip[20 : int.from_bytes(ip[2:4], "big")]
        else:
            protocol, addresses, transport = ip[6], ip[8:40], ip[40 : 40 + int.from_bytes(ip[4:6], "big")]
        if protocol != 6 or addresses != self.destination + self.source:
            return None
        source, destination, seq, ack, offset, flags, window = struct.unpack_from("!HHIIBBH", transport)
        if (source, destination) != (self.peer[1], self.port):
            return None
        at = offset >> 4 << 2
        cut = struct.unpack_from("=H", frame, 4)[0] if frame[1] else 0
        return Segment(flags, seq, ack, window, transport[20:at], transport[at:], cut)

    def expect(self, wanted: Callable[[Segment], bool], seconds: float = PATIENCE) -> Segment:
        """The next segment that `wanted` likes; others are passed over. Fails when none comes in time."""
        deadline = time.monotonic() + seconds
        seen = []
        while (segment := self.receive(max(deadline - time.monotonic(), 0.001))) is not None:
            if wanted(segment):
                return segment
            seen.append(segment)
        raise AssertionError(f"nothing of the kind came; seen: {seen}")

    def silence(self, seconds: float = 0.15) -> None:
        """Nothing comes for so long."""
        segment = self.receive(seconds)
        assert segment is None, segment

    def drop_all(self, seconds: float = 0.02) -> None:
        """Pass over what is on its way."""
        while self.receive(seconds) is not None:
            pass

    # -- conversations

    def open(self, options: bytes = b"", *, window: int = 65535) -> Segment:
        """SYN, and the SYN,ACK that answers it."""
        self.nxt = self.iss + 1
        self.send(SYN, self.iss, options=options, window=window)
        answer = self.expect(lambda segment: bool(segment.flags & SYN))
        assert (answer.flags, answer.ack) == (SYN | ACK, self.nxt & 0xFFFFFFFF)
        self.rcv = answer.seq + 1 & 0xFFFFFFFF
        return answer

    def connect(self, options: bytes = b"", *, window: int = 65535) -> Segment:
        """The whole handshake; returns the SYN,ACK."""
        answer = self.open(options, window=window)
        self.send(ACK, window=window)
        return answer

    def synchronize(self) -> None:
        """Come back when everything sent so far has been judged: a probe with an old number is answered behind it."""
        self.drop_all(0.001)
        self.send(ACK, self.nxt - 1)
        self.expect(lambda segment: not segment.payload)

    def say(self, payload: bytes) -> None:
        """The next bytes, which the engine must acknowledge, alone or with what it has of those behind them."""
        self.send(ACK | PSH, payload=payload)
        self.nxt = self.nxt + len(payload) & 0xFFFFFFFF
        self.expect(lambda segment: segment.ack - self.nxt & 0xFFFFFFFF < 1 << 31)

    def hear(self, count: int, *, window: int = 65535) -> bytes:
        """The next `count` bytes from the engine, acknowledged one segment at a time."""
        heard = b""
        while len(heard) < count:
            segment = self.expect(lambda segment: bool(segment.payload))
            if segment.seq == self.rcv:
                heard += segment.payload
                self.rcv = self.rcv + len(segment.payload) & 0xFFFFFFFF
            self.send(ACK, window=window)
        return heard


class Injector(RawGuest):
    """Speaks in the place of the guest's kernel on connection `sock`, once it has overheard the numbers (`listen`)."""

    def __init__(self, net: Namespace, sock: socket.socket) -> None:
        here, there = sock.getsockname(), sock.getpeername()
        super().__init__(net, (there[0], there[1]), address=here[0], port=here[1])

    def listen(self) -> None:
        """Take the numbers from the next acknowledgement of the engine."""
        segment = self.expect(lambda segment: segment.flags & (SYN | RST | ACK) == ACK)
        self.nxt, self.rcv = segment.ack, segment.seq + len(segment.payload) & 0xFFFFFFFF

    def close(self) -> None:
        self._link.close()


def mss_option(size: int) -> bytes:
    """RFC 9293 3.2."""
    return struct.pack("!BBH", 2, 4, size)


def scale_option(shift: int) -> bytes:
    """RFC 7323 2.2."""
    return bytes((1, 3, 3, shift))


def timestamp_option(value: int) -> bytes:
    """RFC 7323 3.2."""
    return struct.pack("!BBBBII", 1, 1, 8, 10, value, 0)


def option_kinds(options: bytes) -> dict[int, bytes]:
    """Kinds that a segment carries, each with its value; padding left out."""
    found = {}
    while options and options[0]:
        if options[0] == 1:
            options = options[1:]
            continue
        found[options[0]] = options[2 : options[1]]
        options = options[options[1] :]
    return found


def _ones_complement(data: bytes | bytearray) -> int:
    """The Internet checksum of `data` (RFC 1071)."""
    data = bytes(data) + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
