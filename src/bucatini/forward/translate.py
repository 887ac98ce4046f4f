"""Address translation between the guest and the host, as tables that a configuration fills and a flow looks up once.

Outward, the first row that matches says where a flow really goes:

| the guest writes to | it goes to |
|---|---|
| port 53 or 853 of an address in `dns`, by TCP or UDP | the resolver beside it, same port |
| an address in `host_loopback` | the host's 127.0.0.1 or ::1 |
| a visible address in `guest_addresses` | the real address of the host beside it |
| anything else | where it was written to |

Inward, the guest must see a peer that it can answer: an address of its own, a loopback or an unspecified one would
stay inside it. So the host's own 127.0.0.1 and ::1 are shown under the address that leads back there, a real address of
`guest_addresses` under its visible one, and whatever else cannot be shown under one of `ours`. The port stays as it is,
so an answer finds its flow.

Addresses are packed and never IPv4-mapped: callers unwrap first (`base.address.unmap`).

Does not: choose source addresses or ports of host sockets, or ask policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bucatini.base.address import Endpoint

__all__ = ["DNS_PORTS", "LOOPBACK_V4", "LOOPBACK_V6", "Translation"]

DNS_PORTS = frozenset((53, 853))
"""DNS over UDP and TCP (RFC 1035), over TLS (RFC 7858) and over QUIC (RFC 9250)."""

LOOPBACK_V4 = bytes((127, 0, 0, 1))
LOOPBACK_V6 = bytes(15) + b"\x01"

_TCP, _UDP = 6, 17
_UNSPECIFIED = (bytes(4), bytes(16))


@dataclass(frozen=True, slots=True)
class Translation:
    """The tables; of two rows for one address the first holds. Raises ValueError for addresses that cannot be."""

    host_loopback: tuple[bytes, ...] = ()
    """Addresses the guest sees that mean the host's loopback; any number per family."""
    guest_addresses: tuple[tuple[bytes, bytes], ...] = ()
    """Visible address, and the real address of the host it means; both of one family."""
    dns: tuple[tuple[bytes, bytes], ...] = ()
    """Visible address, and the real resolver, which may be of the other family."""
    ours: tuple[bytes, ...] = ()
    """Our own addresses on the guest's link, as which a peer that cannot be shown is shown."""

    _dns: dict[bytes, bytes] = field(init=False, repr=False, compare=False)
    _outbound: dict[bytes, bytes] = field(init=False, repr=False, compare=False)
    _inbound: dict[bytes, bytes] = field(init=False, repr=False, compare=False)
    _ours: dict[int, bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows = (*self.guest_addresses, *self.dns)
        for address in (*self.host_loopback, *self.ours, *(address for row in rows for address in row)):
            if len(address) not in (4, 16):
                raise ValueError(f"not a packed address: {address!r}")
        if any(len(visible) != len(real) for visible, real in self.guest_addresses):
            raise ValueError("a visible and a real address of one row are of different families")
        loopback = [(visible, _loopback(len(visible))) for visible in self.host_loopback]
        tables: dict[str, dict[bytes, bytes] | dict[int, bytes]] = {
            "_dns": _first(list(self.dns)),
            "_outbound": _first([*loopback, *self.guest_addresses]),
            "_inbound": _first([(real, visible) for visible, real in (*loopback, *self.guest_addresses)]),
            "_ours": {len(address): address for address in reversed(self.ours)},
        }
        for name, table in tables.items():
            object.__setattr__(self, name, table)

    def outbound(self, protocol: int, address: bytes, port: int) -> Endpoint | None:
        """Where a flow of the guest to `address` and `port` really goes; None: just there.

        `protocol` is the IP protocol number. The port never changes; it is 0 where the protocol has none.
        """
        if port in DNS_PORTS and protocol in (_TCP, _UDP):
            resolver = self._dns.get(address)
            if resolver is not None:
                return Endpoint(resolver, port)
        real = self._outbound.get(address)
        return None if real is None else Endpoint(real, port)

    def inbound(self, peer: bytes, guests: tuple[bytes, ...]) -> bytes | None:
        """The address under which the guest sees the peer of a flow that comes in; None: there is none, refuse.

        `guests` are the guest's own addresses, given and learned.
        """
        visible = self._inbound.get(peer)
        if visible is not None:
            return visible
        if _is_loopback(peer) or peer in _UNSPECIFIED or peer in guests:
            return self._ours.get(len(peer))
        return peer


def _first(rows: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """A dictionary in which the first of several rows with one key holds."""
    return dict(reversed(rows))


def _loopback(length: int) -> bytes:
    return LOOPBACK_V4 if length == 4 else LOOPBACK_V6


def _is_loopback(address: bytes) -> bool:
    """127.0.0.0/8 (RFC 1122 section 3.2.1.3) or ::1 (RFC 4291 section 2.5.3)."""
    return address[0] == 127 if len(address) == 4 else address == LOOPBACK_V6
