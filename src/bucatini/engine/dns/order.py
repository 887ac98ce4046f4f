"""In which order the host's resolvers are asked: as the file says, but those that seem dead come last.

The file's order has meaning (the first may know names that the others deny), so one slow answer does not change it: a
resolver is put last only after several silences in a row, over all queries, and only for a while. A dead first resolver
then costs its time a few times and not with every query. One that fails at once costs nothing and keeps its place.

Does not: read the clock; times are handed in, in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from bucatini.engine.dns.settings import Settings
from bucatini.host.resolvers import Resolver, ResolverConfig

__all__ = ["Order"]


class Order:
    """What is remembered of resolvers between queries; no more than the list in force has."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._silences: dict[Resolver, int] = {}
        self._until: dict[Resolver, float] = {}
        self._turn = 0

    def answered(self, resolver: Resolver) -> None:
        """`resolver` is alive."""
        self._silences.pop(resolver, None)
        self._until.pop(resolver, None)

    def silent(self, resolver: Resolver, now: float) -> None:
        """`resolver` let its time pass."""
        self._silences[resolver] = self._silences.get(resolver, 0) + 1
        if self._silences[resolver] >= self._settings.silences:
            self._until[resolver] = now + self._settings.demotion

    def resolvers(self, config: ResolverConfig, now: float) -> Sequence[Resolver]:
        """The order for the next query; each call turns it by one if the file says `rotate`."""
        listed = config.resolvers
        if config.rotate:
            self._turn = (self._turn + 1) % len(listed)
            listed = (*listed[self._turn :], *listed[: self._turn])
        if self._silences:
            self._silences = {one: count for one, count in self._silences.items() if one in listed}
            self._until = {one: until for one, until in self._until.items() if one in listed and until > now}
        return sorted(listed, key=self._until.__contains__) if self._until else listed
