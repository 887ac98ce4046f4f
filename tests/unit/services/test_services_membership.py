"""bucatini.services.membership: what joins, what leaves and when, which queries go out, and the bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.igmp import IGMP as IGMP2
from scapy.contrib.igmpv3 import IGMPv3, IGMPv3gr, IGMPv3mq, IGMPv3mr
from scapy.layers.inet import IP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6MLDMultAddrRec,
    ICMPv6MLDone,
    ICMPv6MLQuery2,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import Ether

from bucatini.base.address import link_local_of, pack
from bucatini.services.membership import (
    LIFETIME,
    Join,
    Leave,
    Memberships,
    MembershipSettings,
    is_served,
    read_report,
)
from bucatini.wire.igmp import (
    ALLOW_NEW_SOURCES,
    BLOCK_OLD_SOURCES,
    CHANGE_TO_EXCLUDE,
    CHANGE_TO_INCLUDE,
    MODE_IS_EXCLUDE,
    MODE_IS_INCLUDE,
    GroupRecord,
    MembershipReport,
)

MAC = bytes.fromhex("026d73000001")
GATEWAY4, GATEWAY6 = pack("172.16.0.1"), pack("fe80::1")
MDNS4, MDNS6, SSDP = pack("224.0.0.251"), pack("ff02::fb"), pack("239.255.255.250")
SETTINGS = MembershipSettings(MAC, GATEWAY4, GATEWAY6)


def said(*records: tuple[int, bytes] | tuple[int, bytes, int]) -> MembershipReport:
    return MembershipReport(3, tuple(GroupRecord(*record) for record in records))


def joined(group: bytes, now: float = 0.0, settings: MembershipSettings = SETTINGS) -> Memberships:
    """A guest in `group`, and the first queries gone."""
    members = Memberships(settings)
    assert members.report(said((CHANGE_TO_EXCLUDE, group)), now) == [Join(group)]
    members.query(now)
    return members


# -- joins and leaves


@pytest.mark.parametrize("kind", [MODE_IS_EXCLUDE, CHANGE_TO_EXCLUDE])
@pytest.mark.parametrize("group", [MDNS4, MDNS6, SSDP])
def test_a_report_joins_once(kind: int, group: bytes) -> None:
    members = Memberships(SETTINGS)
    assert members.report(said((kind, group)), 0) == [Join(group)]
    assert members.report(said((kind, group)), 1) == []
    assert members.groups == (group,)
    assert members.counters.reports == 2


@pytest.mark.parametrize("kind", [MODE_IS_INCLUDE, CHANGE_TO_INCLUDE, ALLOW_NEW_SOURCES, CHANGE_TO_EXCLUDE])
def test_some_sources_are_any_source(kind: int) -> None:
    assert Memberships(SETTINGS).report(said((kind, SSDP, 3)), 0) == [Join(SSDP)]


@pytest.mark.parametrize("kind", [MODE_IS_INCLUDE, CHANGE_TO_INCLUDE, ALLOW_NEW_SOURCES, BLOCK_OLD_SOURCES])
def test_no_sources_are_no_join(kind: int) -> None:
    members = Memberships(SETTINGS)
    assert members.report(said((kind, SSDP)), 0) == []
    assert members.groups == ()


@pytest.mark.parametrize(
    ("kind", "sources"), [(CHANGE_TO_INCLUDE, 0), (MODE_IS_INCLUDE, 0), (BLOCK_OLD_SOURCES, 1), (BLOCK_OLD_SOURCES, 0)]
)
@pytest.mark.parametrize("group", [MDNS4, MDNS6])
def test_a_leave_is_asked_about_twice_and_then_believed(kind: int, sources: int, group: bytes) -> None:
    members = joined(group)
    assert members.report(said((kind, group, sources)), 10) == []
    assert members.deadline == 10
    assert members.due(10) == []
    assert len(members.query(10)) == 1
    assert members.deadline == 11
    assert members.query(10.9) == []
    assert len(members.query(11)) == 1
    assert members.due(11.9) == []
    assert members.groups == (group,)
    assert members.due(12) == [Leave(group)]
    assert members.groups == ()
    assert members.query(12) == []


def test_who_answers_stays() -> None:
    members = joined(MDNS4)
    members.report(said((CHANGE_TO_INCLUDE, MDNS4)), 10)
    members.query(10)
    assert members.report(said((MODE_IS_EXCLUDE, MDNS4)), 10.5) == []
    assert members.query(11) == []
    assert members.due(30) == []
    assert members.groups == (MDNS4,)


def test_leaving_again_and_again_does_not_prolong_it() -> None:
    members = joined(MDNS4)
    frames = 0
    for tenth in range(21):
        members.report(said((CHANGE_TO_INCLUDE, MDNS4)), 10 + tenth / 10)
        frames += len(members.query(10 + tenth / 10))
    assert frames == 2
    assert members.due(12.0) == [Leave(MDNS4)]


def test_leaving_what_was_not_joined_is_nothing() -> None:
    members = Memberships(SETTINGS)
    assert members.report(said((CHANGE_TO_INCLUDE, MDNS4)), 0) == []
    members.query(0)
    assert members.query(1) == []


def test_what_is_not_confirmed_expires() -> None:
    members = joined(MDNS4)
    members.report(said((MODE_IS_EXCLUDE, MDNS4)), 100)
    assert members.due(100 + LIFETIME - 0.1) == []
    assert members.due(100 + LIFETIME) == [Leave(MDNS4)]
    assert members.due(1000) == []


def test_one_message_may_hold_many_records() -> None:
    members = joined(SSDP)
    changes = members.report(said((CHANGE_TO_EXCLUDE, MDNS4), (CHANGE_TO_INCLUDE, SSDP), (MODE_IS_EXCLUDE, MDNS6)), 5)
    assert changes == [Join(MDNS4), Join(MDNS6)]
    assert members.due(7) == [Leave(SSDP)]
    assert members.groups == (MDNS4, MDNS6)


@pytest.mark.parametrize(
    ("group", "served"),
    [
        ("224.0.0.251", True),
        ("224.0.0.252", True),
        ("239.255.255.250", True),
        ("232.1.1.1", True),
        ("224.0.0.1", False),
        ("224.0.0.2", False),
        ("224.0.0.22", False),
        ("223.255.255.255", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("10.0.0.1", False),
        ("ff02::fb", True),
        ("ff02::c", True),
        ("ff05::c", True),
        ("ff0e::1234", True),
        ("ff32::1234", True),
        ("ff02::1:3", True),
        ("ff02::1", False),
        ("ff02::2", False),
        ("ff02::16", False),
        ("ff02::1:ff00:1", False),
        ("ff02::1:ffab:cdef", False),
        ("ff01::fb", False),
        ("ff11::fb", False),
        ("ff00::1", False),
        ("fe80::1", False),
        ("::", False),
    ],
)
def test_which_groups_are_served(group: str, served: bool) -> None:
    assert is_served(pack(group)) is served
    members = Memberships(SETTINGS)
    assert members.report(said((CHANGE_TO_EXCLUDE, pack(group))), 0) == ([Join(pack(group))] if served else [])
    assert members.counters.ignored == (not served)


def test_the_number_of_groups_is_bounded() -> None:
    members = Memberships(SETTINGS, limit=3)
    groups = [pack(f"239.0.0.{last}") for last in range(1, 6)]
    changes = members.report(said(*((CHANGE_TO_EXCLUDE, group) for group in groups)), 0)
    assert changes == [Join(group) for group in groups[:3]]
    assert members.counters.refused == 2
    members.query(0)
    assert members.report(said((MODE_IS_EXCLUDE, groups[0])), 1) == []
    assert members.counters.refused == 2
    members.report(said((CHANGE_TO_INCLUDE, groups[1])), 1)
    assert members.due(3) == [Leave(groups[1])]
    assert members.report(said((MODE_IS_EXCLUDE, groups[4])), 3) == [Join(groups[4])]


@given(
    st.lists(
        st.tuples(
            st.integers(1, 6),
            st.sampled_from([MDNS4, MDNS6, SSDP, pack("224.0.0.1")]),
            st.integers(0, 2),
            st.floats(0, 9),
        ),
        max_size=40,
    )
)
def test_joins_and_leaves_alternate_and_agree_with_the_groups(
    happened: list[tuple[int, bytes, int, float]],
) -> None:
    members, now, inside = Memberships(SETTINGS, limit=2), 0.0, set[bytes]()
    for kind, group, sources, passed in happened:
        now += passed
        changes = members.due(now)
        members.query(now)
        assert members.deadline > now
        changes += members.report(said((kind, group, sources)), now)
        for change in changes:
            assert (change.group in inside) is isinstance(change, Leave)
            inside ^= {change.group}
        assert inside == set(members.groups)
        assert len(inside) <= 2
    assert {change.group for change in members.due(now + LIFETIME)} == inside


# -- queries


def test_general_queries_at_the_start_and_every_125_seconds() -> None:
    members = Memberships(SETTINGS)
    assert members.deadline < 0
    times = []
    now = 0.0
    while now < 500:
        if members.query(now):
            times.append(now)
        assert members.deadline > now
        now = members.deadline
    assert times == [0, 31.25, 156.25, 281.25, 406.25]
    assert members.counters.queries == 2 * len(times)


def test_the_general_query_of_igmp() -> None:
    frame, _ = Memberships(SETTINGS).query(0)
    read = Ether(frame)
    assert (read.dst, read.src, read.type) == ("01:00:5e:00:00:01", "02:6d:73:00:00:01", 0x0800)
    packet = read[IP]
    assert (packet.src, packet.dst, packet.ttl, packet.proto, packet.tos) == ("172.16.0.1", "224.0.0.1", 1, 2, 0xC0)
    assert isinstance(packet.options[0], IPOption_Router_Alert)
    assert (packet.len, packet.ihl) == (len(frame) - 14, 6)
    remade = packet.copy()
    del remade.chksum
    assert IP(bytes(remade)).chksum == packet.chksum
    query = read[IGMPv3mq]
    assert (query.gaddr, query.qrv, query.qqic) == ("0.0.0.0", 2, 125)
    assert read[IGMPv3].mrcode == 100


def test_the_general_query_of_mld() -> None:
    _, frame = Memberships(SETTINGS).query(0)
    read = Ether(frame)
    assert (read.dst, read.src, read.type) == ("33:33:00:00:00:01", "02:6d:73:00:00:01", 0x86DD)
    packet = read[IPv6]
    assert (packet.src, packet.dst, packet.hlim, packet.plen) == ("fe80::1", "ff02::1", 1, len(frame) - 54)
    assert isinstance(packet[IPv6ExtHdrHopByHop].options[0], RouterAlert)
    query = read[ICMPv6MLQuery2]
    assert (query.mladdr, query.mrd, query.QRV, query.QQIC) == ("::", 10_000, 2, 125)
    remade = packet.copy()
    del remade[ICMPv6MLQuery2].cksum
    assert IPv6(bytes(remade))[ICMPv6MLQuery2].cksum == query.cksum


def test_queries_about_one_group_go_to_the_group() -> None:
    members = joined(SSDP)
    members.report(said((CHANGE_TO_INCLUDE, SSDP)), 1)
    (frame,) = members.query(1)
    read = Ether(frame)
    assert (read.dst, read[IP].dst) == ("01:00:5e:7f:ff:fa", "239.255.255.250")
    assert (read[IGMPv3mq].gaddr, read[IGMPv3].mrcode) == ("239.255.255.250", 10)
    members = joined(MDNS6)
    members.report(said((CHANGE_TO_INCLUDE, MDNS6)), 1)
    (frame,) = members.query(1)
    read = Ether(frame)
    assert (read.dst, read[IPv6].dst) == ("33:33:00:00:00:fb", "ff02::fb")
    assert (read[ICMPv6MLQuery2].mladdr, read[ICMPv6MLQuery2].mrd) == ("ff02::fb", 1000)


def test_a_family_that_is_off_is_not_asked() -> None:
    (four,) = Memberships(MembershipSettings(MAC, GATEWAY4, None)).query(0)
    assert Ether(four).type == 0x0800
    (six,) = Memberships(MembershipSettings(MAC, None, GATEWAY6)).query(0)
    assert Ether(six).type == 0x86DD
    assert Memberships(MembershipSettings(MAC, None, None)).query(0) == []
    members = joined(MDNS6, settings=MembershipSettings(MAC, GATEWAY4, None))
    members.report(said((CHANGE_TO_INCLUDE, MDNS6)), 1)
    assert members.query(1) == []


def test_mld_comes_from_a_link_local_address_whatever_the_gateways_is() -> None:
    _, frame = Memberships(MembershipSettings(MAC, GATEWAY4, pack("fd42:6d73:62::1"))).query(0)
    assert Ether(frame)[IPv6].src == "fe80::6d:73ff:fe00:1"
    assert link_local_of(bytes.fromhex("9a559a559a55")) == pack("fe80::9855:9aff:fe55:9a55")


# -- frames

ALERT4 = [IPOption_Router_Alert()]
ALERT6 = IPv6ExtHdrHopByHop(options=[RouterAlert()])
REPORT3 = IGMPv3mr(numgrp=1, records=[IGMPv3gr(rtype=4, maddr="224.0.0.251")])
REPORT2 = ICMPv6MLReport2(records=[ICMPv6MLDMultAddrRec(rtype=4, dst="ff02::fb")], records_number=1)


@pytest.mark.parametrize(
    ("frame", "version", "record"),
    [
        (Ether() / IP(dst="224.0.0.22", ttl=1, options=ALERT4) / REPORT3, 3, GroupRecord(CHANGE_TO_EXCLUDE, MDNS4)),
        (Ether() / IP(dst="224.0.0.251", ttl=1) / IGMP2(type=0x16, gaddr="224.0.0.251"), 2, None),
        (Ether() / IP(dst="224.0.0.251", ttl=1) / IGMP2(type=0x12, gaddr="224.0.0.251"), 1, None),
        (
            Ether() / IPv6(src="fe80::9", dst="ff02::16", hlim=1) / ALERT6 / REPORT2,
            2,
            GroupRecord(CHANGE_TO_EXCLUDE, MDNS6),
        ),
        (Ether() / IPv6(src="::", dst="ff02::16", hlim=1) / ALERT6 / REPORT2, 2, None),
        (Ether() / IPv6(src="fe80::9", dst="ff02::fb", hlim=1) / ALERT6 / ICMPv6MLReport(mladdr="ff02::fb"), 1, None),
        (Ether() / IPv6(src="fe80::9", dst="ff02::2", hlim=1) / ALERT6 / ICMPv6MLDone(mladdr="ff02::fb"), 1, None),
    ],
)
def test_reports_are_read_from_frames(frame: Ether, version: int, record: GroupRecord | None) -> None:
    data = bytes(frame)
    report = read_report(data)
    assert report is not None
    assert report.version == version
    assert record is None or report.records == (record,)
    message_at = len(data) - len(frame.lastlayer()) if frame.type == 0x86DD else 14 + 4 * (data[14] & 0x0F)
    for at in range(message_at, len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x55
        assert read_report(changed) is None, at
    for length in range(len(data)):
        assert read_report(data[:length]) is None, length


@pytest.mark.parametrize(
    "frame",
    [
        Ether() / IPv6(src="fe80::9", dst="ff02::16", hlim=2) / ALERT6 / REPORT2,
        Ether() / IPv6(src="2001:db8::9", dst="ff02::16", hlim=1) / ALERT6 / REPORT2,
        Ether() / IP(dst="224.0.0.1", ttl=1) / IGMP2(type=0x11),
        Ether() / IP(dst="224.0.0.22", ttl=1, flags="MF") / REPORT3,
        Ether() / IP(dst="224.0.0.22", ttl=1, proto=17) / bytes(REPORT3),
    ],
)
def test_what_is_no_report(frame: Ether) -> None:
    assert read_report(bytes(frame)) is None


@given(st.binary(max_size=120))
def test_any_bytes_are_fine(data: bytes) -> None:
    read_report(data)
    read_report(bytes(Ether() / IP(proto=2)) + data)
