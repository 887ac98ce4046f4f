"""A conversation of datagrams: UDP between two ports, or ICMP echo under one identifier.

There is no state beyond "it exists": it is made by the first datagram, kept by traffic in either direction, and
forgotten after a silence (RFC 4787 REQ-5 asks for at least two minutes for UDP). The host socket is connected to the
peer, so the kernel delivers only what that peer sends (RFC 4787: address and port dependent filtering) and reports
errors about it. The guest's own source port is kept where the host lets us have it, because protocols read meaning
into it.
"""

from __future__ import annotations

from typing import Any

from bucatini.base.address import Endpoint

__all__ = ["ICMP_TIMEOUT", "NEVER", "UDP_TIMEOUT", "DatagramFlow"]

NEVER = float("inf")

UDP_TIMEOUT = 180.0
"""Seconds of silence, both ways."""
ICMP_TIMEOUT = 60.0


class DatagramFlow:
    """`guest` and `peer` as the guest sees them; for ICMP echo `guest.port` is the identifier and `peer.port` 0."""

    __slots__ = (
        "armed_at",
        "deadline",
        "direction",
        "fd",
        "guest",
        "gso",
        "host",
        "id",
        "ip_sum",
        "key",
        "last_active",
        "mate",
        "opened_at",
        "peer",
        "pieces",
        "protocol",
        "pseudo_sum",
        "received",
        "rule",
        "sent",
        "sock",
        "template",
        "timeout",
    )

    def __init__(self, protocol: int, guest: Endpoint, peer: Endpoint, direction: str, now: float) -> None:
        self.protocol = protocol
        self.guest = guest
        self.peer = peer
        self.host: Endpoint | None = None
        self.direction = direction
        self.rule = ""
        self.id = 0
        self.key = b""
        self.template = b""
        self.ip_sum = 0
        self.pseudo_sum = 0
        self.sock: Any = None
        self.fd = -1
        self.mate: Any = None
        """The other end of a spliced conversation, or None."""
        self.pieces: list[int] = []
        """Position and length of each datagram of this turn that waits for the socket, in the link's slots."""
        self.gso = 0
        self.timeout = UDP_TIMEOUT if protocol == 17 else ICMP_TIMEOUT
        self.last_active = now
        self.deadline = NEVER
        self.armed_at = NEVER
        self.opened_at = now
        self.sent = 0
        """Payload bytes towards the host, then towards the guest."""
        self.received = 0

    def __repr__(self) -> str:
        return f"<DatagramFlow {self.id} {self.protocol} {self.guest} -> {self.peer}>"
