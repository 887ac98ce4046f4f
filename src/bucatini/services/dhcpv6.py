"""The DHCPv6 server of the guest's link: RFC 8415 section 18.3, DNS options of RFC 3646.

There is one guest and one address, so there are no bindings to remember: the address is given to one identity
association of a message, the first IA_NA that lists it or else the first there is, and all others get none. Any other
address counts as not on the link, also one of the same prefix: only so does a guest learn that the host's address has
changed.

| message | answer |
|---|---|
| SOLICIT | ADVERTISE with preference 255, so that nobody waits for other servers; with rapid commit REPLY |
| REQUEST | REPLY; NotOnLink in an association that lists a foreign address |
| RENEW, REBIND | REPLY: our address, foreign ones with lifetimes 0, NoBinding where neither is |
| CONFIRM | REPLY with Success or NotOnLink; silence when it lists no address |
| RELEASE, DECLINE | REPLY with Success, NoBinding for associations that are not ours |
| INFORMATION-REQUEST | REPLY with options only |

Which message must name the server, must not, or may come by unicast follows RFC 8415 section 16. Temporary addresses
and prefixes are refused in their associations (NoAddrsAvail, NoPrefixAvail). Without an address of the guest only
INFORMATION-REQUEST is answered. A reply longer than 4096 bytes is not sent: only a request with dozens of associations
could lead to one.

Does not delegate prefixes, speak to relays, send Reconfigure, or authenticate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bucatini.wire.checksum import finish_udp, partial, pseudo_header, transport_ok
from bucatini.wire.dhcpv6 import (
    ADVERTISE,
    ALL_RELAYS_AND_SERVERS,
    CLIENT_PORT,
    CONFIRM,
    DECLINE,
    INFINITE,
    INFORMATION_REQUEST,
    MAXIMUM_DUID,
    MAXIMUM_MESSAGE,
    REBIND,
    RELEASE,
    RENEW,
    REPLY,
    REQUEST,
    SERVER_PORT,
    SOLICIT,
    Association,
    Dhcp6Message,
    Dhcp6Option,
    Dhcp6Status,
    Option,
    emit_association,
    emit_dhcpv6,
    emit_ia_address,
    emit_status,
    parse_association,
    parse_dhcpv6,
)
from bucatini.wire.domain_names import encode_names
from bucatini.wire.ethernet import ETHERTYPE_IPV6, HEADER_LENGTH
from bucatini.wire.ip import IpView
from bucatini.wire.ipv6 import emit_ipv6
from bucatini.wire.octets import load_bytes
from bucatini.wire.udp import UdpView, emit_udp

__all__ = ["Dhcp6Settings", "answer_dhcpv6"]

_PROTOCOL_UDP = 17
_UNSPECIFIED = bytes(16)
_SEARCH_LIMIT = 600
"""Bytes of names: with all else the reply fits 1280 bytes."""
_DNS_LIMIT = 8

_WITH_SERVER = frozenset((REQUEST, RENEW, RELEASE, DECLINE))
"""Must name the server, RFC 8415 16.4, 16.6, 16.8, 16.9; the client could know its address by unicast."""
_WITHOUT_SERVER = frozenset((SOLICIT, CONFIRM, REBIND))
"""Must not, 16.2, 16.5, 16.7. An information-request may, 16.12."""


@dataclass(frozen=True, slots=True)
class Dhcp6Settings:
    """What the guest gets; addresses are packed IPv6, lifetimes in seconds.

    `mac`, `duid` and `link_local` are ours, `address` is the guest's, if it shall have one.
    """

    mac: bytes
    duid: bytes
    link_local: bytes
    address: bytes | None
    dns: tuple[bytes, ...] = ()
    search: tuple[str, ...] = ()
    preferred: int = INFINITE
    valid: int = INFINITE


class _Request(NamedTuple):
    """A valid message of a client, its associations and what its frame said."""

    message: Dhcp6Message
    client: bytes | None
    """Its DUID."""
    associations: tuple[Association, ...]
    source_mac: bytes
    source: bytes
    unicast: bool


def answer_dhcpv6(
    frame: bytes | bytearray | memoryview, settings: Dhcp6Settings, *, verified: bool = False
) -> bytes | None:
    """The Ethernet frame with the reply to the message in `frame`; None when it gets none. Any bytes are fine.

    `verified` says that the UDP checksum needs no look: the link vouches for it, or left it for the receiver to fill in
    (clients have UDP sockets, so that is how it comes over a link with checksum offload).
    """
    request = _receive(frame, settings, verified)
    if request is None:
        return None
    reply = _answer(request, settings)
    payload = b"" if reply is None else emit_dhcpv6(reply)
    return _frame(payload, request, settings) if 0 < len(payload) <= MAXIMUM_MESSAGE else None


def _answer(request: _Request, settings: Dhcp6Settings) -> Dhcp6Message | None:
    kind = request.message.kind
    if kind == INFORMATION_REQUEST:
        return _reply(request, settings, _configuration(request, settings))
    if settings.address is None:
        return None
    if request.unicast:  # RFC 8415 18.4: nobody was told that we take unicast
        return _reply(request, settings, (emit_status(Dhcp6Status.USE_MULTICAST, "send to ff02::1:2"),))
    return _HANDLERS[kind](request, settings, settings.address)


def _receive(frame: bytes | bytearray | memoryview, settings: Dhcp6Settings, verified: bool) -> _Request | None:
    """The request in a frame, every length, checksum and address of it checked."""
    buf = memoryview(bytearray(frame))
    view, udp = IpView(), UdpView()
    if view.parse(buf, HEADER_LENGTH, len(buf)) or view.version != 6 or view.protocol != _PROTOCOL_UDP or view.fragment:
        return None
    if not udp.parse(buf, view.payload_at, view.end) or udp.destination_port != SERVER_PORT:
        return None
    destination, source = load_bytes(buf, view.destination_at, 16), load_bytes(buf, view.source_at, 16)
    if destination not in (ALL_RELAYS_AND_SERVERS, settings.link_local) or source[0] == 0xFF or not any(source):
        return None
    if not verified and not transport_ok(
        buf, view.source_at, view.destination_at, 16, _PROTOCOL_UDP, view.payload_at, udp.end
    ):
        return None
    message = parse_dhcpv6(bytes(buf[udp.payload_at : udp.end]))
    unicast = destination == settings.link_local
    source_mac = load_bytes(buf, 6, 6)
    if message is None or source_mac[0] & 1 or not _is_valid(message, settings, unicast):
        return None
    found = [parse_association(code, data) for code, data in message.options]
    associations = tuple(association for association in found if association is not None)
    client = message.first(Dhcp6Option.CLIENT_IDENTIFIER)
    return _Request(message, client, associations, source_mac, source, unicast)


def _is_valid(message: Dhcp6Message, settings: Dhcp6Settings, unicast: bool) -> bool:
    """RFC 8415 section 16."""
    client = message.first(Dhcp6Option.CLIENT_IDENTIFIER)
    server = message.first(Dhcp6Option.SERVER_IDENTIFIER)
    if client is not None and not 1 <= len(client) <= MAXIMUM_DUID:
        return False
    if message.kind in _WITH_SERVER:
        return client is not None and server == settings.duid
    if unicast:
        return False
    if message.kind in _WITHOUT_SERVER:
        return client is not None and server is None
    if message.kind == INFORMATION_REQUEST:
        associations = (Dhcp6Option.IA_NA, Dhcp6Option.IA_TA, Dhcp6Option.IA_PD)
        return server in (None, settings.duid) and all(code not in associations for code, _ in message.options)
    return False


# -- what to say


def _solicit(request: _Request, settings: Dhcp6Settings, address: bytes) -> Dhcp6Message:
    """18.3.1. A hint of another address is a wish, not an error."""
    ours = _ours(request, address)
    options = tuple(
        _granted(association, settings, address) if association is ours else _denied(association)
        for association in request.associations
    )
    known = _configuration(request, settings)
    if ours is not None and request.message.first(Dhcp6Option.RAPID_COMMIT) is not None:
        return _reply(request, settings, ((Dhcp6Option.RAPID_COMMIT, b""), *options, *known))
    preference = (Dhcp6Option.PREFERENCE, b"\xff")
    return _reply(request, settings, (preference, *options, *known))._replace(kind=ADVERTISE)


def _request(request: _Request, settings: Dhcp6Settings, address: bytes) -> Dhcp6Message:
    """18.3.2."""
    ours = _ours(request, address)
    options: list[Option] = []
    for association in request.associations:
        if _foreign(association, address):
            options.append(_with_status(association, Dhcp6Status.NOT_ON_LINK, "not an address of this link"))
        elif association is ours:
            options.append(_granted(association, settings, address))
        else:
            options.append(_denied(association))
    return _reply(request, settings, (*options, *_configuration(request, settings)))


def _renew(request: _Request, settings: Dhcp6Settings, address: bytes) -> Dhcp6Message:
    """18.3.4, 18.3.5: what the client holds and should not is withdrawn, and ours comes with it."""
    ours = _ours(request, address)
    options: list[Option] = []
    for association in request.associations:
        withdrawn = tuple(emit_ia_address(foreign, 0, 0) for foreign in _foreign(association, address))
        if association is ours:
            options.append(_granted(association, settings, address, withdrawn))
        elif withdrawn:
            options.append(emit_association(association._replace(t1=0, t2=0, options=withdrawn)))
        else:
            options.append(_with_status(association, Dhcp6Status.NO_BINDING, "no binding"))
    return _reply(request, settings, (*options, *_configuration(request, settings)))


def _confirm(request: _Request, settings: Dhcp6Settings, address: bytes) -> Dhcp6Message | None:
    """18.3.3."""
    listed = [found for association in request.associations for found in association.addresses()]
    if not listed:
        return None
    if all(found == address for found in listed):
        return _reply(request, settings, (emit_status(Dhcp6Status.SUCCESS, "on this link"),))
    return _reply(request, settings, (emit_status(Dhcp6Status.NOT_ON_LINK, "not an address of this link"),))


def _release(request: _Request, settings: Dhcp6Settings, address: bytes) -> Dhcp6Message:
    """18.3.7, 18.3.8: there is nothing to take back, and a declined address stays the only one."""
    unknown = tuple(
        _with_status(association, Dhcp6Status.NO_BINDING, "no binding")
        for association in request.associations
        if association.code != Dhcp6Option.IA_NA or address not in association.addresses()
    )
    return _reply(request, settings, (*unknown, emit_status(Dhcp6Status.SUCCESS, "done")))


_HANDLERS: dict[int, Callable[[_Request, Dhcp6Settings, bytes], Dhcp6Message | None]] = {
    SOLICIT: _solicit,
    REQUEST: _request,
    CONFIRM: _confirm,
    RENEW: _renew,
    REBIND: _renew,
    RELEASE: _release,
    DECLINE: _release,
}


def _ours(request: _Request, address: bytes) -> Association | None:
    """The association that gets the address: two must not have it (RFC 8415 section 12)."""
    candidates = [association for association in request.associations if association.code == Dhcp6Option.IA_NA]
    return next((found for found in candidates if address in found.addresses()), candidates[0] if candidates else None)


def _foreign(association: Association, address: bytes) -> tuple[bytes, ...]:
    """Addresses listed that are not the guest's; the unspecified one only says that there is no wish."""
    return tuple(found for found in association.addresses() if found not in (address, _UNSPECIFIED))


def _granted(
    association: Association, settings: Dhcp6Settings, address: bytes, others: tuple[Option, ...] = ()
) -> Option:
    """The association with the guest's address; T1 and T2 by RFC 8415 21.4: 0.5 and 0.8 of the preferred lifetime."""
    preferred = min(settings.preferred, settings.valid)
    t1, t2 = (INFINITE, INFINITE) if preferred == INFINITE else (preferred // 2, preferred * 4 // 5)
    options = (emit_ia_address(address, preferred, settings.valid), *others)
    return emit_association(association._replace(t1=t1, t2=t2, options=options))


def _denied(association: Association) -> Option:
    if association.code == Dhcp6Option.IA_PD:
        return _with_status(association, Dhcp6Status.NO_PREFIX, "no prefixes are delegated here")
    return _with_status(association, Dhcp6Status.NO_ADDRESSES, "there is one address, for one association")


def _with_status(association: Association, code: int, text: str) -> Option:
    return emit_association(association._replace(t1=0, t2=0, options=(emit_status(code, text),)))


def _configuration(request: _Request, settings: Dhcp6Settings) -> tuple[Option, ...]:
    """The options besides addresses that the client asked for; all when it has no list of wishes."""
    wanted = request.message.first(Dhcp6Option.REQUESTED)
    codes = {wanted[i : i + 2] for i in range(0, len(wanted), 2)} if wanted is not None else None
    known = (
        (Dhcp6Option.DNS, b"".join([address for address in settings.dns if len(address) == 16][:_DNS_LIMIT])),
        (Dhcp6Option.DOMAIN_SEARCH, encode_names(settings.search, limit=_SEARCH_LIMIT)),
    )
    return tuple((code, data) for code, data in known if data and (codes is None or code.to_bytes(2, "big") in codes))


# -- the frame


def _reply(request: _Request, settings: Dhcp6Settings, options: tuple[Option, ...]) -> Dhcp6Message:
    """A REPLY between both identifiers, RFC 8415 18.3.10."""
    client = () if request.client is None else ((Dhcp6Option.CLIENT_IDENTIFIER, request.client),)
    server = (Dhcp6Option.SERVER_IDENTIFIER, settings.duid)
    return Dhcp6Message(REPLY, request.message.transaction, (*client, server, *options))


def _frame(payload: bytes, request: _Request, settings: Dhcp6Settings) -> bytes:
    """The Ethernet frame with a reply to where the request came from, checksum included."""
    length = 8 + len(payload)
    head = memoryview(bytearray(48))
    emit_udp(head, 40, SERVER_PORT, CLIENT_PORT, length, 0)
    total = pseudo_header(settings.link_local, request.source, _PROTOCOL_UDP, length)
    checksum = finish_udp(partial(payload, total + partial(head[40:])))
    emit_udp(head, 40, SERVER_PORT, CLIENT_PORT, length, checksum)
    emit_ipv6(head, 0, length, _PROTOCOL_UDP, settings.link_local, request.source)
    return request.source_mac + settings.mac + ETHERTYPE_IPV6.to_bytes(2, "big") + head + payload
