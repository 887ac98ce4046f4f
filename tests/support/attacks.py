"""What a guest can do to its neighbours on an ordinary bridge: a table, each attack with the effect that shows it.

`launch` sends as root of the attacker's namespace would, with a real tool or with frames that scapy makes, and answers
the frames that no filter should let pass. `effect` says whether the victim, the host or its DHCP server fell for it.
`reason` is why a frame of it is dropped. The forger knows everything: addresses, MAC addresses, and transactions of
the victim's DHCP client, which it need not overhear.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Reply, DHCP6OptServerId
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6MLQuery,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrSegmentRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import ARP, LLC, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from support.fakehost import PUBLIC4, PUBLIC6
from support.guests import PATIENCE, eventually
from support.segment_lab import BROADCAST, FORGED, PORT, EngineLab, Lab

__all__ = ["ATTACKS", "IDENTITIES", "Attack", "check_fails"]

IDENTITIES = 10_000
KNOWN_IDENTITIES = 4
"""Client identifiers that one guest may have, see `guard.snoop`."""
SAME = "the same"
CLOSED_PORT = 7001
ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
FOREIGN6 = "fdba:d::"
NEW6 = "fd55::da:d"
"""An address that the victim takes, and asks first whether it is somebody's."""


class Attack(NamedTuple):
    """See the module. `passes`: how many of its frames may get through, being harmless alone. `otherwise`: the reason
    that the switch has, `None` where it answers, to no effect.
    """

    launch: Callable[[Lab], list[bytes]]
    effect: Callable[[Lab], bool]
    reason: str
    passes: int = 0
    otherwise: str | None = SAME

    @property
    def switch_reason(self) -> str | None:
        """Why the switch drops it."""
        return self.reason if self.otherwise == SAME else self.otherwise


# -- frames


def to_victim(lab: Lab, *, source: str = "") -> Packet:
    """An IPv4 datagram for the victim's listener, but for its payload."""
    return Ether(src=lab.attacker.mac, dst=lab.victim.mac) / IP(src=source or lab.attacker.ipv4, dst=lab.victim.ipv4)


def datagram() -> Packet:
    return UDP(sport=4000, dport=PORT) / Raw(FORGED)


def discovery(lab: Lab, source: str, to: str = "") -> Packet:
    """Up to the header of IPv6, to all nodes or to the victim."""
    if to:
        return Ether(src=lab.attacker.mac, dst=lab.victim.mac) / IPv6(src=source, dst=to, hlim=255)
    return Ether(src=lab.attacker.mac, dst=ALL_NODES_MAC) / IPv6(src=source, dst=ALL_NODES, hlim=255)


def advertisement(lab: Lab) -> Packet:
    """What makes the attacker a router."""
    prefix = ICMPv6NDOptPrefixInfo(prefix=FOREIGN6, prefixlen=64, validlifetime=600, preferredlifetime=600)
    return ICMPv6ND_RA(routerlifetime=1800) / ICMPv6NDOptSrcLLAddr(lladdr=lab.attacker.mac) / prefix


def dhcp(lab: Lab, mac: str, kind: str, *options: tuple[str, object], **fields: object) -> Packet:
    """A client's message under the hardware address `mac`."""
    client = bytes.fromhex(mac.replace(":", ""))
    return (
        Ether(src=lab.attacker.mac, dst=BROADCAST)
        / IP(src=fields.pop("source", "0.0.0.0"), dst=fields.pop("destination", "255.255.255.255"))
        / UDP(sport=68, dport=67, chksum=0)
        / BOOTP(op=1, chaddr=client, xid=0x5EED0000, **fields)
        / DHCP(options=[("message-type", kind), *options, "end"])
    )


# -- ARP and neighbour discovery


def arpspoof(lab: Lab) -> list[bytes]:
    """dsniff's tool, until it has spoken."""
    words = ["arpspoof", "-i", "eth0", "-t", lab.victim.ipv4, lab.gateway4]
    wire = lab.attacker.wire
    with lab.attacker.net.entered():
        tool = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return eventually(lambda: [frame for frame in wire.take(outgoing=True) if frame[20:22] == b"\0\2"][:1])
    finally:
        tool.kill()
        tool.wait(PATIENCE)


def arp_request(lab: Lab) -> list[bytes]:
    me = lab.attacker.mac
    claim = ARP(op=1, hwsrc=me, psrc=lab.gateway4, pdst=lab.victim.ipv4)
    return lab.send(Ether(src=me, dst=BROADCAST) / claim)


def gratuitous_arp(lab: Lab) -> list[bytes]:
    me, address = lab.attacker.mac, lab.victim.ipv4
    return lab.send(Ether(src=me, dst=BROADCAST) / ARP(op=2, hwsrc=me, psrc=address, hwdst=BROADCAST, pdst=address))


def arp_behind_priority_tag(lab: Lab) -> list[bytes]:
    me = lab.attacker.mac
    claim = ARP(op=2, hwsrc=me, psrc=lab.gateway4, hwdst=lab.victim.mac, pdst=lab.victim.ipv4)
    return lab.send(Ether(src=me, dst=lab.victim.mac) / Dot1Q(vlan=0, prio=5) / claim)


def is_poisoned(lab: Lab) -> bool:
    return lab.victim.neighbours().get(lab.gateway4) == lab.attacker.mac


def is_poisoned6(lab: Lab) -> bool:
    return lab.victim.neighbours().get(lab.router6) == lab.attacker.mac


def host_is_poisoned(lab: Lab) -> bool:
    return lab.believed_mac(lab.victim) != lab.victim.mac


def advertise_neighbour(lab: Lab) -> list[bytes]:
    claim = ICMPv6ND_NA(tgt=lab.router6, R=1, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=lab.attacker.mac)
    return lab.send(discovery(lab, lab.attacker.link_local, lab.victim.link_local) / claim)


def solicit_as_router(lab: Lab) -> list[bytes]:
    claim = ICMPv6ND_NS(tgt=lab.victim.link_local) / ICMPv6NDOptSrcLLAddr(lladdr=lab.attacker.mac)
    return lab.send(discovery(lab, lab.router6, lab.victim.link_local) / claim)


def have_address(lab: Lab) -> list[bytes]:
    """Whatever address the victim takes is the attacker's already."""
    claim = ICMPv6ND_NA(tgt=NEW6, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=lab.attacker.mac)
    return _deny_address(lab, discovery(lab, lab.attacker.link_local) / claim)


def want_address(lab: Lab) -> list[bytes]:
    """The attacker is about to take it, too (RFC 4862 section 5.4.3)."""
    head = Ether(src=lab.attacker.mac, dst="33:33:ff:da:00:0d") / IPv6(src="::", dst="ff02::1:ffda:d", hlim=255)
    return _deny_address(lab, head / ICMPv6ND_NS(tgt=NEW6))


def _deny_address(lab: Lab, claim: Packet) -> list[bytes]:
    """The victim takes an address, and hears `claim` while it asks whose it is."""
    victim, sent = lab.victim, lab.send()

    def is_over() -> bool:
        sent.extend(lab.send(claim))
        return victim.flags(NEW6) != {"tentative"}

    victim.sysctl(ipv6_conf_accept_dad=1)
    victim.net.ip(f"addr add {NEW6}/64 dev eth0\n")
    eventually(is_over)
    lab.result = "taken" if "dadfailed" in victim.flags(NEW6) else ""
    victim.sysctl(ipv6_conf_accept_dad=0)
    victim.net.ip(f"addr del {NEW6}/64 dev eth0\n")
    return sent


def has_no_address(lab: Lab) -> bool:
    return lab.result == "taken"


# -- routers and bridges


def advertise_router(lab: Lab) -> list[bytes]:
    return lab.send(discovery(lab, lab.attacker.link_local) / advertisement(lab))


def advertise_behind_priority_tag(lab: Lab) -> list[bytes]:
    frame = discovery(lab, lab.attacker.link_local) / advertisement(lab)
    return lab.send(Ether(src=frame.src, dst=frame.dst) / Dot1Q(vlan=0) / frame.payload)


def advertise_behind_extensions(lab: Lab) -> list[bytes]:
    """RFC 7113: what looks only at the first next header does not see it."""
    options = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])
    return lab.send(
        discovery(lab, lab.attacker.link_local) / options / IPv6ExtHdrFragment(m=0, offset=0, id=9) / advertisement(lab)
    )


def withdraw_router(lab: Lab) -> list[bytes]:
    """In the name of the router there is."""
    return lab.send(discovery(lab, lab.router6) / ICMPv6ND_RA(routerlifetime=0))


def is_routed_by_attacker(lab: Lab) -> bool:
    return lab.attacker.link_local in lab.victim.routers()


def has_lost_its_router(lab: Lab) -> bool:
    return lab.router6 not in lab.victim.routers()


def redirect(lab: Lab) -> list[bytes]:
    about = IP(src=lab.victim.ipv4, dst=PUBLIC4) / ICMP(type=0)  # Linux looks at few others
    return lab.send(to_victim(lab, source=lab.gateway4) / ICMP(type=5, code=1, gw=lab.attacker.ipv4) / about)


def redirect6(lab: Lab) -> list[bytes]:
    claim = ICMPv6ND_Redirect(tgt=lab.attacker.link_local, dst=PUBLIC6) / ICMPv6NDOptDstLLAddr(lladdr=lab.attacker.mac)
    return lab.send(discovery(lab, lab.router6, lab.victim.ipv6) / claim)


def is_redirected(lab: Lab) -> bool:
    return lab.victim.way(PUBLIC4) == lab.attacker.ipv4


def is_redirected6(lab: Lab) -> bool:
    return lab.victim.way(PUBLIC6) == lab.attacker.link_local


def advertise_router4(lab: Lab) -> list[bytes]:
    """RFC 1256."""
    router = bytes(map(int, lab.attacker.ipv4.split(".")))
    message = b"\x09\0\0\0\x01\x02\x07\x08" + router + bytes(4)
    head = to_victim(lab)
    head[IP].proto = 1
    return lab.send(head / Raw(message[:2] + checksum(message).to_bytes(2, "big") + message[4:]))


def be_root(lab: Lab) -> list[bytes]:
    """Of the spanning tree of bridges (IEEE 802.1D)."""
    head = Dot3(src=lab.attacker.mac, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3)
    return lab.send(head / STP(rootid=0, bridgeid=0, rootmac=lab.attacker.mac, bridgemac=lab.attacker.mac))


def query_groups(lab: Lab) -> list[bytes]:
    query = b"\x11\x0a\xee\xf5\0\0\0\0"  # RFC 2236: general, one second
    head = IP(src=lab.attacker.ipv4, dst="224.0.0.1", ttl=1, proto=2, options=b"\x94\x04\0\0")
    return lab.send(Ether(src=lab.attacker.mac, dst="01:00:5e:00:00:01") / head / Raw(query))


def query_groups6(lab: Lab) -> list[bytes]:
    head = IPv6(src=lab.attacker.link_local, dst=ALL_NODES, hlim=1) / IPv6ExtHdrHopByHop(options=[RouterAlert()])
    return lab.send(Ether(src=lab.attacker.mac, dst=ALL_NODES_MAC) / head / ICMPv6MLQuery(mrd=1000))


def is_heard(lab: Lab) -> bool:
    """Where the victim's system takes no harm: that all of it reaches it."""
    return bool(lab.sent) and lab.sent <= lab.heard()


# -- DHCP


def serve_leases(lab: Lab) -> list[bytes]:
    """The victim asks for an address, and whoever answers first has its trust."""
    sent: list[bytes] = []
    wire, client = lab.victim.wire, lab.client.udhcpc()
    deadline = time.monotonic() + PATIENCE
    while "bound" not in client.log():
        assert time.monotonic() < deadline, "nobody answers"
        wire.wait(0.05)
        for frame in wire.take(outgoing=True):
            sent += _answers(lab, Ether(frame))
    lab.result = client.bound()
    client.kill()
    lab.victim.pings(lab.gateway4)
    return sent


def _answers(lab: Lab, request: Packet) -> list[bytes]:
    if DHCP not in request:
        return []
    kind = "offer" if ("message-type", 1) in request[DHCP].options else "ack"
    me, lease = lab.attacker, lab.pool[-1]
    answer = BOOTP(op=2, xid=request[BOOTP].xid, yiaddr=lease, siaddr=me.ipv4, chaddr=request[BOOTP].chaddr)
    options = [("message-type", kind), ("server_id", me.ipv4), ("lease_time", 3600), ("router", me.ipv4),
               ("subnet_mask", "255.255.255.0"), ("name_server", me.ipv4), "end"]  # fmt: skip
    head = Ether(src=me.mac, dst=lab.victim.mac) / IP(src=me.ipv4, dst=lease) / UDP(sport=67, dport=68)
    return lab.send(head / answer / DHCP(options=options))


def took_the_lease(lab: Lab) -> bool:
    return lab.result == lab.pool[-1]


def serve_leases6(lab: Lab) -> list[bytes]:
    head = discovery(lab, lab.attacker.link_local, lab.victim.link_local) / UDP(sport=547, dport=546)
    return lab.send(head / DHCP6_Reply(trid=7) / DHCP6OptServerId())


def release_of_another(lab: Lab) -> list[bytes]:
    return _release(lab, lab.victim.mac)


def release_under_its_name(lab: Lab) -> list[bytes]:
    """The same, from the attacker's own hardware address."""
    return _release(lab, lab.attacker.mac)


def _release(lab: Lab, mac: str) -> list[bytes]:
    victim = lab.victim
    frame = dhcp(
        lab, mac, "release", ("server_id", lab.gateway4), client_name(victim.mac),
        ciaddr=victim.ipv4, source=lab.attacker.ipv4, destination=lab.gateway4,
    )  # fmt: skip
    return lab.send(frame)


def take_lease(lab: Lab) -> list[bytes]:
    """By the name that the victim has at its server."""
    return lab.send(_in_its_name(lab, client_name(lab.victim.mac)))


def take_lease_by_halves(lab: Lab) -> list[bytes]:
    """The name twice: what puts the parts together reads another one than the server, which believes the first."""
    return lab.send(_in_its_name(lab, client_name(lab.victim.mac), ("client_id", b"\0")))


def _in_its_name(lab: Lab, *options: tuple[str, object]) -> Packet:
    return dhcp(lab, lab.attacker.mac, "request", ("requested_addr", lab.victim.ipv4), *options)


def client_name(mac: str) -> tuple[str, bytes]:
    """The client identifier of most clients (RFC 2132 section 9.14)."""
    return "client_id", b"\x01" + bytes.fromhex(mac.replace(":", ""))


def has_lost_its_lease(lab: Lab) -> bool:
    return not lab.has_lease(lab.victim)


def requests(lab: Lab, *, hardware: bool, sender: bool) -> list[bytes]:
    """One for each of `IDENTITIES` clients: other client identifiers, and other hardware addresses, in the message and
    as the frame's. Each asks for one address of the pool, which a server that has no record of it may grant at once
    (RFC 2131 section 4.3.2).
    """
    own = bytes.fromhex(lab.attacker.mac.replace(":", ""))
    frames = []
    pool = [bytes(map(int, address.split("."))) for address in lab.pool]
    template = bytes(
        dhcp(lab, lab.attacker.mac, "request", ("requested_addr", lab.pool[0]), ("client_id", b"\xff" + bytes(6)))
    )
    address_at, identity_at = template.index(b"\x32\x04") + 2, template.index(b"\x3d\x07\xff") + 3
    for number in range(IDENTITIES):
        frame, identity = bytearray(template), b"\x02\x66" + number.to_bytes(4, "big")
        if sender:
            frame[6:12] = identity
        frame[46:50] = number.to_bytes(4, "big")
        frame[70:76] = identity if hardware else own
        frame[address_at : address_at + 4] = pool[number % len(pool)]
        frame[identity_at : identity_at + 6] = identity
        frames.append(bytes(frame))
    return lab.send(*frames)


def split_names(lab: Lab) -> list[bytes]:
    """One name, cut in two wherever it can be: as many, for a server that believes the first part."""
    whole = bytes(200)
    frames = []
    for cut in range(2, 190):
        address = ("requested_addr", lab.pool[cut % len(lab.pool)])
        names = ("client_id", whole[:cut]), ("client_id", whole[cut:])
        frames.append(dhcp(lab, lab.attacker.mac, "request", address, *names))
    return lab.send(*frames)


def is_exhausted(lab: Lab) -> bool:
    return lab.is_exhausted()


# -- who is speaking


def spoof4(lab: Lab) -> list[bytes]:
    head = Ether(src=lab.attacker.mac, dst=lab.gateway_mac) / IP(src=lab.victim.ipv4, dst=lab.far4)
    return lab.send(head / datagram())


def spoof6(lab: Lab) -> list[bytes]:
    head = Ether(src=lab.attacker.mac, dst=lab.gateway_mac) / IPv6(src=lab.victim.ipv6, dst=lab.far6)
    return lab.send(head / datagram())


def spoof_mac(lab: Lab) -> list[bytes]:
    head = Ether(src=lab.victim.mac, dst=lab.gateway_mac) / IP(src=lab.victim.ipv4, dst=lab.far4)
    return lab.send(head / datagram())


def has_arrived(lab: Lab) -> bool:
    return bool(lab.arrived())


def is_taken(lab: Lab) -> bool:
    return lab.is_taken(lab.victim)


# -- ways around a rule


def tag(lab: Lab, kind: type[Packet]) -> list[bytes]:
    """Into a network that is not the attacker's."""
    head = Ether(src=lab.attacker.mac, dst=lab.victim.mac) / kind(vlan=7, type=0x0800)
    return lab.send(head / IP(src="10.77.0.2", dst="10.77.0.1") / datagram())


def source_route(lab: Lab) -> list[bytes]:
    """Loose: by the router, to the victim (RFC 791)."""
    victim = bytes(map(int, lab.victim.ipv4.split(".")))
    head = IP(src=lab.attacker.ipv4, dst=lab.gateway4, options=b"\x83\x07\x04" + victim + b"\0")
    unsummed = UDP(sport=4000, dport=PORT, chksum=0) / Raw(FORGED)  # right under either destination
    return lab.send(Ether(src=lab.attacker.mac, dst=lab.gateway_mac) / head / unsummed)


def routing_header(lab: Lab) -> list[bytes]:
    """The same by segments (RFC 8754)."""
    segments = IPv6ExtHdrSegmentRouting(addresses=[lab.victim.ipv6, lab.far6], segleft=1, lastentry=1)
    head = IPv6(src=lab.attacker.ipv6, dst=lab.far6) / segments / datagram()
    return lab.send(Ether(src=lab.attacker.mac, dst=lab.gateway_mac) / head)


def syn(lab: Lab) -> tuple[Packet, bytes]:
    """To a closed port of the victim's, which is refused where it is put together: its head and its bytes."""
    head = IP(src=lab.attacker.ipv4, dst=lab.victim.ipv4, proto=6, id=77)
    segment = bytes(head.copy() / TCP(sport=4000, dport=CLOSED_PORT, flags="S", seq=1))[20:]
    return Ether(src=lab.attacker.mac, dst=lab.victim.mac) / head, segment


def tiny_fragments(lab: Lab) -> list[bytes]:
    """RFC 1858 section 3.1: the flags are in the second."""
    head, segment = syn(lab)
    first, second = head.copy(), head.copy()
    first[IP].flags, second[IP].frag = "MF", 1
    sent = lab.send(first / Raw(segment[:8]))
    lab.send(second / Raw(segment[8:]))
    return sent


def overlapping_fragments(lab: Lab) -> list[bytes]:
    """RFC 1858 section 3.2: the second has other flags than the first, which says that it begins nothing."""
    head, segment = syn(lab)
    first, second = head.copy(), head.copy()
    first[IP].flags, second[IP].frag = "MF", 1
    answer = bytearray(segment + bytes(4))
    answer[13] = 0x10
    lab.send(first / Raw(bytes(answer)))
    return lab.send(second / Raw(segment[8:] + bytes(4)))


def is_answered(lab: Lab) -> bool:
    """Whether the victim put the segment together, and refuses it (RST)."""
    return any(
        frame[12:14] == b"\x08\0" and frame[23] == 6 and frame[34:36] == CLOSED_PORT.to_bytes(2, "big")
        for frame in lab.attacker.wire.take()
    )


def ports_in_the_second(lab: Lab) -> list[bytes]:
    """RFC 7112: the first has only the beginning of the chain of headers."""
    head = Ether(src=lab.attacker.mac, dst=lab.victim.mac) / IPv6(src=lab.attacker.ipv6, dst=lab.victim.ipv6)
    options = bytes(IPv6ExtHdrDestOpt(nh=17, options=[PadN(optdata=bytes(4))]))
    sent = lab.send(head / IPv6ExtHdrFragment(nh=60, m=1, offset=0, id=5) / Raw(options))
    lab.send(head / IPv6ExtHdrFragment(nh=60, m=0, offset=1, id=5) / Raw(bytes(datagram())))
    return sent


def check_fails(lab: EngineLab, attack: Attack, reason: str | None) -> None:
    """That it changes nothing for anybody, and that each frame of it is dropped for `reason`."""
    lab.begin()
    before = lab.state()
    sent = attack.launch(lab)
    lab.fence()
    assert not attack.effect(lab)
    assert lab.state() == before
    if reason is not None:
        dropped = eventually(lambda: _dropped(lab, sent, reason, attack.passes), or_else=lambda: _fates(lab, sent))
        assert not lab.heard().intersection(dropped)


def _dropped(lab: EngineLab, sent: list[bytes], reason: str, passes: int) -> set[bytes]:
    """Frames among `sent` that were dropped, when these are all that should be."""
    found = {frame for frame, why in lab.judged() if why == reason}.intersection(sent)
    return found if len(found) >= len(set(sent)) - passes else set()


def _fates(lab: EngineLab, sent: list[bytes]) -> str:
    """For people: what became of what was sent."""
    fates = {(frame.hex(), why or "passed") for frame, why in lab.judged() if frame in sent}
    return f"{len(sent)} sent: {sorted(fates)[:10]}"


ATTACKS: dict[str, Attack] = {
    "arpspoof": Attack(arpspoof, is_poisoned, "arp-spoof"),
    "ARP request of the gateway": Attack(arp_request, is_poisoned, "arp-spoof"),
    "gratuitous ARP": Attack(gratuitous_arp, host_is_poisoned, "arp-spoof"),
    "ARP behind a priority tag": Attack(arp_behind_priority_tag, is_poisoned, "vlan"),
    "neighbour advertisement": Attack(advertise_neighbour, is_poisoned6, "nd-spoof"),
    "neighbour solicitation": Attack(solicit_as_router, is_poisoned6, "nd-spoof"),
    "advertisement of a new address": Attack(have_address, has_no_address, "nd-spoof"),
    "probe for a new address": Attack(want_address, has_no_address, "nd-spoof"),
    "router advertisement": Attack(advertise_router, is_routed_by_attacker, "rogue-ra"),
    "router advertisement behind a priority tag": Attack(advertise_behind_priority_tag, is_routed_by_attacker, "vlan"),
    "router advertisement behind extensions": Attack(advertise_behind_extensions, is_routed_by_attacker, "rogue-ra"),
    "withdrawal of the router": Attack(withdraw_router, has_lost_its_router, "rogue-ra"),
    "ICMP redirect": Attack(redirect, is_redirected, "rogue-redirect"),
    "ICMPv6 redirect": Attack(redirect6, is_redirected6, "rogue-redirect"),
    "ICMP router advertisement": Attack(advertise_router4, is_heard, "rogue-ra"),
    "spanning tree": Attack(be_root, is_heard, "ethertype"),
    "IGMP query": Attack(query_groups, is_heard, "rogue-querier"),
    "MLD query": Attack(query_groups6, is_heard, "rogue-querier"),
    "DHCP server": Attack(serve_leases, took_the_lease, "rogue-dhcp"),
    "DHCPv6 server": Attack(serve_leases6, is_heard, "rogue-dhcp"),
    "release of another's lease": Attack(release_of_another, has_lost_its_lease, "dhcp-spoof"),
    "release under another's name": Attack(release_under_its_name, has_lost_its_lease, "dhcp-spoof", otherwise=None),
    "lease under another's name": Attack(take_lease, has_lost_its_lease, "dhcp-spoof", otherwise=None),
    "lease under another's name, in parts": Attack(
        take_lease_by_halves, has_lost_its_lease, "dhcp-spoof", otherwise=None
    ),
    "IPv4 source": Attack(spoof4, has_arrived, "source-not-guest"),
    "IPv6 source": Attack(spoof6, has_arrived, "source-not-guest"),
    "MAC address": Attack(spoof_mac, is_taken, "foreign-source-mac"),
    "VLAN": Attack(lambda lab: tag(lab, Dot1Q), is_heard, "vlan"),
    "VLAN of a provider": Attack(lambda lab: tag(lab, Dot1AD), is_heard, "vlan"),
    "source route": Attack(source_route, has_arrived, "source-route"),
    # The switch takes the first destination for the one that the checksum is about.
    "routing header": Attack(routing_header, has_arrived, "source-route", otherwise="l4-checksum"),
    "tiny fragments": Attack(tiny_fragments, is_answered, "tcp-header"),
    "overlapping fragments": Attack(overlapping_fragments, is_heard, "fragment-overlap"),
    "ports in the second fragment": Attack(ports_in_the_second, is_heard, "udp-header"),
    "starvation by hardware addresses": Attack(
        lambda lab: requests(lab, hardware=True, sender=False), is_exhausted, "dhcp-spoof"
    ),
    "starvation by MAC addresses": Attack(
        lambda lab: requests(lab, hardware=True, sender=True), is_exhausted, "foreign-source-mac"
    ),
    "starvation by client identifiers": Attack(
        lambda lab: requests(lab, hardware=False, sender=False), is_exhausted, "dhcp-starvation",
        KNOWN_IDENTITIES, None,  # the pool goes by MAC addresses: requests of one client
    ),
    "starvation by a client identifier in parts": Attack(split_names, is_exhausted, "dhcp-spoof", otherwise=None),
}  # fmt: skip
