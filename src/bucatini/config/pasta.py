"""What a command line of pasta(1) asks for, as one frozen value with all defaults filled in.

Does not: read words (`config.pasta_arguments`), or know how the namespace is entered.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bucatini.config.network import NetworkOptions
from bucatini.config.passt_process import ProcessOptions

__all__ = ["PastaConfig", "Target"]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which namespace is meant."""

    kind: Literal["shell", "command", "pid", "netns"]
    command: tuple[str, ...] = ()
    """At least one word for `command`, else empty."""
    pid: int | None = None
    netns: str | None = None
    """Path; a name without `/` has become one below /run/netns."""


class PastaConfig(ProcessOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One command line of pasta, defaults filled in; `foreground` is also true where a command or shell is run."""

    target: Target
    network: NetworkOptions
    userns: str | None = None
    """Path to join; None with a PID and without `netns_only`: the process's own."""
    netns_only: bool = False
    """Join and make no user namespace."""
    netns_quit: bool = True
    host_lo_to_ns_lo: bool = False
