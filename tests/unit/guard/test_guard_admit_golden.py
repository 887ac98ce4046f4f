"""guard against the decision tables and golden vectors of Softnet 0.19.0: what it does, what we do, and why where we
differ.

Each row is judged three times: by `admit_faithful`, by `admit` with rules (a filter in front of a bridge), and by
`admit` without (the translating engine: what only a rule could refuse is left to policy).
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet as Layer
from scapy.packet import Raw

from bucatini.base.address import pack, text
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS
from bucatini.guard.admit import (
    ALLOW,
    BLOCK,
    NO_RULE,
    admit,
    admit_faithful,
    admit_faithful_to_guest,
    admit_to_guest,
)
from bucatini.guard.binding import Binding
from bucatini.guard.frame import Frame
from bucatini.guard.snoop import Change, Snoop
from bucatini.wire.dhcp import ACK, BOOTREPLY, NAK, OFFER, DhcpMessage, DhcpOption, emit_dhcp

MAC, OTHER_MAC, HOST_MAC = "02:00:00:00:00:01", "02:00:00:00:00:09", "02:00:00:00:00:fe"
L, G, D = "192.168.0.2", "192.168.0.1", "10.9.9.9"
ALL = "255.255.255.255"
CHADDR = bytes.fromhex(MAC.replace(":", ""))
NONE, LEASED, EXPIRED, NAKED = "none", "leased", "expired", "after nak"
PASS = DropReason.NONE
R = DropReason


class Table:
    """Longest prefix, Block over Allow, as the specification has it. The real one has its own tests."""

    def __init__(self, allow: str = "", block: str = "") -> None:
        self.entries: dict[ipaddress.IPv4Network | ipaddress.IPv6Network, int] = {}
        for words, verdict in ((allow, ALLOW), (block, BLOCK)):
            for word in filter(None, words.split(",")):
                prefix = f"{G}/32" if word == "@host" else word
                self.entries[ipaddress.ip_network(prefix, strict=False)] = verdict

    def decide(self, direction: str, address: bytes, port: int) -> int:
        peer = ipaddress.ip_address(address)
        found = [entry for entry in self.entries if entry.version == peer.version and peer in entry]
        if direction != EGRESS or not found:
            return NO_RULE
        return self.entries[max(found, key=lambda entry: entry.prefixlen)]


def binding(state: str) -> Binding:
    """As it is at second 1000."""
    made = Binding(CHADDR, [pack(G)], margin=0.1)
    if state != NONE:
        made.lease(pack(L), 600, 1000.0 if state == LEASED else 399.9, [pack(D)])
    if state == NAKED:
        made.clear()
    return made


def view(frame: bytes, faithful: bool) -> Frame:
    made = Frame(memoryview(bytearray(frame)), faithful)
    made.parse(0, len(frame))
    return made


def ether(layer: Layer, **fields: object) -> bytes:
    return bytes(Ether(**{"src": MAC, "dst": HOST_MAC, **fields}) / layer)


def arp(source: str, **fields: object) -> bytes:
    return ether(ARP(**{"hwsrc": MAC, "psrc": source, "pdst": G, **fields}), dst="ff:ff:ff:ff:ff:ff")


def patched(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes([value]) + frame[at + 1 :]


def udp(source: str, sport: int, to: str, dport: int, chaddr: bytes = CHADDR) -> bytes:
    body = emit_dhcp(DhcpMessage(1, 7, chaddr=chaddr.ljust(16, b"\0"), options={53: b"\1"})) if dport == 67 else b"text"
    return ether(IP(src=source, dst=to) / UDP(sport=sport, dport=dport) / Raw(body))


def ip(source: str, to: str) -> bytes:
    return ether(IP(src=source, dst=to) / ICMP(id=1))


class Row(NamedTuple):
    name: str
    state: str
    frame: bytes
    faithful: DropReason
    ours: DropReason
    why: str = ""
    """Why ours lets pass what Softnet drops, or the other way round."""
    allow: str = ""
    block: str = ""


PROBES = "probes make address conflicts visible and teach nobody anything"
ROWS = [
    Row("1: 13 bytes", LEASED, ip(L, "1.1.1.1")[:13], R.TRUNCATED, R.TRUNCATED),
    Row("1: nothing", LEASED, b"", R.TRUNCATED, R.TRUNCATED),
    Row("2: foreign MAC", LEASED, ether(IP(src=L, dst="1.1.1.1"), src=OTHER_MAC), *[R.FOREIGN_SOURCE_MAC] * 2),
    Row("2: foreign MAC, no lease", NONE, ether(ARP(psrc="0.0.0.0"), src=OTHER_MAC), *[R.FOREIGN_SOURCE_MAC] * 2),
    Row("2: any destination MAC", LEASED, ether(IP(src=L, dst="1.1.1.1"), dst=OTHER_MAC), PASS, PASS),
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
        "we have IPv6",
    ),
    Row("A1: cut short", NONE, arp("0.0.0.0")[:41], R.ARP_MALFORMED, R.ARP_MALFORMED),
    Row("A1: cut in its head", NONE, arp("0.0.0.0")[:21], R.ARP_MALFORMED, R.ARP_MALFORMED),
    Row("A2: foreign hardware", LEASED, arp(L, hwsrc=OTHER_MAC), R.ARP_SPOOF, R.ARP_SPOOF),
    Row("A2: other length", LEASED, patched(arp(L), 18, 5), R.ARP_SPOOF, R.ARP_MALFORMED),
    Row("A3: probe", NONE, arp("0.0.0.0"), PASS, PASS),
    Row("A3: after NAK", NAKED, arp("0.0.0.0"), PASS, PASS),
    Row("A3: own address without lease", NONE, arp(L), R.ARP_SPOOF, R.ARP_SPOOF),
    Row("A4: own", LEASED, arp(L), PASS, PASS),
    Row("A4: own, answer", LEASED, arp(L, op="is-at"), PASS, PASS),
    Row("A5: the gateway's", LEASED, arp(G), R.ARP_SPOOF, R.ARP_SPOOF),
    Row("A5: expired", EXPIRED, arp(L), R.LEASE_EXPIRED, R.LEASE_EXPIRED),
    Row("A5: probe with a lease", LEASED, arp("0.0.0.0"), R.ARP_SPOOF, PASS, PROBES),
    Row("A5: probe after expiry", EXPIRED, arp("0.0.0.0"), R.ARP_SPOOF, PASS, PROBES),
    Row("A: any operation", LEASED, arp(L, op=9), PASS, R.ARP_MALFORMED, "only requests and replies are ARP here"),
    Row("A: any hardware type", LEASED, patched(arp(L), 15, 6), PASS, R.ARP_MALFORMED, "only Ethernet and IPv4"),
    Row("A: panic of 0.19.0", LEASED, patched(arp(L), 19, 3), R.ARP_MALFORMED, R.ARP_MALFORMED),
    Row("IPv4: cut short", LEASED, ip(L, "1.1.1.1")[:33], R.TRUNCATED, R.TRUNCATED),
    Row("IPv4: IHL 4", LEASED, ether(IP(src=L, dst="1.1.1.1", ihl=4)), R.IP_HEADER, R.IP_HEADER),
    Row("IPv4: total below header", LEASED, ether(IP(src=L, dst="1.1.1.1", len=19)), R.IP_LENGTH, R.IP_LENGTH),
    Row("IPv4: total above frame", LEASED, ether(IP(src=L, dst="1.1.1.1", len=99)), R.TRUNCATED, R.TRUNCATED),
    Row("IPv4: wrong checksum", LEASED, ether(IP(src=L, dst="1.1.1.1", chksum=1)), PASS, R.IP_CHECKSUM, "broken"),
    Row("IPv4: version 5", LEASED, ether(IP(src=L, dst="1.1.1.1", version=5)), PASS, R.IP_HEADER, "broken"),
    Row(
        "IPv4: source route",
        LEASED,
        ether(IP(src=L, dst="1.1.1.1", options=[b"\x83\x07\x04\x0a\x00\x00\x01\x00"])),
        PASS,
        R.SOURCE_ROUTE,
        "it defeats a rule about the destination",
    ),
    Row(
        "IPv4: other option",
        LEASED,
        ether(IP(src=L, dst="1.1.1.1", options=[b"\x07\x07\x04\0\0\0\0\0"])),
        PASS,
        R.OPTION_REFUSED,
        "later Softnet refuses options too",
    ),
    Row("I1: foreign source", LEASED, ip("192.168.0.9", "1.1.1.1"), R.SOURCE_NOT_GUEST, R.SOURCE_NOT_GUEST),
    Row("I1: the gateway's", LEASED, ip(G, "1.1.1.1"), R.SOURCE_NOT_GUEST, R.SOURCE_NOT_GUEST),
    Row("I1: no lease", NONE, ip(L, "1.1.1.1"), R.SOURCE_NOT_GUEST, R.SOURCE_NOT_GUEST),
    Row("I1: no lease, to the gateway", NONE, ip(L, G), R.SOURCE_NOT_GUEST, R.SOURCE_NOT_GUEST),
    Row("I1: after NAK", NAKED, ip(L, "1.1.1.1"), R.SOURCE_NOT_GUEST, R.SOURCE_NOT_GUEST),
    Row("I1: expired", EXPIRED, ip(L, "1.1.1.1"), R.LEASE_EXPIRED, R.LEASE_EXPIRED),
    Row("I1: expired, to the gateway", EXPIRED, ip(L, G), R.LEASE_EXPIRED, R.LEASE_EXPIRED),
    Row("I2: allowed", LEASED, ip(L, "10.0.0.1"), PASS, PASS, allow="10.0.0.0/8"),
    Row("I2: blocked", LEASED, ip(L, "1.1.1.1"), R.POLICY_DENIED, R.POLICY_DENIED, block="1.0.0.0/8"),
    Row("I2: gateway blocked", LEASED, ip(L, G), R.POLICY_DENIED, R.POLICY_DENIED, allow="@host", block=f"{G}/32"),
    Row("I2: not another's source", LEASED, ip("10.0.0.9", "10.0.0.1"), *[R.SOURCE_NOT_GUEST] * 2, allow="10.0.0.0/8"),
    Row("I2: broadcast opened", LEASED, udp(L, 9, ALL, 9), PASS, PASS, allow="0.0.0.0/0"),
    Row("I3: public", LEASED, ip(L, "1.1.1.1"), PASS, PASS),
    Row("I3: PCP anycast", LEASED, ip(L, "192.0.0.9"), PASS, PASS),
    Row(
        "I3: mDNS",
        LEASED,
        udp(L, 5353, "224.0.0.251", 5353),
        PASS,
        R.POLICY_DENIED,
        "a group is the neighbours, not the Internet; --allow 224.0.0.0/4 opens it",
    ),
    Row("I4: ICMP", LEASED, ip(L, G), PASS, PASS),
    Row("I4: TCP", LEASED, ether(IP(src=L, dst=G) / TCP(dport=22)), PASS, PASS),
    Row("I4: another protocol", LEASED, ether(IP(src=L, dst=G, proto=99) / Raw(b"x")), PASS, PASS),
    Row("I5: DNS", LEASED, udp(L, 9, D, 53), PASS, PASS),
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
    Row(
        "I7: from anybody's address",
        NONE,
        udp("9.9.9.9", 68, ALL, 9999),
        PASS,
        R.SOURCE_NOT_GUEST,
        "a hole: source and port are anybody's",
    ),
    Row(
        "I7: own server variant",
        LEASED,
        udp(L, 68, ALL, 68),
        PASS,
        R.ROGUE_DHCP,
        "a hole: to the port of clients only servers speak",
    ),
    Row(
        "I7: another's chaddr",
        NONE,
        udp("0.0.0.0", 68, ALL, 67, CHADDR[:5] + b"\x77"),
        PASS,
        R.DHCP_SPOOF,
        "a hole: leases under foreign hardware addresses starve the pool",
    ),
    Row("I7: no DHCP at all", NONE, udp("0.0.0.0", 68, ALL, 9), PASS, R.SOURCE_UNSPECIFIED, "a hole: any port"),
    Row("I8: rogue server", NONE, udp("0.0.0.0", 67, ALL, 68), R.SOURCE_NOT_GUEST, R.ROGUE_DHCP),
    Row("I8: to the subnet", NONE, udp("0.0.0.0", 68, "192.168.0.255", 67), R.SOURCE_NOT_GUEST, R.SOURCE_UNSPECIFIED),
    Row("I8: unicast from nobody", NONE, udp("0.0.0.0", 68, G, 67), R.SOURCE_NOT_GUEST, R.SOURCE_UNSPECIFIED),
    Row(
        "I7: rebinding under default deny",
        LEASED,
        udp(L, 68, ALL, 67),
        R.POLICY_DENIED,
        PASS,
        "no rule may cost the guest its lease",
        block="0.0.0.0/0",
    ),
    Row(
        "I2: renewing under default deny",
        LEASED,
        udp(L, 68, G, 67),
        R.POLICY_DENIED,
        PASS,
        "no rule may cost the guest its lease",
        block="0.0.0.0/0",
    ),
    Row("I2: renewing, gateway allowed", LEASED, udp(L, 68, G, 67), PASS, PASS, allow="@host", block="0.0.0.0/0"),
    Row("I2: gateway under default deny", LEASED, ip(L, G), R.POLICY_DENIED, R.POLICY_DENIED, block="0.0.0.0/0"),
    Row("I7: DISCOVER under default deny", LEASED, udp("0.0.0.0", 68, ALL, 67), PASS, PASS, block="0.0.0.0/0"),
    Row(
        "later fragment",
        LEASED,
        ether(IP(src=L, dst="1.1.1.1", frag=3, proto=17) / Raw(b"1234")),
        PASS,
        PASS,
    ),
    Row(
        "later fragment to a resolver, read as UDP",
        LEASED,
        ether(IP(src=L, dst=D, frag=3, proto=17) / UDP(sport=1, dport=53) / Raw(b"1234")),
        PASS,
        R.POLICY_DENIED,
        "what looks like a port in a later fragment is none",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_from_guest(row: Row) -> None:
    rules = Table(row.allow, row.block)
    found = admit_faithful(view(row.frame, True), binding(row.state), rules, 1000.0)
    assert DropReason(found) is row.faithful
    found = admit(view(row.frame, False), binding(row.state), rules, 1000.0)
    assert DropReason(found) is row.ours
    found = admit(view(row.frame, False), binding(row.state), None, 1000.0)
    assert DropReason(found) is (PASS if row.ours is R.POLICY_DENIED else row.ours)
    assert bool(row.why) == ((row.faithful is PASS) != (row.ours is PASS)), "a difference has a reason"


@pytest.mark.parametrize("row", [row for row in ROWS if not row.allow and not row.block], ids=lambda row: row.name)
def test_without_rules_softnet_decides_by_its_defaults(row: Row) -> None:
    assert DropReason(admit_faithful(view(row.frame, True), binding(row.state), None, 1000.0)) is row.faithful


def zeros(destination: str) -> bytes:
    """The packet of Softnet's unit tests: 1500 zero bytes with a source and a destination."""
    head = bytearray(1500)
    head[0], head[2:4] = 0x45, (1500).to_bytes(2, "big")
    head[12:16], head[16:20] = pack(L), pack(destination)
    return bytes.fromhex((HOST_MAC + MAC).replace(":", "")) + b"\x08\0" + bytes(head)


@pytest.mark.parametrize(
    ("allow", "block", "entries", "verdicts"),
    [
        ("66.66.0.0/16", "66.66.0.0/16", {"66.66.0.0/16": BLOCK}, {"66.66.66.66": False}),
        (
            "33.33.33.33/32",
            "33.33.33.0/24",
            {"33.33.33.33/32": ALLOW, "33.33.33.0/24": BLOCK},
            {"33.33.33.32": False, "33.33.33.33": True, "33.33.33.34": False},
        ),
        ("@host", "0.0.0.0/0", {f"{G}/32": ALLOW, "0.0.0.0/0": BLOCK}, {"8.8.8.8": False, G: True}),
    ],
    ids=["blocking_takes_precedence", "longest_prefix_match_wins", "allow_host"],
)
def test_upstream_unit(allow: str, block: str, entries: dict[str, int], verdicts: dict[str, bool]) -> None:
    rules = Table(allow, block)
    assert {str(entry): verdict for entry, verdict in rules.entries.items()} == entries
    leased = Binding(CHADDR, [pack(G)])
    leased.lease(pack(L), 600, 0.0)
    for destination, passes in verdicts.items():
        found = admit_faithful(view(zeros(destination), True), leased, rules, 1.0)
        assert (found == 0) is passes
        whole = ether(IP(src=L, dst=destination) / Raw(bytes(1480)))
        assert (admit(view(whole, False), leased, rules, 1.0) == 0) is passes


GLOBAL = "1.1.1.1 8.8.8.8 192.0.0.9 192.0.0.10 224.0.0.251 239.255.255.250 192.88.99.1 192.31.196.1 192.52.193.1"
GLOBAL += " 192.175.48.1"
GLOBAL += " 11.0.0.0 9.255.255.255 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 169.255.0.0"
GLOBAL += " 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0"
GLOBAL += " 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0 239.255.255.255"
LOCAL = "0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.0 127.255.255.255"
LOCAL += " 169.254.0.0 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.8 192.0.0.11 192.0.0.100 192.0.0.255"
LOCAL += " 192.0.2.0 192.0.2.255 192.168.0.3 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.0 198.51.100.255"
LOCAL += " 203.0.113.0 203.0.113.255 240.0.0.0 255.255.255.254 255.255.255.255"


@pytest.mark.parametrize(("words", "faithful"), [(GLOBAL, PASS), (LOCAL, R.POLICY_DENIED)], ids=["global", "local"])
def test_globally_routable(words: str, faithful: DropReason) -> None:
    """Section 7, both edges of every block."""
    for destination in words.split():
        frame = ip(L, destination)
        assert DropReason(admit_faithful(view(frame, True), binding(LEASED), None, 1000.0)) is faithful, destination
        group = pack(destination)[0] >> 4 == 0xE
        ours = R.POLICY_DENIED if group else faithful
        assert DropReason(admit(view(frame, False), binding(LEASED), Table(), 1000.0)) is ours, destination


# -- host to guest, and the snooper's table


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
EVERYBODY = "ff:ff:ff:ff:ff:ff"
TO_GUEST = [
    ("IPv4", ether(IP(src="8.8.8.8", dst=L) / ICMP(), src=HOST_MAC, dst=MAC), PASS, PASS),
    ("IPv4, any addresses", ether(IP(src=L, dst="9.9.9.9") / UDP(), src=HOST_MAC, dst=MAC), PASS, PASS),
    ("IPv4, broken", ether(Raw(b"\x45"), src=HOST_MAC, dst=MAC, type=0x0800), PASS, R.TRUNCATED),
    ("IPv4, another's MAC", ether(IP(src="8.8.8.8", dst=L), src=HOST_MAC, dst=OTHER_MAC), PASS, R.FOREIGN_MAC),
    ("ARP", ether(ARP(hwsrc=HOST_MAC, psrc=G, pdst=L), src=HOST_MAC, dst=MAC), PASS, PASS),
    ("ARP to all", ether(ARP(hwsrc=OTHER_MAC, psrc=G), src=OTHER_MAC, dst=EVERYBODY), PASS, PASS),
    ("ACK", answer(lease=SECONDS), PASS, PASS),
    ("ACK of another server", answer(source="192.168.0.66", lease=SECONDS), PASS, R.ROGUE_DHCP),
    ("IPv6", ether(IPv6(src="fe80::1") / ICMPv6EchoRequest(), src=HOST_MAC, dst=MAC), R.FAMILY_OFF, PASS),
    ("VLAN", ether(Dot1Q(vlan=1) / IP(src=G, dst=L), src=HOST_MAC, dst=MAC), R.VLAN, R.VLAN),
    ("LLDP", ether(Raw(bytes(46)), src=HOST_MAC, dst=MAC, type=0x88CC), R.ETHERTYPE, R.ETHERTYPE),
    ("13 bytes", answer()[:13], R.TRUNCATED, R.TRUNCATED),
]


@pytest.mark.parametrize(("frame", "faithful", "ours"), [row[1:] for row in TO_GUEST], ids=[row[0] for row in TO_GUEST])
@pytest.mark.parametrize("state", [NONE, LEASED, EXPIRED])
def test_to_guest(frame: bytes, faithful: DropReason, ours: DropReason, state: str) -> None:
    assert DropReason(admit_faithful_to_guest(view(frame, True))) is faithful
    assert DropReason(admit_to_guest(view(frame, False), binding(state), Table(block="0.0.0.0/0"))) is ours


class Learning(NamedTuple):
    name: str
    frame: bytes
    faithful: Change
    ours: Change


LEARNED = [
    Learning("OFFER", answer(OFFER, lease=SECONDS), Change.NONE, Change.NONE),
    Learning("ACK without lease time", answer(ACK), Change.NONE, Change.NONE),
    Learning("ACK", answer(lease=SECONDS, dns=pack(D)), Change.LEASED, Change.LEASED),
    Learning("NAK", answer(NAK, yiaddr="0.0.0.0"), Change.WITHDRAWN, Change.WITHDRAWN),
    # Broadcast flag: 0.19.0 delivers the ACK and never learns the lease; we go by the client's hardware address.
    Learning("ACK to all", answer(to=EVERYBODY, lease=SECONDS), Change.NONE, Change.LEASED),
    Learning("NAK to all", answer(NAK, to=EVERYBODY), Change.NONE, Change.WITHDRAWN),
    Learning("another's ACK to all", answer(to=EVERYBODY, lease=SECONDS, chaddr=bytes(6)), Change.NONE, Change.NONE),
    # 0.19.0 does not look at chaddr.
    Learning("another's ACK to this MAC", answer(lease=SECONDS, chaddr=bytes(6)), Change.LEASED, Change.NONE),
    Learning("not from the gateway", answer(source="192.168.0.66", lease=SECONDS), Change.NONE, Change.NONE),
    Learning("ports: only the server's", answer(ports=(67, 9), lease=SECONDS), Change.LEASED, Change.LEASED),
    Learning("ports: only the client's", answer(ports=(9, 68), lease=SECONDS), Change.LEASED, Change.LEASED),
    Learning("ports: none", answer(ports=(9, 9), lease=SECONDS), Change.NONE, Change.NONE),
    Learning("cut short", answer(lease=SECONDS)[:200], Change.NONE, Change.NONE),
    Learning("no DHCP", ether(IP(src=G, dst=L) / UDP(sport=67, dport=68) / b"x", dst=MAC), Change.NONE, Change.NONE),
]


@pytest.mark.parametrize("row", LEARNED, ids=lambda row: row.name)
@pytest.mark.parametrize("faithful", [True, False], ids=["faithful", "ours"])
@pytest.mark.parametrize("state", [NONE, LEASED, EXPIRED])
def test_what_is_learned(row: Learning, faithful: bool, state: str) -> None:
    bound = binding(state)
    before = (bound.leased, bound.until, bound.dns)
    snoop = Snoop(bound, faithful)
    assert snoop.from_guest(view(udp("0.0.0.0", 68, ALL, 67), faithful), 1000.0) == 0  # transaction 7
    found = snoop.to_guest(view(row.frame, faithful), 1000.0)
    expected = row.faithful if faithful else row.ours
    if expected is Change.LEASED and state != NONE:
        expected = Change.RENEWED
    assert found is expected
    if expected is Change.NONE:
        assert (bound.leased, bound.until, bound.dns) == before
    elif expected is Change.WITHDRAWN:
        assert bound.leased is None
    else:
        assert bound.leased is not None
        assert text(bound.leased) == L
        assert bound.until == pytest.approx(1599.9)
        assert bound.dns == (frozenset({pack(D)}) if "dns" in row.name or row.name == "ACK" else frozenset())


@pytest.mark.parametrize("faithful", [True, False], ids=["faithful", "ours"])
@pytest.mark.parametrize(
    ("seconds", "until"),
    [(0, 1000.0), (1, 1000.9), (0xFFFFFFFF, 1000.0 + 0xFFFFFFFF - 0.1)],
    ids=["0", "1", "for ever"],
)
def test_lease_times(seconds: int, until: float, faithful: bool) -> None:
    bound = binding(NONE)
    snoop = Snoop(bound, faithful)
    snoop.from_guest(view(udp("0.0.0.0", 68, ALL, 67), faithful), 1000.0)
    snoop.to_guest(view(answer(lease=seconds.to_bytes(4, "big")), faithful), 1000.0)
    assert bound.until == pytest.approx(until)
    assert bound.state(1000.0) == (2 if seconds == 0 else 1)


@pytest.mark.parametrize("faithful", [True, False], ids=["faithful", "ours"])
def test_a_life(faithful: bool) -> None:
    """NONE, LEASED, another address, NAK, and a lease that runs out, through frames alone."""
    bound = binding(NONE)
    snoop = Snoop(bound, faithful)

    def speaks(frame: bytes, now: float) -> DropReason:
        seen = view(frame, faithful)
        reason = admit_faithful(seen, bound, None, now) if faithful else admit(seen, bound, Table(), now)
        return DropReason(reason or snoop.from_guest(seen, now))

    assert speaks(ip(L, "1.1.1.1"), 0.0) is R.SOURCE_NOT_GUEST
    assert speaks(udp("0.0.0.0", 68, ALL, 67), 0.0) is PASS
    snoop.to_guest(view(answer(lease=SECONDS), faithful), 0.0)
    assert speaks(ip(L, "1.1.1.1"), 599.8) is PASS
    assert speaks(udp(L, 68, G, 67), 599.8) is PASS
    snoop.to_guest(view(answer(lease=SECONDS, yiaddr="192.168.0.7"), faithful), 599.8)
    assert speaks(ip(L, "1.1.1.1"), 599.8) is R.SOURCE_NOT_GUEST
    assert speaks(ip("192.168.0.7", "1.1.1.1"), 600.0) is PASS
    assert speaks(ip("192.168.0.7", "1.1.1.1"), 1199.8) is R.LEASE_EXPIRED
    assert speaks(udp("0.0.0.0", 68, ALL, 67), 1200.0) is PASS
    snoop.to_guest(view(answer(NAK), faithful), 1200.0)
    assert speaks(arp("0.0.0.0"), 1200.0) is PASS
    assert speaks(ip("192.168.0.7", "1.1.1.1"), 1200.0) is R.SOURCE_NOT_GUEST
