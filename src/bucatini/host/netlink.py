"""rtnetlink for what a guest's interface needs: read links, addresses, routes; set them (RFC 3549, rtnetlink(7)).

A message is a 16-byte header, a fixed part per object, then attributes of type and length padded to 4 bytes. Numbers
are in host order, addresses in network order. Requests are answered one by one, in order, so the socket is used
synchronously.

Does not: watch for changes, know rules, neighbours, traffic control or multipath beyond its first hop. Written here
because the ready-made library takes longer to import than the command may take to start.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

from bucatini.base.address import family_of

__all__ = ["Address", "Link", "Netlink", "RouteEntry", "attribute", "attributes"]

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, device type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
_NEXT_HOP = struct.Struct("=HBBi")  # length, flags, weight - 1, index
_ATTRIBUTE = struct.Struct("=HH")

_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x001, 0x004, 0x300
_CREATE, _EXCLUSIVE = 0x400, 0x200
_NEWLINK, _GETLINK = 16, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_TXQLEN = 1, 3, 4, 13
_IFLA_LINKINFO, _INFO_KIND, _INFO_DATA, _TUN_TYPE = 18, 1, 2, 3
_TYPE_TAP = b"\x02"
_IFF_UP = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD, _IFA_F_DEPRECATED = 0x02, 0x20
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_TABLE = 1, 4, 5, 9, 15
_TABLE_MAIN, _PROTOCOL_BOOT, _TYPE_UNICAST = 254, 3, 1
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_ATTRIBUTE_TYPE = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_RECEIVE_SIZE = 1 << 16
_TIMEOUT = 5.0  # seconds; the kernel answers at once


class Link(NamedTuple):
    """One interface."""

    interface: int
    """Index, as if_nametoindex(3) gives it."""
    name: str
    mtu: int


class Address(NamedTuple):
    """One address of an interface."""

    interface: int
    address: bytes
    prefix_length: int
    scope: int
    """RT_SCOPE_*: 0 global, 253 link, 254 host."""
    deprecated: bool


class RouteEntry(NamedTuple):
    """One unicast route, or the first hop of several."""

    interface: int
    destination: bytes
    prefix_length: int
    gateway: bytes | None


class Netlink:
    """A connection to the kernel of the network namespace the caller is in now. Methods raise OSError as the kernel
    says."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(_TIMEOUT)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def links(self) -> list[Link]:
        """Every interface."""
        found = []
        for body in self._dump(_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            _, _, index, _, _ = _LINK.unpack_from(body)
            fields = attributes(body, _LINK.size)
            name = fields[_IFLA_IFNAME].rstrip(b"\0").decode(errors="replace")
            found.append(Link(index, name, _number(fields[_IFLA_MTU])))
        return found

    def kind(self, index: int) -> str:
        """What kind an interface says it is, `tap`, `tun`, `veth` or `bridge` for example; empty: it does not say, as
        hardware, or there is none.
        """
        for body in self._dump(_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            if _LINK.unpack_from(body)[2] == index:
                return _kind(attributes(body, _LINK.size).get(_IFLA_LINKINFO, b""))
        return ""

    def addresses(self) -> list[Address]:
        """Every address of both families."""
        found = []
        for body in self._dump(_GETADDR, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            _, prefix_length, short_flags, scope, index = _ADDRESS.unpack_from(body)
            fields = attributes(body, _ADDRESS.size)
            # On a point-to-point link IFA_ADDRESS is the peer's; IFA_LOCAL is always ours when present.
            local = fields.get(_IFA_LOCAL) or fields.get(_IFA_ADDRESS, b"")
            flags = _number(fields[_IFA_FLAGS]) if _IFA_FLAGS in fields else short_flags
            found.append(Address(index, local, prefix_length, scope, bool(flags & _IFA_F_DEPRECATED)))
        return found

    def routes(self, family: int) -> list[RouteEntry]:
        """The unicast routes of the main table, in the kernel's order; of several next hops the first."""
        found = []
        request = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        for body in self._dump(_GETROUTE, request):
            got_family, prefix_length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
            fields = attributes(body, _ROUTE.size)
            table = _number(fields[_RTA_TABLE]) if _RTA_TABLE in fields else table
            if got_family != family or table != _TABLE_MAIN or kind != _TYPE_UNICAST:
                continue
            destination = fields.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16))
            index, gateway = _next_hop(fields)
            found.append(RouteEntry(index, destination, prefix_length, gateway))
        return found

    def set_link(
        self, index: int, *, mac: bytes = b"", mtu: int = 0, transmit_queue: int = 0, up: bool = False
    ) -> None:
        """Change what is given of the interface's MAC, MTU (bytes) and queue (frames), or bring it up."""
        flags = _IFF_UP if up else 0
        body = _LINK.pack(socket.AF_UNSPEC, 0, index, flags, flags)
        body += attribute(_IFLA_ADDRESS, mac) if mac else b""
        body += attribute(_IFLA_MTU, struct.pack("=I", mtu)) if mtu else b""
        body += attribute(_IFLA_TXQLEN, struct.pack("=I", transmit_queue)) if transmit_queue else b""
        self._change(_NEWLINK, 0, body)

    def add_address(self, index: int, address: bytes, prefix_length: int) -> None:
        """Give an interface an address; an IPv6 one without duplicate address detection, usable at once."""
        self._change(_NEWADDR, _CREATE | _EXCLUSIVE, _address_body(index, address, prefix_length))

    def delete_address(self, index: int, address: bytes, prefix_length: int) -> None:
        """Take an address from an interface; the kernel takes the routes and secondary addresses that hang on it."""
        self._change(_DELADDR, 0, _address_body(index, address, prefix_length))

    def add_route(self, index: int, destination: bytes, prefix_length: int, gateway: bytes | None) -> None:
        """Add a route of the main table through `gateway`, or on the link itself when there is none."""
        scope = _SCOPE_LINK if gateway is None and len(destination) == 4 else _SCOPE_UNIVERSE
        self._change(_NEWROUTE, _CREATE | _EXCLUSIVE, _route_body(index, destination, prefix_length, gateway, scope))

    def delete_route(self, index: int, destination: bytes, prefix_length: int, gateway: bytes | None) -> None:
        """Delete a route of the main table that `add_route` would add; ESRCH when there is none."""
        body = _route_body(index, destination, prefix_length, gateway, _SCOPE_NOWHERE)
        self._change(_DELROUTE, 0, body)

    def _change(self, kind: int, flags: int, body: bytes) -> None:
        for _ in self._exchange(kind, _REQUEST | _ACK | flags, body):
            pass

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        return self._exchange(kind, _REQUEST | _DUMP, body)

    def _exchange(self, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
        """Send one request and yield the body of each answer, until its acknowledgement or the end of the dump."""
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        while True:
            batch = self._socket.recv(_RECEIVE_SIZE)
            for got, sequence, answer in _messages(batch):
                if sequence != self._sequence:
                    continue  # left over from an exchange that ended early
                if got == _DONE:
                    return
                if got == _ERROR:
                    (number,) = struct.unpack_from("=i", answer)
                    if number:
                        raise OSError(-number, os.strerror(-number))
                    return
                yield answer


def _address_body(index: int, address: bytes, prefix_length: int) -> bytes:
    body = _ADDRESS.pack(family_of(address), prefix_length, 0, _SCOPE_UNIVERSE, index)
    body += attribute(_IFA_LOCAL, address) + attribute(_IFA_ADDRESS, address)
    return body + (attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD)) if len(address) == 16 else b"")


def _route_body(index: int, destination: bytes, prefix_length: int, gateway: bytes | None, scope: int) -> bytes:
    family = family_of(destination)
    body = _ROUTE.pack(family, prefix_length, 0, 0, _TABLE_MAIN, _PROTOCOL_BOOT, scope, _TYPE_UNICAST, 0)
    body += attribute(_RTA_DST, destination) if prefix_length else b""
    body += attribute(_RTA_OIF, struct.pack("=I", index))
    return body + (attribute(_RTA_GATEWAY, gateway) if gateway is not None else b"")


def _messages(batch: bytes) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(batch):
        length, kind, _, sequence, _ = _HEADER.unpack_from(batch, offset)
        if length < _HEADER.size:
            return
        yield kind, sequence, batch[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """The attributes in a message from `offset` on, by type without its flags, the last of each (netlink(7))."""
    fields = {}
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            break
        fields[kind & _ATTRIBUTE_TYPE] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return fields


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _next_hop(fields: dict[int, bytes]) -> tuple[int, bytes | None]:
    """(interface index, gateway or None) of a route; a multipath route hides them one level deeper."""
    hops = fields.get(_RTA_MULTIPATH)
    if hops is not None and len(hops) >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(hops)
        return index, attributes(hops[:length], _NEXT_HOP.size).get(_RTA_GATEWAY)
    return _number(fields[_RTA_OIF]) if _RTA_OIF in fields else 0, fields.get(_RTA_GATEWAY)


def _kind(information: bytes) -> str:
    """The kernel has one kind for TUN and TAP, and the type among its data (Linux 4.19)."""
    fields = attributes(information, 0)
    kind = fields.get(_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")
    data = attributes(fields.get(_INFO_DATA, b""), 0)
    return "tap" if kind == "tun" and data.get(_TUN_TYPE) == _TYPE_TAP else kind


def _number(value: bytes) -> int:
    return int.from_bytes(value[:4], sys.byteorder)
