"""Why a frame, packet or datagram ended here: one closed list for counters, captures and `explain`.

A malformed or unwanted frame is a value and never an exception (see `errors`): the code that ends it names one
member, which is counted and, when a capture runs, written beside the frame as its comment. Numbers index `Counters`,
are dense, and are private to one run; the stable thing is the `label`, which users meet in captures, summaries and
metrics.

Does not: count what went well (links and flows keep their own bytes and frames), nor say which rule denied
(`FlowRefused` does).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self

__all__ = ["Counters", "DropReason", "describe"]


class DropReason(IntEnum):
    """Closed set of reasons, in the order in which a frame meets them. `NONE` is 0 so that `if reason:` reads well."""

    description: str
    """One sentence fragment for people."""

    def __new__(cls, number: int, description: str) -> Self:
        """A member is its number and carries its sentence."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.description = description
        return member

    @property
    def label(self) -> str:
        """Stable short name: the member's name in lower case with hyphens, such as `flow-table-full`."""
        return self._name_.lower().replace("_", "-")

    NONE = 0, "not dropped"

    # Ethernet and the link's own header
    TRUNCATED = 1, "shorter than its own headers or length fields say"
    OVERSIZE = 2, "larger than the link or the stack takes"
    OFFLOAD = 3, "its virtio-net header asks for an offload that was not granted or contradicts the frame"
    FOREIGN_MAC = 4, "its destination MAC is neither the gateway's nor a group we serve"
    VLAN = 5, "tagged for a VLAN (802.1Q); the link has none"
    ETHERTYPE = 6, "neither ARP, IPv4 nor IPv6"
    FAMILY_OFF = 7, "its address family is switched off"

    # Internet layer
    IP_HEADER = 8, "bad IP version or header length"
    IP_LENGTH = 9, "the IP length field disagrees with the frame"
    IP_CHECKSUM = 10, "wrong IPv4 header checksum"
    IP_OPTION = 11, "malformed or too many IP options or extension headers"
    SOURCE_ROUTE = 12, "asks for source routing, which is refused (RFC 5095, RFC 7126)"
    HOP_LIMIT = 13, "time to live or hop limit is zero"
    SOURCE_UNSPECIFIED = 14, "its source is the unspecified address"
    SOURCE_LOOPBACK = 15, "its source is a loopback address"
    SOURCE_MULTICAST = 16, "its source is a multicast or broadcast address"
    SOURCE_NOT_GUEST = 17, "its source is an address the guest may not use"
    DESTINATION_UNUSABLE = 18, "its destination is the unspecified address, loopback, or the guest itself"
    MULTICAST = 19, "its destination is a group or broadcast address that nothing here serves"
    FRAGMENT_REFUSED = 20, "a fragment, and reassembly does not apply to it"
    FRAGMENT_MALFORMED = 21, "a fragment with an impossible offset or length"
    FRAGMENT_OVERLAP = 22, "a fragment that overlaps another (RFC 5722)"
    FRAGMENT_TIMEOUT = 23, "the other fragments of its packet did not come in time"
    FRAGMENT_TOO_MANY = 24, "too many packets or bytes wait for reassembly"

    # Transport headers
    PROTOCOL = 25, "an IP protocol that is not translated"
    L4_CHECKSUM = 26, "wrong TCP, UDP or ICMP checksum"
    TCP_HEADER = 27, "malformed TCP header or impossible flags"
    UDP_HEADER = 28, "malformed UDP header"
    ICMP_HEADER = 29, "malformed ICMP or ICMPv6 message"
    PORT_ZERO = 30, "source or destination port is zero"

    # What the gateway itself answers
    ARP_MALFORMED = 31, "malformed ARP packet"
    ARP_NOT_OURS = 32, "ARP that asks for nothing we answer"
    NDP_MALFORMED = 33, "malformed or off-link neighbour discovery message (RFC 4861 section 7.1)"
    NDP_NOT_OURS = 34, "neighbour discovery that asks for nothing we answer"
    ICMP_TYPE = 35, "an ICMP or ICMPv6 type that is not relayed"
    ICMP_RATE = 36, "an ICMP error not sent because too many were sent just before"
    DNS_MALFORMED = 37, "not a DNS query"
    DNS_TOO_MANY = 38, "too many DNS queries wait for an answer"

    # Flows
    NO_FLOW = 39, "belongs to no flow and cannot start one"
    OUT_OF_WINDOW = 40, "a TCP segment outside the receive window"
    BAD_STATE = 41, "a TCP segment that means nothing in the state of its flow"
    POLICY_DENIED = 42, "refused by policy"
    FLOW_TABLE_FULL = 43, "the flow table is full; old flows are kept"
    SOCKETS_EXHAUSTED = 44, "the host gives us no more sockets or ports"
    HOST_SEND_FAILED = 45, "the host's socket refused the datagram"
    HOST_BUFFER_FULL = 46, "the host's socket has no room for the datagram"

    # Towards the guest
    PEER_UNEXPECTED = 47, "came from a peer this flow does not talk to"
    EXCEEDS_MTU = 48, "a datagram for the guest that its MTU cannot carry"
    LINK_FULL = 49, "the link takes no more frames at the moment"
    LINK_WRITE_FAILED = 50, "writing to the link failed"

    SERVICE_OFF = 51, "asks for a service that is switched off, or that has no answer to this"

    RING_ADDRESS = 52, "a descriptor of the guest's driver points outside the guest's memory"
    RING_CHAIN = 53, "a chain of descriptors that loops, is too long, or has the wrong direction"
    RING_BROKEN = 54, "the driver claims more than a ring holds; that ring rests until it is set up anew"

    BUG = 55, "an error of ours, reported once on standard error; the flow it struck was ended"


def describe(reason: DropReason) -> str:
    """Label and sentence, as `vlan: tagged for a VLAN (802.1Q); the link has none`."""
    return f"{reason.label}: {reason.description}"


class Counters:
    """How often each reason struck: one Python integer per reason, monotonic, never reset.

    The hot path may write `counters.values[reason] += 1` itself; `values` is never replaced, so it can be bound once.
    """

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: list[int] = [0] * len(DropReason)

    def drop(self, reason: DropReason, times: int = 1) -> None:
        """Count `reason`, which must not be `NONE` (that slot stays 0)."""
        self.values[reason] += times

    def add(self, other: Counters) -> None:
        """Add what another guest's frames met."""
        self.values[:] = map(sum, zip(self.values, other.values, strict=True))

    def __getitem__(self, reason: DropReason) -> int:
        return self.values[reason]

    @property
    def total(self) -> int:
        """Sum over all reasons."""
        return sum(self.values)

    def snapshot(self, *, zeros: bool = False) -> dict[str, int]:
        """Counts by label in the order of the enum; those never struck only with `zeros`."""
        return {reason.label: self.values[reason] for reason in DropReason if reason and (zeros or self.values[reason])}
