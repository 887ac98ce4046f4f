"""One frozen configuration per mode, composed from each package's own Settings; the only merger of defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bucatini.config.run import RunConfig

__all__ = ["RunConfig"]


def __getattr__(name: str) -> Any:
    """`RunConfig`, imported when it is asked for: the compat commands do without it, and start earlier."""
    if name == "RunConfig":
        from bucatini.config.run import RunConfig

        return RunConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
