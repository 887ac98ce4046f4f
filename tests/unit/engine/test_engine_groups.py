"""engine.groups on real sockets: a host and a world joined by a veth pair, mDNS and SSDP speakers in both."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from bucatini.base.address import Endpoint, pack, text
from bucatini.engine import groups as module
from bucatini.engine.groups import BATCH, MAX_ECHOES, MAX_LISTENERS, MAX_SPEAKERS, MAX_SPOKEN, SPEAKER_TIME, Groups
from bucatini.engine.reactor import Reactor
from support.fakehost import HOST4, HOST6, WORLD4, FakeHost, Namespace, family_of

pytestmark = pytest.mark.root

MDNS4, MDNS6 = Endpoint(pack("224.0.0.251"), 5353), Endpoint(pack("ff02::fb"), 5353)
SSDP4, SSDP6 = Endpoint(pack("239.255.255.250"), 1900), Endpoint(pack("ff02::c"), 1900)
OTHER = Endpoint(pack("239.1.2.3"), 7777)
IP_RECVTTL = 12
TURNS = 200
"""Of at most 50 ms each, until a test gives up waiting."""


@pytest.fixture(scope="module")
def host() -> Iterator[FakeHost]:
    made = FakeHost()
    for namespace, link in ((made.net, "up0"), (made.world, "up1")):
        namespace.ip(f"route add 224.0.0.0/4 dev {link}\nroute add multicast ff00::/8 dev {link} table local\n")
    yield made
    made.close()


class Station:
    """Groups in the host's namespace, their reactor, and what they called."""

    def __init__(self, host: FakeHost, *, link: str = "up0", limit: int = MAX_LISTENERS) -> None:
        self.net = host.net
        self.link = link
        self.reactor = Reactor()
        self.delivered: list[tuple[Endpoint, Endpoint, bytes]] = []
        self.answered: list[tuple[Endpoint, int, bytes]] = []
        self.asked: list[tuple[Endpoint, Endpoint]] = []
        self.admits = True
        self.own: set[Endpoint] = set()
        self.groups = Groups(
            self.reactor, self._admit, self._deliver, self.own.__contains__, self._index, self._answer, limit
        )
        self.counters = self.groups.counters

    def _index(self, family: int) -> int:
        return index_of(self.net, self.link)

    def _admit(self, peer: Endpoint, group: Endpoint) -> bool:
        self.asked.append((peer, group))
        return self.admits

    def _deliver(self, peer: Endpoint, group: Endpoint, payload: bytes) -> None:
        self.delivered.append((peer, group, payload))

    def _answer(self, peer: Endpoint, port: int, payload: bytes) -> None:
        self.answered.append((peer, port, payload))

    def join(self, *members: bytes) -> None:
        with self.net.entered():
            for group in members:
                self.groups.join(group)

    def send(
        self, port: int, group: Endpoint, payload: bytes, now: float | None = None, hop_limit: int = 1
    ) -> int:
        with self.net.entered():
            return self.groups.send(port, group, payload, time.monotonic() if now is None else now, hop_limit)

    def until(self, count: int) -> None:
        """Turns until so many datagrams were received."""
        for _ in range(TURNS):
            if self.counters.received >= count:
                break
            self.reactor.turn(0.05)
        assert self.counters.received == count

    def close(self) -> None:
        self.groups.close()
        self.reactor.close()


@pytest.fixture
def station(host: FakeHost) -> Iterator[Station]:
    before = len(os.listdir("/proc/self/fd"))
    made = Station(host)
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before


def index_of(net: Namespace, link: str) -> int:
    with net.entered():
        return socket.if_nametoindex(link)


def speaker(net: Namespace, link: str, port: int, family: int = socket.AF_INET) -> socket.socket:
    """A program that sends to groups through `link` from `port`, shared as mDNS responders share theirs."""
    made = net.new_socket(socket.AddressFamily(family), socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    index = index_of(net, link)
    if family == socket.AF_INET:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index))
        made.bind(("0.0.0.0", port))
    else:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        made.bind(("::", port))
    return made


def listener(net: Namespace, link: str, group: Endpoint) -> socket.socket:
    """A program that listens to a group as most do: at every address, sharing the port."""
    family = family_of(text(group.address))
    made = speaker(net, link, group.port, family)
    index = index_of(net, link)
    if family == socket.AF_INET:
        made.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("=4s4si", group.address, bytes(4), index)
        )
        made.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    else:
        made.setsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("=16si", group.address, index)
        )
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    return made


def tell(sender: socket.socket, group: Endpoint, payload: bytes) -> None:
    sender.sendto(payload, (text(group.address), group.port))


# -- listening


@pytest.mark.parametrize("group", [MDNS4, MDNS6, SSDP4, SSDP6])
def test_what_the_world_says_to_a_joined_group_is_delivered(host: FakeHost, station: Station, group: Endpoint) -> None:
    station.join(group.address)
    with speaker(host.world, "up1", 5353, family_of(text(group.address))) as sender:
        tell(sender, group, b"hello")
        tell(sender, group, b"")
        station.until(2)
        peer = station.delivered[0][0]
        assert [(delivered[1], delivered[2]) for delivered in station.delivered] == [(group, b"hello"), (group, b"")]
        assert peer.port == 5353
        assert peer.address == pack(WORLD4) if len(group.address) == 4 else peer.address[:2] == b"\xfe\x80"
        assert station.asked == [(peer, group)] * 2
        assert station.counters.admitted == 2


def test_before_joining_and_after_leaving_nothing_is_heard(host: FakeHost, station: Station) -> None:
    with speaker(host.world, "up1", 5353) as sender:
        tell(sender, MDNS4, b"early")
        station.join(MDNS4.address)
        tell(sender, MDNS4, b"now")
        station.until(1)
        station.groups.leave(MDNS4.address)
        assert station.groups.listening == ()
        tell(sender, MDNS4, b"late")
        station.join(MDNS4.address, SSDP4.address)
        tell(sender, SSDP4, b"again")
        station.until(2)
    assert [payload for _, _, payload in station.delivered] == [b"now", b"again"]


def test_known_groups_are_listened_to_at_their_ports_only(station: Station) -> None:
    station.join(SSDP4.address, MDNS4.address, OTHER.address)
    assert station.groups.listening == (SSDP4, Endpoint(SSDP4.address, 3702), MDNS4)
    assert station.groups.ports == {1900, 3702, 5353}
    station.join(SSDP4.address)
    assert len(station.groups.listening) == 3


def test_of_other_groups_the_guests_own_sending_tells_the_port(host: FakeHost, station: Station) -> None:
    station.join(OTHER.address)
    assert station.groups.listening == ()
    with host.net.entered():
        station.groups.sends(*OTHER)
        station.groups.sends(*OTHER)
    assert station.groups.listening == (OTHER,)
    with speaker(host.world, "up1", 0) as sender:
        tell(sender, OTHER, b"hello")
        station.until(1)
    assert station.delivered[0][1:] == (OTHER, b"hello")


def test_sending_before_joining_counts_too(host: FakeHost, station: Station) -> None:
    with host.net.entered():
        station.groups.sends(*OTHER)
    assert station.groups.listening == ()
    station.join(OTHER.address)
    assert station.groups.listening == (OTHER,)


def test_policy_may_refuse_a_peer(host: FakeHost, station: Station) -> None:
    station.join(MDNS4.address)
    station.admits = False
    with speaker(host.world, "up1", 5353) as sender:
        tell(sender, MDNS4, b"hello")
        station.until(1)
    assert station.delivered == []
    assert (station.counters.refused, station.counters.admitted) == (1, 0)
    assert station.asked == [(Endpoint(pack(WORLD4), 5353), MDNS4)]


def test_what_the_guests_own_flows_sent_is_dropped(host: FakeHost, station: Station) -> None:
    station.join(MDNS4.address)
    with speaker(host.net, "up0", 0) as flow:
        station.own.add(Endpoint(pack(HOST4), flow.getsockname()[1]))
        tell(flow, MDNS4, b"from the guest")
        station.until(1)
        assert station.delivered == station.asked == []
        assert station.counters.own == 1


def test_datagrams_of_another_interface_are_not_heard(host: FakeHost) -> None:
    local = Station(host, link="lo")
    local.join(MDNS4.address)
    with listener(host.net, "up0", MDNS4) as program, speaker(host.world, "up1", 5353) as sender:
        tell(sender, MDNS4, b"hello")
        assert program.recv(100) == b"hello"  # so it has been through
        local.reactor.turn(0)
    assert local.counters.received == 0
    local.close()


def test_a_new_interface_is_joined_by_renewing(host: FakeHost) -> None:
    moved = Station(host, link="lo")
    moved.join(MDNS4.address, MDNS6.address)
    moved.link = "up0"
    with host.net.entered():
        moved.groups.renew()
    assert moved.groups.listening == (MDNS4, MDNS6)
    with speaker(host.world, "up1", 5353) as sender:
        tell(sender, MDNS4, b"hello")
        moved.until(1)
    moved.close()


def test_a_burst_takes_several_turns_and_loses_nothing(host: FakeHost, station: Station) -> None:
    station.join(MDNS4.address)
    count = 2 * BATCH + 10
    with speaker(host.world, "up1", 5353) as sender:
        for number in range(count):
            tell(sender, MDNS4, b"%d" % number)
        station.until(count)
    assert [payload for _, _, payload in station.delivered] == [b"%d" % number for number in range(count)]


def test_a_callback_may_close_everything(host: FakeHost, station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    station.join(MDNS4.address)
    monkeypatch.setattr(station.groups, "_deliver", lambda *_: station.groups.close())
    with speaker(host.world, "up1", 5353) as sender:
        for _ in range(3):
            tell(sender, MDNS4, b"hello")
        station.until(1)
    station.reactor.turn(0)
    assert station.counters.failed == 0
    assert station.groups.ports == frozenset()


# -- programs of the host


def test_the_host_keeps_its_unicast_and_both_hear_the_group(host: FakeHost, station: Station) -> None:
    with listener(host.net, "up0", MDNS4) as program, speaker(host.world, "up1", 5353) as sender:
        station.join(MDNS4.address)
        sender.sendto(b"to the host", (HOST4, 5353))
        tell(sender, MDNS4, b"to all")
        assert [program.recv(100), program.recv(100)] == [b"to the host", b"to all"]
        station.until(1)
    assert station.delivered == [(Endpoint(pack(WORLD4), 5353), MDNS4, b"to all")]


def test_a_program_that_shares_nothing_keeps_the_port(host: FakeHost, station: Station) -> None:
    with host.net.bound("0.0.0.0", 5353):
        station.join(MDNS4.address)
    assert station.groups.listening == ()
    assert station.counters.failed == 1
    station.groups.leave(MDNS4.address)
    station.join(MDNS4.address)
    assert station.groups.listening == (MDNS4,)


def test_without_an_interface_a_link_scoped_group_is_a_failure(host: FakeHost) -> None:
    nowhere = Groups(Reactor(), lambda *_: True, lambda *_: None, lambda _: False, lambda _: 0)
    with host.net.entered():
        nowhere.join(MDNS6.address)
    assert nowhere.listening == ()
    assert nowhere.counters.failed == 1


# -- sending


@pytest.mark.parametrize("group", [MDNS4, MDNS6])
def test_what_the_guest_says_as_mdns_leaves_from_the_same_port(
    host: FakeHost, station: Station, group: Endpoint
) -> None:
    station.join(group.address)
    with listener(host.world, "up1", group) as peer, listener(host.net, "up0", group) as program:
        for hop_limit in (255, 255, 1):
            assert station.send(5353, group, b"question", hop_limit=hop_limit) == 0
            payload, ancillary, _, source = peer.recvmsg(100, 100)
            assert (payload, source[1]) == (b"question", 5353)
            assert struct.unpack("=i", ancillary[0][2]) == (hop_limit,)
            assert source[0] == HOST4 or source[0].startswith("fe80:")
            assert program.recv(100) == b"question"
    station.until(3)
    assert station.delivered == station.asked == []
    assert (station.counters.own, station.counters.sent) == (3, 3)


def test_a_program_of_the_host_is_heard_although_it_looks_like_us(host: FakeHost, station: Station) -> None:
    """The host's own responder sends from our address and port; only what it says tells it from us."""
    station.join(MDNS4.address)
    with speaker(host.net, "up0", 5353) as program:
        assert station.send(5353, MDNS4, b"question") == 0
        tell(program, MDNS4, b"answer")
        tell(program, MDNS4, b"question")
        station.until(3)
    assert station.delivered == [
        (Endpoint(pack(HOST4), 5353), MDNS4, b"answer"),
        (Endpoint(pack(HOST4), 5353), MDNS4, b"question"),
    ]


def test_the_same_datagram_sent_thrice_at_once_comes_back_thrice_and_not_to_the_guest(station: Station) -> None:
    station.join(SSDP4.address)
    for _ in range(3):
        assert station.send(1900, SSDP4, b"NOTIFY") == 0
    station.until(3)
    assert station.counters.own == 3
    assert station.delivered == []


def test_an_echo_is_known_for_a_moment_only(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    station.join(SSDP4.address)
    assert station.send(1900, SSDP4, b"NOTIFY", now=-1e9) == 0
    station.until(1)
    assert len(station.delivered) == 1
    for number in range(MAX_ECHOES + 10):
        monkeypatch.setattr(station.groups, "_ready", None)  # what is sent now is not read
        assert station.send(1900, SSDP4, b"%d" % number) == 0
    assert len(station.groups._echoes) == MAX_ECHOES


@pytest.mark.parametrize("group", [SSDP4, SSDP6])
def test_a_search_is_answered_by_unicast(host: FakeHost, station: Station, group: Endpoint) -> None:
    with listener(host.world, "up1", group) as service:
        assert station.send(40000, group, b"M-SEARCH") == 0
        payload, source = service.recvfrom(100)
        assert (payload, source[1]) == (b"M-SEARCH", 40000)
        service.sendto(b"200 OK", source)
        station.until(1)
    peer = station.answered[0][0]
    assert station.answered == [(peer, 40000, b"200 OK")]
    assert peer.port == 1900
    assert station.asked == [(peer, group)]
    assert station.delivered == []
    assert station.groups.listening == ()


def test_a_search_for_a_joined_group_is_no_news_to_the_guest(host: FakeHost, station: Station) -> None:
    station.join(SSDP4.address)
    assert station.send(40000, SSDP4, b"M-SEARCH") == 0
    station.until(1)
    assert station.counters.own == 1
    assert station.delivered == station.answered == []


def test_a_port_that_the_host_uses_is_left_to_it(host: FakeHost, station: Station) -> None:
    with host.net.bound("0.0.0.0", 40000) as program, listener(host.world, "up1", SSDP4) as service:
        assert station.send(40000, SSDP4, b"M-SEARCH") == 0
        source = service.recvfrom(100)[1]
        assert source[1] != 40000
        service.sendto(b"200 OK", source)
        service.sendto(b"for the program", (HOST4, 40000))
        assert program.recv(100) == b"for the program"
        station.until(1)
    assert station.answered == [(Endpoint(pack(WORLD4), 1900), 40000, b"200 OK")]


def test_answers_are_subject_to_policy(host: FakeHost, station: Station) -> None:
    station.admits = False
    with listener(host.world, "up1", SSDP4) as service:
        station.send(40000, SSDP4, b"M-SEARCH")
        service.sendto(b"200 OK", service.recvfrom(100)[1])
        station.until(1)
    assert station.answered == []
    assert station.counters.refused == 1


def test_speakers_are_reused_and_end_when_unused(host: FakeHost, station: Station) -> None:
    station.send(40000, SSDP4, b"one", now=100)
    assert station.groups.ports == {40000}
    station.send(40000, SSDP4, b"two", now=110)
    assert station.groups.ports == {40000}
    station.groups.expire(100 + SPEAKER_TIME)
    assert station.groups.ports == {40000}
    station.groups.expire(110 + SPEAKER_TIME)
    assert station.groups.ports == frozenset()


def test_a_datagram_too_large_or_without_a_route_is_an_errno(host: FakeHost, station: Station) -> None:
    assert station.send(40000, SSDP4, bytes(65508)) == errno.EMSGSIZE
    host.net.ip("link set up0 down\n")
    try:
        assert station.send(40000, SSDP4, b"M-SEARCH") in (errno.ENETUNREACH, errno.ENETDOWN, errno.ENODEV)
    finally:
        host.net.ip(
            "link set up0 up\nroute add default via 198.51.100.1\nroute add 224.0.0.0/4 dev up0\n"
            f"addr replace {HOST6}/64 dev up0 nodad\n"
        )
    assert station.counters.failed == 2
    assert station.counters.sent == 0


# -- bounds


def test_listeners_are_bounded_and_room_is_used_again(host: FakeHost) -> None:
    small = Station(host, limit=3)
    members = [pack(f"239.0.0.{last}") for last in range(1, 6)]
    with host.net.entered():
        for group in members:
            small.groups.sends(group, 7000)
    small.join(*members)
    assert [place.address for place in small.groups.listening] == members[:3]
    assert small.counters.left_out == 2
    with host.net.entered():
        small.groups.leave(members[0])
        small.groups.leave(pack("239.9.9.9"))
    assert [place.address for place in small.groups.listening] == [members[1], members[2], members[3]]
    small.close()
    assert small.groups.listening == ()


def test_speakers_are_bounded_and_the_one_unused_for_longest_goes(station: Station) -> None:
    for port in range(40000, 40000 + MAX_SPEAKERS):
        station.send(port, SSDP4, b"M-SEARCH")
    station.send(40000, SSDP4, b"M-SEARCH")
    station.send(50000, SSDP4, b"M-SEARCH")
    assert station.groups.ports == {40000, 50000, *range(40002, 40000 + MAX_SPEAKERS)}


def test_ports_the_guest_sends_to_are_bounded(host: FakeHost, station: Station) -> None:
    with host.net.entered():
        for port in range(1000, 1000 + MAX_SPOKEN + 1):
            station.groups.sends(OTHER.address, port)
    station.join(OTHER.address)
    expected = range(1001, 1001 + MAX_LISTENERS)
    assert station.groups.listening == tuple(Endpoint(OTHER.address, port) for port in expected)
    assert station.counters.left_out == MAX_SPOKEN - MAX_LISTENERS


def test_no_descriptors_is_a_counted_failure(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = itertools.repeat(OSError(errno.EMFILE, "no"))

    def refuse(*_: object) -> socket.socket:
        raise next(failing)

    monkeypatch.setattr(module, "_open_listener", refuse)
    monkeypatch.setattr(module, "_open_speaker", refuse)
    station.join(MDNS4.address)
    assert station.send(40000, SSDP4, b"M-SEARCH") == errno.EADDRNOTAVAIL
    assert station.counters.failed == 2
    assert station.groups.ports == frozenset()


def test_a_guest_gets_no_well_known_port_of_the_host(host: FakeHost, station: Station) -> None:
    """What is meant for the host's own servers is not the guest's, however privileged we are."""
    assert station.send(514, SSDP4, b"M-SEARCH") == 0
    assert station.groups.ports
    assert min(station.groups.ports) >= 1024
