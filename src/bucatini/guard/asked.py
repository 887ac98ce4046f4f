"""What a guest asked a DHCP server for, within bounds: under which names, and which answers are still to come."""

from __future__ import annotations

__all__ = ["DECLINED_SECONDS", "Awaited", "Identities"]

MAXIMUM_IDENTITIES = 4
IDENTITY_SECONDS = 600.0
"""How long a name counts at least."""
DECLINED_SECONDS = 3600.0
"""How long an address counts that was declined: as long as udhcpd keeps it out of use, dnsmasq for ten minutes."""
MAXIMUM_TRANSACTIONS = 8
"""A client has one at a time, firmware and a system two."""
TRANSACTION_SECONDS = 120.0
"""A client that was not answered asks again under the same number, or gives up (RFC 2131 4.1, RFC 8415 section 15)."""


class Identities:
    """Names under which one guest asks for addresses: a few, since a server may give one for each. Firmware, boot
    loader, installer and system may each have a name of their own, so there is a number of them, and they are forgotten
    in time.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, float] = {}
        """Until when each counts."""

    def knows(self, identity: bytes, now: float, seconds: float = 0.0) -> bool:
        """Whether this is one of the few that the guest may have; it counts for so long at least from now on."""
        for old in [each for each, until in self._known.items() if until <= now]:
            del self._known[old]
        if identity not in self._known and len(self._known) >= MAXIMUM_IDENTITIES:
            return False
        self._known[identity] = now + max(IDENTITY_SECONDS, seconds)
        return True


class Awaited:
    """Transactions whose answers are to come: as many of each as there were requests. None is forgotten within
    `TRANSACTION_SECONDS` of its last request; behind `MAXIMUM_TRANSACTIONS` no other begins.
    """

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[object, tuple[float, int]] = {}
        """Until when, and how many answers."""

    def begin(self, transaction: object, now: float) -> bool:
        """A request. False when there is no room for it."""
        for old in [each for each, (until, _) in self._open.items() if until <= now]:
            del self._open[old]
        _, answers = self._open.get(transaction, (0.0, 0))
        if not answers and len(self._open) >= MAXIMUM_TRANSACTIONS:
            return False
        self._open[transaction] = now + TRANSACTION_SECONDS, answers + 1
        return True

    def has(self, transaction: object, now: float) -> bool:
        """Whether an answer of this transaction may come."""
        return now < self._open.get(transaction, (now, 0))[0]

    def has_any(self, now: float) -> bool:
        """Whether any answer may come."""
        return any(now < until for until, _ in self._open.values())

    def forget(self, transaction: object) -> None:
        """None of its answers will come."""
        self._open.pop(transaction, None)

    def answered(self, transaction: object) -> None:
        """One of its answers has come."""
        until, answers = self._open.pop(transaction, (0.0, 0))
        if answers > 1:
            self._open[transaction] = until, answers - 1
