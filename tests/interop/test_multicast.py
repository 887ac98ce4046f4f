"""Multicast between a guest and the host's network: groups it joins, what it sends to groups, and the answers."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from support.fakehost import GUEST4, HOST4, HOST6, FakeHost, Guest, Namespace, SharedGuest
from support.guests import eventually

pytestmark = pytest.mark.root

MDNS4, MDNS6, SSDP = "224.0.0.251", "ff02::fb", "239.255.255.250"
IP_MULTICAST_ALL = 49
GROUPS = pytest.mark.parametrize(("group", "port"), [(MDNS4, 5353), (SSDP, 1900), (MDNS6, 5353)])


@pytest.fixture(scope="module")
def open_guest(host: FakeHost) -> Iterator[Guest]:
    with SharedGuest(host, "--policy", "open") as shared, shared.checked() as guest:
        yield guest


def member(place: Namespace, group: str, port: int) -> socket.socket:
    """A socket of a program in `place` that joined `group` on the one interface there is."""
    family = socket.AF_INET6 if ":" in group else socket.AF_INET
    sock = place.new_socket(family, socket.SOCK_DGRAM, timeout=0.2)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    index = interface(place)
    if family == socket.AF_INET:
        sock.bind(("", port))
        request = struct.pack("=4s4si", socket.inet_aton(group), bytes(4), index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    else:
        sock.bind(("::", port))
        request = struct.pack("=16si", socket.inet_pton(family, group), index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    return sock


def interface(place: Namespace) -> int:
    """Index of the interface beside lo."""
    with place.entered():
        return next(index for index, name in socket.if_nameindex() if name != "lo")


def speak(place: Namespace, group: str, port: int, payload: bytes) -> None:
    """One datagram to the group from a program in `place`."""
    family = socket.AF_INET6 if ":" in group else socket.AF_INET
    with place.new_socket(family, socket.SOCK_DGRAM) as sock:
        if family == socket.AF_INET:
            sock.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), interface(place))
            )
            sock.sendto(payload, (group, port))
        else:
            sock.sendto(payload, (group, port, 0, interface(place)))


def hears(sock: socket.socket, wanted: bytes) -> bool:
    try:
        return sock.recv(2000) == wanted
    except TimeoutError:
        return False


@GROUPS
def test_a_group_the_guest_joins_is_heard(host: FakeHost, open_guest: Guest, group: str, port: int) -> None:
    with member(open_guest.net, group, port) as sock:

        def told() -> bool:
            speak(host.world, group, port, b"I am here")
            return hears(sock, b"I am here")

        assert eventually(told)


@GROUPS
def test_what_the_guest_says_to_a_group_is_heard(host: FakeHost, open_guest: Guest, group: str, port: int) -> None:
    with member(host.world, group, port) as sock:

        def told() -> bool:
            speak(open_guest.net, group, port, b"who is there?")
            return hears(sock, b"who is there?")

        assert eventually(told)


def test_an_answer_to_a_question_to_a_group_reaches_who_asked(host: FakeHost, open_guest: Guest) -> None:
    """As SSDP has it: the question goes to the group, the answer comes from somebody to the asker's own port."""
    with (
        member(host.world, SSDP, 1900) as device,
        open_guest.net.new_socket(socket.AF_INET, socket.SOCK_DGRAM, timeout=2) as asker,
    ):
        asker.bind((GUEST4, 0))

        def asked() -> tuple[str, int] | None:
            asker.sendto(b"M-SEARCH", (SSDP, 1900))
            try:
                question, whence = device.recvfrom(2000)
            except TimeoutError:
                return None
            return whence if question == b"M-SEARCH" else None

        whence = eventually(asked)
        assert whence[0] == HOST4
        with host.world.new_socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"HTTP/1.1 200 OK", whence)
            data, peer = asker.recvfrom(2000)
            assert data == b"HTTP/1.1 200 OK"
            assert peer[1] == other.getsockname()[1]


def test_the_guest_does_not_hear_itself(host: FakeHost, open_guest: Guest) -> None:
    with member(open_guest.net, MDNS4, 5353) as sock, member(host.world, MDNS4, 5353) as listener:

        def told() -> bool:
            speak(open_guest.net, MDNS4, 5353, b"once")
            return hears(listener, b"once")

        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        assert eventually(told)
        got = []
        try:
            while True:
                got.append(sock.recvfrom(2000))
        except TimeoutError:
            pass
        # The guest's own kernel loops the speaker's copy; nothing may come from the host's address.
        assert all(peer[0] not in (HOST4, HOST6) for _, peer in got)


def test_without_policy_nothing_is_heard_nor_said(host: FakeHost) -> None:
    with host.guest() as guest, member(guest.net, MDNS4, 5353) as inside, member(host.world, MDNS4, 5353) as outside:
        for _ in range(5):
            speak(host.world, MDNS4, 5353, b"into the guest")
            speak(guest.net, MDNS4, 5353, b"out of the guest")
        assert not hears(outside, b"out of the guest")
        heard = []
        try:
            while True:
                heard.append(inside.recv(2000))
        except TimeoutError:
            pass
        assert b"into the guest" not in heard


def test_a_group_can_be_allowed_alone(host: FakeHost) -> None:
    with host.guest("--allow", MDNS4) as guest, member(guest.net, MDNS4, 5353) as inside:

        def told() -> bool:
            speak(host.world, MDNS4, 5353, b"hello")
            return hears(inside, b"hello")

        assert eventually(told)
