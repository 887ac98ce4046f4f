"""Names under which a guest asks a DHCP server for addresses: a few, since a server may give one to each.

Firmware, boot loader, installer and system may each have a name of their own, so there is a number of them, and they
are forgotten in time.
"""

from __future__ import annotations

__all__ = ["IDENTITY_SECONDS", "MAXIMUM_IDENTITIES", "Identities"]

MAXIMUM_IDENTITIES = 4
IDENTITY_SECONDS = 600.0
"""How long a name counts at least."""


class Identities:
    """Those of one guest."""

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
