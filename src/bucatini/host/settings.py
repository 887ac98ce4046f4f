"""What a guest is made from: one immutable value, handed to `launch` and inherited by the guest's processes.

Named tuples, not dataclasses: this module is imported before the first fork, when every millisecond delays the command.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from bucatini.host.tap import Offloads

__all__ = ["GuestSettings", "Route", "default_hostname"]

_HOSTNAME_MAX = 64  # __NEW_UTS_LEN, bytes


def default_hostname() -> str:
    """The name of a guest that was given none: `bucatini-` and the host's, cut to what the kernel takes."""
    return f"bucatini-{socket.gethostname()}"[:_HOSTNAME_MAX]


class Route(NamedTuple):
    """One unicast route of the main table. Addresses are packed; their length tells the family."""

    destination: bytes
    """Network address; all zero with `prefix_length` 0 is the default route."""
    prefix_length: int
    gateway: bytes | None = None
    """None: the destination is on the link itself."""


class GuestSettings(NamedTuple):
    """The command, and the network and files it finds. Nothing here is checked beyond what the kernel refuses."""

    command: tuple[str, ...]
    """Program and arguments; the program is looked up in PATH as a shell does."""
    guest_mac: bytes
    """6 bytes."""
    mtu: int
    """Bytes of an IP packet on `interface`."""
    addresses: tuple[tuple[bytes, int], ...]
    """(packed address, prefix length), any number of either family; one of a family switched off is left out."""
    gateways: tuple[bytes, ...]
    """A default route through each; one that is in no subnet of `addresses` is made reachable on the link first."""
    routes: tuple[Route, ...] = ()
    """Further routes, in any order: one may depend on another."""
    resolv_conf: str | None = None
    """Text of the guest's /etc/resolv.conf; None leaves the host's visible."""
    hosts: str | None = None
    """Text of the guest's /etc/hosts; None leaves the host's visible."""
    hostname: str = ""
    """At most 64 bytes; empty: `default_hostname`."""
    ipv4: bool = True
    ipv6: bool = True
    """False also disables IPv6 on `interface`, so that not even a link-local address exists."""
    offloads: Offloads = Offloads()
    """At most these are asked of the kernel."""
    interface: str = "eth0"
    """1 to 15 bytes."""
    transmit_queue: int = 10000
    """Frames the kernel may hold for us while we are busy (txqueuelen); the kernel's own 500 loses bursts of UDP."""
