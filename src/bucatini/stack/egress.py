"""Frames towards the guest: headers written in front of payload that is already in place.

Each flow carries a template of its headers and their partial checksums, so a superframe costs one copy of 54 or 74
bytes and a handful of numbers. On a link that completes checksums only the pseudo-header's sum is written (virtio 1.2
section 5.1.6.2); elsewhere the whole is computed with the `sum_of` handed in. Nothing is sent here: `build_*` return
the length of the frame at `at`, virtio-net header included.

```text
at      +12        +26                 +46 / +66         +66 / +86
| vnet  | Ethernet | IPv4 20 / IPv6 40 | TCP 20 or UDP 8 | payload
```
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bucatini.base.address import Endpoint
from bucatini.flows.datagram_flow import DatagramFlow
from bucatini.flows.sequence import distance
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.wire.checksum import partial, pseudo_header
from bucatini.wire.ethernet import emit_ethernet
from bucatini.wire.ipv4 import emit_ipv4
from bucatini.wire.ipv6 import emit_ipv6
from bucatini.wire.octets import store16, store32, store_bytes
from bucatini.wire.tcp import emit_tcp, sack_option, syn_options
from bucatini.wire.udp import emit_udp

__all__ = ["TCP_PAYLOAD_V4", "TCP_PAYLOAD_V6", "UDP_PAYLOAD_V4", "UDP_PAYLOAD_V6", "Egress"]

VNET = 12
ETHERNET = 14
IP_AT = VNET + ETHERNET
TCP_PAYLOAD_V4 = IP_AT + 20 + 20
TCP_PAYLOAD_V6 = IP_AT + 40 + 20
UDP_PAYLOAD_V4 = IP_AT + 20 + 8
UDP_PAYLOAD_V6 = IP_AT + 40 + 8

NEEDS_CSUM = 1
GSO_TCPV4 = 1
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
SYN = 0x02
ACK = 0x10
HOP_LIMIT = 64
TCP = 6
UDP = 17
MAX_TEMPLATES = 1024
"""Pairs of addresses remembered; beyond, all are forgotten and made again as they are needed."""
DONT_FRAGMENT = 0x4000


class Egress:
    """Header builder of one link. `checksum_offload`: the link completes transport checksums."""

    __slots__ = ("buf", "checksum_offload", "gateway_mac", "guest_mac", "memory", "sum_of", "templates")

    def __init__(
        self,
        buf: memoryview,
        guest_mac: bytes,
        gateway_mac: bytes,
        checksum_offload: bool,
        sum_of: Callable[[memoryview, int], int],
    ) -> None:
        self.buf = buf
        self.memory = buf
        self.guest_mac = guest_mac
        self.gateway_mac = gateway_mac
        self.checksum_offload = checksum_offload
        self.templates: dict[tuple[bytes, bytes, int], tuple[bytes, int, int]] = {}
        self.sum_of = sum_of

    def prepare(self, flow: Any, guest: Endpoint, peer: Endpoint, protocol: int) -> None:
        """Give `flow` its template and sums: from `peer` to `guest`, protocol 6 or 17 (or 1, 58: no transport
        header).
        """
        key = (guest.address, peer.address, protocol)
        made = self.templates.get(key)
        if made is None:
            if len(self.templates) >= MAX_TEMPLATES:
                self.templates.clear()
            template, ip_sum = self._template(guest, peer, protocol)
            made = (template, ip_sum, pseudo_header(peer.address, guest.address, protocol, 0))
            self.templates[key] = made
        template, flow.ip_sum, flow.pseudo_sum = made
        if protocol in (TCP, UDP):
            # Conversations of the same two addresses differ in their ports only.
            at = ETHERNET + (20 if len(guest.address) == 4 else 40)
            ports = peer.port.to_bytes(2, "big") + guest.port.to_bytes(2, "big")
            template = template[:at] + ports + template[at + 4 :]
        flow.template = template

    def _template(self, guest: Endpoint, peer: Endpoint, protocol: int) -> tuple[bytes, int]:
        ip_length = 20 if len(guest.address) == 4 else 40
        transport = 20 if protocol == 6 else 8 if protocol == 17 else 0
        frame = bytearray(ETHERNET + ip_length + transport)
        view = memoryview(frame)
        emit_ethernet(view, 0, self.guest_mac, self.gateway_mac, 0x0800 if ip_length == 20 else 0x86DD)
        at = ETHERNET + ip_length
        if protocol == 6:
            emit_tcp(view, at, peer.port, guest.port, 0, 0, 0, 0)
        elif protocol == 17:
            emit_udp(view, at, peer.port, guest.port, 0, 0)
        if ip_length == 40:
            emit_ipv6(view, ETHERNET, 0, protocol, peer.address, guest.address, HOP_LIMIT)
            return bytes(frame), 0
        field = DONT_FRAGMENT if protocol == 6 else 0
        emit_ipv4(view, ETHERNET, 0, protocol, peer.address, guest.address, HOP_LIMIT, 0, field)
        view[ETHERNET + 10] = view[ETHERNET + 11] = 0
        return bytes(frame), partial(view[ETHERNET : ETHERNET + 20])

    def segment(self, flow: TcpFlow, at: int, flags: int, seq: int, length: int) -> int:
        """A TCP segment, or superframe, of `length` payload bytes in place. Returns the frame's length."""
        buf = self.buf
        template = flow.template
        store_bytes(buf, at + VNET, template)
        header = len(template)
        tcp_at = at + VNET + header - 20
        window = distance(flow.rcv_edge, flow.rcv_nxt)
        if window < 0:
            window = 0
        if not flags & SYN:
            window = window >> flow.rcv_scale
        if window > 0xFFFF:
            window = 0xFFFF
        store32(buf, tcp_at + 4, seq)
        if flags & 0x10:
            store32(buf, tcp_at + 8, flow.rcv_nxt)
        buf[tcp_at + 13] = flags
        store16(buf, tcp_at + 14, window)
        self._ip_length(at + IP_AT, header - ETHERNET + length, flow.ip_sum)
        if length > flow.mss:
            self._vnet(at, NEEDS_CSUM, GSO_TCPV4 if header == 54 else GSO_TCPV6, header, flow.mss, header - 20, 16)
            self._store_sum(tcp_at + 16, flow.pseudo_sum + 20 + length)
        else:
            self._checksum(at, tcp_at, 16, flow.pseudo_sum, 20 + length, header - 20)
        return VNET + header + length

    def syn(self, flow: TcpFlow, at: int, flags: int, mss: int) -> int:
        """Our SYN or SYN,ACK with its options: the maximum segment size of the link, and the scale when it is used."""
        # Our own SYN offers SACK; a SYN,ACK takes the guest's offer.
        options = syn_options(mss, flow.rcv_scale if flow.rcv_scale else -1, flow.sack or not flags & ACK)
        return self._with_options(flow, at, self.segment(flow, at, flags, flow.iss, 0), options)

    def acknowledgement(self, flow: TcpFlow, at: int, seq: int, blocks: list[tuple[int, int]]) -> int:
        """An ACK that also says which bytes ahead of a gap are kept (RFC 2018). Returns the frame's length."""
        return self._with_options(flow, at, self.segment(flow, at, ACK, seq, 0), sack_option(blocks))

    def _with_options(self, flow: TcpFlow, at: int, length: int, options: bytes) -> int:
        """Put options behind the header of a segment without payload."""
        store_bytes(self.buf, at + length, options)
        header = len(flow.template)
        tcp_at = at + VNET + header - 20
        self.buf[tcp_at + 12] = (20 + len(options)) << 2
        self._ip_length(at + IP_AT, header - ETHERNET + len(options), flow.ip_sum)
        self._checksum(at, tcp_at, 16, flow.pseudo_sum, 20 + len(options), header - 20)
        return length + len(options)

    def datagram(self, flow: DatagramFlow, at: int, length: int, cut: int) -> int:
        """A UDP datagram of `length` bytes already in place; `cut` above 0: a train of datagrams of that size each."""
        buf = self.buf
        template = flow.template
        store_bytes(buf, at + VNET, template)
        header = len(template)
        udp_at = at + VNET + header - 8
        store16(buf, udp_at + 4, 8 + length)
        self._ip_length(at + IP_AT, header - ETHERNET + length, flow.ip_sum)
        if 0 < cut < length:
            self._vnet(at, NEEDS_CSUM, GSO_UDP_L4, header, cut, header - 8, 6)
            self._store_sum(udp_at + 6, flow.pseudo_sum + 8 + length)
        else:
            self._checksum(at, udp_at, 6, flow.pseudo_sum, 8 + length, header - 8)
        return VNET + header + length

    def plain(self, at: int, frame: bytes) -> int:
        """A complete Ethernet frame made elsewhere, with a virtio-net header that asks for nothing."""
        self._vnet(at, 0, 0, 0, 0, 0, 0)
        store_bytes(self.buf, at + VNET, frame)
        return VNET + len(frame)

    def _ip_length(self, at: int, length: int, ip_sum: int) -> None:
        """`length` is from the IP header on, bytes. IPv6 counts without its header (RFC 8200 section 3)."""
        if self.buf[at] >> 4 == 4:
            store16(self.buf, at + 2, length)
            total = ip_sum + length
            total = (total & 0xFFFF) + (total >> 16)
            total = (total & 0xFFFF) + (total >> 16)
            store16(self.buf, at + 10, total ^ 0xFFFF)
        else:
            store16(self.buf, at + 4, length - 40)

    def _checksum(self, at: int, l4_at: int, field: int, pseudo: int, length: int, start: int) -> None:
        if self.checksum_offload:
            self._vnet(at, NEEDS_CSUM, 0, 0, 0, start, field)
            self._store_sum(l4_at + field, pseudo + length)
            return
        self._vnet(at, 0, 0, 0, 0, 0, 0)
        store16(self.buf, l4_at + field, 0)
        total = self.sum_of(self.memory[l4_at : l4_at + length], pseudo + length)
        total ^= 0xFFFF
        store16(self.buf, l4_at + field, total if total or field != 6 else 0xFFFF)

    def _store_sum(self, at: int, total: int) -> None:
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        store16(self.buf, at, total)

    def _vnet(self, at: int, flags: int, gso: int, headers: int, size: int, start: int, offset: int) -> None:
        buf = self.buf
        buf[at] = flags
        buf[at + 1] = gso
        buf[at + 2] = headers & 0xFF
        buf[at + 3] = headers >> 8
        buf[at + 4] = size & 0xFF
        buf[at + 5] = size >> 8
        buf[at + 6] = start & 0xFF
        buf[at + 7] = start >> 8
        buf[at + 8] = offset
        buf[at + 9] = buf[at + 10] = buf[at + 11] = 0
