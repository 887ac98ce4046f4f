"""One frozen configuration per mode, composed from each package's own Settings; the only merger of defaults."""

from __future__ import annotations

from bucatini.config.run import RunConfig

__all__ = ["RunConfig"]
