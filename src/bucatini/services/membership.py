"""Which multicast groups the guest listens to: the querier's side of IGMP and MLD for one guest (RFC 2236, RFC 3376,
RFC 2710, RFC 3810).

The guest tells by itself when it joins, and answers the general query that goes out at the start and then every 125
seconds; what it does not confirm for 260 seconds is over. A leave is not believed at once, since behind a bridge of the
guest's others may still listen: the group is asked twice, and is over when nobody answers within two seconds.

Sources are not told apart: who listens to some sources of a group listens to the group, and who blocks a source is
asked like one who leaves. Queries are of the newest version, which old hosts take for their own (RFC 3376 section
7.2.1, RFC 3810 section 8.2.1).

Groups that every node is in, or that only routers care for, are none of ours: 224.0.0.1, 224.0.0.2, 224.0.0.22,
ff02::1, ff02::2, ff02::16, the solicited-node groups, and scopes 0 and 1 of IPv6. At `limit` groups further joins are
refused and counted; the guest's next report may succeed.

| call | when |
|---|---|
| `read_report(frame)`, then `report` | a frame with IGMP, or ICMPv6 of a type in `MLD_TYPES` |
| `due`, `query` | at `deadline`, or at any time before |

Does not: receive or forward datagrams (`engine.groups` does), ask policy, or take part in an election of queriers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bucatini.base.address import link_local_of
from bucatini.wire import igmp, mld
from bucatini.wire.checksum import internet, transport_ok
from bucatini.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, HEADER_LENGTH, ipv6_multicast_mac
from bucatini.wire.icmp import complete_v6
from bucatini.wire.igmp import PROTOCOL_IGMP, GroupRecord, MembershipReport
from bucatini.wire.ip import IpView
from bucatini.wire.ipv6 import PROTOCOL_ICMPV6, emit_ipv6
from bucatini.wire.octets import load_bytes

__all__ = [
    "DEFAULT_LIMIT",
    "MLD_TYPES",
    "Change",
    "Join",
    "Leave",
    "MembershipCounters",
    "MembershipSettings",
    "Memberships",
    "group_mac",
    "is_served",
    "read_report",
]

DEFAULT_LIMIT = 64
"""Groups in all. Linux lets one IPv4 socket be in 20 (net.ipv4.igmp_max_memberships)."""

MLD_TYPES = frozenset((mld.REPORT_V1, mld.DONE, mld.REPORT_V2))

QUERY_INTERVAL = 125.0
STARTUP_INTERVAL = QUERY_INTERVAL / 4
RESPONSE_TIME = 10.0
ROBUSTNESS = 2
LIFETIME = ROBUSTNESS * QUERY_INTERVAL + RESPONSE_TIME
LAST_MEMBER_INTERVAL = 1.0
"""Seconds; names and values of RFC 3376 section 8 and RFC 3810 section 9."""

ALL_NODES_V4 = bytes((224, 0, 0, 1))
ALL_NODES_V6 = bytes.fromhex("ff020000000000000000000000000001")
_NOT_OURS = frozenset(
    (
        ALL_NODES_V4,
        bytes((224, 0, 0, 2)),
        bytes((224, 0, 0, 22)),
        ALL_NODES_V6,
        ALL_NODES_V6[:15] + b"\x02",
        ALL_NODES_V6[:15] + b"\x16",
    )
)
_SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")
_LINK_LOCAL = bytes.fromhex("fe80000000000000")
_UNSPECIFIED_V6 = bytes(16)

_ROUTER_ALERT_V4 = bytes((148, 4, 0, 0))
"""RFC 2113."""
_ROUTER_ALERT_V6 = bytes((PROTOCOL_ICMPV6, 0, 5, 2, 0, 0, 1, 0))
"""A hop-by-hop header with the option of RFC 2711 and two bytes of padding."""
_INTERNET_CONTROL = 0xC0
"""Traffic class of IGMP (RFC 3376 section 4)."""


class Join(NamedTuple):
    """The guest began to listen to `group`."""

    group: bytes


class Leave(NamedTuple):
    """Nobody in the guest listens to `group` any more."""

    group: bytes


Change = Join | Leave


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """Our MAC and our packed addresses on the guest's link; None for a family that is off. MLD must come from a
    link-local address (RFC 3810 section 5.1.14): where `ipv6` is none, the one that our MAC makes is used.
    """

    mac: bytes
    ipv4: bytes | None
    ipv6: bytes | None


class MembershipCounters:
    """How often what happened; monotonic."""

    __slots__ = ("ignored", "queries", "refused", "reports")

    def __init__(self) -> None:
        self.reports = 0
        self.ignored = 0
        """Records of groups that are not ours to serve."""
        self.refused = 0
        """Joins beyond the limit."""
        self.queries = 0


class _Member:
    """One group. While a leave is in doubt, `asks` more queries go out, the next at `ask_at`."""

    __slots__ = ("ask_at", "asks", "expires")

    def __init__(self, expires: float) -> None:
        self.expires = expires
        self.asks = 0
        self.ask_at = 0.0


def read_report(frame: bytes | bytearray | memoryview) -> MembershipReport | None:
    """The report in an Ethernet frame; None when it holds none, or a malformed one. Any bytes are fine.

    MLD counts only with hop limit 1 from a link-local address or, before a guest has one, from `::` (RFC 3590).
    """
    buf = memoryview(bytearray(frame))
    view = IpView()
    if view.parse(buf, HEADER_LENGTH, len(buf)) or view.fragment:
        return None
    if view.version == 4:
        return igmp.parse_igmp(buf, view.payload_at, view.end) if view.protocol == PROTOCOL_IGMP else None
    if view.protocol != PROTOCOL_ICMPV6 or view.hop_limit != 1:
        return None
    source = load_bytes(buf, view.source_at, 16)
    if not source.startswith(_LINK_LOCAL[:2]) and source != _UNSPECIFIED_V6:
        return None
    if not transport_ok(buf, view.source_at, view.destination_at, 16, PROTOCOL_ICMPV6, view.payload_at, view.end):
        return None
    return mld.parse_mld(buf, view.payload_at, view.end)


def is_served(group: bytes) -> bool:
    """Whether `group` is a multicast address whose listeners are our concern."""
    if len(group) == 4:
        return 224 <= group[0] < 240 and group not in _NOT_OURS
    scope = group[1] & 0x0F
    return group[0] == 0xFF and scope > 1 and group not in _NOT_OURS and not group.startswith(_SOLICITED_NODE)


def group_mac(group: bytes) -> bytes:
    """The MAC address of a group (RFC 1112 section 6.4, RFC 2464 section 7)."""
    if len(group) == 4:
        return bytes((1, 0, 0x5E, group[1] & 0x7F)) + group[2:]
    return ipv6_multicast_mac(group)


class Memberships:
    """The groups of one guest. `now` is any monotonic clock, in seconds, the same one for all calls."""

    def __init__(self, settings: MembershipSettings, limit: int = DEFAULT_LIMIT) -> None:
        self.reconfigure(settings)
        self._limit = limit
        self._members: dict[bytes, _Member] = {}
        self._query_at = float("-inf")
        self._started = False
        self.counters = MembershipCounters()

    def reconfigure(self, settings: MembershipSettings) -> None:
        """Ask from these addresses from now on."""
        self._mac = settings.mac
        self._ipv4 = settings.ipv4
        ipv6 = settings.ipv6
        self._ipv6 = link_local_of(settings.mac) if ipv6 is not None and ipv6[:2] != _LINK_LOCAL[:2] else ipv6

    @property
    def groups(self) -> tuple[bytes, ...]:
        """Packed groups the guest is in, oldest first."""
        return tuple(self._members)

    @property
    def deadline(self) -> float:
        """The instant at which `due` or `query` has something to do; in the past before the first query."""
        instant = self._query_at
        for member in self._members.values():
            instant = min(instant, member.expires, member.ask_at if member.asks else instant)
        return instant

    def report(self, message: MembershipReport, now: float) -> list[Change]:
        """Take in what the guest says. Returns what changed at once: joins; a leave takes effect in `due`."""
        self.counters.reports += 1
        changes: list[Change] = []
        for record in message.records:
            if not is_served(record.group):
                self.counters.ignored += 1
            elif _listens(record):
                changes.extend(self._join(record.group, now))
            elif record.kind != igmp.ALLOW_NEW_SOURCES:
                self._doubt(record.group, now)
        return changes

    def due(self, now: float) -> list[Change]:
        """The groups that are over by `now`, and forget them."""
        over = [group for group, member in self._members.items() if member.expires <= now]
        for group in over:
            del self._members[group]
        return [Leave(group) for group in over]

    def query(self, now: float) -> list[bytes]:
        """Complete Ethernet frames to send to the guest now; call `due` before."""
        frames: list[bytes] = []
        if now >= self._query_at:
            self._query_at = now + (QUERY_INTERVAL if self._started else STARTUP_INTERVAL)
            self._started = True
            if self._ipv4 is not None:
                frames.append(self._query_v4(self._ipv4, None))
            if self._ipv6 is not None:
                frames.append(self._query_v6(self._ipv6, None))
        for group, member in self._members.items():
            if member.asks and now >= member.ask_at:
                member.asks -= 1
                member.ask_at = now + LAST_MEMBER_INTERVAL
                frames.extend(self._ask(group))
        self.counters.queries += len(frames)
        return frames

    def _join(self, group: bytes, now: float) -> list[Change]:
        member = self._members.get(group)
        if member is not None:
            member.expires = now + LIFETIME
            member.asks = 0
            return []
        if len(self._members) >= self._limit:
            self.counters.refused += 1
            return []
        self._members[group] = _Member(now + LIFETIME)
        return [Join(group)]

    def _doubt(self, group: bytes, now: float) -> None:
        """Somebody left: ask whether anybody stays (RFC 3376 section 6.4.2)."""
        member = self._members.get(group)
        if member is None or member.asks or member.expires <= now + ROBUSTNESS * LAST_MEMBER_INTERVAL:
            return
        member.expires = now + ROBUSTNESS * LAST_MEMBER_INTERVAL
        member.asks = ROBUSTNESS
        member.ask_at = now

    def _ask(self, group: bytes) -> list[bytes]:
        if len(group) == 4:
            return [] if self._ipv4 is None else [self._query_v4(self._ipv4, group)]
        return [] if self._ipv6 is None else [self._query_v6(self._ipv6, group)]

    def _query_v4(self, source: bytes, group: bytes | None) -> bytes:
        """A query for all groups, or for one. The header is written out here because of its option."""
        seconds = RESPONSE_TIME if group is None else LAST_MEMBER_INTERVAL
        message = igmp.emit_igmp_query(
            3,
            group or bytes(4),
            response_time=int(10 * seconds),
            robustness=ROBUSTNESS,
            interval=int(QUERY_INTERVAL),
        )
        destination = group or ALL_NODES_V4
        length = (24 + len(message)).to_bytes(2, "big")
        start = bytes((0x46, _INTERNET_CONTROL)) + length + bytes((0, 0, 0x40, 0, 1, PROTOCOL_IGMP))
        rest = source + destination + _ROUTER_ALERT_V4
        checksum = internet(start + bytes(2) + rest).to_bytes(2, "big")
        packet = start + checksum + rest + message
        return group_mac(destination) + self._mac + ETHERTYPE_IPV4.to_bytes(2, "big") + packet

    def _query_v6(self, source: bytes, group: bytes | None) -> bytes:
        seconds = RESPONSE_TIME if group is None else LAST_MEMBER_INTERVAL
        query = mld.emit_mld_query(
            2,
            group or _UNSPECIFIED_V6,
            response_time=int(1000 * seconds),
            robustness=ROBUSTNESS,
            interval=int(QUERY_INTERVAL),
        )
        destination = group or ALL_NODES_V6
        message = _ROUTER_ALERT_V6 + complete_v6(query, source, destination)
        header = bytearray(40)
        emit_ipv6(memoryview(header), 0, len(message), 0, source, destination, hop_limit=1)
        packet = bytes(header) + message
        return group_mac(destination) + self._mac + ETHERTYPE_IPV6.to_bytes(2, "big") + packet


def _listens(record: GroupRecord) -> bool:
    """Whether a record says that the guest wants datagrams of the group, of some source at least."""
    if record.kind in (igmp.MODE_IS_EXCLUDE, igmp.CHANGE_TO_EXCLUDE):
        return True
    return record.kind != igmp.BLOCK_OLD_SOURCES and record.sources > 0
