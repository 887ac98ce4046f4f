"""The library face: what the command line does, for Python programs."""

from __future__ import annotations

from bucatini.api.attach import attach
from bucatini.api.run import run

__all__ = ["attach", "run"]
