"""Tells observers that frames of the guest are dropped, and never more often than they can hear.

The first frame of each reason is told at once; for `QUIET` seconds after that its like are only counted, and told
together with the next one after. So a guest that floods costs two list accesses a frame, and at most one event a reason
and `QUIET`. Refused flows are events of their own and no drops here, and a question that nobody answers is no attack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bucatini.base.events import FrameDropped
from bucatini.base.reasons import DropReason

__all__ = ["QUIET", "DropEvents"]

QUIET = 10.0
"""Seconds."""
ETHERNET = 14
ADDRESSES = {0x0800: (26, 30, 4), 0x86DD: (22, 38, 16), 0x0806: (28, 38, 4)}
"""By EtherType: where in the frame source and destination, or ARP's sender and target, stand, and how long they are."""
TOLD_ELSEWHERE = frozenset((DropReason.POLICY_DENIED, DropReason.FLOW_TABLE_FULL, DropReason.SOCKETS_EXHAUSTED))
UNANSWERED = frozenset((DropReason.ARP_NOT_OURS, DropReason.NDP_NOT_OURS, DropReason.SERVICE_OFF))
"""What healthy guests do all the time."""


class DropEvents:
    """`tell` hears each event, `copy(at, length)` gives bytes of the memory that frames are in. `untold` are reasons
    that somebody else tells of.
    """

    def __init__(
        self,
        tell: Callable[[FrameDropped], None],
        copy: Callable[[int, int], bytes],
        untold: Iterable[DropReason] = TOLD_ELSEWHERE,
    ) -> None:
        self._tell = tell
        self._copy = copy
        self._untold = [0] * len(DropReason)
        self._quiet_until = [0.0] * len(DropReason)
        for reason in UNANSWERED.union(untold):
            self._quiet_until[reason] = float("inf")

    def dropped(self, reason: int, at: int, end: int, now: float) -> None:
        """The frame at `at`..`end`, which begins with its destination MAC, ended for `reason`."""
        self._untold[reason] += 1
        if now < self._quiet_until[reason]:
            return
        self._quiet_until[reason] = now + QUIET
        times, self._untold[reason] = self._untold[reason], 0
        size = end - at
        mac = self._copy(at + 6, 6) if size >= ETHERNET else None
        source = destination = None
        ethertype = int.from_bytes(self._copy(at + 12, 2), "big") if size >= ETHERNET else 0
        if ethertype in ADDRESSES:
            source_at, destination_at, length = ADDRESSES[ethertype]
            if size >= destination_at + length:
                source, destination = self._copy(at + source_at, length), self._copy(at + destination_at, length)
        self._tell(FrameDropped(DropReason(reason), times, mac, source, destination))  # type: ignore[call-arg]
