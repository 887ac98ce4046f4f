"""One frame of the guest, taken apart once: Ethernet, IP, transport, each checked before the next is looked at.

`Packet` is made once and filled for every frame. `parse` returns 0 and sets `kind`, or returns the `DropReason`;
nothing raises, and after a 0 every offset lies inside the frame. Only what is true of every frame is judged here:
lengths, checksums, addresses that no packet may carry. Who may talk to whom is policy's, what answers is the stack's
business.

Transport checksums are verified unless the virtio-net header says that they are not made yet (the frame never left
this machine's memory) or were verified by the link. A later fragment has no transport header: `kind` is FRAGMENT and
the caller reassembles first.
"""

from __future__ import annotations

from collections.abc import Callable

from bucatini.base.reasons import DropReason
from bucatini.wire.checksum import partial, transport_ok
from bucatini.wire.icmp import IcmpView
from bucatini.wire.ip import IpView
from bucatini.wire.octets import load16, load32
from bucatini.wire.tcp import TcpOptions, TcpView
from bucatini.wire.udp import UdpView
from bucatini.wire.virtio_net import VirtioNetHeader

__all__ = ["ARP", "FRAGMENT", "ICMP", "IGMP", "LINK_HEADER", "TCP", "UDP", "Packet"]

ARP = 1
TCP = 2
UDP = 3
ICMP = 4
FRAGMENT = 5
IGMP = 6

LINK_HEADER = 12
"""Bytes before the Ethernet header: virtio_net_hdr."""
ETHERNET = 14
CHECKSUM_KNOWN = 3
"""NEEDS_CSUM or DATA_VALID."""

TRUNCATED = int(DropReason.TRUNCATED)
FOREIGN_MAC = int(DropReason.FOREIGN_MAC)
VLAN = int(DropReason.VLAN)
ETHERTYPE = int(DropReason.ETHERTYPE)
FAMILY_OFF = int(DropReason.FAMILY_OFF)
SOURCE_ROUTE = int(DropReason.SOURCE_ROUTE)
HOP_LIMIT = int(DropReason.HOP_LIMIT)
SOURCE_LOOPBACK = int(DropReason.SOURCE_LOOPBACK)
SOURCE_MULTICAST = int(DropReason.SOURCE_MULTICAST)
DESTINATION_UNUSABLE = int(DropReason.DESTINATION_UNUSABLE)
PROTOCOL = int(DropReason.PROTOCOL)
L4_CHECKSUM = int(DropReason.L4_CHECKSUM)
TCP_HEADER = int(DropReason.TCP_HEADER)
UDP_HEADER = int(DropReason.UDP_HEADER)
ICMP_HEADER = int(DropReason.ICMP_HEADER)

IP_REASONS = (
    0,
    int(DropReason.IP_LENGTH),
    int(DropReason.IP_HEADER),
    int(DropReason.IP_HEADER),
    int(DropReason.IP_CHECKSUM),
    int(DropReason.IP_LENGTH),
    int(DropReason.IP_OPTION),
)
"""By the number that `IpView.parse` returns."""


class Packet:
    """Views of the frame parsed last. `buf` is the arena all frames are in; positions are offsets in it."""

    __slots__ = (
        "buf",
        "copy",
        "end",
        "ethernet_at",
        "gateway_mac",
        "header",
        "icmp",
        "ip",
        "ipv4",
        "ipv6",
        "kind",
        "mac_high",
        "mac_low",
        "memory",
        "options",
        "sum_of",
        "tcp",
        "udp",
        "vnet",
    )

    def __init__(
        self,
        buf: memoryview,
        gateway_mac: bytes,
        sum_of: Callable[[memoryview], int],
        ipv4: bool = True,
        ipv6: bool = True,
        copy: Callable[[int, int], bytes] | None = None,
        header: int = LINK_HEADER,
    ) -> None:
        """`sum_of` is the ones' complement sum to use, see `wire.checksum`; the booleans say which families the guest
        has. `copy(at, length)` gives bytes of `buf`, where there is a faster way than slicing it. `header` is what the
        link puts before Ethernet: `LINK_HEADER` bytes, or 0: every frame is complete then.
        """
        self.buf = buf
        self.header = header
        self.memory = buf
        self.copy = copy or (lambda at, length: bytes(buf[at : at + length]))
        self.gateway_mac = gateway_mac
        self.mac_high = gateway_mac[0] << 8 | gateway_mac[1]
        self.mac_low = int.from_bytes(gateway_mac[2:], "big")
        self.sum_of = sum_of
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.vnet = VirtioNetHeader()
        self.ip = IpView()
        self.tcp = TcpView()
        self.options = TcpOptions()
        self.udp = UdpView()
        self.icmp = IcmpView()
        self.ethernet_at = 0
        self.end = 0
        self.kind = 0

    def parse(self, at: int, length: int) -> int:
        """Take apart the frame of `length` bytes at `at`, which begins with the link's header."""
        buf = self.buf
        self.end = at + length
        self.ethernet_at = at + self.header
        if length < self.header + ETHERNET:
            return TRUNCATED
        if self.header:
            self.vnet.parse(buf, at)
        if not buf[self.ethernet_at] & 1 and not self._is_for_us(self.ethernet_at):
            return FOREIGN_MAC
        return self.inside()

    def inside(self) -> int:
        """What is behind the MAC addresses, whoever the frame is for."""
        ethertype = load16(self.buf, self.ethernet_at + 12)
        if ethertype == 0x0800:
            return self._ip(4) if self.ipv4 else FAMILY_OFF
        if ethertype == 0x86DD:
            return self._ip(6) if self.ipv6 else FAMILY_OFF
        if ethertype == 0x0806:
            self.kind = ARP
            return 0 if self.ipv4 else FAMILY_OFF
        return VLAN if ethertype == 0x8100 or ethertype == 0x88A8 else ETHERTYPE

    def _is_for_us(self, at: int) -> bool:
        return load32(self.buf, at + 2) == self.mac_low and load16(self.buf, at) == self.mac_high

    def _ip(self, version: int) -> int:
        ip = self.ip
        bad = ip.parse(self.buf, self.ethernet_at + ETHERNET, self.end)
        if bad:
            return IP_REASONS[bad]
        if ip.version != version:
            return int(DropReason.IP_HEADER)
        self.end = ip.end
        if ip.source_route:
            return SOURCE_ROUTE
        if ip.hop_limit == 0:
            return HOP_LIMIT
        bad = self._ipv4_addresses() if version == 4 else self._ipv6_addresses()
        if bad:
            return bad
        if ip.fragment:
            self.kind = FRAGMENT
            return 0
        return self.transport()

    def _ipv4_addresses(self) -> int:
        """Loopback, multicast and reserved sources are never right (RFC 1122 3.2.1.3); neither is a loopback
        destination.
        """
        source = self.buf[self.ip.source_at]
        destination = self.buf[self.ip.destination_at]
        if source == 127:
            return SOURCE_LOOPBACK
        if source >= 224:
            return SOURCE_MULTICAST
        if destination == 127 or destination == 0:
            return DESTINATION_UNUSABLE
        return 0

    def _ipv6_addresses(self) -> int:
        """RFC 4291 2.5.2, 2.5.3, 2.7: `::1` on a wire, and multicast sources, are wrong."""
        buf = self.buf
        if buf[self.ip.source_at] == 0xFF:
            return SOURCE_MULTICAST
        if buf[self.ip.source_at] == 0 and self._tiny(self.ip.source_at) == 1:
            return SOURCE_LOOPBACK
        if buf[self.ip.destination_at] == 0 and self._tiny(self.ip.destination_at) >= 0:
            return DESTINATION_UNUSABLE
        return 0

    def _tiny(self, at: int) -> int:
        """0 for `::`, 1 for `::1`, -1 for anything else."""
        for index in range(15):
            if self.buf[at + index]:
                return -1
        return self.buf[at + 15] if self.buf[at + 15] <= 1 else -1

    def transport(self) -> int:
        """The transport header of the IP packet in `ip`."""
        ip = self.ip
        protocol = ip.protocol
        if protocol == 6:
            self.kind = TCP
            if not self.tcp.parse(self.buf, ip.payload_at, ip.end):
                return TCP_HEADER
            end = ip.end
        elif protocol == 17:
            self.kind = UDP
            if not self.udp.parse(self.buf, ip.payload_at, ip.end):
                return UDP_HEADER
            end = self.udp.end
        elif (protocol == 1 and ip.version == 4) or (protocol == 58 and ip.version == 6):
            self.kind = ICMP
            if not self.icmp.parse(self.buf, ip.payload_at, ip.end):
                return ICMP_HEADER
            end = ip.end
        elif protocol == 2 and ip.version == 4:
            self.kind = IGMP  # its checksum is its reader's business
            return 0
        else:
            return PROTOCOL
        if not self.vnet.flags & CHECKSUM_KNOWN and not self._sum_is_right(end) and not self._sum_is_begun(end):
            return L4_CHECKSUM
        if protocol == 6 and self.tcp.flags & 2:
            self.options.parse(self.buf, self.tcp.options_at, self.tcp.payload_at)
        return 0

    def _sum_is_right(self, end: int) -> bool:
        ip = self.ip
        return transport_ok(
            self.memory,
            ip.source_at,
            ip.destination_at,
            ip.address_length,
            ip.protocol,
            ip.payload_at,
            end,
            self.sum_of,
        )

    def _sum_is_begun(self, end: int) -> bool:
        """Whether the checksum field holds the pseudo-header's sum only, on a link that cannot say that the rest is to
        be done: libkrun and others strip the header that said so. No other checksum is ever taken for right.
        """
        ip = self.ip
        if self.header or ip.protocol not in (6, 17):
            return False
        addresses = self.copy(ip.source_at, 2 * ip.address_length)
        begun = partial(addresses, end - ip.payload_at + ip.protocol)
        return load16(self.buf, ip.payload_at + (16 if ip.protocol == 6 else 6)) == begun

    def source_mac(self) -> bytes:
        """Who sent the frame, 6 bytes."""
        return self.copy(self.ethernet_at + 6, 6)

    def source(self) -> bytes:
        """Packed source address."""
        return self.copy(self.ip.source_at, self.ip.address_length)

    def destination(self) -> bytes:
        """Packed destination address."""
        return self.copy(self.ip.destination_at, self.ip.address_length)

    def key(self) -> bytes:
        """The flow's key: addresses and ports (or the ICMP identifier) as they stand in the packet."""
        ip = self.ip
        addresses = self.copy(ip.source_at, 2 * ip.address_length)
        if self.kind == ICMP:
            return addresses + self.copy(ip.payload_at + 4, 2)
        return addresses + self.copy(ip.payload_at, 4)
