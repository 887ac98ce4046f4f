"""A frame of one guest made fit for the link of another (VIRTIO 1.2 section 5.1.6).

What a guest's virtio-net header says about checksums and superframes is true of its own link and written by itself. So
nothing of it is handed on but the size of a superframe's segments: the header is made anew from the packet, and what
the other link cannot do (`Offloads`) is done here. Checksums of TCP and UDP are always made anew, for they
may have been left undone in more than one way; they were verified before if they were not.

Does not: decrement hop limits (guests of one segment are neighbours, however their frames are addressed), or fragment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bucatini.base.reasons import DropReason
from bucatini.engine.layout import TRANSMIT_AT
from bucatini.stack.classify import TCP, UDP, Packet
from bucatini.wire.checksum import finish, finish_udp, internet, partial, pseudo_header
from bucatini.wire.virtio_net import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    HEADER_LENGTH,
    NEEDS_CSUM,
    VirtioNetHeader,
)

if TYPE_CHECKING:
    from bucatini.engine.build import Translator

__all__ = ["hand_over"]

ETHERNET = 14
SMALLEST = 256
"""Bytes of a superframe's segments: smaller ones would make a multitude of frames of one."""
EXCEEDS_MTU = int(DropReason.EXCEEDS_MTU)
UDP_HEADER = int(DropReason.UDP_HEADER)
OFFLOAD = int(DropReason.OFFLOAD)
CWR, PSH, FIN = 0x80, 0x08, 0x01


def hand_over(packet: Packet, to: Translator, destination_mac: bytes, source_mac: bytes) -> int:
    """Send the packet to the guest of `to`. 0 or a `DropReason`."""
    frame = bytearray(packet.copy(packet.ethernet_at, packet.end - packet.ethernet_at))
    frame[:12] = destination_mac + source_mac
    mtu = to.ingress.settings.mtu
    kind = packet.vnet.gso_type & ~GSO_ECN if packet.header else GSO_NONE
    if packet.kind not in (TCP, UDP):
        return EXCEEDS_MTU if len(frame) - ETHERNET > mtu else _send(to, bytes(HEADER_LENGTH), frame)
    if packet.kind == UDP and packet.udp.end != packet.ip.end:
        return UDP_HEADER  # bytes behind the datagram, which no sum covers
    start = packet.ip.payload_at - packet.ethernet_at
    if kind == GSO_NONE:
        if len(frame) - ETHERNET > mtu:
            return EXCEEDS_MTU
        return _send_whole(to, packet, frame, start)
    return _send_train(to, packet, frame, start, kind, mtu)


def _send_whole(to: Translator, packet: Packet, frame: bytearray, start: int) -> int:
    if to.egress.checksum_offload:
        field = _seed(packet, frame, start)
        return _send(to, _header(NEEDS_CSUM, GSO_NONE, 0, 0, start, field), frame)
    _complete(packet, frame, start)
    return _send(to, bytes(HEADER_LENGTH), frame)


def _send_train(to: Translator, packet: Packet, frame: bytearray, start: int, kind: int, mtu: int) -> int:
    """A superframe: whole where the link takes such ones, else cut."""
    four, settings, size = packet.ip.version == 4, to.ingress.settings, packet.vnet.gso_size
    if packet.kind == TCP:
        fits = kind == (GSO_TCPV4 if four else GSO_TCPV6)
        taken = settings.tso4 if four else settings.tso6
        headers = packet.tcp.payload_at - packet.ethernet_at
    else:
        fits = kind == GSO_UDP_L4
        taken = to.sink.datagrams.train4 if four else to.sink.datagrams.train6
        headers = start + 8
    if not fits or not SMALLEST <= size <= mtu - (headers - ETHERNET):
        return OFFLOAD
    if taken and to.egress.checksum_offload:
        field = _seed(packet, frame, start)
        return _send(to, _header(NEEDS_CSUM, kind, headers, size, start, field), frame)
    for at in range(headers, len(frame), size):
        piece = frame[:headers] + frame[at : at + size]
        _renumber(packet, piece, start, at - headers, is_last=at + size >= len(frame))
        _send_whole(to, packet, piece, start)
    return 0


def _renumber(packet: Packet, piece: bytearray, start: int, offset: int, *, is_last: bool) -> None:
    """Lengths and, of TCP, the place in the stream, of a piece that begins `offset` bytes behind the first."""
    if packet.ip.version == 4:
        piece[16:18] = (len(piece) - ETHERNET).to_bytes(2, "big")
        piece[24:26] = bytes(2)
        piece[24:26] = internet(piece[ETHERNET:start]).to_bytes(2, "big")
    else:
        piece[18:20] = (len(piece) - ETHERNET - 40).to_bytes(2, "big")
    if packet.kind == UDP:
        piece[start + 4 : start + 6] = (len(piece) - start).to_bytes(2, "big")
        return
    sequence = int.from_bytes(piece[start + 4 : start + 8], "big") + offset & 0xFFFFFFFF
    piece[start + 4 : start + 8] = sequence.to_bytes(4, "big")
    if offset:
        piece[start + 13] &= ~CWR & 0xFF
    if not is_last:
        piece[start + 13] &= ~(PSH | FIN) & 0xFF


def _seed(packet: Packet, frame: bytearray, start: int) -> int:
    """The sum of the pseudo-header into the checksum field, whose place behind `start` is returned."""
    field = 16 if packet.kind == TCP else 6
    protocol = 6 if packet.kind == TCP else 17
    total = pseudo_header(packet.source(), packet.destination(), protocol, len(frame) - start)
    frame[start + field : start + field + 2] = total.to_bytes(2, "big")
    return field


def _complete(packet: Packet, frame: bytearray, start: int) -> None:
    field = _seed(packet, frame, start)
    total = partial(frame[start:])
    done = finish(total) if packet.kind == TCP else finish_udp(total)
    frame[start + field : start + field + 2] = done.to_bytes(2, "big")


def _header(flags: int, kind: int, headers: int, size: int, start: int, field: int) -> bytes:
    made = VirtioNetHeader()
    made.flags, made.gso_type, made.hdr_len, made.gso_size = flags, kind, headers, size
    made.csum_start, made.csum_offset = start, field
    header = bytearray(HEADER_LENGTH)
    made.emit(memoryview(header), 0)
    return bytes(header)


def _send(to: Translator, header: bytes, frame: bytearray) -> int:
    whole = header + frame
    to.arena.view[TRANSMIT_AT : TRANSMIT_AT + len(whole)] = whole
    to.sink.transmit(TRANSMIT_AT, len(whole))
    return 0
