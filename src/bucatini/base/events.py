"""What happened to flows, and to frames that ended here, as values in the past tense; whoever observes receives them
in order.

An event is self-contained: a reader of `FlowClosed` need not have seen its `FlowOpened`. Instants are not part of an
event: they are handed to the listener beside it, so that the code below `stack/` reads no clock. All types are
tuples: immutable, without `__dict__`, and cheap enough for one per connection.

Does not: report packets (captures do) or each drop (`reasons.Counters` counts them; `FrameDropped` is rate-limited).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

from bucatini.base.address import Endpoint
from bucatini.base.reasons import DropReason

__all__ = [
    "ICMP",
    "TCP",
    "UDP",
    "Ending",
    "Event",
    "FlowClosed",
    "FlowEvent",
    "FlowOpened",
    "FlowRefused",
    "FrameDropped",
    "Listener",
    "Refusal",
]

TCP = "tcp"
UDP = "udp"
ICMP = "icmp"
"""Echo of either family: ICMP (RFC 792) or ICMPv6 (RFC 4443). The guest's port is the echo identifier, the peer's 0."""


class Refusal(StrEnum):
    """Why a flow was not begun."""

    POLICY = "policy"
    """A rule, or the default of the policy, says no; `rule` names it."""
    TABLE_FULL = "flow table full"
    SOCKETS = "no host socket"
    """The host gave no socket, port or descriptor."""
    LOCAL = "not a usable peer"
    """The peer's address cannot be spoken to from here whatever the policy says."""


class Ending(StrEnum):
    """How a flow ended."""

    CLOSED = "closed"
    """Both sides finished in order (TCP), or the flow was idle for its usual time (UDP, ICMP)."""
    GUEST_RESET = "reset by guest"
    PEER_RESET = "reset by peer"
    TIMEOUT = "timeout"
    """A handshake, an acknowledgement or a keep-alive did not come in time."""
    PEER_REFUSED = "refused by peer"
    UNREACHABLE = "unreachable"
    """The host knows no way to the peer, or the network said so."""
    POLICY = "ended by policy"
    """The policy was changed while it lived, and the new one says no."""
    STOPPED = "engine stopped"
    FAILED = "failed"
    """The host's socket failed in a way that is none of the above."""


class FlowOpened(NamedTuple):
    """A flow was admitted: its first packet came and a rule allowed it. The peer has not necessarily answered."""

    flow_id: int
    """Number of the flow, unique in one run of the engine, from 1."""
    protocol: str
    """`TCP`, `UDP` or `ICMP`."""
    direction: str
    """`verdict.EGRESS` or `verdict.INGRESS`."""
    guest: Endpoint
    peer: Endpoint
    """The far end as the guest sees it."""
    host: Endpoint | None
    """What the host really dials or listens on, where it differs from `peer`: the host's loopback, a resolver."""
    rule: str


class FlowRefused(NamedTuple):
    """A flow wanted to exist and was not begun; the guest (or the client of a published port) was told so at once."""

    protocol: str
    direction: str
    guest: Endpoint
    peer: Endpoint
    rule: str
    """The rule that denied; empty when no rule did (`reason` is then not `POLICY`)."""
    reason: Refusal
    times: int = 1
    """How often it was wanted since it was told last. Only who sees packets and no flows tells several together."""


class FlowClosed(NamedTuple):
    """A flow ended; nothing more will be said of its `flow_id`."""

    flow_id: int
    protocol: str
    direction: str
    guest: Endpoint
    peer: Endpoint
    host: Endpoint | None
    rule: str
    sent_bytes: int
    """Payload from the guest that the host's socket took, without headers and retransmissions."""
    received_bytes: int
    """Payload to the guest: acknowledged by it (TCP) or written to the link (UDP, ICMP)."""
    duration: float
    """Seconds since it was opened."""
    how: Ending


FlowEvent = FlowOpened | FlowRefused | FlowClosed


class FrameDropped(NamedTuple):
    """Frames of the guest ended here. The first of its reason is told at once, those that follow soon after are told
    together; the addresses are those of the last.
    """

    reason: DropReason
    times: int
    """Frames with this reason since it was told last, this one included."""
    mac: bytes | None
    """Who the frame says it is from; None when it is too short to say. The same holds for the addresses."""
    source: bytes | None
    """Packed IP address of the sender, also in ARP."""
    destination: bytes | None


Event = FlowEvent | FrameDropped


class Listener(Protocol):
    """Whoever wants to know. Called on the engine's thread within a turn: it must not block and must not raise."""

    def on_event(self, event: Event, now: float) -> None:
        """`now` is the engine's monotonic instant, in seconds, at which `event` happened."""
