"""The addresses a guest uses: the ones it was given, and what its packets show.

A guest need not take what DHCP offers: it may have configured itself, or kept an older lease while the host's network
changed. Whoever connects to a forwarded port must reach the address the guest answers at, so sources are learned from
what opens something: ARP, neighbour discovery, a first packet of a flow. Never from every packet, and never the
unspecified address, which duplicate address detection and DHCP use as a source.

A given address that the guest was seen with wins, however many others it has (containers of its own, say); until then
the latest one seen; at first the given one.
"""

from __future__ import annotations

__all__ = ["GuestAddresses"]


class GuestAddresses:
    """One guest's addresses, at most three: IPv4, IPv6 and IPv6 link-local."""

    __slots__ = ("_confirmed4", "_confirmed6", "_given4", "_given6", "_seen4", "_seen6", "link_local")

    def __init__(self, ipv4: bytes | None, ipv6: bytes | None, link_local: bytes | None = None) -> None:
        """`link_local` is what the guest's MAC makes: most have that one before they have said a word."""
        self.link_local = link_local
        self._seen4: bytes | None = None
        self._seen6: bytes | None = None
        self._given4 = ipv4
        self._given6 = ipv6
        self._confirmed4 = self._confirmed6 = False

    def give(self, ipv4: bytes | None, ipv6: bytes | None) -> None:
        """The guest is to use these from now on; it is reached at the old ones until it was seen with the new."""
        if ipv4 != self._given4:
            if self._confirmed4:
                self._seen4 = self._given4
            self._given4, self._confirmed4 = ipv4, False
        if ipv6 != self._given6:
            if self._confirmed6:
                self._seen6 = self._given6
            self._given6, self._confirmed6 = ipv6, False

    def learn(self, source: bytes) -> None:
        """The guest sent something from `source`, packed."""
        if len(source) == 4:
            if source == self._given4:
                self._confirmed4 = True
            elif source[0] not in (0, 127) and source[0] < 224:
                self._seen4 = source
        elif source[0] == 0xFE and source[1] & 0xC0 == 0x80:
            self.link_local = source
        elif source == self._given6:
            self._confirmed6 = True
        elif source[0] != 0xFF and any(source[:15]):
            self._seen6 = source

    def of(self, length: int) -> bytes | None:
        """Where to reach the guest over the family whose addresses have `length` bytes; None when nothing is known."""
        if length == 4:
            return self._given4 if self._confirmed4 or self._seen4 is None else self._seen4
        chosen = self._given6 if self._confirmed6 or self._seen6 is None else self._seen6
        return chosen if chosen is not None else self.link_local

    def all(self) -> tuple[bytes, ...]:
        """Every address known to be the guest's; of each family the one it is reached at first."""
        known = (self.of(4), self.of(16), self._given4, self._seen4, self._given6, self._seen6, self.link_local)
        return tuple(dict.fromkeys(address for address in known if address is not None))
