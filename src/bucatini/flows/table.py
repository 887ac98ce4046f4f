"""All flows of one guest, found by what their packets say.

The key is the packet's own bytes: both addresses, guest first, then both ports, guest first; ICMP echo has its
identifier there. Python's `bytes` hash is keyed with a secret of this process (SipHash), so a guest cannot choose
colliding keys.

Bound: `limit` flows of all protocols together. When it is reached a TCP flow in TIME_WAIT gives way, oldest first; if
there is none, the new flow is refused and the old are kept: a guest that opens flows without end hurts only its own
next ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

__all__ = ["DEFAULT_LIMIT", "FlowTable"]

DEFAULT_LIMIT = 65536

Flow = Any
"""`TcpFlow`, `DatagramFlow`, or a splice: whatever has `id`, `key` and `protocol`."""


class FlowTable:
    """`tcp`, `udp` and `icmp` map a key to its flow; `spliced` maps an id to a flow that never had packets."""

    __slots__ = ("icmp", "limit", "numbers", "refused", "spliced", "tcp", "udp", "waiting")

    def __init__(self, limit: int = DEFAULT_LIMIT, numbers: Iterator[int] | None = None) -> None:
        """`numbers` gives flows their ids: guests that share one have no two flows with the same."""
        self.tcp: dict[bytes, Flow] = {}
        self.udp: dict[bytes, Flow] = {}
        self.icmp: dict[bytes, Flow] = {}
        self.spliced: dict[int, Flow] = {}
        self.waiting: dict[int, Flow] = {}
        """TCP flows in TIME_WAIT by id, oldest first."""
        self.limit = limit
        self.numbers = count(1) if numbers is None else numbers
        self.refused = 0
        """How many flows found the table full."""

    def __len__(self) -> int:
        return len(self.tcp) + len(self.udp) + len(self.icmp) + len(self.spliced)

    def full(self) -> bool:
        """No place for one more; nothing in TIME_WAIT could give way either."""
        return len(self) >= self.limit and not self.waiting

    def oldest_waiting(self) -> Flow | None:
        """The flow that has to be closed before another is added, or None when there is room."""
        if len(self) < self.limit or not self.waiting:
            return None
        return next(iter(self.waiting.values()))

    def add(self, flow: Flow) -> None:
        """Give `flow` its id and put it in. The caller has asked `full` and has closed `oldest_waiting`."""
        flow.id = next(self.numbers)
        if flow.protocol == 6:
            self.tcp[flow.key] = flow
        elif flow.protocol == 17:
            self.udp[flow.key] = flow
        else:
            self.icmp[flow.key] = flow

    def add_spliced(self, flow: Flow) -> None:
        """Give a spliced flow its id and its place in the count."""
        flow.id = next(self.numbers)
        self.spliced[flow.id] = flow

    def remove(self, flow: Any) -> None:
        """Take `flow` out; harmless when it is out already, or when its key belongs to a newer flow."""
        self.waiting.pop(flow.id, None)
        if flow.id in self.spliced:
            del self.spliced[flow.id]
            return
        table: dict[bytes, Flow] = self.tcp if flow.protocol == 6 else self.udp if flow.protocol == 17 else self.icmp
        key = flow.key
        if table.get(key) is flow:
            del table[key]

    def all(self) -> list[Flow]:
        """A copy, for an orderly end."""
        return [*self.tcp.values(), *self.udp.values(), *self.icmp.values(), *self.spliced.values()]
