"""Everything `bucatini run` was asked for."""

from __future__ import annotations

from bucatini.base.errors import ConfigError
from bucatini.config.guest import GuestConfig

__all__ = ["RunConfig"]


class RunConfig(GuestConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of one command on a network of its own."""

    command: tuple[str, ...]
    """Program and arguments, at least one word."""

    def check(self) -> None:
        """See `GuestConfig.check`."""
        if not self.command:
            raise ConfigError("no command given")
        super().check()
