"""The states of a TCP flow as the guest sees us, and the only moves between them (RFC 9293 section 3.3.2).

Facing the guest we are an ordinary TCP endpoint, so the states are the RFC's, seen from our end, plus one of our own:
CONNECTING, a guest's SYN that waits for the host socket before it is answered. What would be an application's CLOSE
is here the end of stream on the host socket; what would be delivered as end of stream is a shutdown of its sending
half.

```text
CONNECTING   guest's SYN held; nothing was sent to the guest; only the host socket can move us on
SYN_SENT     our SYN is out (published port); the host socket is accepted already and must not be read
SYN_RECEIVED our SYN,ACK is out; the host socket is connected
ESTABLISHED  both directions open
CLOSE_WAIT   guest's FIN taken, host's sending half shut; host -> guest goes on
FIN_WAIT_1   our FIN is out, unacknowledged; guest -> host goes on
FIN_WAIT_2   our FIN is acknowledged; guest -> host goes on
CLOSING      both FINs are out, ours unacknowledged
LAST_ACK     guest's FIN came first, ours is out, unacknowledged
TIME_WAIT    all done; the socket is closed, only a lost last ACK is repeated
CLOSED       gone from the table
```
"""

from __future__ import annotations

from bucatini.base.errors import BugError

__all__ = [
    "CLOSED",
    "CLOSE_WAIT",
    "CLOSING",
    "CONNECTING",
    "ESTABLISHED",
    "FIN_WAIT_1",
    "FIN_WAIT_2",
    "LAST_ACK",
    "NAMES",
    "SYN_RECEIVED",
    "SYN_SENT",
    "TIME_WAIT",
    "TRANSITIONS",
    "check_move",
]

CONNECTING = 0
SYN_SENT = 1
SYN_RECEIVED = 2
ESTABLISHED = 3
CLOSE_WAIT = 4
FIN_WAIT_1 = 5
FIN_WAIT_2 = 6
CLOSING = 7
LAST_ACK = 8
TIME_WAIT = 9
CLOSED = 10

NAMES = (
    "CONNECTING",
    "SYN_SENT",
    "SYN_RECEIVED",
    "ESTABLISHED",
    "CLOSE_WAIT",
    "FIN_WAIT_1",
    "FIN_WAIT_2",
    "CLOSING",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSED",
)

TRANSITIONS: dict[tuple[int, int], str] = {
    (CONNECTING, SYN_RECEIVED): "host connected; SYN,ACK sent",
    (CONNECTING, SYN_SENT): "peer connected to a published port; SYN sent",
    (CONNECTING, CLOSED): "connect failed, or guest gave up",
    (SYN_SENT, ESTABLISHED): "guest's SYN,ACK",
    (SYN_SENT, CLOSED): "guest refused or never answered",
    (SYN_RECEIVED, ESTABLISHED): "guest's ACK of our SYN",
    (SYN_RECEIVED, CLOSED): "reset or never acknowledged",
    (ESTABLISHED, CLOSE_WAIT): "guest's FIN",
    (ESTABLISHED, FIN_WAIT_1): "host's end of stream; FIN sent",
    (ESTABLISHED, CLOSED): "reset",
    (CLOSE_WAIT, LAST_ACK): "host's end of stream; FIN sent",
    (CLOSE_WAIT, CLOSED): "reset",
    (FIN_WAIT_1, FIN_WAIT_2): "guest's ACK of our FIN",
    (FIN_WAIT_1, CLOSING): "guest's FIN",
    (FIN_WAIT_1, CLOSED): "reset",
    (FIN_WAIT_2, TIME_WAIT): "guest's FIN",
    (FIN_WAIT_2, CLOSED): "reset",
    (CLOSING, TIME_WAIT): "guest's ACK of our FIN",
    (CLOSING, CLOSED): "reset",
    (LAST_ACK, CLOSED): "guest's ACK of our FIN, or reset",
    (TIME_WAIT, CLOSED): "time is up, or a new SYN took the ports",
}
"""Every legal move, with what causes it."""


def check_move(old: int, new: int) -> None:
    """Raise `BugError` unless `old` may become `new`."""
    if (old, new) not in TRANSITIONS:
        raise BugError(f"TCP flow may not go from {NAMES[old]} to {NAMES[new]}")
