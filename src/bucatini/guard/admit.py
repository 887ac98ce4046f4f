"""May this frame pass? Two answers over one view: ours, and that of Softnet 0.19.0. Fall-through deny, both.

`admit` is the rule for what a guest sends, wherever it goes next. A frame passes by the first grant that fits; each
says which attack it does not open. What no grant fits is dropped, and only then `_reason` looks for the name of what it
tried: names are for counters, they never let anything pass.

With `rules` it also says whom the guest may reach, for who hands frames on as they are (`bucatini filter`). Without, it
says only who is speaking: the translating engine asks policy about each flow. A rule that contains the destination
decides; where none does, `reach` says what is open. What the link itself needs (ARP, neighbour discovery, DHCP, group
reports) is subject to no rule, so that no rule can cost a guest its lease.

`admit_faithful` is row by row the table of Softnet 0.19.0, its holes included (`docs/isolation.md` lists them); the
frame must have been parsed as `faithful`. Both have a counterpart for what the host sends to the guest.

All return 0 or a `DropReason`. Nothing raises, nothing is remembered: `snoop` learns from what was admitted.
"""

from __future__ import annotations

from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.guard.binding import Binding
from bucatini.guard.frame import (
    ARP,
    DHCP_REQUEST,
    DHCPV6_REQUEST,
    IPV4,
    IPV6,
    NEIGHBOR,
    PLAIN,
    QUERY,
    REDIRECT,
    REPORT,
    ROUTER,
    SERVER,
    UNKNOWN_ICMP,
    Frame,
)
from bucatini.guard.reach import ALLOW, BLOCK, NO_RULE, Rules, is_global_ipv4, is_open, readings
from bucatini.wire.octets import load32

__all__ = [
    "ALLOW",
    "BLOCK",
    "NO_RULE",
    "Rules",
    "admit",
    "admit_faithful",
    "admit_faithful_to_guest",
    "admit_to_guest",
    "is_payload_to_guest",
    "reaches",
]

BROADCAST = 0xFFFFFFFF
REQUEST = 1
ROUTER_SOLICITATION = 133
SOLICITATION = 135
ADVERTISEMENT = 136
ALL_DHCP_AGENTS = bytes.fromhex("ff020000000000000000000000010002")
"""ff02::1:2, RFC 8415 section 7.1."""
DNS_PORT = 53

TRUNCATED = int(DropReason.TRUNCATED)
FOREIGN_MAC = int(DropReason.FOREIGN_MAC)
FOREIGN_SOURCE_MAC = int(DropReason.FOREIGN_SOURCE_MAC)
UDP_HEADER = int(DropReason.UDP_HEADER)
FAMILY_OFF = int(DropReason.FAMILY_OFF)
SOURCE_UNSPECIFIED = int(DropReason.SOURCE_UNSPECIFIED)
SOURCE_NOT_GUEST = int(DropReason.SOURCE_NOT_GUEST)
LEASE_EXPIRED = int(DropReason.LEASE_EXPIRED)
ARP_SPOOF = int(DropReason.ARP_SPOOF)
ND_SPOOF = int(DropReason.ND_SPOOF)
ROGUE_DHCP = int(DropReason.ROGUE_DHCP)
DHCP_SPOOF = int(DropReason.DHCP_SPOOF)
POLICY_DENIED = int(DropReason.POLICY_DENIED)

CLAIMS = {
    NEIGHBOR: ND_SPOOF,
    ROUTER: int(DropReason.ROGUE_RA),
    REDIRECT: int(DropReason.ROGUE_REDIRECT),
    QUERY: int(DropReason.ROGUE_QUERIER),
    SERVER: ROGUE_DHCP,
    UNKNOWN_ICMP: int(DropReason.ICMP_TYPE),
}
"""What a guest is after that says such a thing, whatever address it says it from."""


def admit(frame: Frame, binding: Binding, rules: Rules | None, now: float) -> int:
    """Whether the guest may send this frame, strictly parsed."""
    # No frame under another MAC address, whatever is in it: bridges and neighbours learn from the sender alone.
    if frame.source_low != binding.mac_low or frame.source_high != binding.mac_high:
        return TRUNCATED if frame.source_high < 0 else FOREIGN_SOURCE_MAC
    # No tag, source route, IP option, foreign EtherType; nothing that two readers may read in two ways.
    if frame.bad:
        return frame.bad
    topic = frame.topic
    # Payload, from an address that is this guest's at this instant. Not opened: anybody else's address, nor its own
    # after the lease, when it may be another's.
    if topic == 0 and _is_own_source(frame, binding, now):  # PLAIN, a bare number as every frame passes here
        return 0 if rules is None else reaches(frame, binding, rules)
    # ARP that tells others what is true. Not opened: poisoning, since sender MAC and address are both its own.
    if topic == ARP and frame.honest and binding.holds_ipv4(frame.address, now):
        return 0
    # The ARP probe asks from nobody (RFC 5227 2.1.1). Not opened: poisoning, as nobody learns 0.0.0.0.
    if topic == ARP and frame.honest and frame.address == 0 and frame.protocol == REQUEST:
        return 0
    # A wish for a lease, in its own name. Not opened: leases under foreign hardware addresses, answering as a server,
    # relaying, and reaching anything but a server's port by the one address it may have no lease for.
    if topic == DHCP_REQUEST and frame.honest and _to_dhcp_server(frame, binding, now):
        return 0
    # DHCPv6 clients speak from an address of the link. Not opened: other ports, unicast past the rules.
    if topic == DHCPV6_REQUEST and _is_own_source(frame, binding, now):
        to_all = frame.copy(frame.ip.destination_at, 16) == ALL_DHCP_AGENTS
        return 0 if to_all or rules is None else reaches(frame, binding, rules)
    # Neighbour discovery about itself. Not opened: claiming a neighbour's address, or keeping it from coming up; a way
    # past the rules to who is not on the link.
    if topic == NEIGHBOR and frame.honest and _about_itself(frame, binding, now):
        return 0 if rules is None or _to_link(frame) else _to_neighbor(frame, binding, rules)
    # Which groups it wants to hear, also before it has an address (RFC 3590, RFC 3376 4.2.13). Not opened: queries, and
    # a way past the rules, as no router passes it on.
    if topic == REPORT and _is_local_report(frame) and (_is_unspecified(frame) or _is_own_source(frame, binding, now)):
        return 0
    return _reason(frame, binding, now)


def admit_to_guest(frame: Frame, binding: Binding, rules: Rules | None) -> int:
    """Whether this frame of the host's side, strictly parsed, may reach the guest.

    It is for the guest or for all, and no DHCP answer but of the servers that are ours to believe. What began it is not
    known here: a rule about who may come in is asked about every packet.
    """
    if frame.bad:
        return frame.bad
    if not frame.buf[frame.at] & 1 and not binding.is_mac(frame.buf, frame.at):
        return FOREIGN_MAC
    if frame.topic == SERVER and frame.kind == IPV4:
        return 0 if frame.copy(frame.ip.source_at, 4) in binding.servers else ROGUE_DHCP
    if rules is None or not is_payload_to_guest(frame):
        return 0
    source = frame.copy(frame.ip.source_at, frame.ip.address_length)
    return POLICY_DENIED if rules.decide(INGRESS, source, frame.source_port) == BLOCK else 0


def is_payload_to_guest(frame: Frame) -> bool:
    """Whether rules are about a frame that may reach the guest. To it, which is no DHCP server, a request is payload,
    and so is what comes from a DHCPv6 server's port, but not from the link: else that port would lead past the rules.
    """
    if frame.topic == SERVER and frame.kind == IPV6:
        return load32(frame.buf, frame.ip.source_at) >> 22 != 0xFE80 >> 6
    return frame.topic == PLAIN or frame.topic == DHCP_REQUEST or frame.topic == DHCPV6_REQUEST


def reaches(frame: Frame, binding: Binding, rules: Rules) -> int:
    """Whether the destination of a packet that may be sent may be reached: the second half of `admit`."""
    for address in readings(frame.copy(frame.ip.destination_at, frame.ip.address_length)):
        verdict = rules.decide(EGRESS, address, frame.destination_port)
        if verdict == BLOCK or (verdict == NO_RULE and not is_open(address, frame.destination_port, binding)):
            return POLICY_DENIED
    return 0


def _is_own_source(frame: Frame, binding: Binding, now: float) -> bool:
    if frame.kind == 4:
        return binding.holds_ipv4(frame.address, now)
    return binding.holds_ipv6(frame.buf, frame.ip.source_at, now)


def _is_unspecified(frame: Frame) -> bool:
    """Whether the source is 0.0.0.0 or `::`."""
    if frame.kind == 4:
        return frame.address == 0
    buf, at = frame.buf, frame.ip.source_at
    return load32(buf, at) | load32(buf, at + 4) | load32(buf, at + 8) | load32(buf, at + 12) == 0


def _to_dhcp_server(frame: Frame, binding: Binding, now: float) -> bool:
    """RFC 2131 4.1, 4.3.2: to all from 0.0.0.0 or (rebinding) the lease, to the server from the lease."""
    to_all = load32(frame.buf, frame.ip.destination_at) == BROADCAST
    if frame.address == 0:
        return to_all
    if not binding.holds_ipv4(frame.address, now):
        return False
    return to_all or frame.copy(frame.ip.destination_at, 4) in binding.servers


def _about_itself(frame: Frame, binding: Binding, now: float) -> bool:
    """RFC 4861 6.1.1, 7.1.1, 7.1.2, RFC 4862 5.4.2: solicits from its own address or none, advertises its own."""
    buf, ip = frame.buf, frame.ip
    kind = buf[ip.payload_at]
    if _is_unspecified(frame):
        if frame.link_option or kind == ADVERTISEMENT:
            return False
        return kind == ROUTER_SOLICITATION or binding.holds_ipv6(buf, ip.payload_at + 8, now)
    if not binding.holds_ipv6(buf, ip.source_at, now):
        return False
    return kind != ADVERTISEMENT or binding.holds_ipv6(buf, ip.payload_at + 8, now)


def _to_link(frame: Frame) -> bool:
    """Whether no router passes on what goes to this IPv6 address: link-local, or a group of the link at most."""
    high = load32(frame.buf, frame.ip.destination_at) >> 16
    return high >> 6 == 0xFE80 >> 6 or (high >> 8 == 0xFF and high & 0xF <= 2)


def _to_neighbor(frame: Frame, binding: Binding, rules: Rules) -> int:
    """Neighbour discovery with a global address: of whom it may reach, or who may reach it."""
    peer = frame.copy(frame.ip.destination_at, 16)
    return 0 if rules.decide(INGRESS, peer, 0) == ALLOW else reaches(frame, binding, rules)


def _is_local_report(frame: Frame) -> bool:
    """RFC 2236 2, RFC 3376 4, RFC 3810 5: to a group, and dying on the link."""
    first = frame.buf[frame.ip.destination_at]
    return frame.ip.hop_limit == 1 and (first == 0xFF if frame.kind == IPV6 else first >> 4 == 0xE)


def _reason(frame: Frame, binding: Binding, now: float) -> int:
    """A name, never 0, for a frame that no grant fits."""
    topic = frame.topic
    if topic in CLAIMS:
        return CLAIMS[topic]
    if topic == ARP:
        expired = frame.honest and binding.expired(frame.copy(frame.at + 28, 4), now)
        return LEASE_EXPIRED if expired else ARP_SPOOF
    if topic == DHCP_REQUEST and not frame.honest:
        return DHCP_SPOOF
    if _is_unspecified(frame):
        return SOURCE_UNSPECIFIED
    if binding.expired(frame.copy(frame.ip.source_at, frame.ip.address_length), now):
        return LEASE_EXPIRED
    return POLICY_DENIED if _is_own_source(frame, binding, now) else SOURCE_NOT_GUEST


# -- Softnet 0.19.0


def admit_faithful(frame: Frame, binding: Binding, rules: Rules | None, now: float) -> int:
    """Whether Softnet 0.19.0 lets the guest send this frame. The rows are those of its decision table."""
    if frame.source_low != binding.mac_low or frame.source_high != binding.mac_high:  # rows 1, 2
        return TRUNCATED if frame.source_high < 0 else FOREIGN_SOURCE_MAC
    if frame.bad:  # row 3, A1, structure of IPv4
        return frame.bad
    if frame.kind == ARP:
        return _faithful_arp(frame, binding, now)
    destination = load32(frame.buf, frame.ip.destination_at)
    is_leased = frame.address == binding.address and now < binding.until
    if is_leased:  # I1
        verdict = NO_RULE
        if rules is not None:
            port = 0 if frame.ip.fragment_offset else frame.destination_port
            verdict = rules.decide(EGRESS, frame.copy(frame.ip.destination_at, 4), port)
        if verdict != NO_RULE:  # I2
            return 0 if verdict == ALLOW else POLICY_DENIED
        if is_global_ipv4(destination):  # I3
            return 0
        packed = frame.copy(frame.ip.destination_at, 4)
        if packed in binding.gateways:  # I4
            return 0
        if frame.protocol == 17:  # I5
            if not frame.udp_end:
                return UDP_HEADER
            if frame.destination_port == DNS_PORT and packed in binding.dns:
                return 0
    is_dhcp = frame.udp_end > 0 and (frame.source_port == 68 or frame.destination_port == 67)
    if is_dhcp and destination == BROADCAST:  # I7, from whatever source
        return 0
    if is_leased:  # I8
        return POLICY_DENIED
    return LEASE_EXPIRED if frame.address == binding.address else SOURCE_NOT_GUEST


def admit_faithful_to_guest(frame: Frame) -> int:
    """Whether Softnet 0.19.0 hands the guest this frame of the host's: all ARP and IPv4, however it looks."""
    if frame.kind == ARP or frame.kind == IPV4:
        return 0
    return FAMILY_OFF if frame.kind == IPV6 else frame.bad


def _faithful_arp(frame: Frame, binding: Binding, now: float) -> int:
    if not frame.honest:  # A2
        return ARP_SPOOF
    if binding.address < 0:  # A3
        return 0 if frame.address == 0 else ARP_SPOOF
    if frame.address != binding.address:  # A5
        return ARP_SPOOF
    return 0 if now < binding.until else LEASE_EXPIRED  # A4, A5
