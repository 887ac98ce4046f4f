"""What there is to say about leases (RFC 2131): who has which address, what happened to it, why a guest got none.

Events are values in the past tense, for the guard's bindings and for whoever watches; instants are those of the pool.

Does not: decide anything (`pool` does).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = [
    "INFINITE",
    "Lease",
    "LeaseDeclined",
    "LeaseEvent",
    "LeaseExpired",
    "LeaseGranted",
    "LeaseRecord",
    "LeaseRefusal",
    "LeaseReleased",
    "LeaseRenewed",
    "Outcome",
    "Phase",
    "PoolExhausted",
]

INFINITE = 0xFFFFFFFF
"""A lease for ever, RFC 2131 section 3.3."""


class Lease(NamedTuple):
    """What a MAC has, or is offered. `until` is infinite for a lease for ever."""

    mac: bytes
    address: bytes
    prefix_length: int
    gateway: bytes
    since: float
    """When it was last granted or renewed."""
    until: float
    link: str


class Phase(StrEnum):
    """What an address of the pool is doing."""

    OFFERED = "offered"
    LEASED = "leased"
    RELEASED = "released"
    """Given back by its owner, and nobody else's before the end of the lease."""
    DECLINED = "declined"
    """At rest: somebody else answered there."""
    ENDED = "ended"
    """Free, and remembered with its last owner."""


class LeaseRecord(NamedTuple):
    """One address as it survives a restart. Links do not: after it they may be others."""

    address: bytes
    mac: bytes
    phase: Phase
    since: float
    until: float


class LeaseGranted(NamedTuple):
    """A MAC has an address it did not have; also after a restart, for each lease that was read."""

    mac: bytes
    address: bytes
    until: float
    link: str
    """Empty after a restart, until the MAC speaks."""


class LeaseRenewed(NamedTuple):
    """A lease goes on, until later."""

    mac: bytes
    address: bytes
    until: float
    link: str


class LeaseReleased(NamedTuple):
    """A guest gave its address back; nobody else gets it before `until`."""

    mac: bytes
    address: bytes
    until: float
    link: str


class LeaseExpired(NamedTuple):
    """The end of a lease came, and its owner had neither renewed nor released it."""

    mac: bytes
    address: bytes
    link: str


class LeaseDeclined(NamedTuple):
    """A guest found its address in use and has it no more; nobody else gets it before `until`."""

    mac: bytes
    address: bytes
    until: float
    link: str


class PoolExhausted(NamedTuple):
    """A guest got no address, for there is none. Said once, until an address was given again."""

    mac: bytes
    link: str


LeaseEvent = LeaseGranted | LeaseRenewed | LeaseReleased | LeaseExpired | LeaseDeclined | PoolExhausted


class LeaseRefusal(StrEnum):
    """Why a guest did not get what it asked for. Silence is the answer to all but the first."""

    NOT_YOURS = "not an address of this guest"
    """The one that a server answers by NAK."""
    EXHAUSTED = "no address is free"
    OFFERS = "too many offers are open"
    IDENTITIES = "too many identities on one link"
    OTHER_LINK = "this identity lives on another link"
    DECLINES = "too many addresses declined"
    HARDWARE = "the client hardware address is not that of the frame"
    RELAYED = "relayed, and there is no relay"
    BOOTP = "BOOTP, whose addresses never end"


class Outcome(NamedTuple):
    """What a request led to. Events come in the order of their happening, and may be about others."""

    lease: Lease | None
    events: tuple[LeaseEvent, ...] = ()
    refusal: LeaseRefusal | None = None
