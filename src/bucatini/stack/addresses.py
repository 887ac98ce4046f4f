"""The addresses a guest uses: the ones it was given, and what its packets show.

A guest need not take what DHCP offers: it may have configured itself, or kept an older lease while the host's network
changed. Whoever connects to a forwarded port must reach the address the guest answers at, so sources are learned from
what opens something: ARP, neighbour discovery, a first packet of a flow. Never from every packet, and never the
unspecified address, which duplicate address detection and DHCP use as a source.

A guest that comes up anew says so: it asks for routers, or for a lease without having an address. Then the given
address counts as not seen; where another guest may have come, nothing does.

A given address that the guest was seen with wins, however many others it has (containers of its own, say); until then
the latest one seen; at first the given one.
"""

from __future__ import annotations

__all__ = ["GuestAddresses"]


class GuestAddresses:
    """One guest's addresses: of each family the given and the latest other one, and the link-local one."""

    __slots__ = ("_confirmed", "_given", "_known", "_seen", "link_local")

    def __init__(self, ipv4: bytes | None, ipv6: bytes | None, link_local: bytes | None = None) -> None:
        """`link_local` is what the guest's MAC makes: most have that one before they have said a word."""
        self.link_local = link_local
        self._given = {4: ipv4, 16: ipv6}
        self._seen: dict[int, bytes | None] = {4: None, 16: None}
        self._confirmed = {4: False, 16: False}
        self._known: tuple[bytes, ...] | None = None

    def give(self, ipv4: bytes | None, ipv6: bytes | None) -> None:
        """The guest is to use these from now on; it is reached at the old ones until it was seen with the new."""
        for length, given in ((4, ipv4), (16, ipv6)):
            if given != self._given[length]:
                if self._confirmed[length]:
                    self._seen[length] = self._given[length]
                self._given[length], self._confirmed[length] = given, False
        self._known = None

    def forget(self, length: int) -> None:
        """Whoever comes up now on the guest's side may be another, or configure itself in another way: what was seen of
        the family whose addresses have `length` bytes means nothing any more.
        """
        self._seen[length] = None
        self._confirmed[length] = False
        self._known = None

    def doubt(self, length: int) -> None:
        """The guest configures itself anew: that it used the given address before means nothing any more. The other one
        that was seen stays: a router's announcement may have made the guest take it before it asked for one.
        """
        self._confirmed[length] = False
        self._known = None

    def learn(self, source: bytes) -> None:
        """The guest sent something from `source`, packed."""
        length = len(source)
        if source == self._given[length]:
            if not self._confirmed[length]:
                self._confirmed[length] = True
                self._known = None
        elif length == 16 and source[0] == 0xFE and source[1] & 0xC0 == 0x80:
            if source != self.link_local:
                self.link_local = source
                self._known = None
        elif source != self._seen[length] and _is_unicast(source):
            self._seen[length] = source
            self._known = None

    def of(self, length: int) -> bytes | None:
        """Where to reach the guest over the family whose addresses have `length` bytes; None when nothing is known."""
        seen = self._seen[length]
        chosen = self._given[length] if self._confirmed[length] or seen is None else seen
        return chosen if chosen is not None or length == 4 else self.link_local

    def seen(self, length: int) -> bytes | None:
        """As `of`, but only an address that the guest was seen with, and no link-local one."""
        return self._given[length] if self._confirmed[length] else self._seen[length]

    def all(self) -> tuple[bytes, ...]:
        """Every address known to be the guest's; of each family the one it is reached at first."""
        if self._known is None:
            known = (self.of(4), self.of(16), *self._given.values(), *self._seen.values(), self.link_local)
            self._known = tuple(dict.fromkeys(address for address in known if address is not None))
        return self._known


def _is_unicast(address: bytes) -> bool:
    """Neither unspecified, loopback nor a group."""
    if len(address) == 4:
        return address[0] not in (0, 127) and address[0] < 224
    return address[0] != 0xFF and any(address[:15])
