"""What a command line of pasta(1) asks for, as one frozen value with all defaults filled in.

Does not: read words (`config.pasta_arguments`), or know how the namespace is entered.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bucatini.config.network import NetworkOptions

__all__ = ["DEFAULT_LOG_SIZE", "PastaConfig", "Target"]

DEFAULT_LOG_SIZE = 1 << 20


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which namespace is meant."""

    kind: Literal["shell", "command", "pid", "netns"]
    command: tuple[str, ...] = ()
    """At least one word for `command`, else empty."""
    pid: int | None = None
    netns: str | None = None
    """Path; a name without `/` has become one below /run/netns."""


class PastaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One command line of pasta, defaults filled in."""

    target: Target
    network: NetworkOptions
    userns: str | None = None
    """Path to join; None with a PID and without `netns_only`: the process's own."""
    netns_only: bool = False
    """Join and make no user namespace."""
    netns_quit: bool = True

    foreground: bool = False
    """Also true where a command or shell is run."""
    debug: bool = False
    trace: bool = False
    quiet: bool = False
    log_file: str | None = None
    log_size: int = DEFAULT_LOG_SIZE
    """Bytes."""
    runas: str | None = None
    """`UID`, `UID:GID`, or names in their place."""
    pcap: str | None = None
    pid_file: str | None = None
    host_lo_to_ns_lo: bool = False

    notes: tuple[str, ...] = ()
    """Warnings, a line each."""
