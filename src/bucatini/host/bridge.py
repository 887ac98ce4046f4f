"""A port of a bridge for one guest: the TAP on our side, plugged so that the bridge learns nothing from the guest
(bridge(8), rtnetlink(7), linux/if_bridge.h).

Everything the bridge would find out by itself is told it instead. *Learning* is off and the guest's MAC address is in
the forwarding table as a static, sticky entry: neither can the guest claim another's place, nor can another port take
the guest's by sending under its address. *Flooding* of unicast is off, so the guest hears only what is for it;
broadcast stays, which ARP and DHCP need. An *isolated* port talks to the host, and to ports that are not isolated.
Multicast of other ports is kept from isolated guests only: who may talk to neighbours has to find them (RFC 4861).
Spanning tree messages (BPDUs) of a guest would switch the port off.

The TAP itself is no interface of the host's: it gets no address of its own, also no link-local one. A bridge whose MAC
address nobody has set takes the lowest of its ports', and the guests' gateway would change with each that comes and
goes: so it is set, to what it is. The port and its entries vanish with the TAP. A port that somebody takes off the
bridge, or whose bridge goes, is found by `PortWatch`, which needs no privileges.

Does not: make bridges or give them addresses; that is whose network it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import sys
from typing import NamedTuple

from bucatini.base.errors import ConfigError, HostError
from bucatini.host.netlink import Netlink, attribute, attributes

__all__ = ["Bridge", "PortWatch", "allow_forwarding", "find_bridge", "plug"]

_LINK = struct.Struct("=BxHiII")  # family, device type, index, flags, change
_NEIGHBOR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_NEWLINK, _GETLINK, _SETLINK = 16, 18, 19
_NEWNEIGH, _GETNEIGH = 28, 30
_REQUEST, _ACK = 0x001, 0x004
_CREATE, _REPLACE = 0x400, 0x100
_LINK_GROUP = 0x1  # RTMGRP_LINK
_TURN = 100  # messages read in one call
_DISCARDED = 1  # bytes read of each message; the kernel drops the rest
_NESTED = 0x8000
_SIOCGIFHWADDR = 0x8927

_IFLA_MASTER, _IFLA_PROTINFO, _IFLA_AF_SPEC = 10, 12, 26
_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1
_PORT_GUARD, _PORT_LEARNING, _PORT_UNICAST_FLOOD = 5, 8, 9
_PORT_MULTICAST_FLOOD, _PORT_BROADCAST_FLOOD, _PORT_ISOLATED = 27, 30, 33

_NDA_LLADDR, _NDA_MASTER = 2, 9
_NUD_NOARP = 0x40
_NUD_PERMANENT = 0x80
_NTF_MASTER, _NTF_STICKY = 0x04, 0x40

_LOCAL_MAC = 0xFE
"""First byte of a station's address, locally administered; above all that vendors assign."""
_QUEUE = 1000
"""Frames that wait for us in the TAP, the kernel's own default for Ethernet."""
_LINK_LOCAL = b"\xfe\x80"
_FORWARDING = "/proc/sys/net/ipv4/conf/{}/forwarding"
_FORWARDING6 = "/proc/sys/net/ipv6/conf/all/forwarding"


class Bridge(NamedTuple):
    """A bridge that exists."""

    name: str
    interface: int
    """Index."""
    addresses: tuple[tuple[bytes, int], ...]
    """Packed, with prefix length: those the host has on it."""


def find_bridge(name: str) -> Bridge:
    """The bridge `name`. Raises ConfigError when there is no interface of this name."""
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        raise ConfigError(f"--bridge {name!r}: must be the name of a bridge of this host; there is none") from None
    with Netlink() as netlink:
        found = tuple((each.address, each.prefix_length) for each in netlink.addresses() if each.interface == index)
    return Bridge(name, index, found)


def plug(bridge: Bridge, tap: str, guest_mac: bytes, *, isolated: bool) -> None:
    """Make the interface `tap` a port of `bridge` and bring it up.

    Raises ConfigError when `bridge` is none, or has a guest of this MAC address already; HostError when the kernel
    refuses.
    """
    index = socket.if_nametoindex(tap)
    try:
        with _PortNetlink() as netlink:
            if netlink.is_taken(bridge.interface, guest_mac):
                raise ConfigError(f"--mac {guest_mac.hex(':')}: {bridge.name} has another guest of this address")
            own_mac = _mac_of(bridge.name)
            if not any(own_mac):  # its last port is gone, and it had none of its own
                own_mac = _port_mac(guest_mac)
            netlink.set_link(index, mac=_port_mac(guest_mac), transmit_queue=_QUEUE)
            netlink.forgo_link_local(index)
            netlink.enslave(index, bridge.interface)
            netlink.set_link(bridge.interface, mac=own_mac)
            netlink.set_port(index, isolated)
            netlink.bind(index, guest_mac)
            netlink.set_link(index, up=True)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise ConfigError(f"--bridge {bridge.name!r}: must be the name of a bridge; this is another kind") from None
        why = "needs CAP_NET_ADMIN" if error.errno == errno.EPERM else error.strerror
        raise HostError(f"cannot make {tap} a port of {bridge.name}: {why}") from None


class PortWatch:
    """Whether the interface `port` is still one of `bridge`, in the network namespace the caller is in now. Made before
    it is one, no change is missed. Raises HostError.
    """

    def __init__(self, bridge: Bridge, port: str) -> None:
        self._bridge = bridge
        self._port = port
        self._index = socket.if_nametoindex(port)
        self._netlink = _PortNetlink()
        self._news = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            self._news.bind((0, _LINK_GROUP))
        except OSError as error:
            self.close()
            raise HostError(f"cannot watch {port}: {error.strerror}") from None

    def fileno(self) -> int:
        """Readable after a change of any link."""
        return self._news.fileno()

    def lost(self) -> str:
        """Why it is none any more; empty while it is one. Never blocks."""
        self._drain()
        try:
            master = self._netlink.master(self._index)
        except OSError as error:
            return "the interface on the bridge is gone" if error.errno == errno.ENODEV else ""
        return "" if master == self._bridge.interface else f"{self._port} is no port of {self._bridge.name} any more"

    def close(self) -> None:
        """Idempotent."""
        self._news.close()
        self._netlink.close()

    def _drain(self) -> None:
        """What the messages say is not read: some may have been lost (ENOBUFS)."""
        for _ in range(_TURN):
            try:
                self._news.recv(_DISCARDED)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return


def allow_forwarding(bridge: Bridge) -> list[str]:
    """Have the host route between `bridge` and where its default route leads, as far as we may; a line for each thing
    that stays in the way. Nothing is taken back at the end: other guests may depend on it.
    """
    names = [bridge.name]
    with Netlink() as netlink:
        uplinks = {route.interface for route in netlink.routes(socket.AF_INET) if not route.prefix_length}
    for index in sorted(uplinks - {bridge.interface, 0}):
        with contextlib.suppress(OSError):
            names.append(socket.if_indextoname(index))
    notes = []
    for name in names:
        try:
            _switch_on(_FORWARDING.format(name))
        except OSError as error:
            notes.append(f"the host does not forward IPv4 of {name}, so guests do not get further: {error.strerror}")
    routed = any(len(address) == 16 and address[:2] != _LINK_LOCAL for address, _ in bridge.addresses)
    if routed and _read(_FORWARDING6) == "0":
        # One switch for all interfaces, and it stops the host from listening to its own router.
        notes.append("the host does not forward IPv6: net.ipv6.conf.all.forwarding is 0")
    return notes


def _port_mac(guest_mac: bytes) -> bytes:
    """A MAC address for the host's side of the guest's link, which is never the guest's."""
    while (mac := bytes([_LOCAL_MAC]) + os.urandom(5)) == guest_mac:
        pass
    return mac


def _mac_of(interface: str) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s24x", os.fsencode(interface)))
    return answer[18:24]


def _switch_on(path: str) -> None:
    if _read(path) != "1":
        with open(path, "w") as entry:
            entry.write("1")


def _read(path: str) -> str:
    try:
        with open(path) as entry:
            return entry.read().strip()
    except OSError:
        return ""


class _PortNetlink(Netlink):
    """What rtnetlink has for bridges."""

    def enslave(self, index: int, bridge: int) -> None:
        self._change(_NEWLINK, 0, _link(socket.AF_UNSPEC, index) + attribute(_IFLA_MASTER, struct.pack("=I", bridge)))

    def master(self, index: int) -> int:
        """The interface that this one is a port of; 0: none."""
        master = b""
        for body in self._exchange(_GETLINK, _REQUEST | _ACK, _link(socket.AF_UNSPEC, index)):
            master = attributes(body, _LINK.size).get(_IFLA_MASTER, b"")
        return int.from_bytes(master, sys.byteorder)

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    def forgo_link_local(self, index: int) -> None:
        """No IPv6 address comes with the interface being up; nothing happens where the kernel has no IPv6."""
        mode = attribute(_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE]))
        family = attribute(_NESTED | socket.AF_INET6, mode)
        with contextlib.suppress(OSError):
            self._change(_NEWLINK, 0, _link(socket.AF_UNSPEC, index) + attribute(_NESTED | _IFLA_AF_SPEC, family))

    def set_port(self, index: int, isolated: bool) -> None:
        flags = {
            _PORT_GUARD: True,
            _PORT_LEARNING: False,
            _PORT_UNICAST_FLOOD: False,
            _PORT_MULTICAST_FLOOD: not isolated,
            _PORT_BROADCAST_FLOOD: True,
            _PORT_ISOLATED: isolated,
        }
        body = b"".join(attribute(kind, bytes([on])) for kind, on in flags.items())
        self._change(_SETLINK, 0, _link(socket.AF_BRIDGE, index) + attribute(_NESTED | _IFLA_PROTINFO, body))

    def bind(self, index: int, mac: bytes) -> None:
        """`mac` is at this port and nowhere else. Not NUD_PERMANENT, which would mean the host's own."""
        body = _NEIGHBOR.pack(socket.AF_BRIDGE, index, _NUD_NOARP, _NTF_MASTER | _NTF_STICKY, 0)
        self._change(_NEWNEIGH, _CREATE | _REPLACE, body + attribute(_NDA_LLADDR, mac))

    def is_taken(self, bridge: int, mac: bytes) -> bool:
        """Whether the bridge was told where `mac` is; what it learned does not count."""
        for body in self._dump(_GETNEIGH, _link(socket.AF_BRIDGE, 0)):
            state = _NEIGHBOR.unpack_from(body)[2]
            fields = attributes(body, _NEIGHBOR.size)
            is_there = fields.get(_NDA_MASTER) == struct.pack("=I", bridge) and fields.get(_NDA_LLADDR) == mac
            if is_there and state & (_NUD_NOARP | _NUD_PERMANENT):
                return True
        return False


def _link(family: int, index: int) -> bytes:
    return _LINK.pack(family, 0, index, 0, 0)
