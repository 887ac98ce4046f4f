"""What a guest is made from: one immutable value, handed to `launch` and inherited by the guest's processes.

Named tuples, not dataclasses: this module is imported before the first fork, when every millisecond delays the command.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from bucatini.host.tap import Offloads

__all__ = ["GuestSettings", "NetSettings", "Route", "default_hostname"]

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


class NetSettings(NamedTuple):
    """The guest's end of the link, however the guest came to be. Nothing is checked beyond what the kernel refuses."""

    mac: bytes | None
    """6 bytes; None: the kernel's choice."""
    mtu: int
    """Bytes of an IP packet on `interface`; 0: the kernel's choice."""
    addresses: tuple[tuple[bytes, int], ...]
    """(packed address, prefix length), any number of either family; one of a family switched off is left out."""
    gateways: tuple[bytes, ...]
    """A default route through each; one that is in no subnet of `addresses` is made reachable on the link first."""
    routes: tuple[Route, ...] = ()
    """Further routes, in any order: one may depend on another."""
    ipv4: bool = True
    ipv6: bool = True
    """False also disables IPv6 on `interface`, so that not even a link-local address exists."""
    offloads: Offloads = Offloads()
    """At most these are asked of the kernel."""
    interface: str = "eth0"
    """1 to 15 bytes."""
    transmit_queue: int = 10000
    """Frames the kernel may hold for us while we are busy (txqueuelen); the kernel's own 500 loses bursts of UDP."""
    configure: bool = True
    """False: `interface` exists, with the MAC and the queue above, and is otherwise as the kernel makes it, down; MTU,
    addresses, routes and families are left to whoever rules the namespace, by DHCP and SLAAC or by hand."""
    accept_ra: bool = False
    """Whether router advertisements are asked for and heeded as the kernel does by itself."""
    reuse: bool = False
    """Whether a persistent TAP of that name, made by somebody else, is taken over."""


class GuestSettings(NamedTuple):
    """The command, and the network and files it finds. Nothing here is checked beyond what the kernel refuses."""

    command: tuple[str, ...]
    """Program and arguments; the program is looked up in PATH as a shell does."""
    guest_mac: bytes | None
    """From here to `routes`: see `NetSettings`."""
    mtu: int
    addresses: tuple[tuple[bytes, int], ...]
    gateways: tuple[bytes, ...]
    routes: tuple[Route, ...] = ()
    resolv_conf: str | None = None
    """Text of the guest's /etc/resolv.conf; None leaves the host's visible."""
    hosts: str | None = None
    """Text of the guest's /etc/hosts; None leaves the host's visible."""
    hostname: str = ""
    """At most 64 bytes; empty: `default_hostname`."""
    ipv4: bool = True
    """From here to `accept_ra`: see `NetSettings`."""
    ipv6: bool = True
    offloads: Offloads = Offloads()
    interface: str = "eth0"
    transmit_queue: int = 10000
    configure: bool = True
    accept_ra: bool = False
    argv0: str | None = None
    """What the command finds as its own name in place of `command[0]`: a login shell's begins with `-`."""
    netns_only: bool = False
    """Never make a user namespace; without the privilege to make the others, that is an error."""

    @property
    def network(self) -> NetSettings:
        """The part that any guest has."""
        return NetSettings(
            mac=self.guest_mac,
            mtu=self.mtu,
            addresses=self.addresses,
            gateways=self.gateways,
            routes=self.routes,
            ipv4=self.ipv4,
            ipv6=self.ipv6,
            offloads=self.offloads,
            interface=self.interface,
            transmit_queue=self.transmit_queue,
            configure=self.configure,
            accept_ra=self.accept_ra,
        )
