"""Unsolicited router advertisements: at start, after a change, and now and then (RFC 4861 section 6.2.4).

The interval is drawn anew each time between 200 and 600 seconds; the first three follow each other within 16 seconds,
so that a guest that lost one, or came up late, need not ask.
"""

from __future__ import annotations

import random
from typing import Any

__all__ = ["Advertiser"]

MIN_INTERVAL, MAX_INTERVAL = 200.0, 600.0
INITIAL_INTERVAL = 16.0
INITIAL_COUNT = 3
NEVER = float("inf")


class Advertiser:
    """Serves one guest; does nothing while its settings have no router."""

    def __init__(self, sink: Any, gateway: Any) -> None:
        self.deadline = self.armed_at = NEVER
        self._sink = sink
        self._gateway = gateway
        self._initial = INITIAL_COUNT
        self._random = random.Random()  # noqa: S311  (spreads load, hides nothing)

    def start(self, now: float) -> None:
        """Advertise with the next turn, as for the first time."""
        self._initial = INITIAL_COUNT
        self._sink.deadlines.arm(self, now)

    def due(self, now: float) -> None:
        """The interval is over."""
        frame = self._gateway.advertisement()
        if frame is None:
            return
        self._sink.transmit_frame(frame)
        wait = self._random.uniform(MIN_INTERVAL, MAX_INTERVAL)
        if self._initial:
            self._initial -= 1
            wait = min(wait, INITIAL_INTERVAL)
        self._sink.deadlines.arm(self, now + wait)
