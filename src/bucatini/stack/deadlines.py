"""When something is due: one heap of instants, lazily kept.

A flow moves its deadline with almost every packet, nearly always further away, so a heap entry is made only when the
new instant is earlier than the one the flow is already filed under (`armed_at`); an entry that comes up too early
files the flow again under the instant it holds by then. So a flow has at most one useful entry and a packet costs a
comparison. Entries of owners that ended (their deadline is NEVER) are swept out whenever the heap has doubled, so it
is bounded by the flows that live.
"""

from __future__ import annotations

import heapq
from typing import Any

__all__ = ["NEVER", "Deadlines"]

NEVER = float("inf")
SWEEP = 1024
"""Entries below which sweeping is not worth it."""


class Deadlines:
    """Instants are seconds of the clock handed in. Anything with `deadline` and `armed_at` attributes can be filed."""

    __slots__ = ("_heap", "_serial", "_sweep_at")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Any]] = []
        self._serial = 0
        self._sweep_at = SWEEP

    def __len__(self) -> int:
        return len(self._heap)

    def arm(self, owner: Any, at: float) -> None:
        """`owner` wants to be called at `at`, or at an earlier instant it is filed under already."""
        owner.deadline = at
        if at < owner.armed_at:
            owner.armed_at = at
            self._serial += 1
            if len(self._heap) >= self._sweep_at:
                self._sweep()
            heapq.heappush(self._heap, (at, self._serial, owner))

    def _sweep(self) -> None:
        self._heap = [entry for entry in self._heap if entry[0] == entry[2].armed_at and entry[2].deadline < NEVER]
        heapq.heapify(self._heap)
        self._sweep_at = max(SWEEP, 2 * len(self._heap))

    def next(self) -> float:
        """The earliest instant anything is filed under, `NEVER` when nothing is."""
        return self._heap[0][0] if self._heap else NEVER

    def due(self, now: float) -> Any | None:
        """One owner whose deadline has come, or None. Call until None; the owner is filed under nothing then."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, owner = heapq.heappop(heap)
            if at != owner.armed_at:
                continue  # an older entry of an owner that was filed again earlier
            owner.armed_at = NEVER
            if owner.deadline > now:
                if owner.deadline < NEVER:
                    self.arm(owner, owner.deadline)
                continue
            owner.deadline = NEVER
            return owner
        return None
