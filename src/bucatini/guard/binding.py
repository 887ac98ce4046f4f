"""What one guest may call itself: a MAC address, and the IP addresses bound to it, each until some instant.

Three kinds of address are kept apart. *The lease* is the one IPv4 address that DHCP gave, ours or somebody else's
server (`snoop`): one at a time, each ACK replaces it whole, and it is NONE, LEASED or, once its time is over, EXPIRED.
Nobody is told of an expiry; it is what a look at the clock says. *Learned* are IPv6 addresses that somebody else's
network gives (`snoop6`), each until its own instant, `MAXIMUM_LEARNED` at most. *Bound* addresses and prefixes are what
we configured or delegated ourselves; they last until taken back, or until the instant they came with. The link-local
address that the MAC makes (RFC 4291 appendix A) is bound from the beginning. A guest that makes another one (RFC 7217)
and is alone on its link may be given fe80::/64 as a prefix.

`margin` shortens every lease: by how many seconds the clock handed in may be late. A lease must never end here after it
ended at the server, because from then on another guest may have the address.

The three `holds` are the innermost questions of the filter. Does not: read packets, know other guests (that no two have
the same address is for who binds), or grow without a bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import IntEnum

from bucatini.base.address import link_local_of
from bucatini.wire.octets import load16, load32, load_bytes

__all__ = ["MAXIMUM_LEARNED", "Binding", "LeaseState"]

MAXIMUM_LEARNED = 16
"""As many as Linux has on an interface (net.ipv6.conf.*.max_addresses). Behind it no more are learned."""
NO_ADDRESS = -1
NEVER = -math.inf


class LeaseState(IntEnum):
    """Of the IPv4 lease."""

    NONE = 0
    """None was given, or the last one was taken back (NAK) or given back (RELEASE, DECLINE)."""
    LEASED = 1
    EXPIRED = 2
    """The record is kept: only a new ACK or a NAK ends it."""


class Binding:
    """One guest's identity. Addresses go in and out packed; IPv4 is compared as a number in host order."""

    __slots__ = (
        "_bound",
        "_lease_dns",
        "_learned",
        "_named_dns",
        "_prefixes",
        "_seen",
        "_seen_until",
        "_static_dns",
        "address",
        "dns",
        "gateways",
        "link_local",
        "mac",
        "mac_high",
        "mac_low",
        "margin",
        "revision",
        "servers",
        "until",
    )

    def __init__(
        self,
        mac: bytes,
        gateways: Iterable[bytes] = (),
        *,
        servers: Iterable[bytes] | None = None,
        dns: Iterable[bytes] = (),
        margin: float = 0.0,
    ) -> None:
        """`gateways`: the routers of the link, always in reach. `servers`: who may answer DHCP, the IPv4 gateways when
        left out. `dns`: resolvers known without a lease.
        """
        if len(mac) != 6 or mac[0] & 1:
            raise ValueError(f"not the MAC address of one station: {mac.hex(':')}")
        self.mac = mac
        self.mac_high = mac[0] << 8 | mac[1]
        self.mac_low = int.from_bytes(mac[2:], "big")
        self.link_local = link_local_of(mac)
        self.gateways = frozenset(gateways)
        self.servers = frozenset(servers if servers is not None else (g for g in self.gateways if len(g) == 4))
        self.margin = margin
        self.address = NO_ADDRESS
        """Of the lease, also when it has expired."""
        self.until = NEVER
        """First instant at which the leased address is no longer the guest's."""
        self.dns = self._static_dns = frozenset(dns)
        """Resolvers the last ACK named, those of an IPv6 network, and those handed in."""
        self._lease_dns: frozenset[bytes] = frozenset()
        self._named_dns: frozenset[bytes] = frozenset()
        self.revision = 0
        """Counts the changes of the lease, for who follows it (published ports). An expiry is none."""
        self._bound: dict[bytes, float] = {self.link_local: math.inf}
        self._learned: dict[bytes, float] = {}
        self._prefixes: tuple[tuple[int, int, int], ...] = ()
        self._seen = bytes(16)
        self._seen_until = NEVER

    # -- the lease

    def lease(self, address: bytes, seconds: float, now: float, dns: Iterable[bytes] = ()) -> None:
        """The guest was given `address` for `seconds`; replaces everything the last lease said. `math.inf` is for
        guests that we configure ourselves, without DHCP.
        """
        self.address = int.from_bytes(address, "big")
        self.until = now + max(0.0, seconds - self.margin)
        self._lease_dns = frozenset(dns)
        self._lease_changed()

    def shorten(self, seconds: float, now: float) -> None:
        """The lease may have been made to end so soon; it never ends later by this."""
        self.until = min(self.until, now + max(0.0, seconds - self.margin))

    def clear(self) -> None:
        """The lease was taken or given back: its address is nobody's at once."""
        self.address = NO_ADDRESS
        self.until = NEVER
        self._lease_dns = frozenset()
        self._lease_changed()

    def inherit(self, other: Binding) -> None:
        """The lease of `other`, which this binding takes the place of."""
        self.address = other.address
        self.until = other.until
        self._lease_dns = other._lease_dns
        self.revision = other.revision
        self._lease_changed()

    def _lease_changed(self) -> None:
        self.dns = self._static_dns | self._lease_dns | self._named_dns
        self.revision += 1

    def state(self, now: float) -> LeaseState:
        """Of the lease at this instant."""
        if self.address == NO_ADDRESS:
            return LeaseState.NONE
        return LeaseState.LEASED if now < self.until else LeaseState.EXPIRED

    @property
    def leased(self) -> bytes | None:
        """The lease's address, packed, valid or not; None in state NONE."""
        return None if self.address == NO_ADDRESS else self.address.to_bytes(4, "big")

    # -- what an IPv6 network gives

    def learn(self, address: bytes, until: float, now: float) -> bool:
        """The guest has an IPv6 address until that instant; learning it again changes `until`. False, and it does not,
        for one that no host has as its own, or when there are `MAXIMUM_LEARNED`.
        """
        if address[0] >> 5 != 1 and address[0] >> 1 != 0xFC >> 1:  # 2000::/3, fc00::/7
            return False
        if address not in self._learned and len(self._learned) >= MAXIMUM_LEARNED:
            self._learned = {each: end for each, end in self._learned.items() if now < end}
            if len(self._learned) >= MAXIMUM_LEARNED:
                return False
        self._learned[address] = until
        self._forget_seen()
        return True

    def shorten_learned(self, address: bytes, seconds: float, now: float) -> None:
        """The same for a learned address; nothing happens when there is no such."""
        if address in self._learned:
            self._learned[address] = min(self._learned[address], now + max(0.0, seconds - self.margin))
            self._forget_seen()

    def unlearn(self, address: bytes) -> None:
        """Take back what `learn` gave; nothing happens when it did not."""
        self._learned.pop(address, None)
        self._forget_seen()

    def name_resolvers(self, addresses: Iterable[bytes]) -> None:
        """The resolvers that the network names, in place of those it named before."""
        self._named_dns = frozenset(addresses)
        self.dns = self._static_dns | self._lease_dns | self._named_dns

    # -- what we bind ourselves

    def bind(self, address: bytes, until: float = math.inf) -> None:
        """The guest may use `address` as well, of either family. Binding it again changes `until`."""
        self._bound[address] = until
        self._forget_seen()

    def unbind(self, address: bytes) -> None:
        """Take back what `bind` gave; nothing happens when it did not."""
        self._bound.pop(address, None)
        self._forget_seen()

    def bind_prefix(self, network: bytes, length: int) -> None:
        """Every address of network/length but the gateways' is the guest's: a delegated prefix, or a /64 in which it is
        alone with them.
        """
        width = 8 * len(network)
        if not 0 < length <= width:
            raise ValueError(f"not the length of a prefix to bind: {length}")
        shift = width - length
        self._prefixes = (*self._prefixes, (width, shift, int.from_bytes(network, "big") >> shift))
        self._forget_seen()

    # -- what the filter asks

    def holds_ipv4(self, address: int, now: float) -> bool:
        """Whether the guest may use this IPv4 address now."""
        if address == self.address and now < self.until:
            return True
        return self._holds_other(address, now)

    def _holds_other(self, address: int, now: float) -> bool:
        return address > 0 and now < self.until_of(address.to_bytes(4, "big"))

    def holds_ipv6(self, buf: memoryview, at: int, now: float) -> bool:
        """Whether the guest may use the IPv6 address at `at` now; 16 bytes must be there. The last answer is kept:
        nearly every packet has the source of the one before.
        """
        seen, index = self._seen, 15
        while index >= 0 and buf[at + index] == seen[index]:
            index -= 1
        if index >= 0:
            self._seen = load_bytes(buf, at, 16)
            self._seen_until = self.until_of(self._seen)
        return now < self._seen_until

    def _forget_seen(self) -> None:
        """`::` is held by nobody, so nothing is believed of it either."""
        self._seen = bytes(16)
        self._seen_until = NEVER

    def holds(self, address: bytes, now: float) -> bool:
        """The same for a packed address of either family."""
        if len(address) == 4:
            return self.holds_ipv4(int.from_bytes(address, "big"), now)
        return now < self.until_of(address)

    def expired(self, address: bytes, now: float) -> bool:
        """Whether the address was this guest's and its time is over. For the name of a drop, never for a grant."""
        if self.leased == address:
            return now >= self.until
        return NEVER < self.until_of(address) <= now

    def until_of(self, address: bytes) -> float:
        """First instant at which an address, other than the lease's, is no longer the guest's; minus infinity: it never
        was.
        """
        until = self._bound.get(address)
        if until is not None:
            return until
        if address in self.gateways:
            return NEVER
        until = self._learned.get(address)
        if until is not None:
            return until
        width, number = 8 * len(address), int.from_bytes(address, "big")
        for prefix_width, shift, network in self._prefixes:
            if prefix_width == width and number >> shift == network:
                return math.inf
        return NEVER

    def is_mac(self, buf: memoryview, at: int) -> bool:
        """Whether the six bytes at `at` are the guest's MAC address."""
        return load32(buf, at + 2) == self.mac_low and load16(buf, at) == self.mac_high
