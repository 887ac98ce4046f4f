"""What a TCP flow remembers: one record of numbers, no payload.

The receive queue of the host socket is the retransmission queue towards the guest: bytes are peeked, sent, and
consumed when the guest acknowledges them. The send buffer of the host socket is the reassembly end of the other
direction: what it takes is acknowledged. So a flow is this record and a socket, whatever its bandwidth.

Numbers named `snd_*` concern what we send to the guest, `rcv_*` what it sends to us (RFC 9293 section 3.3.1). Windows
are in bytes, already scaled; instants are seconds of the clock handed in.

```text
host socket queue:   | acknowledged, to discard | in flight      | not yet peeked
guest sequence:      ^ snd_una - discard_due    ^ snd_una        ^ snd_nxt   (snd_max: the furthest ever sent)
```
"""

from __future__ import annotations

from typing import Any

from bucatini.base.address import Endpoint
from bucatini.flows.tcp_states import CLOSED, CONNECTING, NAMES, check_move

__all__ = ["DEFAULT_MSS", "MAX_PAYLOAD", "NEVER", "TcpFlow"]

MAX_PAYLOAD = 65535 - 60
"""Bytes: an IPv4 total length, or an IPv6 payload length, less the largest headers of ours."""

DEFAULT_MSS = 536
"""Bytes, when a SYN carries no MSS option (RFC 9293 section 3.7.1)."""

MIN_MSS = 88

NEVER = float("inf")


class TcpFlow:
    """One TCP conversation. `guest` and `peer` are the two ends as the guest sees them; `host` is what we dial
    instead of `peer`.
    """

    __slots__ = (
        "ack_due",
        "ack_now",
        "ack_wait",
        "armed_at",
        "await_space",
        "beyond",
        "beyond_bytes",
        "beyond_last",
        "blocked",
        "careful",
        "deadline",
        "direction",
        "discard_due",
        "duplicate_acks",
        "fd",
        "fin_sent",
        "gathering",
        "guest",
        "guest_fin",
        "host",
        "id",
        "idle_at",
        "in_line",
        "ip_sum",
        "irs",
        "iss",
        "kept_acks",
        "key",
        "last_guest_at",
        "link_mss",
        "mss",
        "open",
        "opened_at",
        "peek_skips",
        "peer",
        "probes",
        "pseudo_sum",
        "protocol",
        "pushed",
        "queued",
        "rcv_acked",
        "rcv_edge",
        "rcv_nxt",
        "rcv_scale",
        "rdhup",
        "readable",
        "received",
        "recover",
        "refused_tail",
        "retries",
        "rule",
        "sack",
        "segmented",
        "sent",
        "snd_max",
        "snd_nxt",
        "snd_scale",
        "snd_una",
        "snd_wl1",
        "snd_wl2",
        "snd_wnd",
        "sock",
        "space",
        "state",
        "superframe",
        "template",
        "timer_at",
    )

    def __init__(self, guest: Endpoint, peer: Endpoint, direction: str, now: float) -> None:
        self.protocol = 6
        self.guest = guest
        self.peer = peer
        self.host: Endpoint | None = None
        self.direction = direction
        self.rule = ""
        self.id = 0
        self.key = b""
        self.template = b""
        """Ethernet, IP and TCP header of every segment to the guest, lengths and numbers left out."""
        self.ip_sum = 0
        self.pseudo_sum = 0
        """Ones' complement sums of the template's IPv4 header and pseudo-header, lengths left out."""
        self.sock: Any = None
        self.fd = -1
        self.state = CONNECTING
        self.open = False
        """The handshake with the guest is over and the flow is neither in TIME_WAIT nor CLOSED."""

        self.iss = 0
        self.snd_una = 0
        self.snd_nxt = 0
        self.snd_max = 0
        self.snd_wnd = 0
        self.snd_wl1 = 0
        self.snd_wl2 = 0
        self.snd_scale = 0
        self.mss = DEFAULT_MSS
        """Largest payload of one segment on the guest's wire, bytes: its option, bounded by our MTU."""
        self.link_mss = DEFAULT_MSS
        self.segmented = False
        """What the link carries in one packet, and whether it cuts superframes by itself."""
        self.superframe = DEFAULT_MSS
        """Largest payload handed to the link at once, bytes: many segments where the link segments, one where it does
        not.
        """
        self.fin_sent = False
        """Our FIN occupies the number before `snd_max`."""
        self.discard_due = 0
        self.kept_acks = 0
        """Bytes acknowledged and not consumed yet, and in how many acknowledgements."""
        self.duplicate_acks = 0
        self.recover = 0
        self.retries = 0
        """Retransmissions or probes in a row that the guest did not answer."""
        self.probes = 0

        self.irs = 0
        self.rcv_nxt = 0
        self.rcv_edge = 0
        self.rcv_scale = 0
        self.guest_fin = False
        self.ack_due = False
        """An acknowledgement leaves with the next flush, alone or on data."""
        self.ack_now = False
        """It may not wait for data to travel on."""
        self.ack_wait = NEVER
        """Until when it may."""
        self.rcv_acked = 0
        self.space = 0
        """Estimate of what the host socket's send buffer takes, bytes; below zero: ask."""
        self.pushed = 0
        self.beyond: list[tuple[int, bytes]] = []
        self.beyond_bytes = 0
        self.beyond_last = 0
        """Number and bytes of what came ahead of a gap, in order, and the number of what came last; see `tcp_gap`."""
        self.sack = False
        """Both ends know selective acknowledgements (RFC 2018); ours to the guest only."""
        self.refused_tail = False
        """The socket took less than a segment held: the guest must be told to send the rest again."""
        self.await_space = False

        self.readable = False
        self.rdhup = False
        self.careful = False
        """The peer sends no more (`rdhup`), or sent an urgent byte: a short peek does not mean that the queue is
        drained.
        """
        self.peek_skips = False
        """The kernel keeps no peek offset for this socket: bytes in flight are passed over at each peek."""

        self.timer_at = NEVER
        self.deadline = NEVER
        self.armed_at = NEVER
        self.idle_at = NEVER
        self.last_guest_at = now
        self.queued = False
        self.in_line = False
        self.blocked = False
        self.gathering = False
        """Queued for this turn's flush; in the sink's line of acknowledgements that wait; among those who wait for room
        on the link; its segments of this batch are gathered.
        """
        self.opened_at = now
        self.sent = 0
        self.received = 0

    def move(self, state: int) -> None:
        """The only way to change `state`. Raises `BugError` on a move that `tcp_states` does not know."""
        check_move(self.state, state)
        self.state = state

    def set_link(self, link_mss: int, segmented: bool) -> None:
        """What the link can do for this flow, before the guest's MSS is known."""
        self.link_mss = link_mss
        self.segmented = segmented
        self.set_mss(0)

    def set_mss(self, offered: int) -> None:
        """Take the guest's MSS option (0: it sent none), bounded by what the link carries; see `superframe`.

        An option below 88 is answered with 88, as Linux does (TCP_MIN_MSS): a guest must not have us work per byte.
        """
        self.mss = min(max(offered or DEFAULT_MSS, MIN_MSS), self.link_mss, MAX_PAYLOAD)
        self.set_segmented(self.segmented)

    def set_segmented(self, segmented: bool) -> None:
        """Whether the link cuts superframes; it may change while the flow lives, when a guest's driver does."""
        self.segmented = segmented
        self.superframe = MAX_PAYLOAD - MAX_PAYLOAD % self.mss if segmented else self.mss

    @property
    def closed(self) -> bool:
        """Nothing may be done with the flow any more."""
        return self.state == CLOSED

    def __repr__(self) -> str:
        return f"<TcpFlow {self.id} {self.guest} -> {self.peer} {NAMES[self.state]}>"
