"""services.membership against Linux as the guest: its own reports in every version, and its answers to our queries."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucatini.base.address import pack, text
from bucatini.services import membership
from bucatini.services.membership import Change, Join, Leave, Memberships, MembershipSettings, read_report
from bucatini.wire.igmp import CHANGE_TO_INCLUDE, GroupRecord, MembershipReport
from support.fakehost import FakeHost, Namespace, family_of

pytestmark = pytest.mark.root

MAC = bytes.fromhex("026d73000001")
MDNS4, MDNS6, SSDP4 = pack("224.0.0.251"), pack("ff02::fb"), pack("239.255.255.250")
PATIENCE = 15.0
ETH_P_ALL = 3
PACKET_OUTGOING = 4
MCAST_JOIN_SOURCE_GROUP, MCAST_LEAVE_SOURCE_GROUP = 46, 47


class Gateway:
    """The far end of the guest's link: reads its frames, answers with queries. Time is real, so it is kept short."""

    def __init__(self, net: Namespace, link: str) -> None:
        with net.entered():
            self.link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self.link.bind((link, ETH_P_ALL))
        self.members = Memberships(MembershipSettings(MAC, pack("198.51.100.1"), pack("2001:db8:77::1")))
        self.members.query(time.monotonic())
        self.versions: set[tuple[int, int]] = set()

    def until(self, *expected: Change) -> None:
        """Takes in frames and keeps the deadlines until all of these have happened."""
        missing = set(expected)
        end = time.monotonic() + PATIENCE
        while missing:
            now = time.monotonic()
            assert now < end, missing
            missing -= set(self.members.due(now))
            for frame in self.members.query(now):
                self.link.send(frame)
            self.link.settimeout(0.1)
            try:
                frame, source = self.link.recvfrom(2048)
            except TimeoutError:
                continue
            report = read_report(frame) if source[2] != PACKET_OUTGOING else None
            if report is not None:
                changes = set(self.members.report(report, now))
                # Only reports that say something new: the kernel repeats those of the test before, in its version.
                if changes & set(expected):
                    self.versions |= {(len(record.group), report.version) for record in report.records}
                missing -= changes

    def ask_again(self) -> None:
        """As if the querier had just been started: it knows nothing and sends its first queries."""
        self.members = Memberships(MembershipSettings(MAC, pack("198.51.100.1"), pack("2001:db8:77::1")))
        for frame in self.members.query(time.monotonic()):
            self.link.send(frame)


@pytest.fixture(scope="module")
def host() -> Iterator[FakeHost]:
    made = FakeHost()
    yield made
    made.close()


@pytest.fixture
def gateway(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(membership, "RESPONSE_TIME", 0.3)  # what the guest is given to answer
    made = Gateway(host.world, "up1")
    yield made
    made.link.close()


def force(host: FakeHost, igmp: int, mld: int) -> None:
    with host.net.entered():
        Path("/proc/sys/net/ipv4/conf/up0/force_igmp_version").write_text(str(igmp))
        Path("/proc/sys/net/ipv6/conf/up0/force_mld_version").write_text(str(mld))


def member(net: Namespace, group: bytes) -> socket.socket:
    """A program of the guest that listens to `group`."""
    made = net.new_socket(family_of(text(group)), socket.SOCK_DGRAM)
    with net.entered():
        index = socket.if_nametoindex("up0")
    if len(group) == 4:
        request = struct.pack("=4s4si", group, bytes(4), index)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("=16si", group, index))
    return made


@pytest.mark.parametrize(("igmp", "mld"), [(3, 2), (2, 1), pytest.param(1, 1, marks=pytest.mark.slow)])
def test_linux_joins_is_asked_and_leaves(host: FakeHost, gateway: Gateway, igmp: int, mld: int) -> None:
    force(host, igmp, mld)
    try:
        first, second = member(host.net, MDNS4), member(host.net, MDNS6)
        with first, second:
            gateway.until(Join(MDNS4), Join(MDNS6))
            gateway.ask_again()
            gateway.until(Join(MDNS4), Join(MDNS6))
            assert gateway.versions == {(4, igmp), (16, mld)}
        gateway.until(*[Leave(MDNS6)] + [Leave(MDNS4)] * (igmp > 1))  # version 1 has no leave
        assert gateway.members.groups == ((MDNS4,) if igmp == 1 else ())
    finally:
        force(host, 0, 0)


def test_who_stays_answers_the_question_after_another_left(host: FakeHost, gateway: Gateway) -> None:
    """Two programs behind one link; the kernel tells of the last leave only, so the first is told for it."""
    with member(host.net, SSDP4), member(host.net, MDNS6):
        gateway.until(Join(SSDP4), Join(MDNS6))
        now = time.monotonic()
        left = tuple(GroupRecord(CHANGE_TO_INCLUDE, group) for group in (SSDP4, MDNS6))
        assert gateway.members.report(MembershipReport(3, left), now) == []
        with member(host.net, MDNS4):
            gateway.until(Join(MDNS4))
        gateway.until(Leave(MDNS4))  # three seconds on, the others are still there
        assert {SSDP4, MDNS6} <= set(gateway.members.groups)


@pytest.mark.parametrize("source", ["192.0.2.7", "2001:db8::7"])
def test_a_join_for_one_source_is_a_join(host: FakeHost, gateway: Gateway, source: str) -> None:
    family = family_of(source)
    group = "232.1.1.1" if family == socket.AF_INET else "ff35::8000:1"
    level = socket.IPPROTO_IP if family == socket.AF_INET else socket.IPPROTO_IPV6
    with host.net.entered():
        index = socket.if_nametoindex("up0")
    request = struct.pack("=i4x", index) + storage(group) + storage(source)
    with host.net.new_socket(family, socket.SOCK_DGRAM) as program:
        program.setsockopt(level, MCAST_JOIN_SOURCE_GROUP, request)
        gateway.until(Join(pack(group)))
        program.setsockopt(level, MCAST_LEAVE_SOURCE_GROUP, request)
        gateway.until(Leave(pack(group)))


def storage(address: str) -> bytes:
    """A `struct sockaddr_storage`."""
    packed = pack(address)
    head = struct.pack("=H2x", family_of(address)) + (b"" if len(packed) == 4 else bytes(4))
    return (head + packed).ljust(128, b"\0")
