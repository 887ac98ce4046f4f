"""The DHCP and BOOTP server of the guest's link: RFC 2131, RFC 2132, RFC 3442, RFC 4039, RFC 6842, RFC 1542.

With one guest and one address (`answer_dhcp`) there are no leases to remember: what a client asks for is either that
address or it is not, and every answer follows from the request and the settings. When the settings change, a client
learns it at its next request, by a NAK if its address is no longer the one.

| message | answer |
|---|---|
| DISCOVER | OFFER; with rapid commit ACK |
| REQUEST to another server (option 54) | silence |
| REQUEST of our address: selecting, rebooting, renewing, rebinding | ACK |
| REQUEST of any other address | NAK, broadcast or by the relay |
| INFORM | ACK without address and lease |
| RELEASE, DECLINE | none, an event |
| no message type: BOOTP | reply without the options of DHCP |

With several guests (`answer_from_pool`) "our address" is what the pool has for the client's MAC, the gateway of that
address is the server, and what differs is this:

| message | answer |
|---|---|
| of a client hardware address that is not the frame's | silence: an identity is a MAC, the one `guard` holds it to |
| with a relay | silence: a relay speaks for others |
| no message type: BOOTP | silence: its addresses never end |
| DISCOVER, and no address is free | silence |
| INFORM of an address that is not leased to the sender | silence |

There is no other server on the link, so that a request for an address of which the pool knows nothing gets NAK, where
RFC 2131 section 4.3.2 wants silence of one among several: the client asks anew at once.

Requested options come in the client's order and then all others that fit its maximum message size: they are all values
that differ from what a host assumes. What does not fit is left out, the client's first wish first served.

Does not probe for addresses, heed the lease time that a client wishes for, know classes of clients or echo what relays
add (RFC 3046).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from bucatini.services.address_plan import Place
from bucatini.services.leases import INFINITE, Lease, LeaseEvent, LeaseRefusal, Outcome
from bucatini.services.pool import LeasePool
from bucatini.wire.checksum import finish_udp, partial, pseudo_header, transport_ok
from bucatini.wire.dhcp import (
    ACK,
    BOOTREPLY,
    BOOTREQUEST,
    BROADCAST_FLAG,
    CLIENT_PORT,
    DECLINE,
    DISCOVER,
    FIXED_LENGTH,
    INFORM,
    MINIMUM_LENGTH,
    NAK,
    OFFER,
    RELEASE,
    REQUEST,
    SERVER_PORT,
    DhcpMessage,
    DhcpOption,
    emit_classless_routes,
    emit_dhcp,
    option_size,
    parse_dhcp,
)
from bucatini.wire.domain_names import encode_names
from bucatini.wire.ethernet import BROADCAST, ETHERTYPE_IPV4, HEADER_LENGTH
from bucatini.wire.ip import IpView
from bucatini.wire.ipv4 import PROTOCOL_UDP, emit_ipv4
from bucatini.wire.octets import load_bytes
from bucatini.wire.udp import UdpView, emit_udp

__all__ = ["INFINITE", "DhcpAnswer", "DhcpSettings", "PoolAnswer", "answer_dhcp", "answer_from_pool"]

_UNSPECIFIED = bytes(4)
_EVERYBODY = b"\xff" * 4
_DATAGRAM = 28
"""IPv4 and UDP headers, which option 57 counts (RFC 2132 9.10)."""
_SMALLEST = 576
"""Bytes of a datagram that every client takes, RFC 2131 section 2."""
_ETHERNET_MTU = 1500
_NAK_TEXT = b"not an address of this network"

Route = tuple[bytes, int, bytes | None]


@dataclass(frozen=True, slots=True)
class DhcpSettings:
    """What the guest gets; addresses are packed IPv4, times in seconds, sizes in bytes.

    `mac` and `server` are ours, `address` with `prefix_length` is the guest's. `routes` are destination, prefix length
    and gateway (None: on the link), besides the default route by `router`. An empty value is not sent.
    """

    mac: bytes
    server: bytes
    address: bytes
    prefix_length: int
    router: bytes | None
    mtu: int | None
    dns: tuple[bytes, ...] = ()
    search: tuple[str, ...] = ()
    lease: int = INFINITE
    hostname: str = ""
    routes: tuple[Route, ...] = ()


class DhcpAnswer(NamedTuple):
    """What a message of a client led to."""

    frame: bytes | None
    """The Ethernet frame to send; None for RELEASE and DECLINE."""
    event: str
    """offer, ack, nak, inform, release, decline; empty for BOOTP."""
    address: bytes | None
    """The address it is about: given, refused, used, returned."""
    client_mac: bytes


class PoolAnswer(NamedTuple):
    """What a message of one of several clients led to."""

    answer: DhcpAnswer | None
    """None when nothing is to be said."""
    lease: Lease | None
    """What an ACK promises. It has to be on disk before the frame leaves, where leases survive a restart."""
    events: tuple[LeaseEvent, ...]
    """What happened to leases, this client's and those that had come to their end."""


class _Request(NamedTuple):
    """A message of a client and what its frame said."""

    message: DhcpMessage
    size: int
    source_mac: bytes
    source: bytes
    client_mac: bytes

    def option(self, code: int) -> bytes | None:
        return self.message.options.get(code)


class _Target(NamedTuple):
    """Where a reply goes."""

    mac: bytes
    address: bytes
    port: int


def answer_dhcp(
    frame: bytes | bytearray | memoryview, settings: DhcpSettings, *, verified: bool = False
) -> DhcpAnswer | None:
    """What the Ethernet frame leads to; None when it is not DHCP to us, malformed, or gets no answer. Any bytes are
    fine.

    `verified` says that the UDP checksum needs no look: the link vouches for it, or left it for the receiver to fill in
    (a client with a UDP socket on a link with checksum offload).
    """
    request = _receive(frame, settings, verified)
    if request is None:
        return None
    kind = request.option(DhcpOption.MESSAGE_TYPE)
    if kind is None:
        return _bootp(request, settings)
    handler = _HANDLERS.get(int.from_bytes(kind, "big")) if len(kind) == 1 else None
    return None if handler is None else handler(request, settings)


def answer_from_pool(
    frame: bytes | bytearray | memoryview,
    settings: DhcpSettings,
    pool: LeasePool,
    now: float,
    *,
    link: str = "",
    verified: bool = False,
) -> PoolAnswer:
    """What the Ethernet frame leads to when the address is the pool's to give. Any bytes are fine.

    Of `settings`, address, prefix length and lease time are the pool's. A guest's gateway stands for `server` wherever
    that is named: as server, router, DNS server and gateway of routes. `now` is the pool's time, `link` says where the
    frame came from; for `verified` see `answer_dhcp`.
    """
    events = pool.expire(now)
    place = pool.place_of(bytes(frame[6:12]))
    told = settings if place is None else _placed(settings, place, pool)
    request = _receive(frame, told, verified, pool)
    if request is None:
        return PoolAnswer(None, None, events)
    refusal = _unfit(request)
    if refusal is not None:
        pool.refuse(refusal)
        return PoolAnswer(None, None, events)
    kind = request.option(DhcpOption.MESSAGE_TYPE) or b""
    handler = _POOL_HANDLERS.get(kind[0]) if len(kind) == 1 else None
    if handler is None:
        return PoolAnswer(None, None, events)
    answer = handler(_Asked(request, told, pool, now, link))
    return answer._replace(events=(*events, *answer.events))


def _receive(
    frame: bytes | bytearray | memoryview, settings: DhcpSettings, verified: bool, pool: LeasePool | None = None
) -> _Request | None:
    """The request in a frame, every length, checksum and address of it checked."""
    buf = memoryview(bytearray(frame))
    view, udp = IpView(), UdpView()
    if view.parse(buf, HEADER_LENGTH, len(buf)) or view.version != 4 or view.protocol != PROTOCOL_UDP or view.fragment:
        return None
    if not udp.parse(buf, view.payload_at, view.end) or udp.destination_port != SERVER_PORT:
        return None
    destination = load_bytes(buf, view.destination_at, 4)
    if destination not in (_EVERYBODY, settings.server, _directed_broadcast(settings)) and not (
        pool is not None and pool.is_gateway(destination)
    ):
        return None
    if not verified and not transport_ok(
        buf, view.source_at, view.destination_at, 4, PROTOCOL_UDP, view.payload_at, udp.end
    ):
        return None
    message = parse_dhcp(bytes(buf[udp.payload_at : udp.end]))
    if message is None or message.op != BOOTREQUEST:
        return None
    if not all(address == _UNSPECIFIED or _is_unicast(address) for address in (message.ciaddr, message.giaddr)):
        return None
    source_mac, source = load_bytes(buf, 6, 6), load_bytes(buf, view.source_at, 4)
    client_mac = message.chaddr[:6] if message.htype == 1 and message.hlen == 6 else source_mac
    if source_mac[0] & 1 or client_mac[0] & 1 or not any(client_mac):
        return None
    return _Request(message, udp.end - udp.payload_at, source_mac, source, client_mac)


# -- what to say


def _discover(request: _Request, settings: DhcpSettings) -> DhcpAnswer | None:
    if request.option(DhcpOption.RAPID_COMMIT) == b"":
        return _lease(ACK, "ack", request, settings, {DhcpOption.RAPID_COMMIT: b""})
    return _lease(OFFER, "offer", request, settings, {})


def _request(request: _Request, settings: DhcpSettings) -> DhcpAnswer | None:
    """RFC 2131 4.3.2. The state of the client is in what it fills in, but in each there is one address it means."""
    if _is_for_another(request, settings):
        return None
    asked = request.option(DhcpOption.REQUESTED_ADDRESS) or request.message.ciaddr
    selecting = request.option(DhcpOption.SERVER_IDENTIFIER) is not None
    # A client that names us but no address can only mean the one we offered; without either it asks for nothing.
    if asked == settings.address or (selecting and asked == _UNSPECIFIED):
        return _lease(ACK, "ack", request, settings, {})
    return _refuse(request, settings, asked) if len(asked) == 4 and asked != _UNSPECIFIED else None


def _inform(request: _Request, settings: DhcpSettings) -> DhcpAnswer | None:
    """RFC 2131 4.3.5. A client that leaves out its address is answered where it sent from."""
    address = next((known for known in (request.message.ciaddr, request.source) if known != _UNSPECIFIED), None)
    if address is None or not _is_unicast(address):
        return None
    options = _options(ACK, request, settings, {})
    reply = _reply(request, yiaddr=_UNSPECIFIED, ciaddr=request.message.ciaddr, options=options)
    frame = _frame(reply, _Target(request.source_mac, address, CLIENT_PORT), settings)
    return DhcpAnswer(frame, "inform", address, request.client_mac)


def _release(request: _Request, settings: DhcpSettings) -> DhcpAnswer | None:
    if _is_for_another(request, settings):
        return None
    return DhcpAnswer(None, "release", request.message.ciaddr, request.client_mac)


def _decline(request: _Request, settings: DhcpSettings) -> DhcpAnswer | None:
    if _is_for_another(request, settings):
        return None
    address = request.option(DhcpOption.REQUESTED_ADDRESS)
    return DhcpAnswer(None, "decline", address if address and len(address) == 4 else None, request.client_mac)


def _bootp(request: _Request, settings: DhcpSettings) -> DhcpAnswer:
    """RFC 951 section 7.3, RFC 1534: the address is for ever, nothing of DHCP is said, 64 bytes of options or as many
    as the client sent.
    """
    limit = min(max(request.size, MINIMUM_LENGTH), _link_limit(settings))
    options = _fit({}, _configuration(settings, frozenset()), b"", limit)
    reply = _reply(request, yiaddr=settings.address, ciaddr=request.message.ciaddr, options=options)
    return DhcpAnswer(_frame(reply, _target(request, settings), settings), "", settings.address, request.client_mac)


_HANDLERS: dict[int, Callable[[_Request, DhcpSettings], DhcpAnswer | None]] = {
    DISCOVER: _discover,
    REQUEST: _request,
    DECLINE: _decline,
    RELEASE: _release,
    INFORM: _inform,
}


def _is_for_another(request: _Request, settings: DhcpSettings) -> bool:
    return request.option(DhcpOption.SERVER_IDENTIFIER) not in (None, settings.server)


def _lease(kind: int, event: str, request: _Request, settings: DhcpSettings, extra: dict[int, bytes]) -> DhcpAnswer:
    """OFFER or ACK of the guest's address."""
    times = {DhcpOption.LEASE_TIME: settings.lease}
    if settings.lease != INFINITE:  # RFC 2131 4.4.5: a half and seven eighths
        times[DhcpOption.RENEWAL_TIME] = settings.lease // 2
        times[DhcpOption.REBINDING_TIME] = settings.lease * 7 // 8
    extra = {code: seconds.to_bytes(4, "big") for code, seconds in times.items()} | extra
    options = _options(kind, request, settings, extra)
    ciaddr = request.message.ciaddr if kind == ACK else _UNSPECIFIED  # RFC 2131 table 3
    reply = _reply(request, yiaddr=settings.address, ciaddr=ciaddr, options=options)
    frame = _frame(reply, _target(request, settings), settings)
    return DhcpAnswer(frame, event, settings.address, request.client_mac)


def _refuse(request: _Request, settings: DhcpSettings, asked: bytes) -> DhcpAnswer:
    """NAK. It is always broadcast: the client may hold an address with which it receives nothing (RFC 2131 4.3.2)."""
    options = _head(NAK, request, settings) | {DhcpOption.MESSAGE: _NAK_TEXT}
    reply = _reply(request, yiaddr=_UNSPECIFIED, ciaddr=_UNSPECIFIED, options=options)
    if request.message.giaddr == _UNSPECIFIED:
        target = _Target(BROADCAST, _EVERYBODY, CLIENT_PORT)
    else:
        target = _target(request, settings)
        reply = reply._replace(flags=reply.flags | BROADCAST_FLAG)
    return DhcpAnswer(_frame(reply, target, settings), "nak", asked, request.client_mac)


# -- the same with a pool


class _Asked(NamedTuple):
    """A message for the pool. `settings` are those of the address the client has, if any."""

    request: _Request
    settings: DhcpSettings
    pool: LeasePool
    now: float
    link: str

    @property
    def who(self) -> bytes:
        return self.request.source_mac


def _unfit(request: _Request) -> LeaseRefusal | None:
    """Why a message is nothing for a pool, whatever it says."""
    if request.client_mac != request.source_mac:
        return LeaseRefusal.HARDWARE
    if request.message.giaddr != _UNSPECIFIED:
        return LeaseRefusal.RELAYED
    return LeaseRefusal.BOOTP if request.option(DhcpOption.MESSAGE_TYPE) is None else None


def _placed(settings: DhcpSettings, place: Place | Lease, pool: LeasePool) -> DhcpSettings:
    """What the guest with that address gets."""
    gateway = place.gateway

    def ours(address: bytes | None) -> bytes | None:
        return gateway if address == settings.server else address

    return replace(
        settings,
        server=gateway,
        address=place.address,
        prefix_length=place.prefix_length,
        router=ours(settings.router),
        dns=tuple(gateway if each == settings.server else each for each in settings.dns),
        routes=tuple((to, length, ours(by)) for to, length, by in settings.routes),
        lease=pool.settings.lease,
    )


def _pool_discover(asked: _Asked) -> PoolAnswer:
    wish = asked.request.option(DhcpOption.REQUESTED_ADDRESS)
    offered = asked.pool.offer(asked.who, asked.now, asked.link, wish)
    if offered.lease is None:
        return PoolAnswer(None, None, offered.events)
    if asked.request.option(DhcpOption.RAPID_COMMIT) == b"":
        granted = asked.pool.request(asked.who, offered.lease.address, asked.now, asked.link)
        return _granted(asked, granted, offered.events, {DhcpOption.RAPID_COMMIT: b""})
    settings = _placed(asked.settings, offered.lease, asked.pool)
    return PoolAnswer(_lease(OFFER, "offer", asked.request, settings, {}), None, offered.events)


def _pool_request(asked: _Asked) -> PoolAnswer:
    request, settings = asked.request, asked.settings
    if _names_another(asked):
        return PoolAnswer(None, None, asked.pool.withdraw(asked.who, asked.now, asked.link).events)
    named = request.option(DhcpOption.SERVER_IDENTIFIER)
    address = request.option(DhcpOption.REQUESTED_ADDRESS) or request.message.ciaddr
    if len(address) != 4 or (named is None and address == _UNSPECIFIED):
        return PoolAnswer(None, None, ())
    wanted = None if address == _UNSPECIFIED else address
    outcome = asked.pool.request(asked.who, wanted, asked.now, asked.link)
    if outcome.refusal is LeaseRefusal.NOT_YOURS and wanted is not None:
        # A client that selects takes NAK only from the server it named.
        refused = _refuse(request, replace(settings, server=named or settings.server), address)
        return PoolAnswer(refused, None, outcome.events)
    return _granted(asked, outcome, (), {})


def _granted(asked: _Asked, outcome: Outcome, events: tuple[LeaseEvent, ...], extra: dict[int, bytes]) -> PoolAnswer:
    """ACK, or silence."""
    lease = outcome.lease
    if lease is None:
        return PoolAnswer(None, None, (*events, *outcome.events))
    settings = _placed(asked.settings, lease, asked.pool)
    return PoolAnswer(_lease(ACK, "ack", asked.request, settings, extra), lease, (*events, *outcome.events))


def _pool_inform(asked: _Asked) -> PoolAnswer:
    lease = asked.pool.lease_of(asked.who)
    answer = _inform(asked.request, asked.settings)
    known = answer is not None and lease is not None and answer.address == lease.address
    return PoolAnswer(answer if known else None, None, ())


def _pool_release(asked: _Asked) -> PoolAnswer:
    if _names_another(asked):
        return PoolAnswer(None, None, ())
    address = asked.request.message.ciaddr
    outcome = asked.pool.release(asked.who, address, asked.now, asked.link)
    return PoolAnswer(DhcpAnswer(None, "release", address, asked.who), None, outcome.events)


def _pool_decline(asked: _Asked) -> PoolAnswer:
    address = asked.request.option(DhcpOption.REQUESTED_ADDRESS) or b""
    if _names_another(asked) or len(address) != 4:
        return PoolAnswer(None, None, ())
    outcome = asked.pool.decline(asked.who, address, asked.now, asked.link)
    return PoolAnswer(DhcpAnswer(None, "decline", address, asked.who), None, outcome.events)


_POOL_HANDLERS: dict[int, Callable[[_Asked], PoolAnswer]] = {
    DISCOVER: _pool_discover,
    REQUEST: _pool_request,
    DECLINE: _pool_decline,
    RELEASE: _pool_release,
    INFORM: _pool_inform,
}


def _names_another(asked: _Asked) -> bool:
    """Whether the message is to a server that is none of the gateways."""
    named = asked.request.option(DhcpOption.SERVER_IDENTIFIER)
    return named not in (None, asked.settings.server) and not asked.pool.is_gateway(named or b"")


# -- options


def _head(kind: int, request: _Request, settings: DhcpSettings) -> dict[int, bytes]:
    """What every message has, first because simple clients look for it first."""
    head = {DhcpOption.MESSAGE_TYPE: bytes((kind,)), DhcpOption.SERVER_IDENTIFIER: settings.server}
    identifier = request.option(DhcpOption.CLIENT_IDENTIFIER)
    if identifier and len(identifier) <= 255:
        head[DhcpOption.CLIENT_IDENTIFIER] = identifier  # RFC 6842: clients without a hardware address rely on it
    return head


def _options(kind: int, request: _Request, settings: DhcpSettings, extra: dict[int, bytes]) -> dict[int, bytes]:
    """The options of an OFFER or ACK that fit what the client takes."""
    wanted = request.option(DhcpOption.PARAMETER_LIST) or b""
    said = int.from_bytes(request.option(DhcpOption.MAXIMUM_SIZE) or b"", "big")
    limit = min(max(said, _SMALLEST) - _DATAGRAM, _link_limit(settings))
    head = _head(kind, request, settings)
    head = {code: head[code] for code in (DhcpOption.MESSAGE_TYPE, DhcpOption.SERVER_IDENTIFIER)} | extra | head
    return _fit(head, _configuration(settings, frozenset(wanted)), wanted, limit)


def _configuration(settings: DhcpSettings, wanted: frozenset[int]) -> dict[int, bytes]:
    """Everything there is to tell, by code, the more important first."""
    routes = _classless_routes(settings)
    mask = _mask(settings.prefix_length).to_bytes(4, "big")
    router = b"" if settings.router is None else settings.router
    if routes and DhcpOption.CLASSLESS_ROUTES in wanted:
        router = b""  # RFC 3442: who asks for 121 shall not get option 3 beside it
    known = {
        DhcpOption.SUBNET_MASK: mask,
        DhcpOption.ROUTER: router,
        DhcpOption.CLASSLESS_ROUTES: routes,
        DhcpOption.DNS: b"".join(address for address in settings.dns if len(address) == 4)[:252],
        DhcpOption.MTU: _mtu(settings),
        DhcpOption.HOST_NAME: _host_name(settings),
        DhcpOption.DOMAIN_SEARCH: encode_names(settings.search, compress=True, limit=_ETHERNET_MTU),
    }
    return {code: data for code, data in known.items() if data}


def _classless_routes(settings: DhcpSettings) -> bytes:
    """Option 121: empty unless the router is outside the subnet or there are further routes.

    Whoever understands it ignores option 3, so it holds the default route too (RFC 3442); a gateway outside the subnet
    needs a route of its own, on the link, ahead of the routes that go by it.
    """
    routes = settings.routes
    if settings.router is not None and all(length for _, length, _ in routes):
        routes = (*routes, (_UNSPECIFIED, 0, settings.router))
    near = [gateway for _, _, gateway in routes if gateway is not None and not _is_near(gateway, settings)]
    if not settings.routes and not near:
        return b""
    return emit_classless_routes((*((gateway, 32, None) for gateway in dict.fromkeys(near)), *routes))


def _is_near(gateway: bytes, settings: DhcpSettings) -> bool:
    """Whether the guest finds the gateway on its link without being told."""
    difference = int.from_bytes(gateway, "big") ^ int.from_bytes(settings.address, "big")
    return difference & _mask(settings.prefix_length) == 0


def _mask(length: int) -> int:
    return 0xFFFFFFFF << 32 - length & 0xFFFFFFFF


def _mtu(settings: DhcpSettings) -> bytes:
    """Option 26 has 16 bits and nothing below 68 (RFC 2132 5.1)."""
    return b"" if settings.mtu is None or settings.mtu < 68 else min(settings.mtu, 0xFFFF).to_bytes(2, "big")


def _host_name(settings: DhcpSettings) -> bytes:
    return settings.hostname.encode("ascii") if settings.hostname.isascii() and len(settings.hostname) <= 255 else b""


def _fit(head: dict[int, bytes], known: dict[int, bytes], wanted: bytes, limit: int) -> dict[int, bytes]:
    """`head`, then of `known` first what is wanted, in that order, as long as the message has at most `limit` bytes."""
    chosen = dict(head)
    room = limit - FIXED_LENGTH - 4 - 1 - sum(map(option_size, head.values()))
    for code in dict.fromkeys((*wanted, *known)):
        size = option_size(known[code]) if code in known else room + 1
        if size <= room:
            chosen[code] = known[code]
            room -= size
    return chosen


def _link_limit(settings: DhcpSettings) -> int:
    """Bytes of a message that crosses the link in one piece."""
    return min(max(settings.mtu or _ETHERNET_MTU, _SMALLEST), 0xFFFF) - _DATAGRAM


# -- the frame


def _reply(request: _Request, *, yiaddr: bytes, ciaddr: bytes, options: dict[int, bytes]) -> DhcpMessage:
    """RFC 2131 table 3: what a reply repeats of the request, and what not."""
    return request.message._replace(
        op=BOOTREPLY, hops=0, secs=0, ciaddr=ciaddr, yiaddr=yiaddr, siaddr=_UNSPECIFIED, options=options
    )


def _target(request: _Request, settings: DhcpSettings) -> _Target:
    """RFC 2131 4.1, fourth paragraph: the relay, the address in use, everybody, the address just given."""
    message = request.message
    if message.giaddr != _UNSPECIFIED:
        return _Target(request.source_mac, message.giaddr, SERVER_PORT)
    if message.ciaddr != _UNSPECIFIED:
        return _Target(request.source_mac, message.ciaddr, CLIENT_PORT)
    if message.flags & BROADCAST_FLAG:
        return _Target(BROADCAST, _EVERYBODY, CLIENT_PORT)
    return _Target(request.client_mac, settings.address, CLIENT_PORT)


def _frame(reply: DhcpMessage, target: _Target, settings: DhcpSettings) -> bytes:
    """The Ethernet frame with a reply, checksums included."""
    payload = emit_dhcp(reply)
    length = 8 + len(payload)
    head = memoryview(bytearray(28))
    emit_udp(head, 20, SERVER_PORT, target.port, length, 0)
    total = pseudo_header(settings.server, target.address, PROTOCOL_UDP, length) + partial(head[20:]) + partial(payload)
    emit_udp(head, 20, SERVER_PORT, target.port, length, finish_udp(partial(b"", total)))
    emit_ipv4(head, 0, 20 + length, PROTOCOL_UDP, settings.server, target.address)
    return target.mac + settings.mac + ETHERTYPE_IPV4.to_bytes(2, "big") + head + payload


def _directed_broadcast(settings: DhcpSettings) -> bytes:
    host_bits = ~_mask(settings.prefix_length) & 0xFFFFFFFF
    return (int.from_bytes(settings.address, "big") | host_bits).to_bytes(4, "big")


def _is_unicast(address: bytes) -> bool:
    """Not of the first, the loopback, a multicast or a reserved block."""
    return 0 < address[0] < 224 and address[0] != 127
