"""The host's sockets as the engine opens them: non-blocking, close-on-exec, with the options each protocol needs
(socket(7), tcp(7), udp(7), ip(7)).

Functions answer with a socket or raise OSError as the kernel does; the caller turns that into what the guest sees.
What a kernel may lack is probed once: SO_PEEK_OFF on TCP (6.9), UDP_GRO (5.0), ping sockets
(net.ipv4.ping_group_range).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import NamedTuple

from bucatini.base.address import Endpoint, family_of, text
from bucatini.base.errors import ConfigError

__all__ = [
    "ANYHOW",
    "IcmpError",
    "Outbound",
    "bind_udp",
    "check_outbound",
    "connect",
    "keeps_peek_offset",
    "listen_tcp",
    "open_ping",
    "open_tcp",
    "open_udp",
    "prepare_tcp",
    "probe_udp",
    "read_error",
    "reset_on_close",
    "sockaddr",
    "socket_error",
]

SO_PEEK_OFF = 42
SO_BUF_LOCK = 72
ROOMY = 1 << 19
"""Bytes asked for; the kernel grants net.core.wmem_max, and counts its own overhead in twice that."""
UDP_GRO = 104
SOL_UDP = 17
IP_RECVERR = 11
IPV6_RECVERR = 25
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
PMTUDISC_DO = 2
IP_BIND_ADDRESS_NO_PORT = 24
_IP_FREEBIND = (socket.IPPROTO_IP, 15)
_IPV6_FREEBIND = (socket.IPPROTO_IPV6, 78)

LISTENER_BUFFER = 4 << 20
"""Bytes asked of the kernel for first datagrams of new peers; it gives net.core.rmem_max at most."""

_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_LINGER_ZERO = struct.pack("ii", 1, 0)
_EXTENDED_ERROR = struct.Struct("=IBBBxII")
SO_EE_ORIGIN_LOCAL, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6 = 1, 2, 3


class IcmpError(NamedTuple):
    """One entry of a socket's error queue that came from the network or from the host's own routing."""

    errno: int
    kind: int
    """ICMP or ICMPv6 type; -1 when the error is the host's own."""
    code: int
    info: int
    """The path's MTU in bytes when the error is EMSGSIZE."""
    payload: bytes
    """Of the datagram that caused it, as far as it was kept."""


class Outbound(NamedTuple):
    """What the host's sockets towards the network are bound to. Sockets to the host's own loopback are left alone."""

    sources: tuple[bytes, ...] = ()
    """Source addresses, packed, one per family."""
    device4: str | None = None
    """Interface that IPv4 leaves by (SO_BINDTODEVICE), whatever the routes say; `device6` IPv6."""
    device6: str | None = None
    scope: int = 0
    """Index of the interface that IPv6 link-local destinations are on; 0: none."""

    def scope_of(self, address: bytes) -> int:
        """The interface index to give `connect` with `address`."""
        return self.scope if address[0] == 0xFE and len(address) == 16 and address[1] & 0xC0 == 0x80 else 0

    def apply(self, sock: socket.socket, target: bytes, port: int = 0) -> None:
        """Bind `sock`, which is to reach `target`, to what was asked for, and `port` with it. Raises OSError."""
        if target[0] == 127 if len(target) == 4 else target == _LOOPBACK6:
            return
        device = self.device4 if len(target) == 4 else self.device6
        if device is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        for source in self.sources:
            if len(source) == len(target):
                if not port:
                    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind(sockaddr(Endpoint(source, port), self.scope_of(source)))


def check_outbound(outbound: Outbound) -> None:
    """Raise ConfigError, naming the option, for what sockets cannot be bound to on this host now."""
    for device, option, target in (
        (outbound.device4, "--outbound-if4", bytes((192, 0, 2, 1))),
        (outbound.device6, "--outbound-if6", bytes.fromhex("20010db8") + bytes(12)),
    ):
        source = next((each for each in outbound.sources if len(each) == len(target)), None)
        if device is None and source is None:
            continue
        with socket.socket(family_of(target), socket.SOCK_DGRAM | _FLAGS) as sock:
            try:
                outbound._replace(sources=()).apply(sock, target)
            except OSError as error:
                raise ConfigError(f"{option} {device!r}: {error.strerror}") from None
            try:
                outbound._replace(device4=None, device6=None).apply(sock, target)
            except OSError as error:
                written = text(source) if source is not None else ""
                raise ConfigError(f"--outbound {written!r}: {error.strerror}") from None


_LOOPBACK6 = bytes(15) + b"\x01"
ANYHOW = Outbound()
"""The kernel chooses source and interface."""


def sockaddr(endpoint: Endpoint, scope: int = 0) -> tuple[str, int] | tuple[str, int, int, int]:
    """What `connect` and `bind` take for `endpoint`; `scope` is an interface index for IPv6 link-local addresses."""
    if len(endpoint.address) == 4:
        return (text(endpoint.address), endpoint.port)
    return (text(endpoint.address), endpoint.port, 0, scope)


def keeps_peek_offset() -> bool:
    """Whether this kernel honours SO_PEEK_OFF on TCP sockets, tried on a pair of loopback sockets."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.suppress(OSError):
            with socket.socket(family) as listener:
                listener.bind((address, 0))
                listener.listen(1)
                with socket.create_connection(listener.getsockname()[:2], timeout=5) as near:
                    far, _ = listener.accept()
                    with far:
                        return _peeks_twice(near, far)
    return False


def _peeks_twice(near: socket.socket, far: socket.socket) -> bool:
    try:
        far.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
    except OSError:
        return False
    far.settimeout(5)
    near.sendall(b"ab")
    first = far.recv(1, socket.MSG_PEEK)
    return (first, far.recv(1, socket.MSG_PEEK)) == (b"a", b"b")


def prepare_tcp(sock: socket.socket) -> None:
    """Options of every TCP socket of a flow, connected by us or accepted."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Urgent bytes stay in the stream, where the guest reads them as the peer's kernel sent them.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def open_tcp(family: int) -> socket.socket:
    """An unconnected TCP socket with `prepare_tcp` applied."""
    sock = socket.socket(family, socket.SOCK_STREAM | _FLAGS)
    prepare_tcp(sock)
    return sock


def connect(sock: socket.socket, endpoint: Endpoint, scope: int = 0) -> int:
    """Begin or make a connection. 0 when it is made or under way, else errno. `scope` as for `sockaddr`."""
    error = sock.connect_ex(sockaddr(endpoint, scope))
    return 0 if error == errno.EINPROGRESS else error


def widen(sock: socket.socket) -> None:
    """Let a TCP socket's send buffer be `ROOMY` bytes from the start, and grow from there as the kernel sees fit.

    Setting the size alone would end that growth; SO_BUF_LOCK (Linux 5.14) takes the lock off again. Without it the size
    stays as it is.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOMY)
        sock.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, 0)
    except OSError:
        pass  # an older kernel


def reset_on_close(sock: socket.socket) -> None:
    """Have close(2) send RST instead of FIN (SO_LINGER, socket(7))."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def socket_error(sock: socket.socket) -> int:
    """The pending error of a socket, and clear it (SO_ERROR)."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except OSError as error:
        return error.errno or errno.EIO


def open_udp(guest_port: int, target: Endpoint, segmented: bool, outbound: Outbound = ANYHOW) -> socket.socket:
    """A UDP socket connected to `target`, bound to `guest_port` when the host lets us, else to any port.

    `segmented`: the link takes trains of datagrams, so the socket may receive them (UDP_GRO). Raises OSError.
    """
    family = family_of(target.address)
    sock = socket.socket(family, socket.SOCK_DGRAM | _FLAGS)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        # Two flows of one guest port to different peers share the port; an owner without SO_REUSEADDR keeps it to
        # itself.
        try:
            outbound.apply(sock, target.address, guest_port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            outbound.apply(sock, target.address)
        with contextlib.suppress(OSError):
            sock.bind(("" if family == socket.AF_INET else "::", guest_port))
        _prepare_udp(sock, family, segmented)
        sock.connect(sockaddr(target, outbound.scope_of(target.address)))
        _drain(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _prepare_udp(sock: socket.socket, family: int, segmented: bool) -> None:
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    if segmented:
        with contextlib.suppress(OSError):
            sock.setsockopt(SOL_UDP, UDP_GRO, 1)


def _drain(sock: socket.socket) -> None:
    """Throw away what reached the port between bind and connect: it is not from this flow's peer. Bounded."""
    for _ in range(64):
        try:
            sock.recv(1, socket.MSG_DONTWAIT)
        except OSError:
            return


def open_ping(target: bytes, outbound: Outbound = ANYHOW) -> socket.socket:
    """An ICMP echo socket connected to the packed address `target` (icmp(7), "ping sockets"). Raises OSError.

    EACCES means that `net.ipv4.ping_group_range` of the host leaves this group out.
    """
    family = family_of(target)
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    sock = socket.socket(family, socket.SOCK_DGRAM | _FLAGS, protocol)
    try:
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        outbound.apply(sock, target)
        sock.connect(sockaddr(Endpoint(target, 0), outbound.scope_of(target)))
    except BaseException:
        sock.close()
        raise
    return sock


def read_error(sock: socket.socket) -> IcmpError | None:
    """One entry of the error queue (IP_RECVERR, ip(7)), or None when it is empty."""
    try:
        payload, ancillary, _, _ = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    except OSError:
        return None
    for level, kind, data in ancillary:
        if (level, kind) in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)) and len(data) >= 16:
            number, origin, icmp_type, code, info, _ = _EXTENDED_ERROR.unpack_from(data)
            known = origin in (SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6)
            return IcmpError(number, icmp_type if known else -1, code, info, payload)
    return IcmpError(errno.EIO, -1, 0, 0, payload)


def listen_tcp(
    address: bytes | None, port: int, family: int, device: str = "", freebind: bool = False
) -> socket.socket:
    """A listening TCP socket; `address` None means every address of `family`. Raises OSError.

    `device`: serve what comes by this interface only. `freebind`: an address that the host does not have yet will do.
    """
    sock = socket.socket(family, socket.SOCK_STREAM | _FLAGS)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(sock, address, port, device, freebind)
        sock.listen(1024)
    except BaseException:
        sock.close()
        raise
    return sock


def probe_udp(address: bytes | None, port: int, family: int, device: str = "", freebind: bool = False) -> None:
    """Raise OSError when a UDP port is in use by anybody; `bind_udp` alone would share it with another socket of this
    user.
    """
    with socket.socket(family, socket.SOCK_DGRAM | _FLAGS) as sock:
        _bind(sock, address, port, device, freebind)


def bind_udp(
    address: bytes | None,
    port: int,
    family: int,
    peer: Endpoint | None = None,
    segmented: bool = False,
    device: str = "",
    freebind: bool = False,
) -> socket.socket:
    """A UDP socket of a published port; with `peer`, one of its conversations, connected. Raises OSError.

    All sockets of the port share it by SO_REUSEPORT, which the kernel grants to the same user only: nobody else may
    listen beside us. `device` and `freebind` as for `listen_tcp`.
    """
    sock = socket.socket(family, socket.SOCK_DGRAM | _FLAGS)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(sock, address, port, device, freebind)
        if peer is not None:
            _prepare_udp(sock, family, segmented)
            sock.connect(sockaddr(peer))
        elif family == socket.AF_INET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LISTENER_BUFFER)
            sock.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LISTENER_BUFFER)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, address: bytes | None, port: int, device: str, freebind: bool) -> None:
    """The device first: what it does not serve must not come in between."""
    ipv6 = sock.family == socket.AF_INET6
    if ipv6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if device:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    if freebind:
        sock.setsockopt(*(_IPV6_FREEBIND if ipv6 else _IP_FREEBIND), 1)
    sock.bind((text(address) if address else ("::" if ipv6 else "0.0.0.0"), port))
