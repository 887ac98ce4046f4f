"""The frame as the isolation filter sees it: who it says it is from, what it claims about the link, where it goes.

`Frame` is made once over the memory that frames live in, and filled for each. Nothing is copied and nothing raises:
what is wrong is `bad`, a drop reason, and the MAC address of the sender is known even then. After `parse`, or `adopt`
where the stack has taken the IP packet apart already, every offset lies inside the frame.

The filter has few questions, so a frame is sorted by *topic*. PLAIN is what means nothing to the link itself: payload
between two addresses. All else are claims, and a claim is only believed from whose it is: ARP and neighbour discovery
say who is at which MAC address, DHCP requests say whose lease is meant, and some messages only a router or a server has
any business to send. `honest` says that each hardware address inside is the one the frame itself was sent from.

Strict is the default: ARP only for Ethernet and IPv4, requests and replies; IPv4 without options (of the IGMP reports'
router alert there is no way around, RFC 2236 section 2); IPv6 without routing headers and home addresses (RFC 6275 6.3
lets a receiver believe another source); neighbour discovery by RFC 4861 6.1 and 7.1, and never in fragments (RFC 6980).
`faithful` looks at as little as Softnet 0.19.0 does: lengths.

A later fragment has no transport header. It is PLAIN, with ports 0, and judged by its addresses: what it belongs to was
judged in the first fragment, which must hold all headers (RFC 7112; 20 bytes of TCP, RFC 3128), and which no other may
change. Fragments that overlap further on are the receiver's to refuse (RFC 5722).

Does not verify checksums of transports, look at tunnels' insides, or know whom a MAC or IP address belongs to.
"""

from __future__ import annotations

from collections.abc import Callable

from bucatini.base.reasons import DropReason
from bucatini.wire.ip import IpView
from bucatini.wire.octets import load16, load32

__all__ = [
    "ARP",
    "DHCPV6_REQUEST",
    "DHCP_REQUEST",
    "IPV4",
    "IPV6",
    "NEIGHBOR",
    "NO_MAC",
    "PLAIN",
    "QUERY",
    "REDIRECT",
    "REPORT",
    "ROUTER",
    "SERVER",
    "UNKNOWN_ICMP",
    "Frame",
]

ARP = 1
IPV4 = 4
IPV6 = 6
"""Kinds; 0 is none of them. ARP is a topic as well."""

PLAIN = 0
DHCP_REQUEST = 2
"""To a DHCP server's port."""
DHCPV6_REQUEST = 3
SERVER = 4
"""From the port of a DHCP or DHCPv6 server, to the port of a client, or relayed."""
NEIGHBOR = 5
"""Router and neighbour solicitation, neighbour advertisement."""
ROUTER = 6
"""Router advertisement, ICMPv4 router discovery, router renumbering."""
REDIRECT = 7
QUERY = 8
"""What multicast routers say: IGMP and MLD queries, multicast router discovery, DVMRP, PIM version 1."""
REPORT = 9
"""What members of groups say: IGMP and MLD reports, leaving."""
UNKNOWN_ICMP = 10
"""ICMPv6 that is neither an error, echo, nor named above."""

NO_MAC = -1
ETHERNET = 14
ROUTER_ALERT = 0x94040000
"""RFC 2113: the option, its length and the value 0."""
HOME_ADDRESS = 201

TRUNCATED = int(DropReason.TRUNCATED)
VLAN = int(DropReason.VLAN)
ETHERTYPE = int(DropReason.ETHERTYPE)
FAMILY_OFF = int(DropReason.FAMILY_OFF)
IP_HEADER = int(DropReason.IP_HEADER)
IP_LENGTH = int(DropReason.IP_LENGTH)
IP_OPTION = int(DropReason.IP_OPTION)
SOURCE_ROUTE = int(DropReason.SOURCE_ROUTE)
OPTION_REFUSED = int(DropReason.OPTION_REFUSED)
TCP_HEADER = int(DropReason.TCP_HEADER)
UDP_HEADER = int(DropReason.UDP_HEADER)
ICMP_HEADER = int(DropReason.ICMP_HEADER)
FRAGMENT_OVERLAP = int(DropReason.FRAGMENT_OVERLAP)
ARP_MALFORMED = int(DropReason.ARP_MALFORMED)
NDP_MALFORMED = int(DropReason.NDP_MALFORMED)

IP_REASONS = (0, TRUNCATED, IP_HEADER, IP_HEADER, int(DropReason.IP_CHECKSUM), IP_LENGTH, IP_OPTION)
"""By the number that `IpView.parse` returns."""


class Frame:
    """Views of the frame parsed last. `buf` is the memory all frames are in; positions are offsets in it."""

    __slots__ = (
        "address",
        "at",
        "bad",
        "buf",
        "copy",
        "destination_port",
        "end",
        "faithful",
        "honest",
        "ip",
        "kind",
        "link_option",
        "protocol",
        "source_high",
        "source_low",
        "source_port",
        "topic",
        "udp_end",
    )

    def __init__(
        self,
        buf: memoryview,
        faithful: bool = False,
        ip: IpView | None = None,
        copy: Callable[[int, int], bytes] | None = None,
    ) -> None:
        """`ip`: the view of whoever parses before and calls `adopt`. `copy(at, length)` gives bytes of `buf`, where
        there is a faster way than slicing it.
        """
        self.buf = buf
        self.faithful = faithful
        self.ip = ip or IpView()
        self.copy = copy or (lambda at, length: bytes(buf[at : at + length]))
        self.at = 0
        """Of the Ethernet header."""
        self.end = 0
        self.bad = TRUNCATED
        """0, or why this frame is nothing to decide about."""
        self.kind = 0
        self.topic = PLAIN
        self.source_high = NO_MAC
        self.source_low = NO_MAC
        """First 16 and last 32 bits of the source MAC; NO_MAC when the frame ends before them."""
        self.address = 0
        """IPv4 source, or sender of ARP, as a number."""
        self.protocol = 0
        self.source_port = 0
        self.destination_port = 0
        """Of TCP and UDP, else 0."""
        self.udp_end = 0
        """Where the datagram ends by its own length field; 0 when it is none, malformed, or in fragments."""
        self.honest = False
        self.link_option = False
        """Whether a neighbour discovery message has a link-layer address option."""

    def parse(self, at: int, length: int) -> None:
        """Look at the frame of `length` bytes that begins with its destination MAC at `at`."""
        if self._ethernet(at, at + length):
            if self.kind == 1:
                self.bad = self._any_arp() if self.faithful else self._arp()
            elif self.faithful:
                self.bad = FAMILY_OFF if self.kind == 6 else self._any_ipv4()
            else:
                self.bad = self._ip()

    def adopt(self, at: int, end: int) -> None:
        """The same for the frame at `at..end` whose packet was parsed into `ip` already, with the EtherType's version
        and without error. Strict.
        """
        if self._ethernet(at, end):
            self.bad = self._arp() if self.kind == 1 else self._inside()

    def datagram(self) -> bytes:
        """Payload of the UDP datagram, by its own length field; `udp_end` says that there is one."""
        at = self.ip.payload_at + 8
        return self.copy(at, self.udp_end - at)

    def _ethernet(self, at: int, end: int) -> bool:
        """Whether this is ARP or IP at all.

        Here, where every frame passes, numbers stand bare and bytes are put together in place: compiled, a name is
        looked up, and a call carries the whole view of the buffer. 32 bits go through a variable: a byte is a C int.
        """
        buf = self.buf
        self.at = at
        self.end = end
        self.kind = 0
        self.topic = 0  # PLAIN
        self.address = 0
        self.protocol = 0
        self.source_port = 0
        self.destination_port = 0
        self.udp_end = 0
        self.honest = False
        if end - at < 14:
            self.source_high = NO_MAC
            self.source_low = NO_MAC
            self.bad = TRUNCATED
            return False
        self.source_high = buf[at + 6] << 8 | buf[at + 7]
        high = buf[at + 8] << 8 | buf[at + 9]
        self.source_low = high << 16 | buf[at + 10] << 8 | buf[at + 11]
        ethertype = buf[at + 12] << 8 | buf[at + 13]
        if ethertype == 0x0800:
            self.kind = 4
        elif ethertype == 0x86DD:
            self.kind = 6
        elif ethertype == 0x0806:
            self.kind = ARP
        else:
            self.bad = VLAN if ethertype == 0x8100 or ethertype == 0x88A8 or ethertype == 0x9100 else ETHERTYPE
            return False
        return True

    def _ip(self) -> int:
        ip = self.ip
        bad = ip.parse(self.buf, self.at + 14, self.end)
        if bad:
            return IP_REASONS[bad]
        return self._inside() if ip.version == self.kind else IP_HEADER

    def _inside(self) -> int:
        """What the packet in `ip` holds."""
        buf, ip = self.buf, self.ip
        self.protocol = ip.protocol
        if ip.source_route:
            return SOURCE_ROUTE
        if ip.version == 4:
            at = ip.source_at
            high = buf[at] << 8 | buf[at + 1]
            self.address = high << 16 | buf[at + 2] << 8 | buf[at + 3]
            if ip.payload_at - ip.header_at > 20 and not self._is_router_alert():
                return OPTION_REFUSED
        elif ip.extension_at > ip.header_at + 6:
            bad = self._extensions()
            if bad:
                return bad
        if ip.fragment_offset:
            # RFC 3128: what lies within the header of TCP would change what was judged in the first fragment.
            return FRAGMENT_OVERLAP if ip.protocol == 6 and ip.fragment_offset < 20 else 0
        protocol = ip.protocol
        if protocol == 6:
            return self._tcp()
        if protocol == 17:
            return self._udp()
        if protocol == 58 and ip.version == 6:
            return self._icmpv6()
        if protocol == 1 and ip.version == 4:
            return self._icmp()
        if protocol == 2 and ip.version == 4:
            return self._igmp()
        return 0

    def _is_router_alert(self) -> bool:
        """Whether these IPv4 options are the one that IGMP needs, in IGMP."""
        ip = self.ip
        if ip.protocol != 2 or ip.payload_at - ip.header_at != 24:
            return False
        return load32(self.buf, ip.header_at + 20) == ROUTER_ALERT

    def _extensions(self) -> int:
        """The chain in front of an upper protocol once more; `wire.ipv6` has found its lengths good."""
        buf, ip = self.buf, self.ip
        kind, at = buf[ip.header_at + 6], ip.header_at + 40
        while at < ip.payload_at:
            if kind == 43:  # of whatever type: RFC 5095; RFC 8754 5.1 keeps segments out at the edge
                return SOURCE_ROUTE
            length = 8 if kind == 44 else (buf[at + 1] + 2) << 2 if kind == 51 else (buf[at + 1] + 1) << 3
            if kind == 60 and self._has_home_address(at + 2, at + length):
                return OPTION_REFUSED
            kind = buf[at]
            at += length
        return 0

    def _has_home_address(self, at: int, end: int) -> bool:
        """Whether the destination options at `at..end` name another source (RFC 6275 6.3), or cannot be read."""
        buf = self.buf
        while at < end:
            if buf[at] == 0:  # Pad1, RFC 8200 4.2
                at += 1
                continue
            if buf[at] == HOME_ADDRESS or at + 1 >= end:
                return True
            at += 2 + buf[at + 1]
        return at > end

    def _tcp(self) -> int:
        buf, at = self.buf, self.ip.payload_at
        if self.ip.end - at < 20:
            return TCP_HEADER
        self.source_port = buf[at] << 8 | buf[at + 1]
        self.destination_port = buf[at + 2] << 8 | buf[at + 3]
        return 0

    def _udp(self) -> int:
        ip = self.ip
        if not self._ports():
            return UDP_HEADER
        source, destination = self.source_port, self.destination_port
        if ip.version == 4:
            if source == 67 or destination == 68:
                self.topic = SERVER
            elif destination == 67:
                self.topic = DHCP_REQUEST
                self.honest = self._is_own_request(ip.payload_at + 8)
        elif source == 547 or destination == 546:
            self.topic = SERVER
        elif destination == 547:
            relayed = ip.end - ip.payload_at > 8 and 12 <= self.buf[ip.payload_at + 8] <= 13  # RFC 8415 7.3
            self.topic = SERVER if relayed else DHCPV6_REQUEST
        return 0

    def _ports(self) -> bool:
        """Those of UDP; false when its header is cut off, or its length is wrong for what is no fragment."""
        buf, ip = self.buf, self.ip
        at, room = ip.payload_at, ip.end - ip.payload_at
        if room < 8:
            return False
        length = load16(buf, at + 4)
        if length < 8 or (length > room and not ip.fragment):
            return False
        self.source_port = load16(buf, at)
        self.destination_port = load16(buf, at + 2)
        if not ip.fragment:
            self.udp_end = at + length
        return True

    def _is_own_request(self, at: int) -> bool:
        """Whether the DHCP request at `at` is its sender's own: whole, unrelayed, `chaddr` the source MAC."""
        buf = self.buf
        if self.udp_end - at < 44 or load32(buf, at + 24) != 0:
            return False
        if buf[at] != 1 or buf[at + 1] != 1 or buf[at + 2] != 6:
            return False
        return self._is_sender(at + 28)

    def _is_sender(self, at: int) -> bool:
        """Whether the MAC address at `at` is the frame's source."""
        return load32(self.buf, at + 2) == self.source_low and load16(self.buf, at) == self.source_high

    def _icmp(self) -> int:
        ip = self.ip
        if ip.end - ip.payload_at < 8:
            return ICMP_HEADER
        kind = self.buf[ip.payload_at]
        if kind == 5:
            self.topic = REDIRECT
        elif kind == 9:  # RFC 1256
            self.topic = ROUTER
        return 0

    def _igmp(self) -> int:
        ip = self.ip
        if ip.end - ip.payload_at < 8:
            return ICMP_HEADER
        kind = self.buf[ip.payload_at]
        # RFC 2236 and RFC 3376 section 4: version 1, 2, 3 reports, leave. The rest of the registry are routers' words.
        self.topic = REPORT if kind == 0x12 or kind == 0x16 or kind == 0x17 or kind == 0x22 else QUERY
        return 0

    def _icmpv6(self) -> int:
        ip = self.ip
        if ip.end - ip.payload_at < 8:
            return ICMP_HEADER
        kind = self.buf[ip.payload_at]
        if kind <= 129:  # errors and echo
            return 0
        if kind == 133 or kind == 135 or kind == 136:
            self.topic = NEIGHBOR
            return self._neighbor(kind)
        if kind == 131 or kind == 132 or kind == 143:
            self.topic = REPORT
        elif kind == 134 or kind == 138:
            self.topic = ROUTER
        elif kind == 137:
            self.topic = REDIRECT
        elif kind == 130 or kind == 151 or kind == 153:  # RFC 4286
            self.topic = QUERY
        else:
            self.topic = UNKNOWN_ICMP
        return 0

    def _neighbor(self, kind: int) -> int:
        """The checks of RFC 4861 6.1.1, 7.1.1 and 7.1.2 that need no address of ours, and the options."""
        buf, ip = self.buf, self.ip
        at = ip.payload_at
        options = at + (8 if kind == 133 else 24)
        if ip.hop_limit != 255 or buf[at + 1] != 0 or ip.fragment_header_at >= 0 or ip.end < options:
            return NDP_MALFORMED
        if kind != 133 and buf[at + 8] == 0xFF:
            return NDP_MALFORMED
        self.honest = True
        self.link_option = False
        while options < ip.end:
            length = buf[options + 1] << 3 if options + 1 < ip.end else 0
            if length == 0 or length > ip.end - options:
                return NDP_MALFORMED
            if buf[options] == 1 or buf[options] == 2:
                self.link_option = True
                if length != 8 or not self._is_sender(options + 2):
                    self.honest = False
            options += length
        return 0

    def _arp(self) -> int:
        """Exactly Ethernet and IPv4, a request or a reply."""
        buf, at = self.buf, self.at + ETHERNET
        if self.end - at < 28 or load32(buf, at) != 0x00010800 or load16(buf, at + 4) != 0x0604:
            return ARP_MALFORMED
        self.protocol = load16(buf, at + 6)
        if self.protocol != 1 and self.protocol != 2:
            return ARP_MALFORMED
        self.topic = ARP
        self.address = load32(buf, at + 14)
        self.honest = self._is_sender(at + 8)
        return 0

    # -- as Softnet 0.19.0 looks

    def _any_arp(self) -> int:
        """Only as long as its own lengths say. `honest` also needs six bytes of hardware address. An IPv4 sender of
        other than four bytes made Softnet panic; here it is malformed.
        """
        buf, at = self.buf, self.at + ETHERNET
        if self.end - at < 8:
            return ARP_MALFORMED
        hardware, address = buf[at + 4], buf[at + 5]
        if self.end - at < 8 + 2 * (hardware + address):
            return ARP_MALFORMED
        self.topic = ARP
        self.honest = hardware == 6 and self._is_sender(at + 8)
        if not self.honest:
            return 0
        if address != 4:
            return ARP_MALFORMED
        self.address = load32(buf, at + 14)
        return 0

    def _any_ipv4(self) -> int:
        """Lengths of the header; then ports, of fragments too: their payload is taken for a header."""
        buf, ip, at = self.buf, self.ip, self.at + ETHERNET
        if self.end - at < 20:
            return TRUNCATED
        header, total = (buf[at] & 0x0F) << 2, load16(buf, at + 2)
        if header < 20:
            return IP_HEADER
        if total < header:
            return IP_LENGTH
        if total > self.end - at:
            return TRUNCATED
        ip.version = 4
        ip.header_at = at
        ip.payload_at = at + header
        ip.end = at + total
        ip.source_at = at + 12
        ip.destination_at = at + 16
        ip.address_length = 4
        ip.protocol = buf[at + 9]
        ip.fragment = False
        ip.fragment_offset = (load16(buf, at + 6) & 0x1FFF) << 3
        self.protocol = ip.protocol
        self.address = load32(buf, at + 12)
        if ip.protocol == 17:
            self._ports()
        elif ip.protocol == 6 and total - header >= 4:
            self.source_port = load16(buf, ip.payload_at)
            self.destination_port = load16(buf, ip.payload_at + 2)
        return 0
