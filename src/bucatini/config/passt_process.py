"""What passt and pasta are told about their own process: background, messages, files, identity.

Does not: know what either of them serves.
"""

from __future__ import annotations

import msgspec

__all__ = ["DEFAULT_LOG_SIZE", "ProcessOptions"]

DEFAULT_LOG_SIZE = 1 << 20


class ProcessOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Defaults are those of a command line without options."""

    foreground: bool = False
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

    notes: tuple[str, ...] = ()
    """Warnings, a line each."""
