"""What a command line of softnet asks for, as one frozen value with all defaults filled in.

Does not: read words (`config.softnet_arguments`), or know which descriptors are open.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bucatini.forward.portspec import Forward
from bucatini.guard.rule_grammar import Pattern

__all__ = ["DEFAULT_LEASE", "NET_TYPES", "NetType", "SoftnetConfig"]

DEFAULT_LEASE = 600
"""Seconds."""

NetType = Literal["nat", "host"]
NET_TYPES: tuple[NetType, ...] = ("nat", "host")


class SoftnetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One command line of softnet, defaults filled in."""

    vm_fd: int
    """A connected socket of the virtual machine's frames, whatever its number."""
    mac: bytes
    """The guest's, and the only one it is heard under."""
    net_type: NetType = "nat"
    lease: int = DEFAULT_LEASE
    """Seconds; never 0."""
    allow: tuple[Pattern, ...] = ()
    block: tuple[Pattern, ...] = ()
    expose: tuple[Forward, ...] = ()
    control_fd: int | None = None
    """A connected UNIX stream socket over which the rules are changed."""
    user: str | None = None
    """Whom root becomes, by name or number; None: the real user, or nobody where that is root too."""
    group: str | None = None
    """None: the user's."""

    bridge: str | None = None
    """The bridge behind the faithful filter; None: the translating engine serves the guest."""
    escalated: bool = False
    """Whether sudo started us for this, and must not be asked again."""
    words: tuple[str, ...] = ()
    """The command line itself, for who has to start us again."""
    notes: tuple[str, ...] = ()
    """Warnings, a line each."""
