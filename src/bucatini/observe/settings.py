"""What the user wants to see of a run."""

from __future__ import annotations

import msgspec

__all__ = ["ObserveSettings"]


class ObserveSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Captures and reports; the defaults observe nothing but refusals, which are counted for one line at the end."""

    pcap: str | None = None
    """File, FIFO or `/dev/fd/N` that receives a pcapng capture; a file is replaced."""

    events: str | None = None
    """File, FIFO or `/dev/fd/N` that receives one JSON object per line; a file is appended to."""

    summary: bool = False
    """Print a table of flows at the end."""

    verbose: bool = False
    """Print a line for each flow event."""

    quiet: bool = False
    """Print nothing but errors and what else is asked for here."""
