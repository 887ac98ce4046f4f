"""Everything `bucatini attach` was asked for."""

from __future__ import annotations

from bucatini.base.errors import ConfigError
from bucatini.config.guest import GuestConfig

__all__ = ["AttachConfig"]


class AttachConfig(GuestConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A network for a namespace that exists already. Exactly one of `pid` and `netns` is given."""

    pid: int | None = None
    """A process in it; its user namespace is joined too."""
    netns: str | None = None
    """Name below /run/netns, or a path."""
    userns: str | None = None
    """Path of the user namespace to join first; None: the process's own, or none with `netns`."""
    netns_only: bool = False
    """Join no user namespace."""
    netns_quit: bool = True
    """End when the network namespace is gone."""

    def check(self) -> None:
        """See `GuestConfig.check`."""
        if (self.pid is None) == (self.netns is None):
            raise ConfigError("give either the PID of a process or --netns, to say which network namespace is meant")
        if self.netns == "":
            raise ConfigError("--netns '': must be a name below /run/netns, or a path with a '/'")
        if self.userns is not None and self.netns_only:
            raise ConfigError(f"--userns {self.userns!r}: excluded by --netns-only")
        super().check()
