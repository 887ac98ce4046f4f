"""The decisions of Softnet 0.19.0 as one table: its unit tests, its decision tables row by row, the golden vectors,
and what its snooper learns. Each row says also what we do instead where we differ, and why.

Three judges decide about each frame of the guest. `bucatini filter --faithful` has no differences. `bucatini filter` is
`ours`, its differences are `why`. The translating engine behind the command `softnet` has those in `engine`: it puts
nothing on a bridge and carries out what a packet asks for, so a frame passes there when its packet leaves the host, or
the gateway does what it says.

The table is judged twice: by functions in `tests/unit/guard/test_guard_admit_golden.py`, and by whole processes that
are sent these very bytes in `tests/interop/test_golden_filter.py` and `test_golden_softnet.py`.
"""

from __future__ import annotations

from typing import NamedTuple

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet as Layer
from scapy.packet import Raw

from bucatini.base.address import pack
from bucatini.base.reasons import DropReason
from bucatini.guard.snoop import Change
from bucatini.wire.dhcp import ACK, BOOTREPLY, DISCOVER, NAK, OFFER, DhcpMessage, DhcpOption, emit_dhcp

MAC, OTHER_MAC, HOST_MAC = "02:00:00:00:00:01", "02:00:00:00:00:09", "02:00:00:00:00:fe"
L, G, D = "192.168.0.2", "192.168.0.1", "10.9.9.9"
ALL = "255.255.255.255"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
CHADDR = bytes.fromhex(MAC.replace(":", ""))
NONE, LEASED, EXPIRED, NAKED = "none", "leased", "expired", "after nak"
PASS = DropReason.NONE
R = DropReason


def ether(layer: Layer, **fields: object) -> bytes:
    return bytes(Ether(**{"src": MAC, "dst": HOST_MAC, **fields}) / layer)


def arp(source: str, **fields: object) -> bytes:
    return ether(ARP(**{"hwsrc": MAC, "psrc": source, "pdst": G, **fields}), dst=EVERYBODY)


def patched(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes([value]) + frame[at + 1 :]


def udp(source: str, sport: int, to: str, dport: int, chaddr: bytes = CHADDR, kind: int = DISCOVER) -> bytes:
    """To port 67 a DHCP message, of transaction 7."""
    message = DhcpMessage(1, 7, chaddr=chaddr.ljust(16, b"\0"), options={53: bytes([kind])})
    body = emit_dhcp(message) if dport == 67 else b"text"
    return ether(IP(src=source, dst=to) / UDP(sport=sport, dport=dport) / Raw(body))


def ip(source: str, to: str) -> bytes:
    return ether(IP(src=source, dst=to) / ICMP(id=1))


class Row(NamedTuple):
    """A frame of the guest."""

    name: str
    """Begins with the row of the decision table."""
    state: str
    """Of the lease."""
    frame: bytes
    faithful: DropReason
    """Softnet's verdict, under our name for it."""
    ours: DropReason
    why: str = ""
    """Why `ours` lets pass what Softnet drops, or the other way round."""
    allow: str = ""
    block: str = ""
    engine: str = ""
    """Why the translating engine does; empty where it decides as Softnet."""


PROBES = "probes make address conflicts visible and teach nobody anything"
IPV6 = "we have IPv6"
ETHERNET_ARP = "only requests and replies for Ethernet and IPv4 are ARP here"
BROKEN = "no host takes it"
ROUTES = "it defeats a rule about the destination"
OPTIONS = "later Softnet refuses options too"
GROUPS = "a group is the neighbours, not the Internet; --allow 224.0.0.0/4 opens it"
HOLE = "a hole: source and port are anybody's"
CLIENTS = "a hole: to the port of clients only servers speak"
STARVES = "a hole: leases under foreign hardware addresses starve the pool"
ANY_PORT = "a hole: any port"
LEASE_IS_SAFE = "no rule may cost the guest its lease"
NO_PORT = "what looks like a port in a later fragment is none"
ALONE = "its link has nobody else on it"
OWN = "the network is its alone: nobody else is ever given its address"
PING = "the gateway always answers echoes, which reach nothing of this host"
ROWS = [
    Row("1: 13 bytes", LEASED, ip(L, "1.1.1.1")[:13], R.TRUNCATED, R.TRUNCATED),
    Row("1: nothing", LEASED, b"", R.TRUNCATED, R.TRUNCATED),
    Row("2: foreign MAC", LEASED, ether(IP(src=L, dst="1.1.1.1"), src=OTHER_MAC), *[R.FOREIGN_SOURCE_MAC] * 2),
    Row("2: foreign MAC, no lease", NONE, ether(ARP(psrc="0.0.0.0"), src=OTHER_MAC), *[R.FOREIGN_SOURCE_MAC] * 2),
    Row("2: any destination MAC", LEASED, ether(IP(src=L, dst="1.1.1.1"), dst=OTHER_MAC), PASS, PASS, engine=ALONE),
    Row("3: VLAN", LEASED, ether(Dot1Q(vlan=1) / IP(src=L, dst="1.1.1.1")), R.VLAN, R.VLAN),
    Row("3: QinQ", LEASED, ether(Dot1AD(vlan=1) / Dot1Q(vlan=2) / IP(src=L)), R.VLAN, R.VLAN),
    Row("3: LLDP", LEASED, ether(Raw(bytes(46)), type=0x88CC), R.ETHERTYPE, R.ETHERTYPE),
    Row("3: 802.3 length", LEASED, ether(Raw(bytes(46)), type=46), R.ETHERTYPE, R.ETHERTYPE),
    Row("3: RARP", LEASED, ether(ARP(hwsrc=MAC, psrc=L), type=0x8035), R.ETHERTYPE, R.ETHERTYPE),
    Row("3: IPv6", LEASED, ether(IPv6(src="fd00::2") / ICMPv6EchoRequest()), R.FAMILY_OFF, R.SOURCE_NOT_GUEST),
    Row(
        "3: IPv6 of its own",
        LEASED,
        ether(IPv6(src="fe80::ff:fe00:1", dst="2606:4700::1111") / ICMPv6EchoRequest()),
        R.FAMILY_OFF,
        PASS,
        IPV6,
        engine=IPV6,
    ),
    Row("A1: cut short", NONE, arp("0.0.0.0")[:41], R.ARP_MALFORMED, R.ARP_MALFORMED),
    Row("A1: cut in its head", NONE, arp("0.0.0.0")[:21], R.ARP_MALFORMED, R.ARP_MALFORMED),
    Row("A2: foreign hardware", LEASED, arp(L, hwsrc=OTHER_MAC), R.ARP_SPOOF, R.ARP_SPOOF),
    Row("A2: other length", LEASED, patched(arp(L), 18, 5), R.ARP_SPOOF, R.ARP_MALFORMED),
    Row("A3: probe", NONE, arp("0.0.0.0"), PASS, PASS),
    Row("A3: after NAK", NAKED, arp("0.0.0.0"), PASS, PASS),
    Row("A3: own address without lease", NONE, arp(L), R.ARP_SPOOF, R.ARP_SPOOF, engine=OWN),
    Row("A4: own", LEASED, arp(L), PASS, PASS),
    Row(
        "A4: own, answer",
        LEASED,
        arp(L, op="is-at"),
        PASS,
        PASS,
        engine="an answer that nobody asked for teaches the gateway nothing",
    ),
    Row("A5: the gateway's", LEASED, arp(G), R.ARP_SPOOF, R.ARP_SPOOF),
    Row("A5: expired", EXPIRED, arp(L), R.LEASE_EXPIRED, R.LEASE_EXPIRED, engine=OWN),
    Row("A5: probe with a lease", LEASED, arp("0.0.0.0"), R.ARP_SPOOF, PASS, PROBES, engine=PROBES),
    Row("A5: probe after expiry", EXPIRED, arp("0.0.0.0"), R.ARP_SPOOF, PASS, PROBES, engine=PROBES),
    Row("A: any operation", LEASED, arp(L, op=9), PASS, R.ARP_MALFORMED, ETHERNET_ARP, engine=ETHERNET_ARP),
    Row(
        "A: any hardware type", LEASED, patched(arp(L), 15, 6), PASS, R.ARP_MALFORMED, ETHERNET_ARP, engine=ETHERNET_ARP
    ),
    Row("A: panic of 0.19.0", LEASED, patched(arp(L), 19, 3), R.ARP_MALFORMED, R.ARP_MALFORMED),
    Row("IPv4: cut short", LEASED, ip(L, "1.1.1.1")[:33], R.TRUNCATED, R.TRUNCATED),
    Row("IPv4: IHL 4", LEASED, ether(IP(src=L, dst="1.1.1.1", ihl=4)), R.IP_HEADER, R.IP_HEADER),
    Row("IPv4: total below header", LEASED, ether(IP(src=L, dst="1.1.1.1", len=19)), R.IP_LENGTH, R.IP_LENGTH),
    Row("IPv4: total above frame", LEASED, ether(IP(src=L, dst="1.1.1.1", len=99)), R.TRUNCATED, R.TRUNCATED),
    Row(
        "IPv4: wrong checksum",
        LEASED,
        ether(IP(src=L, dst="1.1.1.1", chksum=1)),
        PASS,
        R.IP_CHECKSUM,
        BROKEN,
        engine=BROKEN,
    ),
    Row(
        "IPv4: version 5", LEASED, ether(IP(src=L, dst="1.1.1.1", version=5)), PASS, R.IP_HEADER, BROKEN, engine=BROKEN
    ),
    Row(
        "IPv4: source route",
        LEASED,
        ether(IP(src=L, dst="1.1.1.1", options=[b"\x83\x07\x04\x0a\x00\x00\x01\x00"])),
        PASS,
        R.SOURCE_ROUTE,
        ROUTES,
        engine=ROUTES,
    ),
    Row(
        "IPv4: other option",
        LEASED,
        ether(IP(src=L, dst="1.1.1.1", options=[b"\x07\x07\x04\0\0\0\0\0"])),
        PASS,
        R.OPTION_REFUSED,
        OPTIONS,
        engine=OPTIONS,
    ),
    Row("I1: foreign source", LEASED, ip("192.168.0.9", "1.1.1.1"), R.SOURCE_NOT_GUEST, R.SOURCE_NOT_GUEST),
    Row("I1: the gateway's", LEASED, ip(G, "1.1.1.1"), R.SOURCE_NOT_GUEST, R.SOURCE_NOT_GUEST),
    Row("I1: no lease", NONE, ip(L, "1.1.1.1"), R.SOURCE_NOT_GUEST, R.SOURCE_NOT_GUEST, engine=OWN),
    Row("I1: no lease, to the gateway", NONE, ip(L, G), R.SOURCE_NOT_GUEST, R.SOURCE_NOT_GUEST, engine=OWN),
    Row("I1: after NAK", NAKED, ip(L, "1.1.1.1"), R.SOURCE_NOT_GUEST, R.SOURCE_NOT_GUEST, engine=OWN),
    Row("I1: expired", EXPIRED, ip(L, "1.1.1.1"), R.LEASE_EXPIRED, R.LEASE_EXPIRED, engine=OWN),
    Row("I1: expired, to the gateway", EXPIRED, ip(L, G), R.LEASE_EXPIRED, R.LEASE_EXPIRED, engine=OWN),
    Row("I2: allowed", LEASED, ip(L, "10.0.0.1"), PASS, PASS, allow="10.0.0.0/8"),
    Row("I2: blocked", LEASED, ip(L, "1.1.1.1"), R.POLICY_DENIED, R.POLICY_DENIED, block="1.0.0.0/8"),
    Row(
        "I2: gateway blocked",
        LEASED,
        ip(L, G),
        R.POLICY_DENIED,
        R.POLICY_DENIED,
        allow="@host",
        block=f"{G}/32",
        engine=PING,
    ),
    Row("I2: not another's source", LEASED, ip("10.0.0.9", "10.0.0.1"), *[R.SOURCE_NOT_GUEST] * 2, allow="10.0.0.0/8"),
    Row("I2: broadcast opened", LEASED, udp(L, 9, ALL, 9), PASS, PASS, allow="0.0.0.0/0"),
    Row("I3: public", LEASED, ip(L, "1.1.1.1"), PASS, PASS),
    Row("I3: public, TCP", LEASED, ether(IP(src=L, dst="1.1.1.1") / TCP(dport=80)), PASS, PASS),
    Row("I3: public, UDP", LEASED, udp(L, 9, "1.1.1.1", 9), PASS, PASS),
    Row("I3: PCP anycast", LEASED, ip(L, "192.0.0.9"), PASS, PASS),
    Row("I3: mDNS", LEASED, udp(L, 5353, "224.0.0.251", 5353), PASS, R.POLICY_DENIED, GROUPS, engine=GROUPS),
    Row("I4: ICMP", LEASED, ip(L, G), PASS, PASS),
    Row(
        "I4: TCP",
        LEASED,
        ether(IP(src=L, dst=G) / TCP(dport=22)),
        PASS,
        PASS,
        engine="the other ports of the gateway are this host's loopback",
    ),
    Row(
        "I4: another protocol",
        LEASED,
        ether(IP(src=L, dst=G, proto=99) / Raw(b"x")),
        PASS,
        PASS,
        engine="TCP, UDP and echo are what can be carried out",
    ),
    Row("I5: DNS", LEASED, udp(L, 9, D, 53), PASS, PASS, engine="the resolver that its lease names is the gateway"),
    Row("I5: DNS, other port", LEASED, udp(L, 9, D, 5353), R.POLICY_DENIED, R.POLICY_DENIED),
    Row(
        "I5: DNS over TCP",
        LEASED,
        ether(IP(src=L, dst=D) / TCP(dport=53)),
        R.POLICY_DENIED,
        PASS,
        "a truncated answer is asked for again over TCP (RFC 7766)",
    ),
    Row("I5: malformed UDP", LEASED, ether(IP(src=L, dst=D) / UDP(dport=53, len=7)), R.UDP_HEADER, R.UDP_HEADER),
    Row("I6: private", LEASED, ip(L, "10.0.0.1"), R.POLICY_DENIED, R.POLICY_DENIED),
    Row("I6: metadata", LEASED, ip(L, "169.254.169.254"), R.POLICY_DENIED, R.POLICY_DENIED),
    Row("I6: shared", LEASED, ip(L, "100.64.0.1"), R.POLICY_DENIED, R.POLICY_DENIED),
    Row("I6: subnet broadcast", LEASED, udp(L, 9, "192.168.0.255", 9), R.POLICY_DENIED, R.POLICY_DENIED),
    Row("I6: a neighbour", LEASED, ip(L, "192.168.0.3"), R.POLICY_DENIED, R.POLICY_DENIED),
    Row("I7: DISCOVER", NONE, udp("0.0.0.0", 68, ALL, 67), PASS, PASS),
    Row("I7: DISCOVER, expired", EXPIRED, udp("0.0.0.0", 68, ALL, 67), PASS, PASS),
    Row("I7: rebinding", LEASED, udp(L, 68, ALL, 67), PASS, PASS),
    Row("I7: from an expired address", EXPIRED, udp(L, 68, ALL, 67), PASS, R.LEASE_EXPIRED, "the lease is over"),
    Row("I7: from anybody's address", NONE, udp("9.9.9.9", 68, ALL, 9999), PASS, R.SOURCE_NOT_GUEST, HOLE, engine=HOLE),
    Row("I7: own server variant", LEASED, udp(L, 68, ALL, 68), PASS, R.ROGUE_DHCP, CLIENTS, engine=CLIENTS),
    Row(
        "I7: another's chaddr",
        NONE,
        udp("0.0.0.0", 68, ALL, 67, CHADDR[:5] + b"\x77"),
        PASS,
        R.DHCP_SPOOF,
        STARVES,
        engine=STARVES,
    ),
    Row("I7: no DHCP at all", NONE, udp("0.0.0.0", 68, ALL, 9), PASS, R.SOURCE_UNSPECIFIED, ANY_PORT, engine=ANY_PORT),
    Row("I8: rogue server", NONE, udp("0.0.0.0", 67, ALL, 68), R.SOURCE_NOT_GUEST, R.ROGUE_DHCP),
    Row("I8: to the subnet", NONE, udp("0.0.0.0", 68, "192.168.0.255", 67), R.SOURCE_NOT_GUEST, R.SOURCE_UNSPECIFIED),
    Row("I8: unicast from nobody", NONE, udp("0.0.0.0", 68, G, 67), R.SOURCE_NOT_GUEST, R.SOURCE_UNSPECIFIED),
    Row(
        "I7: rebinding under default deny",
        LEASED,
        udp(L, 68, ALL, 67),
        R.POLICY_DENIED,
        PASS,
        LEASE_IS_SAFE,
        block="0.0.0.0/0",
        engine=LEASE_IS_SAFE,
    ),
    Row(
        "I2: renewing under default deny",
        LEASED,
        udp(L, 68, G, 67),
        R.POLICY_DENIED,
        PASS,
        LEASE_IS_SAFE,
        block="0.0.0.0/0",
        engine=LEASE_IS_SAFE,
    ),
    Row("I2: renewing, gateway allowed", LEASED, udp(L, 68, G, 67), PASS, PASS, allow="@host", block="0.0.0.0/0"),
    Row(
        "I2: gateway under default deny",
        LEASED,
        ip(L, G),
        R.POLICY_DENIED,
        R.POLICY_DENIED,
        block="0.0.0.0/0",
        engine=PING,
    ),
    Row("I7: DISCOVER under default deny", LEASED, udp("0.0.0.0", 68, ALL, 67), PASS, PASS, block="0.0.0.0/0"),
    Row(
        "later fragment",
        LEASED,
        ether(IP(src=L, dst="1.1.1.1", frag=3, proto=17) / Raw(b"1234")),
        PASS,
        PASS,
        engine="a datagram leaves when it is whole",
    ),
    Row(
        "later fragment to a resolver, read as UDP",
        LEASED,
        ether(IP(src=L, dst=D, frag=3, proto=17) / UDP(sport=1, dport=53) / Raw(b"1234")),
        PASS,
        R.POLICY_DENIED,
        NO_PORT,
        engine=NO_PORT,
    ),
]


def zeros(destination: str) -> bytes:
    """The packet of Softnet's unit tests: 1500 zero bytes with a source and a destination. Only a faithful judge reads
    it: its checksum is wrong.
    """
    head = bytearray(1500)
    head[0], head[2:4] = 0x45, (1500).to_bytes(2, "big")
    head[12:16], head[16:20] = pack(L), pack(destination)
    return bytes.fromhex((HOST_MAC + MAC).replace(":", "")) + b"\x08\0" + bytes(head)


class Upstream(NamedTuple):
    """A unit test of Softnet 0.19.0 about rules. The guest has its lease."""

    name: str
    allow: str
    block: str
    entries: dict[str, bool]
    """What the table holds: whether a prefix is allowed."""
    verdicts: dict[str, bool]
    """Whether packets to these destinations pass."""


UPSTREAM = [
    Upstream(
        "blocking_takes_precedence",
        "66.66.0.0/16",
        "66.66.0.0/16",
        {"66.66.0.0/16": False},
        {"66.66.66.66": False},
    ),
    Upstream(
        "longest_prefix_match_wins",
        "33.33.33.33/32",
        "33.33.33.0/24",
        {"33.33.33.33/32": True, "33.33.33.0/24": False},
        {"33.33.33.32": False, "33.33.33.33": True, "33.33.33.34": False},
    ),
    Upstream("allow_host", "@host", "0.0.0.0/0", {f"{G}/32": True, "0.0.0.0/0": False}, {"8.8.8.8": False, G: True}),
]
EXPOSED_PORT = ("2222:22", 2222, 22)
"""The fourth one: what is written, the port outside and the port inside."""


# Section 7, both edges of every block.
GLOBAL = "1.1.1.1 8.8.8.8 192.0.0.9 192.0.0.10 224.0.0.251 239.255.255.250 192.88.99.1 192.31.196.1 192.52.193.1"
GLOBAL += " 192.175.48.1"
GLOBAL += " 11.0.0.0 9.255.255.255 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 169.255.0.0"
GLOBAL += " 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0"
GLOBAL += " 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0 239.255.255.255"
LOCAL = "0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.0 127.255.255.255"
LOCAL += " 169.254.0.0 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.8 192.0.0.11 192.0.0.100 192.0.0.255"
LOCAL += " 192.0.2.0 192.0.2.255 192.168.0.3 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.0 198.51.100.255"
LOCAL += " 203.0.113.0 203.0.113.255 240.0.0.0 255.255.255.254 255.255.255.255"


def answer(
    kind: int = ACK,
    *,
    to: str = MAC,
    source: str = G,
    chaddr: bytes = CHADDR,
    ports: tuple[int, int] = (67, 68),
    yiaddr: str = L,
    **options: bytes,
) -> bytes:
    """A DHCP answer to transaction 7; `lease` and `dns` are options."""
    given = {DhcpOption.MESSAGE_TYPE: bytes([kind])}
    if "lease" in options:
        given[DhcpOption.LEASE_TIME] = options["lease"]
    if "dns" in options:
        given[DhcpOption.DNS] = options["dns"]
    body = emit_dhcp(DhcpMessage(BOOTREPLY, 7, chaddr=chaddr.ljust(16, b"\0"), yiaddr=pack(yiaddr), options=given))
    udp_layer = UDP(sport=ports[0], dport=ports[1])
    return ether(IP(src=source, dst=L if to == MAC else ALL) / udp_layer / Raw(body), src=HOST_MAC, dst=to)


SECONDS = (600).to_bytes(4, "big")


class ToGuest(NamedTuple):
    """A frame of the host's side, in whatever state the lease is. The translating engine hands no frame on: what its
    guest hears are the gateway's own.
    """

    name: str
    frame: bytes
    faithful: DropReason
    ours: DropReason
    why: str = ""


FOR_GUEST = "what is not for the guest, or broken, is kept from it"
TO_GUEST = [
    ToGuest("IPv4", ether(IP(src="8.8.8.8", dst=L) / ICMP(), src=HOST_MAC, dst=MAC), PASS, PASS),
    ToGuest("IPv4, any addresses", ether(IP(src=L, dst="9.9.9.9") / UDP(), src=HOST_MAC, dst=MAC), PASS, PASS),
    ToGuest(
        "IPv4, broken",
        ether(Raw(b"\x45"), src=HOST_MAC, dst=MAC, type=0x0800),
        PASS,
        R.TRUNCATED,
        FOR_GUEST,
    ),
    ToGuest(
        "IPv4, another's MAC",
        ether(IP(src="8.8.8.8", dst=L), src=HOST_MAC, dst=OTHER_MAC),
        PASS,
        R.FOREIGN_MAC,
        FOR_GUEST,
    ),
    ToGuest("ARP", ether(ARP(hwsrc=HOST_MAC, psrc=G, pdst=L), src=HOST_MAC, dst=MAC), PASS, PASS),
    ToGuest("ARP to all", ether(ARP(hwsrc=OTHER_MAC, psrc=G), src=OTHER_MAC, dst=EVERYBODY), PASS, PASS),
    ToGuest("ACK", answer(lease=SECONDS), PASS, PASS),
    ToGuest(
        "ACK of another server",
        answer(source="192.168.0.66", lease=SECONDS),
        PASS,
        R.ROGUE_DHCP,
        "a rogue server would be the guest's router and resolver",
    ),
    ToGuest(
        "IPv6",
        ether(IPv6(src="fe80::1") / ICMPv6EchoRequest(), src=HOST_MAC, dst=MAC),
        R.FAMILY_OFF,
        PASS,
        IPV6,
    ),
    ToGuest("VLAN", ether(Dot1Q(vlan=1) / IP(src=G, dst=L), src=HOST_MAC, dst=MAC), R.VLAN, R.VLAN),
    ToGuest("LLDP", ether(Raw(bytes(46)), src=HOST_MAC, dst=MAC, type=0x88CC), R.ETHERTYPE, R.ETHERTYPE),
    ToGuest("13 bytes", answer()[:13], R.TRUNCATED, R.TRUNCATED),
]


class Learning(NamedTuple):
    """What a frame of the host's side, which passes, says about the lease of a guest that has begun transaction 7."""

    name: str
    frame: bytes
    faithful: Change
    ours: Change
    why: str = ""


BY_CLIENT = "the client's hardware address says whose lease it is, not who the frame was sent to"
LEARNED = [
    Learning("OFFER", answer(OFFER, lease=SECONDS), Change.NONE, Change.NONE),
    Learning("ACK without lease time", answer(ACK), Change.NONE, Change.NONE),
    Learning("ACK", answer(lease=SECONDS, dns=pack(D)), Change.LEASED, Change.LEASED),
    Learning("NAK", answer(NAK, yiaddr="0.0.0.0"), Change.WITHDRAWN, Change.WITHDRAWN),
    Learning("ACK to all", answer(to=EVERYBODY, lease=SECONDS), Change.NONE, Change.LEASED, BY_CLIENT),
    Learning("NAK to all", answer(NAK, to=EVERYBODY), Change.NONE, Change.WITHDRAWN, BY_CLIENT),
    Learning("another's ACK to all", answer(to=EVERYBODY, lease=SECONDS, chaddr=bytes(6)), Change.NONE, Change.NONE),
    Learning(
        "another's ACK to this MAC",
        answer(lease=SECONDS, chaddr=bytes(6)),
        Change.LEASED,
        Change.NONE,
        BY_CLIENT,
    ),
    Learning("not from the gateway", answer(source="192.168.0.66", lease=SECONDS), Change.NONE, Change.NONE),
    Learning("ports: only the server's", answer(ports=(67, 9), lease=SECONDS), Change.LEASED, Change.LEASED),
    Learning("ports: only the client's", answer(ports=(9, 68), lease=SECONDS), Change.LEASED, Change.LEASED),
    Learning("ports: none", answer(ports=(9, 9), lease=SECONDS), Change.NONE, Change.NONE),
    Learning("cut short", answer(lease=SECONDS)[:200], Change.NONE, Change.NONE),
    Learning("no DHCP", ether(IP(src=G, dst=L) / UDP(sport=67, dport=68) / b"x", dst=MAC), Change.NONE, Change.NONE),
]
