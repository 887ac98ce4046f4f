"""Sockets that listen for forwarded ports, and in what words a port that cannot be had is reported.

INGRESS listens on the host: on one address, or on every address of a family. Without an address there are two
sockets, one per family, not one for both: peers then never come as IPv4-mapped addresses, a device or policy holds for
each family alone, and a host without IPv6 needs no second attempt.

EGRESS listens in the guest's namespace on 127.0.0.1 and ::1. The agent makes the socket, the engine binds it: the
guest's user namespace is the engine's, so ports below 1024 can be had as well.
"""

from __future__ import annotations

import errno
import socket

from bucatini.base.address import Endpoint, text
from bucatini.base.verdict import EGRESS
from bucatini.engine.guest_sockets import GuestSockets
from bucatini.forward.portspec import Forward
from bucatini.host import sockets
from bucatini.stack.settings import StackSettings

__all__ = [
    "EXHAUSTED",
    "LOOPBACK",
    "TCP",
    "families",
    "is_loopback",
    "kind_of",
    "listen_in_guest",
    "listen_on_host",
    "why",
    "written",
]

LOOPBACK = {4: bytes((127, 0, 0, 1)), 16: bytes(15) + b"\x01"}
"""By the length of an address."""
EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
TCP = 6
BACKLOG = 1024


def is_loopback(address: bytes) -> bool:
    """127.0.0.0/8 (RFC 1122 section 3.2.1.3) or ::1 (RFC 4291 section 2.5.3)."""
    return address[0] == 127 if len(address) == 4 else address == LOOPBACK[16]


def kind_of(protocol: int, length: int) -> str:
    """The kind of socket (`host.factory.KINDS`) for a protocol and the length of an address."""
    return f"{'tcp' if protocol == TCP else 'udp'}{4 if length == 4 else 6}"


def listen_on_host(forward: Forward, length: int, freebind: bool, ours: bool) -> socket.socket:
    """The socket of one family. Raises OSError, EADDRINUSE also for a UDP port that another engine of this user has.

    `ours`: conversations of a UDP forward of ours that was removed still hold the port; it may be shared with them.
    """
    family = socket.AF_INET if length == 4 else socket.AF_INET6
    address, port, device = forward.address, forward.host_port, forward.device
    if forward.protocol == TCP:
        return sockets.listen_tcp(address, port, family, device, freebind)
    # Without SO_REUSEPORT first: only so is a port that another of our own processes uses found to be taken.
    if not ours:
        sockets.probe_udp(address, port, family, device, freebind)
    return sockets.bind_udp(address, port, family, device=device, freebind=freebind)


def listen_in_guest(stock: GuestSockets, forward: Forward, length: int, ours: bool) -> socket.socket:
    """The socket of one family on the guest's loopback. Raises OSError, and HostError when the agent has none.

    `ours` as for `listen_on_host`.
    """
    sock = stock.fetch(kind_of(forward.protocol, length))
    try:
        name = sockets.sockaddr(Endpoint(LOOPBACK[length], forward.guest_port))
        if forward.protocol == TCP:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(name)
            sock.listen(BACKLOG)
            return sock
        # Bound alone, then shared: the conversations' sockets may join, a program that shares its port is not joined.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, ours)
        sock.bind(name)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, sockets.LISTENER_BUFFER)
    except BaseException:
        sock.close()
        raise
    return sock


def written(forward: Forward) -> str:
    """The forward as errors name it: where it listens, colon, where it leads."""
    if forward.direction == EGRESS:
        return f"{forward.guest_port}:{forward.host_port}/{'tcp' if forward.protocol == TCP else 'udp'}"
    return str(forward)


def why(error: OSError, forward: Forward) -> str:
    """One line on why a port cannot be had."""
    outward = forward.direction == EGRESS
    port = forward.guest_port if outward else forward.host_port
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use {'in the guest' if outward else 'on this host'}"
    if error.errno == errno.EACCES:
        place = "in the guest" if outward else "here"
        return f"port {port} needs privilege {place} (net.ipv4.ip_unprivileged_port_start)"
    if error.errno == errno.EADDRNOTAVAIL and forward.address is not None:
        return f"{text(forward.address)} is not an address of this host"
    if error.errno == errno.ENODEV:
        return f"port {port}: this host has no interface {forward.device!r}"
    if error.errno == errno.EPERM and forward.device:
        return f"port {port}: this kernel lets only root bind to an interface (SO_BINDTODEVICE)"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"port {port}: {error.strerror}; raise the limit (ulimit -n)"
    return f"port {port}: {error.strerror or error}"


def families(settings: StackSettings) -> tuple[int, ...]:
    """Lengths of the addresses of the families that the guest's network has; the guest may have none of it yet."""
    four = settings.ipv4 and (settings.guest_ipv4 or settings.gateway_ipv4)
    six = settings.ipv6 and (settings.guest_ipv6 or settings.gateway_ipv6)
    return tuple(length for length, on in ((4, four), (16, six)) if on)
