"""guard.admit and guard.frame: one frame per attack and per grant, IPv6 above all, cut at every length.

IPv4 and ARP row by row, beside Softnet's verdicts: `test_guard_admit_golden`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from scapy.contrib.igmp import IGMP
from scapy.contrib.igmpv3 import IGMPv3, IGMPv3mr
from scapy.layers.dhcp6 import DHCP6_Advertise, DHCP6_RelayForward, DHCP6_Solicit
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    HAO,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6MLDMultAddrRec,
    ICMPv6MLQuery,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NIQueryName,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet as Layer
from scapy.packet import Raw

from bucatini.base.address import pack
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.guard.admit import (
    ALLOW,
    BLOCK,
    NO_RULE,
    admit,
    admit_faithful,
    admit_to_guest,
    reaches,
)
from bucatini.guard.binding import Binding
from bucatini.guard.frame import Frame
from bucatini.wire.dhcp import DhcpMessage, emit_dhcp
from bucatini.wire.ip import IpView

R = DropReason
PASS = DropReason.NONE
MAC, OTHER_MAC, HOST_MAC = "02:00:00:00:00:01", "02:00:00:00:00:09", "02:00:00:00:00:fe"
CHADDR = bytes.fromhex(MAC.replace(":", ""))
OWN4, GATEWAY4 = "192.168.0.2", "192.168.0.1"
LINK, OWN, GATEWAY6 = "fe80::ff:fe00:1", "2001:db8::2", "fe80::1"
OTHER_LINK, OTHER = "fe80::ff:fe00:9", "2001:db8::9"
DELEGATED = "2001:db8:5::77"
NOW = 1000.0


class Table:
    """Rules by exact address; remembers what it was asked."""

    def __init__(self, **verdicts: int) -> None:
        self.verdicts = {pack(address): verdict for address, verdict in verdicts.items()}
        self.asked: list[tuple[str, str, int]] = []

    def decide(self, direction: str, address: bytes, port: int) -> int:
        self.asked.append((direction, str(ipaddress.ip_address(address)), port))
        return self.verdicts.get(address, NO_RULE)


@pytest.fixture
def bound() -> Binding:
    made = Binding(CHADDR, [pack(GATEWAY4), pack(GATEWAY6)], dns=[pack("fd00::53")], margin=0.1)
    made.lease(pack(OWN4), 600, NOW)
    made.bind(pack(OWN))
    made.bind_prefix(pack("2001:db8:5::"), 64)
    return made


def view(frame: bytes, faithful: bool = False) -> Frame:
    made = Frame(memoryview(bytearray(frame)), faithful)
    made.parse(0, len(frame))
    return made


def ether(layer: Layer, **fields: Any) -> bytes:
    return bytes(Ether(**{"src": MAC, "dst": HOST_MAC, **fields}) / layer)


def v6(*layers: Layer, **fields: Any) -> bytes:
    packet = IPv6(**{"src": LINK, "dst": "ff02::1", "hlim": 255, **fields})
    for layer in layers:
        packet = packet / layer
    return ether(packet)


def v4(*layers: Layer, **fields: Any) -> bytes:
    packet = IP(**{"src": OWN4, "dst": "1.1.1.1", **fields})
    for layer in layers:
        packet = packet / layer
    return ether(packet)


def source_option(mac: str = MAC, **fields: Any) -> Layer:
    return ICMPv6NDOptSrcLLAddr(lladdr=mac, **fields)


def target_option(mac: str = MAC, **fields: Any) -> Layer:
    return ICMPv6NDOptDstLLAddr(lladdr=mac, **fields)


def dhcp(source: str = "0.0.0.0", to: str = "255.255.255.255", cut: int = 0, **fields: Any) -> bytes:
    values: dict[str, Any] = {"op": 1, "xid": 7, "chaddr": CHADDR.ljust(16, b"\0"), "options": {53: b"\1"}, **fields}
    body = emit_dhcp(DhcpMessage(**values))
    return v4(UDP(sport=68, dport=67), Raw(body[: len(body) - cut]), src=source, dst=to)


DAD = {"src": "::", "dst": "ff02::1:ff00:1"}
MLD_REPORT = ICMPv6MLReport2(records=[ICMPv6MLDMultAddrRec()])
HBH = IPv6ExtHdrHopByHop(options=[RouterAlert(value=0), PadN(optdata=b"")])

GRANTED: dict[str, bytes] = {
    "echo from the link-local address": v6(ICMPv6EchoRequest(), dst=GATEWAY6),
    "TCP from an assigned address": v6(TCP(), src=OWN, dst="2606:4700::1"),
    "UDP from a delegated prefix": v6(UDP(), src=DELEGATED, dst="2606:4700::1"),
    "an ICMPv6 error": v6(ICMPv6DestUnreach(), Raw(bytes(48)), src=OWN, dst="2606:4700::1"),
    "DAD for the link-local address": v6(ICMPv6ND_NS(tgt=LINK), **DAD),
    "DAD for an assigned address": v6(ICMPv6ND_NS(tgt=OWN), **DAD),
    "DAD in a delegated prefix": v6(ICMPv6ND_NS(tgt=DELEGATED), **DAD),
    "RS from nobody": v6(ICMPv6ND_RS(), src="::", dst="ff02::2"),
    "RS": v6(ICMPv6ND_RS(), source_option(), dst="ff02::2"),
    "RS without option": v6(ICMPv6ND_RS(), dst="ff02::2"),
    "NS for a neighbour": v6(ICMPv6ND_NS(tgt=OTHER), source_option()),
    "NS unicast, without option": v6(ICMPv6ND_NS(tgt=GATEWAY6), dst=GATEWAY6),
    "NA": v6(ICMPv6ND_NA(tgt=LINK, S=1, O=1), target_option()),
    "NA of an assigned address": v6(ICMPv6ND_NA(tgt=OWN), target_option(), src=OWN),
    "NA from another address of its own": v6(ICMPv6ND_NA(tgt=OWN), target_option()),
    "MLD report before there is an address": v6(HBH, MLD_REPORT, src="::", hlim=1),
    "MLD report": v6(HBH, MLD_REPORT, hlim=1),
    "DHCPv6": v6(UDP(sport=546, dport=547), DHCP6_Solicit(), dst="ff02::1:2"),
    "a later fragment": v6(IPv6ExtHdrFragment(offset=9, nh=58), Raw(b"x"), src=OWN, dst="2606:4700::1"),
    "a first fragment": v6(IPv6ExtHdrFragment(m=1), ICMPv6EchoRequest(), Raw(bytes(64)), src=OWN, dst="2606:4700::1"),
    "destination options": v6(IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0\0")]), UDP(), src=OWN, dst="2606:4700::1"),
    "IGMP report": v4(
        IGMPv3(type=0x22), IGMPv3mr(), dst="224.0.0.22", proto=2, ttl=1, options=[IPOption_Router_Alert()]
    ),
    "IGMP report without an address": v4(IGMP(type=0x16, gaddr="224.0.0.251"), src="0.0.0.0", dst="224.0.0.251", ttl=1),
    "IGMP leave": v4(IGMP(type=0x17, gaddr="224.0.0.251"), dst="224.0.0.2", ttl=1),
    "MLD version 1 report": v6(HBH, ICMPv6MLReport(mladdr="ff0e::77"), dst="ff0e::77", hlim=1),
    "ping": v4(ICMP()),
    "an ICMP error": v4(ICMP(type=3), Raw(bytes(28))),
    "DHCP from nobody": dhcp(),
    "DHCP renewal": dhcp(OWN4, GATEWAY4),
    "DHCP rebinding": dhcp(OWN4),
    "ARP": ether(ARP(hwsrc=MAC, psrc=OWN4, pdst=GATEWAY4)),
    "ARP announcement": ether(ARP(hwsrc=MAC, psrc=OWN4, pdst=OWN4)),
    "ARP, padded": ether(ARP(hwsrc=MAC, psrc=OWN4, pdst=GATEWAY4)) + bytes(18),
}

DENIED: dict[str, tuple[DropReason, bytes]] = {
    "foreign IPv6 source": (R.SOURCE_NOT_GUEST, v6(UDP(), src=OTHER, dst="2606:4700::1")),
    "another's link-local source": (R.SOURCE_NOT_GUEST, v6(UDP(), src=OTHER_LINK, dst=GATEWAY6)),
    "beside a delegated prefix": (R.SOURCE_NOT_GUEST, v6(UDP(), src="2001:db8:5:1::77", dst="2606:4700::1")),
    "a group as source": (R.SOURCE_NOT_GUEST, v6(UDP(), src="ff02::1", dst="2606:4700::1")),
    "nobody's payload": (R.SOURCE_UNSPECIFIED, v6(ICMPv6EchoRequest(), src="::", dst="2606:4700::1")),
    "nobody's payload, IPv4": (R.SOURCE_UNSPECIFIED, v4(ICMP(), src="0.0.0.0")),
    "foreign MAC, all else right": (
        R.FOREIGN_SOURCE_MAC,
        ether(IPv6(src=LINK, dst=GATEWAY6) / ICMPv6EchoRequest(), src=OTHER_MAC),
    ),
    "RA": (R.ROGUE_RA, v6(ICMPv6ND_RA(), source_option())),
    "RA behind an extension header": (R.ROGUE_RA, v6(IPv6ExtHdrDestOpt(), ICMPv6ND_RA())),
    "RA from the gateway's address": (R.ROGUE_RA, v6(ICMPv6ND_RA(), src=GATEWAY6)),
    "RA in a first fragment": (R.ROGUE_RA, v6(IPv6ExtHdrFragment(m=1), ICMPv6ND_RA())),
    "RA, type cut off by fragmenting": (R.ICMP_HEADER, v6(IPv6ExtHdrFragment(m=1, nh=58), Raw(b""))),
    "router renumbering": (R.ROGUE_RA, v6(Raw(bytes([138]) + bytes(15)), nh=58)),
    "ICMPv4 router discovery": (R.ROGUE_RA, v4(ICMP(type=9), Raw(bytes(8)), dst="224.0.0.1")),
    "redirect": (R.ROGUE_REDIRECT, v6(ICMPv6ND_Redirect(tgt=LINK, dst="2606:4700::1"))),
    "ICMPv4 redirect": (R.ROGUE_REDIRECT, v4(ICMP(type=5, gw=OWN4), Raw(bytes(28)))),
    "MLD query": (R.ROGUE_QUERIER, v6(HBH, ICMPv6MLQuery(), hlim=1)),
    "IGMP query": (R.ROGUE_QUERIER, v4(IGMP(type=0x11, gaddr="0.0.0.0"), dst="224.0.0.1")),
    "DVMRP": (R.ROGUE_QUERIER, v4(Raw(b"\x13" + bytes(7)), proto=2, dst="224.0.0.4")),
    "multicast router discovery": (R.ROGUE_QUERIER, v6(Raw(bytes([151]) + bytes(7)), nh=58)),
    "node information": (R.ICMP_TYPE, v6(ICMPv6NIQueryName(), dst=OTHER_LINK)),
    "inverse neighbour discovery": (R.ICMP_TYPE, v6(Raw(bytes([142]) + bytes(31)), nh=58)),
    "NA for a neighbour": (R.ND_SPOOF, v6(ICMPv6ND_NA(tgt=OTHER_LINK, O=1), target_option())),
    "NA for the gateway": (R.ND_SPOOF, v6(ICMPv6ND_NA(tgt=GATEWAY6, R=1, O=1), target_option())),
    "NA with another's MAC": (R.ND_SPOOF, v6(ICMPv6ND_NA(tgt=LINK, O=1), target_option(OTHER_MAC))),
    "NA with a second option": (R.ND_SPOOF, v6(ICMPv6ND_NA(tgt=LINK), target_option(), target_option(OTHER_MAC))),
    "NA with an option of two units": (
        R.ND_SPOOF,
        v6(ICMPv6ND_NA(tgt=LINK), Raw(b"\2\2" + CHADDR + bytes(8))),
    ),
    "NA from a neighbour's address": (R.ND_SPOOF, v6(ICMPv6ND_NA(tgt=LINK), src=OTHER_LINK)),
    "NA from nobody": (R.ND_SPOOF, v6(ICMPv6ND_NA(tgt=LINK), src="::")),
    "NS with another's MAC": (R.ND_SPOOF, v6(ICMPv6ND_NS(tgt=OTHER), source_option(OTHER_MAC))),
    "NS from a neighbour's address": (R.ND_SPOOF, v6(ICMPv6ND_NS(tgt=OTHER), source_option(), src=OTHER_LINK)),
    "NS from nobody with option": (R.ND_SPOOF, v6(ICMPv6ND_NS(tgt=LINK), source_option(), **DAD)),
    "DAD for a neighbour's address": (R.ND_SPOOF, v6(ICMPv6ND_NS(tgt=OTHER), **DAD)),
    "RS with another's MAC": (R.ND_SPOOF, v6(ICMPv6ND_RS(), source_option(OTHER_MAC))),
    "RS from nobody with option": (R.ND_SPOOF, v6(ICMPv6ND_RS(), source_option(), src="::")),
    "NS off the link": (R.NDP_MALFORMED, v6(ICMPv6ND_NS(tgt=OTHER), source_option(), hlim=254)),
    "NS with a code": (R.NDP_MALFORMED, v6(ICMPv6ND_NS(tgt=OTHER, code=1))),
    "NS for a group": (R.NDP_MALFORMED, v6(ICMPv6ND_NS(tgt="ff02::1"))),
    "NA in an atomic fragment": (R.NDP_MALFORMED, v6(IPv6ExtHdrFragment(), ICMPv6ND_NA(tgt=LINK))),
    "NA with an option of length 0": (R.NDP_MALFORMED, v6(ICMPv6ND_NA(tgt=LINK), target_option(len=0))),
    "NA with an option that runs out": (R.NDP_MALFORMED, v6(ICMPv6ND_NA(tgt=LINK), target_option(len=2))),
    "NA with half an option": (R.NDP_MALFORMED, v6(ICMPv6ND_NA(tgt=LINK), Raw(b"\2"))),
    "MLD report from a neighbour": (
        R.SOURCE_NOT_GUEST,
        v6(HBH, MLD_REPORT, src=OTHER_LINK, hlim=1),
    ),
    "MLD report that travels": (R.POLICY_DENIED, v6(HBH, MLD_REPORT, src=OWN, dst="ff0e::1", hlim=64)),
    "MLD report to one": (R.POLICY_DENIED, v6(HBH, MLD_REPORT, src=OWN, dst="2606:4700::1", hlim=1)),
    "IGMP report that travels": (R.POLICY_DENIED, v4(IGMP(type=0x16), dst="239.1.1.1", ttl=64)),
    "IGMP report to one": (R.POLICY_DENIED, v4(IGMP(type=0x16), dst="1.1.1.1", ttl=1)),
    "DHCPv6 server": (R.ROGUE_DHCP, v6(UDP(sport=547, dport=546), DHCP6_Advertise(), dst=OTHER_LINK)),
    "DHCPv6 server, other port": (R.ROGUE_DHCP, v6(UDP(sport=9, dport=546), DHCP6_Advertise(), dst=OTHER_LINK)),
    "DHCPv6 server, other target port": (R.ROGUE_DHCP, v6(UDP(sport=547, dport=9), DHCP6_Advertise(), dst=OTHER_LINK)),
    "DHCPv6 relay": (R.ROGUE_DHCP, v6(UDP(sport=9, dport=547), DHCP6_RelayForward(), dst="ff02::1:2")),
    "DHCPv6 from nobody": (R.SOURCE_UNSPECIFIED, v6(UDP(sport=546, dport=547), DHCP6_Solicit(), src="::")),
    "DHCPv6 from a neighbour": (R.SOURCE_NOT_GUEST, v6(UDP(sport=546, dport=547), DHCP6_Solicit(), src=OTHER_LINK)),
    "DHCP server": (R.ROGUE_DHCP, v4(UDP(sport=67, dport=68), Raw(bytes(300)), dst="255.255.255.255")),
    "DHCP server, other source port": (R.ROGUE_DHCP, v4(UDP(sport=9, dport=68), dst="192.168.0.9")),
    "DHCP server, other target port": (R.ROGUE_DHCP, v4(UDP(sport=67, dport=9), dst="192.168.0.9")),
    "DHCP under another's chaddr": (R.DHCP_SPOOF, dhcp(chaddr=bytes(16))),
    "DHCP for another's chaddr from the lease": (R.DHCP_SPOOF, dhcp(OWN4, GATEWAY4, chaddr=b"\2".ljust(16, b"\1"))),
    "DHCP relayed": (R.DHCP_SPOOF, dhcp(giaddr=pack(OWN4))),
    "DHCP reply to the server's port": (R.DHCP_SPOOF, dhcp(op=2)),
    "DHCP of another hardware": (R.DHCP_SPOOF, dhcp(htype=6)),
    "DHCP of a longer hardware address": (R.DHCP_SPOOF, dhcp(hlen=7)),
    "DHCP too short": (R.DHCP_SPOOF, dhcp(cut=300 - 43)),
    "DHCP in a first fragment": (
        R.DHCP_SPOOF,
        v4(UDP(sport=68, dport=67, len=600), Raw(bytes(304)), src="0.0.0.0", dst="255.255.255.255", flags="MF"),
    ),
    "DHCP from nobody to one": (R.SOURCE_UNSPECIFIED, dhcp(to=GATEWAY4)),
    "DHCP from a foreign address": (R.SOURCE_NOT_GUEST, dhcp("192.168.0.9")),
    "DHCP to who is no server": (R.POLICY_DENIED, dhcp(OWN4, "192.168.0.9")),
    "routing header 0": (R.SOURCE_ROUTE, v6(IPv6ExtHdrRouting(addresses=[OTHER]), UDP(), dst=OWN)),
    "routing header 4": (
        R.SOURCE_ROUTE,
        v6(IPv6ExtHdrRouting(type=4, addresses=[OTHER]), UDP(), src=OWN, dst="2606:4700::1"),
    ),
    "routing header behind another": (
        R.SOURCE_ROUTE,
        v6(IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(type=2, addresses=[OTHER]), UDP(), src=OWN, dst="2606:4700::1"),
    ),
    "home address": (
        R.OPTION_REFUSED,
        v6(IPv6ExtHdrDestOpt(options=[HAO(hoa=OTHER)]), UDP(), src=OWN, dst="2606:4700::1"),
    ),
    "destination options that run out": (
        R.OPTION_REFUSED,
        v6(Raw(b"\x11\0\x05\x05\0\0\0\0"), UDP(), nh=60, src=OWN, dst="2606:4700::1"),
    ),
    "router alert outside IGMP": (R.OPTION_REFUSED, v4(UDP(), options=[IPOption_Router_Alert()])),
    "more than a router alert in IGMP": (
        R.OPTION_REFUSED,
        v4(IGMP(type=0x16), options=[IPOption_Router_Alert(), b"\1\1\1\1"], dst="224.0.0.22"),
    ),
    "tiny first fragment of TCP": (R.TCP_HEADER, v4(Raw(bytes(8)), proto=6, flags="MF")),
    "later fragment within TCP's header": (R.FRAGMENT_OVERLAP, v4(Raw(bytes(16)), proto=6, frag=1)),
    "tiny first fragment of UDP": (R.UDP_HEADER, v4(Raw(b""), proto=17, flags="MF")),
    "IPv4 under IPv6's EtherType": (R.IP_HEADER, ether(IP(src=OWN4), type=0x86DD)),
    "IPv6 under IPv4's EtherType": (R.IP_HEADER, ether(IPv6(src=LINK), type=0x0800)),
    "ARP reply of nobody": (R.ARP_SPOOF, ether(ARP(op=2, hwsrc=MAC, psrc="0.0.0.0"))),
    "ARP of the gateway": (R.ARP_SPOOF, ether(ARP(op=2, hwsrc=MAC, psrc=GATEWAY4))),
    "ARP probe for another MAC": (R.ARP_SPOOF, ether(ARP(hwsrc=OTHER_MAC, psrc="0.0.0.0"))),
}


@pytest.mark.parametrize("name", GRANTED)
def test_granted(name: str, bound: Binding) -> None:
    assert DropReason(admit(view(GRANTED[name]), bound, Table(), NOW)) is PASS
    assert DropReason(admit(view(GRANTED[name]), bound, None, NOW)) is PASS


@pytest.mark.parametrize("name", DENIED)
def test_denied(name: str, bound: Binding) -> None:
    reason, frame = DENIED[name]
    assert DropReason(admit(view(frame), bound, Table(), NOW)) is reason
    assert DropReason(admit(view(frame), bound, None, NOW)) is reason


@pytest.mark.parametrize("name", DENIED)
def test_no_rule_opens_what_the_identity_denies(name: str, bound: Binding) -> None:
    class Everything:
        def decide(self, direction: str, address: bytes, port: int) -> int:
            return ALLOW

    assert admit(view(DENIED[name][1]), bound, Everything(), NOW) != 0


@pytest.mark.parametrize("name", GRANTED)
def test_nothing_is_granted_without_its_lease_or_under_another_mac(name: str, bound: Binding) -> None:
    stranger = Binding(b"\2\0\0\0\0\x55", [pack(GATEWAY4)])
    assert DropReason(admit(view(GRANTED[name]), stranger, None, NOW)) is R.FOREIGN_SOURCE_MAC
    late = admit(view(GRANTED[name]), bound, None, NOW + 600)
    if pack(OWN4) in GRANTED[name][26:32]:  # IPv4 source, or sender of ARP
        assert DropReason(late) is R.LEASE_EXPIRED
    else:
        assert late == 0


@pytest.mark.parametrize("index", range(6))
def test_every_bit_of_the_mac_counts(index: int, bound: Binding) -> None:
    frame = bytearray(v4(ICMP()))
    for bit in range(8):
        frame[6 + index] ^= 1 << bit
        assert admit(view(bytes(frame)), bound, None, NOW) == R.FOREIGN_SOURCE_MAC
        assert admit_faithful(view(bytes(frame), True), bound, None, NOW) == R.FOREIGN_SOURCE_MAC
        frame[6 + index] ^= 1 << bit


@pytest.mark.parametrize("faithful", [False, True], ids=["ours", "faithful"])
@pytest.mark.parametrize("name", [*GRANTED, *DENIED])
def test_cut_at_every_length(name: str, faithful: bool, bound: Binding) -> None:
    """No cut raises, and what is cut inside its headers never gets through: 14 bytes of Ethernet and 20 of IP, or 28 of
    ARP, are the least anything needs.
    """
    frame = GRANTED[name] if name in GRANTED else DENIED[name][1]
    predicate: Callable[..., int] = admit_faithful if faithful else admit
    for length in range(len(frame)):
        arena = memoryview(bytearray(b"\xee" * 3 + frame[:length] + b"\xee" * 3))
        seen = Frame(arena, faithful)
        seen.parse(3, length)
        found = predicate(seen, bound, Table(), NOW)
        assert DropReason(found) or length >= 34
        if seen.kind == 6 and not faithful:
            assert found, "IPv6 says how long it is"


@pytest.mark.parametrize("name", [*GRANTED, *DENIED])
def test_a_frame_parsed_elsewhere_is_judged_alike(name: str, bound: Binding) -> None:
    frame = GRANTED[name] if name in GRANTED else DENIED[name][1]
    arena, ip = memoryview(bytearray(9) + bytearray(frame)), IpView()
    if frame[12:14] != b"\x08\x06" and ip.parse(arena, 23, 9 + len(frame)):
        return
    if frame[12:14] != b"\x08\x06" and ip.version != (4 if frame[12:14] == b"\x08\0" else 6):
        return
    adopted = Frame(arena, ip=ip)
    adopted.adopt(9, 9 + len(frame))
    assert admit(adopted, bound, None, NOW) == admit(view(frame), bound, None, NOW)


def test_one_view_serves_any_frames_in_any_order(bound: Binding) -> None:
    """Nothing of a frame is left for the next."""
    frames = {**{name: (PASS, frame) for name, frame in GRANTED.items()}, **DENIED}
    for first in frames:
        seen = Frame(memoryview(bytearray(4096)))
        for name in (first, *frames):
            reason, frame = frames[name]
            seen.buf[: len(frame)] = frame
            seen.parse(0, len(frame))
            assert DropReason(admit(seen, bound, None, NOW)) is reason, (first, name)


# -- whom it may reach


@pytest.mark.parametrize(
    ("destination", "reached"),
    [
        ("2606:4700::1", True),
        ("2001:200::1", True),
        ("64:ff9b::1.1.1.1", True),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::169.254.169.254", False),
        ("64:ff9b:1::1.1.1.1", False),
        ("2002:101:101::1", False),
        ("2001::1", False),
        ("2001:1ff::1", False),
        ("2001:db8::7", False),
        ("3fff::1", False),
        ("4000::1", False),
        ("fd00::7", False),
        ("fd00:ec2::254", False),
        ("::ffff:1.1.1.1", False),
        ("ff02::fb", False),
        ("ff0e::1", False),
        (OTHER_LINK, False),
        (GATEWAY6, True),
        ("::1", False),
    ],
)
def test_where_no_rule_decides(destination: str, reached: bool, bound: Binding) -> None:
    frame = v6(UDP(dport=9), src=OWN, dst=destination)
    assert (admit(view(frame), bound, Table(), NOW) == 0) is reached
    assert reached or reaches(view(frame), bound, Table()) == R.POLICY_DENIED


@pytest.mark.parametrize("layer", [UDP(dport=53), TCP(dport=53)])
def test_resolvers_over_udp_and_tcp(layer: Layer, bound: Binding) -> None:
    assert admit(view(v6(layer, src=OWN, dst="fd00::53")), bound, Table(), NOW) == 0
    layer.dport = 853
    assert admit(view(v6(layer, src=OWN, dst="fd00::53")), bound, Table(), NOW) == R.POLICY_DENIED


def test_a_rule_decides_before_the_defaults_and_hears_the_port(bound: Binding) -> None:
    table = Table(**{"2606:4700::1": BLOCK, "fd00::7": ALLOW})
    assert admit(view(v6(TCP(dport=443), src=OWN, dst="2606:4700::1")), bound, table, NOW) == R.POLICY_DENIED
    assert admit(view(v6(UDP(dport=99), src=OWN, dst="fd00::7")), bound, table, NOW) == 0
    assert admit(view(v6(ICMPv6EchoRequest(), src=OWN, dst="fd00::7")), bound, table, NOW) == 0
    assert table.asked == [(EGRESS, "2606:4700::1", 443), (EGRESS, "fd00::7", 99), (EGRESS, "fd00::7", 0)]


@pytest.mark.parametrize("wrapper", ["64:ff9b::1.1.1.1", "2002:101:101::5"])
def test_a_rule_about_ipv4_holds_inside_ipv6(wrapper: str, bound: Binding) -> None:
    frame = v6(UDP(dport=9), src=OWN, dst=wrapper)
    wrapped = str(ipaddress.ip_address(wrapper))
    assert admit(view(frame), bound, Table(**{wrapped: ALLOW, "1.1.1.1": BLOCK}), NOW) == R.POLICY_DENIED
    assert admit(view(frame), bound, Table(**{wrapped: BLOCK, "1.1.1.1": ALLOW}), NOW) == R.POLICY_DENIED
    assert admit(view(frame), bound, Table(**{wrapped: ALLOW}), NOW) == 0


def test_later_fragments_have_no_port(bound: Binding) -> None:
    table = Table()
    frame = v4(UDP(sport=1, dport=53), Raw(b"x"), frag=2)
    assert admit(view(frame), bound, table, NOW) == 0
    assert admit_faithful(view(frame, True), bound, table, NOW) == 0
    assert [port for _, _, port in table.asked] == [0, 0]


def test_no_rule_is_asked_about_what_the_link_needs(bound: Binding) -> None:
    table = Table(**{"255.255.255.255": BLOCK, GATEWAY4: BLOCK, "ff02::1:2": BLOCK, "ff02::16": BLOCK})
    for name in ("DHCP renewal", "DHCP rebinding", "DHCP from nobody", "DHCPv6", "NS for a neighbour", "MLD report"):
        assert admit(view(GRANTED[name]), bound, table, NOW) == 0
    assert table.asked == []


@pytest.mark.parametrize(
    ("destination", "passes"),
    [
        ("fd00::7", False),
        ("ff0e::1", False),
        ("ff05::1", False),
        ("ff02::1:ff00:7", True),
        ("ff01::1", True),
        (OTHER_LINK, True),
        (GATEWAY6, True),
        ("fec0::1", False),
    ],
)
@pytest.mark.parametrize("message", [ICMPv6ND_NS(tgt="fd00::7"), ICMPv6ND_NA(tgt=OWN), ICMPv6ND_RS()])
def test_neighbour_discovery_is_no_way_past_the_rules(
    message: Layer, destination: str, passes: bool, bound: Binding
) -> None:
    """A router would pass on what goes to a global address, with 16 bytes of target to say anything in."""
    frame = v6(message, src=OWN, dst=destination)
    assert admit(view(frame), bound, Table(), NOW) == (0 if passes else R.POLICY_DENIED)
    assert admit(view(frame), bound, None, NOW) == 0
    assert admit(view(frame), bound, Table(**{destination: ALLOW}), NOW) == 0


def test_who_may_come_in_may_be_told_where_the_guest_is(bound: Binding) -> None:
    class Inwards:
        def decide(self, direction: str, address: bytes, port: int) -> int:
            return ALLOW if direction == INGRESS else NO_RULE

    frame = v6(ICMPv6ND_NA(tgt=OWN), src=OWN, dst="fd00::7")
    assert admit(view(frame), bound, Inwards(), NOW) == 0
    assert admit(view(v6(UDP(), src=OWN, dst="fd00::7")), bound, Inwards(), NOW) == R.POLICY_DENIED


def test_unicast_dhcpv6_is_subject_to_rules(bound: Binding) -> None:
    frame = v6(UDP(sport=546, dport=547), DHCP6_Solicit(), src=OWN, dst=OTHER)
    assert admit(view(frame), bound, Table(), NOW) == R.POLICY_DENIED
    assert admit(view(frame), bound, None, NOW) == 0


# -- what the host sends


def from_host(*layers: Layer, to: str = MAC, **fields: Any) -> bytes:
    packet = IP(**{"src": "8.8.8.8", "dst": OWN4, **fields})
    for layer in layers:
        packet = packet / layer
    return ether(packet, src=HOST_MAC, dst=to)


def test_a_rule_may_keep_the_host_side_out(bound: Binding) -> None:
    table = Table(**{"8.8.8.8": BLOCK})
    assert admit_to_guest(view(from_host(UDP(sport=53))), bound, table) == R.POLICY_DENIED
    assert table.asked == [(INGRESS, "8.8.8.8", 53)]
    assert admit_to_guest(view(from_host(UDP(sport=53))), bound, None) == 0
    assert admit_to_guest(view(from_host(UDP(sport=53), src="9.9.9.9")), bound, table) == 0


def test_only_known_servers_answer_dhcp(bound: Binding) -> None:
    table = Table(**{GATEWAY4: BLOCK})
    assert admit_to_guest(view(from_host(UDP(sport=67, dport=68), src=GATEWAY4)), bound, table) == 0
    assert admit_to_guest(view(from_host(UDP(sport=67, dport=68), src="192.168.0.9")), bound, None) == R.ROGUE_DHCP


def test_the_link_itself_may_always_speak(bound: Binding) -> None:
    table = Table()
    to_all = IPv6(src=GATEWAY6, dst="ff02::1", hlim=255)
    advertisement = ether(to_all / ICMPv6ND_RA(), src=HOST_MAC, dst="33:33:00:00:00:01")
    assert admit_to_guest(view(advertisement), bound, table) == 0
    request = ether(ARP(hwsrc=HOST_MAC, psrc=GATEWAY4, pdst=OWN4), src=HOST_MAC, dst="ff:ff:ff:ff:ff:ff")
    assert admit_to_guest(view(request), bound, table) == 0
    assert table.asked == []


def test_ports_of_dhcp_lead_not_past_rules(bound: Binding) -> None:
    """A guest is no server, and DHCPv6 servers are on the link."""
    table = Table(**{"8.8.8.8": BLOCK, "2606:4700::1": BLOCK})
    assert admit_to_guest(view(from_host(UDP(sport=9, dport=67))), bound, table) == R.POLICY_DENIED
    for source, found in (("2606:4700::1", R.POLICY_DENIED), ("fe80::9", PASS)):
        for ports in ({"sport": 9, "dport": 547}, {"sport": 547, "dport": 9}, {"sport": 547, "dport": 546}):
            frame = ether(IPv6(src=source, dst=OWN) / UDP(**ports), src=HOST_MAC, dst=MAC)
            assert admit_to_guest(view(frame), bound, table) == found
            assert admit_to_guest(view(frame), bound, None) == PASS


def test_frames_for_others_stay_outside(bound: Binding) -> None:
    assert admit_to_guest(view(from_host(UDP(), to=OTHER_MAC)), bound, None) == R.FOREIGN_MAC
