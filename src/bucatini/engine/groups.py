"""The guest's multicast groups on the host: sockets that listen where the guest listens, and speak where it speaks
(ip(7), ipv6(7), udp(7); mDNS RFC 6762, LLMNR RFC 4795, SSDP, WS-Discovery).

A host socket hears a group at one port, and IGMP says nothing of ports. So a group the guest has joined is listened to
at the ports it is known for, and at those to which the guest itself sends. Such a socket is bound to the group's own
address: it never takes a unicast datagram from a program of the host, with which it shares the port
(SO_REUSEADDR, SO_REUSEPORT), and it hears what comes in on the one interface it joined on (IP_MULTICAST_ALL off).

What the guest sends to a group from the group's own port, as mDNS does, leaves through that same socket. From any other
port it leaves through a speaker, a socket of that port alone, whose answers are unicast and go back to the guest, as
SSDP needs. Copies of what was sent come back by IP_MULTICAST_LOOP, for programs of the host shall hear the guest too;
the guest does not get its own: `is_own` knows the sockets of its flows, and what left through here is known by its
content for `ECHO_TIME`, since a program of the host may well send from the same address and port.

| who calls | what |
|---|---|
| `services.membership` gave `Join`, `Leave` | `join(group)`, `leave(group)` |
| a datagram of the guest to a group, policy asked | `send(...)`; or `sends(group, port)` where a flow carries it |
| once in a while, with `Memberships.due` | `expire(now)` |
| the host's interface changed | `renew()` |
| the engine ends | `close()` |

| what it calls | when |
|---|---|
| `admit(peer, group)` | for every datagram received: may the guest hear this peer? |
| `deliver(peer, group, payload)` | a datagram for the group: a frame from peer to group, to `membership.group_mac` |
| `answer(peer, port, payload)` | a unicast answer to what the guest sent to a group from its `port` |
| `interface_index(family)` | when a socket is opened; 0 lets the kernel choose, which link-scoped IPv6 groups do not |

Bounds: `MAX_LISTENERS` and `MAX_SPEAKERS` sockets of one guest; beyond, a listener is left out and counted and the
speaker unused for longest is closed. `ports` are taken by us: automatic forwarding must leave them out.

Does not: ask policy about what the guest sends, join for sources, or receive broadcasts.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

from bucatini.base.address import Endpoint, family_of, pack, text
from bucatini.host.sockets import sockaddr

__all__ = ["MAX_LISTENERS", "MAX_SPEAKERS", "WELL_KNOWN", "GroupCounters", "Groups"]

MAX_LISTENERS = 16
MAX_SPEAKERS = 8
MAX_SPOKEN = 64
"""Pairs of group and port remembered because the guest sends there; beyond, the oldest is forgotten."""
MAX_ECHOES = 64
ECHO_TIME = 1.0
"""Seconds; the kernel makes the copy within sendto(2), so this is only for a turn that takes long."""
SPEAKER_TIME = 10.0
"""Seconds a speaker waits for answers after it spoke; SSDP asks for them within 5 (MX)."""
PRIVILEGED = 1024
BATCH = 64
"""Datagrams taken from one socket in a turn."""

MDNS, SSDP, LLMNR, WS_DISCOVERY = 5353, 1900, 5355, 3702
WELL_KNOWN: dict[bytes, tuple[int, ...]] = {
    pack("224.0.0.251"): (MDNS,),
    pack("ff02::fb"): (MDNS,),
    pack("ff05::fb"): (MDNS,),
    pack("224.0.0.252"): (LLMNR,),
    pack("ff02::1:3"): (LLMNR,),
    pack("239.255.255.250"): (SSDP, WS_DISCOVERY),
    pack("ff02::c"): (SSDP, WS_DISCOVERY),
    pack("ff05::c"): (SSDP,),
    pack("ff08::c"): (SSDP,),
    pack("ff0e::c"): (SSDP,),
}
"""Ports of the groups that everybody knows; of others only the guest's own sending tells."""

IP_MULTICAST_ALL = 49
IPV6_MULTICAST_ALL = 29
_MREQN = struct.Struct("=4s4si")
_MREQ6 = struct.Struct("=16si")
_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class GroupCounters:
    """How often what happened; monotonic."""

    __slots__ = ("admitted", "failed", "left_out", "own", "received", "refused", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.own = 0
        """Copies of what the guest sent."""
        self.refused = 0
        """By `admit`."""
        self.admitted = 0
        self.sent = 0
        self.left_out = 0
        """Listeners not opened because there are as many as there may be."""
        self.failed = 0
        """Sockets the host did not let us open, and datagrams it did not take or give."""


class _Place:
    """One socket. A listener has its `group`; a speaker the group it spoke to last, and the guest's `port`."""

    __slots__ = ("group", "hop_limit", "port", "scope", "sock", "used")

    def __init__(self, sock: socket.socket, group: Endpoint, scope: int, port: int = 0) -> None:
        self.sock = sock
        self.group = group
        self.scope = scope
        self.port = port
        self.used = 0.0
        self.hop_limit = 1


class Groups:
    """The sockets of one guest's groups; see the module. All addresses are packed, `now` is the turn's instant."""

    def __init__(
        self,
        reactor: Any,
        admit: Callable[[Endpoint, Endpoint], bool],
        deliver: Callable[[Endpoint, Endpoint, bytes], None],
        is_own: Callable[[Endpoint], bool],
        interface_index: Callable[[int], int],
        answer: Callable[[Endpoint, int, bytes], None] | None = None,
        limit: int = MAX_LISTENERS,
    ) -> None:
        self._reactor = reactor
        self._admit = admit
        self._deliver = deliver
        self._is_own = is_own
        self._interface_index = interface_index
        self._answer = answer
        self._limit = limit
        self._joined: dict[bytes, None] = {}
        self._spoken: dict[Endpoint, None] = {}
        self._listeners: dict[Endpoint, _Place] = {}
        self._speakers: dict[tuple[int, int], _Place] = {}
        self._places: dict[int, _Place] = {}
        self._echoes: dict[tuple[Endpoint, int, bytes], tuple[int, float]] = {}
        self._buffer = memoryview(bytearray(65535))
        self.counters = GroupCounters()

    @property
    def ports(self) -> frozenset[int]:
        """UDP ports of the host that our sockets hold."""
        return frozenset(int(place.sock.getsockname()[1]) for place in self._places.values())

    @property
    def listening(self) -> tuple[Endpoint, ...]:
        """Groups and ports that are listened to, in the order they were opened."""
        return tuple(self._listeners)

    def join(self, group: bytes) -> None:
        """The guest listens to `group` now. Harmless when it did before."""
        if group not in self._joined:
            self._joined[group] = None
            for wanted in self._wanted(group):
                self._listen(wanted)

    def leave(self, group: bytes) -> None:
        """The guest listens to `group` no more. What was left out for lack of room is opened in its place."""
        if group not in self._joined:
            return
        del self._joined[group]
        for place in [place for place in self._listeners if place.address == group]:
            self._close(self._listeners.pop(place))
        missing = [place for other in self._joined for place in self._wanted(other) if place not in self._listeners]
        for wanted in missing[: self._limit - len(self._listeners)]:
            self._listen(wanted)

    def sends(self, group: bytes, port: int) -> None:
        """The guest sends to `group` at `port`: if it has joined the group, or will, it is listened to there too."""
        wanted = Endpoint(group, port)
        if wanted in self._spoken:
            return
        if len(self._spoken) >= MAX_SPOKEN:
            del self._spoken[next(iter(self._spoken))]
        self._spoken[wanted] = None
        if group in self._joined and wanted not in self._listeners:
            self._listen(wanted)

    def send(self, port: int, group: Endpoint, payload: bytes, now: float, hop_limit: int = 1) -> int:
        """Send a datagram of the guest, from its `port`, to a group. 0, or errno. `hop_limit` is 0 to 255."""
        self.sends(*group)
        place = self._listeners.get(group) if port == group.port else None
        if place is None:
            place = self._speaker(port, group, now)
        if place is None:
            return errno.EADDRNOTAVAIL
        try:
            if place.hop_limit != hop_limit:
                _set_hop_limit(place.sock, len(group.address), hop_limit)
                place.hop_limit = hop_limit
            self._remember(group, place, payload, now)
            place.sock.sendto(payload, sockaddr(group, place.scope))
        except OSError as error:
            self.counters.failed += 1
            return error.errno or errno.EIO
        self.counters.sent += 1
        return 0

    def expire(self, now: float) -> None:
        """Close the speakers that nobody used for `SPEAKER_TIME`."""
        for key in [key for key, place in self._speakers.items() if place.used + SPEAKER_TIME <= now]:
            self._close(self._speakers.pop(key))

    def renew(self) -> None:
        """Open all listeners anew, on the interface that `interface_index` names now, and close all speakers."""
        groups = list(self._joined)
        self.close()
        for group in groups:
            self.join(group)

    def close(self) -> None:
        """Leave all groups and close all sockets. What the guest sends to is remembered. Idempotent."""
        for place in list(self._places.values()):
            self._close(place)
        self._joined.clear()
        self._listeners.clear()
        self._speakers.clear()
        self._echoes.clear()

    # -- sockets

    def _wanted(self, group: bytes) -> list[Endpoint]:
        """Where to listen to `group`."""
        known = [Endpoint(group, port) for port in WELL_KNOWN.get(group, ())]
        return known + [place for place in self._spoken if place.address == group and place not in known]

    def _listen(self, group: Endpoint) -> None:
        if len(self._listeners) >= self._limit:
            self.counters.left_out += 1
            return
        scope = self._interface_index(family_of(group.address))
        try:
            sock = _open_listener(group, scope)
        except OSError:
            self.counters.failed += 1
            return
        self._listeners[group] = self._watched(_Place(sock, group, scope))

    def _speaker(self, port: int, group: Endpoint, now: float) -> _Place | None:
        """The socket that sends for the guest's `port`, opened when there is none."""
        key = len(group.address), port
        place = self._speakers.pop(key, None)
        if place is None:
            scope = self._interface_index(family_of(group.address))
            try:
                sock = _open_speaker(port, family_of(group.address), scope)
            except OSError:
                self.counters.failed += 1
                return None
            if len(self._speakers) >= MAX_SPEAKERS:
                self._close(self._speakers.pop(next(iter(self._speakers))))
            place = self._watched(_Place(sock, group, scope, port))
        self._speakers[key] = place  # the last one used stands last
        place.group = group
        place.used = now
        return place

    def _watched(self, place: _Place) -> _Place:
        self._places[place.sock.fileno()] = place
        self._reactor.watch(place.sock.fileno(), self._ready, select.EPOLLIN)
        return place

    def _close(self, place: _Place) -> None:
        descriptor = place.sock.fileno()
        del self._places[descriptor]
        self._reactor.unwatch(descriptor)
        place.sock.close()

    # -- datagrams

    def _ready(self, descriptor: int, events: int, now: float) -> None:
        place = self._places.get(descriptor)
        for _ in range(BATCH):
            if place is None or place.sock.fileno() != descriptor:  # closed by what we called
                return
            try:
                length, source = place.sock.recvfrom_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.counters.failed += 1
                return
            peer = Endpoint(pack(source[0].partition("%")[0]), source[1])
            self._received(place, peer, bytes(self._buffer[:length]), now)

    def _received(self, place: _Place, peer: Endpoint, payload: bytes, now: float) -> None:
        self.counters.received += 1
        if self._is_own(peer) or (not place.port and self._is_echo(place.group, peer.port, payload, now)):
            self.counters.own += 1
        elif peer.port == 0 or not self._admit(peer, place.group):
            self.counters.refused += 1
        else:
            self.counters.admitted += 1
            if not place.port:
                self._deliver(peer, place.group, payload)
            elif self._answer is not None:
                self._answer(peer, place.port, payload)

    def _remember(self, group: Endpoint, place: _Place, payload: bytes, now: float) -> None:
        """Know the copy that comes back to the listener of `group`, if there is one."""
        if group not in self._listeners:
            return
        key = group, int(place.sock.getsockname()[1]), payload
        copies, sent = self._echoes.pop(key, (0, now))
        if len(self._echoes) >= MAX_ECHOES:
            del self._echoes[next(iter(self._echoes))]
        self._echoes[key] = (copies + 1 if now - sent <= ECHO_TIME else 1), now

    def _is_echo(self, group: Endpoint, port: int, payload: bytes, now: float) -> bool:
        """Whether this is a copy of a datagram that was sent here a moment ago; each send has one."""
        if not self._echoes:
            return False
        key = group, port, payload
        copies, sent = self._echoes.pop(key, (0, now))
        if copies == 0 or now - sent > ECHO_TIME:
            return False
        if copies > 1:
            self._echoes[key] = copies - 1, sent
        return True


def _open_listener(group: Endpoint, scope: int) -> socket.socket:
    """A socket bound to `group`, which is joined on the interface of index `scope`. Raises OSError."""
    family = family_of(group.address)
    sock = socket.socket(family, socket.SOCK_DGRAM | _FLAGS)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
            sock.bind(sockaddr(group))
            request = _MREQN.pack(group.address, bytes(4), scope)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            with contextlib.suppress(OSError):  # since Linux 4.20
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
            sock.bind(sockaddr(group, scope))
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _MREQ6.pack(group.address, scope))
        _set_interface(sock, family, scope)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_speaker(port: int, family: int, scope: int) -> socket.socket:
    """A socket bound to the guest's `port` if nobody has it, else to any. Not shared: answers must reach the guest, and
    datagrams for a program of the host must not. Raises OSError.
    """
    sock = socket.socket(family, socket.SOCK_DGRAM | _FLAGS)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        anywhere = text(bytes(4 if family == socket.AF_INET else 16))
        try:
            # A well-known port would take what is meant for a server of the host.
            sock.bind((anywhere, port if port >= PRIVILEGED else 0))
        except OSError:
            sock.bind((anywhere, 0))
        _set_interface(sock, family, scope)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_interface(sock: socket.socket, family: int, scope: int) -> None:
    """Send to groups through the interface of index `scope`; 0: as the host's routes say."""
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _MREQN.pack(bytes(4), bytes(4), scope))
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, scope)


def _set_hop_limit(sock: socket.socket, length: int, hop_limit: int) -> None:
    if length == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, hop_limit)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hop_limit)
