"""What the stack has to know about the virtual network and its link."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StackSettings"]


@dataclass(frozen=True, slots=True)
class StackSettings:
    """Addresses are packed; an address of a family that is off is None."""

    guest_mac: bytes
    gateway_mac: bytes
    guest_ipv4: bytes | None
    guest_ipv6: bytes | None
    gateway_ipv4: bytes | None
    gateway_ipv6: bytes | None
    mtu: int
    """Of the link, bytes of IP packet."""
    tso4: bool
    """The link cuts TCP superframes over IPv4 by itself; `tso6` over IPv6."""
    tso6: bool
    flow_limit: int = 65536

    @property
    def gateways(self) -> tuple[bytes, ...]:
        """The gateway's addresses of the families that are on."""
        return tuple(address for address in (self.gateway_ipv4, self.gateway_ipv6) if address)

    @property
    def guests(self) -> tuple[bytes, ...]:
        """The guest's addresses of the families that are on."""
        return tuple(address for address in (self.guest_ipv4, self.guest_ipv6) if address)

    def mss(self, family_length: int) -> int:
        """Largest TCP payload of one packet of the link; `family_length` is 4 or 16, the length of an address."""
        return self.mtu - (40 if family_length == 4 else 60)
