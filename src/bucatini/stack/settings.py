"""What the stack has to know about the virtual network and its link."""

from __future__ import annotations

from dataclasses import dataclass, field

from bucatini.forward.translate import Translation
from bucatini.services.dhcp import DhcpSettings
from bucatini.services.dhcpv6 import Dhcp6Settings
from bucatini.services.router import RouterSettings

__all__ = ["StackSettings"]


@dataclass(frozen=True, slots=True)
class StackSettings:
    """Addresses are packed; an address of a family that is off is None.

    One immutable value, replaced whole when the host's network changes.
    """

    guest_mac: bytes
    gateway_mac: bytes
    guest_ipv4: bytes | None
    """The address the guest was given; what it uses beside it is learned, see `stack.addresses`."""
    guest_ipv6: bytes | None
    gateway_ipv4: bytes | None
    gateway_ipv6: bytes | None
    mtu: int
    """Of the link, bytes of IP packet."""
    tso4: bool
    """The link cuts TCP superframes over IPv4 by itself; `tso6` over IPv6."""
    tso6: bool
    flow_limit: int = 65536
    ipv4: bool = True
    """Whether the link has the family at all: a guest may be without address yet."""
    ipv6: bool = True
    translation: Translation = field(default_factory=Translation)
    resolvers: tuple[bytes, ...] = ()
    """Addresses at whose port 53 our own name service answers."""
    given: tuple[bytes, ...] = ()
    """All addresses that the guest was given, where there are more than `guests`."""
    own: tuple[bytes, ...] = ()
    """Addresses that exist on this link alone: what `translation` does not lead elsewhere ends there."""
    echoes: tuple[bytes, ...] = ()
    """Addresses at which we answer echo requests ourselves."""
    tcp: bool = True
    """Protocols that are translated."""
    udp: bool = True
    icmp: bool = True
    ndp: bool = True
    """Whether neighbour solicitations are answered."""
    dhcp: DhcpSettings | None = None
    """None: requests are swallowed."""
    dhcpv6: Dhcp6Settings | None = None
    router: RouterSettings | None = None

    @property
    def gateways(self) -> tuple[bytes, ...]:
        """The gateway's addresses of the families that are on."""
        return tuple(address for address in (self.gateway_ipv4, self.gateway_ipv6) if address)

    @property
    def guests(self) -> tuple[bytes, ...]:
        """The guest's given addresses of the families that are on."""
        return tuple(address for address in (self.guest_ipv4, self.guest_ipv6) if address)

    def mss(self, family_length: int) -> int:
        """Largest TCP payload of one packet of the link; `family_length` is 4 or 16, the length of an address."""
        return self.mtu - (40 if family_length == 4 else 60)
