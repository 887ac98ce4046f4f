"""What a command line of passt(1) asks for, as one frozen value with all defaults filled in.

Does not: read words (`config.passt_arguments`), or know which sockets exist.
"""

from __future__ import annotations

from bucatini.config.network import NetworkOptions
from bucatini.config.passt_process import ProcessOptions

__all__ = ["PasstConfig"]


class PasstConfig(ProcessOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One command line of passt, defaults filled in."""

    network: NetworkOptions
    socket: str | None = None
    """Path to listen on; None without `fd`: the first that is free of those passt looks at."""
    fd: int | None = None
    """A connected socket that is open already."""
    vhost_user: bool = False
    one_off: bool = False
    """End when the guest leaves; also true with `fd`."""
