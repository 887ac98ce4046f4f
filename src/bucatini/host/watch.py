"""Noticing that the host's network changed: links, addresses and routes by rtnetlink(7) groups, resolv.conf by stat(2).

The kernel sends a message for each change to whoever joined its group. What it says is not read: a burst of messages
may overflow the socket (ENOBUFS), so whoever is told reads the whole state again anyway (`host.mirror`). resolv.conf
gives no event that survives being re-linked, replaced and mounted over, so it is compared when asked: ask when
`fileno()` is readable, and about once a second.

Does not: wait for a burst to end (the caller does), say what changed, or notice rules and neighbours. Renewed
advertisements and DHCP leases refresh routes and count as changes: compare before acting.
"""

from __future__ import annotations

import errno
import socket
from types import TracebackType
from typing import Self

from bucatini.base.errors import HostError
from bucatini.host.netlink import Netlink
from bucatini.host.resolvers import DEFAULT_PATH, file_identity

__all__ = ["HostWatch", "default_interface", "host_addresses"]

# linux/rtnetlink.h RTMGRP_*
_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE = 0x1, 0x10, 0x40, 0x100, 0x400
_GROUPS = _LINK | _IPV4_ADDRESS | _IPV4_ROUTE | _IPV6_ADDRESS | _IPV6_ROUTE
_DISCARDED = 1  # bytes read of each message; the kernel drops the rest
_TURN = 1000
"""Messages thrown away in one call; whoever can change routes faster only makes us come back."""
_LOOPBACK = 1
"""The index of `lo` in every network namespace."""


class HostWatch:
    """A watch on the network namespace the caller is in now, and on `resolv_conf`. Raises HostError."""

    def __init__(self, resolv_conf: str = DEFAULT_PATH) -> None:
        self._path = resolv_conf
        self._identity = _identity(resolv_conf)
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
        except OSError as error:
            raise HostError(f"cannot watch the host's network: {error.strerror}") from None
        try:
            self._socket.bind((0, _GROUPS))
        except OSError as error:
            self._socket.close()
            raise HostError(f"cannot watch the host's network: {error.strerror}") from None

    def fileno(self) -> int:
        """Readable after a change of links, addresses or routes; never for resolv.conf."""
        return self._socket.fileno()

    def changed(self) -> bool:
        """Whether anything changed since the last call. Never blocks; one recv and one stat when nothing did."""
        network = self._drain()
        return self._file_changed() or network

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drain(self) -> bool:
        for taken in range(_TURN):
            try:
                self._socket.recv(_DISCARDED)
            except BlockingIOError:
                return taken > 0
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise HostError(f"cannot watch the host's network: {error.strerror}") from None
                # Messages were lost; the error is reported once and the socket goes on.
        return True

    def _file_changed(self) -> bool:
        identity = _identity(self._path)
        if identity is None or identity == self._identity:
            return False  # A file that is gone leaves the old list in force, see `host.resolvers`.
        self._identity = identity
        return True


def default_interface(family: int) -> int:
    """Index of the interface of the first default route of `family` in the main table; 0 when there is none.

    `family` is `socket.AF_INET` or `socket.AF_INET6`. Reads the caller's network namespace; raises HostError.
    """
    try:
        with Netlink() as netlink:
            routes = netlink.routes(family)
    except OSError as error:
        raise HostError(f"cannot read the host's routes: {error.strerror}") from None
    found = (route.interface for route in routes if route.prefix_length == 0 and route.interface > _LOOPBACK)
    return next(found, 0)


def host_addresses() -> frozenset[bytes]:
    """Every address of the caller's network namespace, packed, of whatever scope. Raises HostError.

    A connected UDP socket whose address is no longer among them is of no use: IPv4 answers ENETUNREACH for ever, IPv6
    sends what nobody can answer.
    """
    try:
        with Netlink() as netlink:
            return frozenset(one.address for one in netlink.addresses())
    except OSError as error:
        raise HostError(f"cannot read the host's addresses: {error.strerror}") from None


def _identity(path: str) -> tuple[int, ...] | None:
    try:
        return file_identity(path)
    except (OSError, ValueError):
        return None
