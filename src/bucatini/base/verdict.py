"""What is asked of policy and what it answers."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["EGRESS", "INGRESS", "NO_ADDRESS", "NO_PORT", "Request", "Verdict"]

EGRESS = "egress"
"""From the guest to the network."""

INGRESS = "ingress"
"""From the network to a published port of the guest."""


class Request(NamedTuple):
    """One new flow that wants to exist. `protocol` is the IP protocol number (6, 17, 1, 58)."""

    direction: str
    protocol: int
    address: bytes
    """Packed address of the peer: the destination for egress, the client for ingress."""
    port: int
    """Host order: the destination port, outbound and inbound alike; 0 where the protocol has none."""


class Verdict(NamedTuple):
    """The answer, and the name of the rule that gave it: it appears in events, captures and summaries."""

    allow: bool
    rule: str


NO_ADDRESS = Verdict(False, "invalid: unspecified address")
NO_PORT = Verdict(False, "invalid: port 0")
"""What every policy says of flows that cannot be."""
