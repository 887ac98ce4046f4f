"""The library face: what the command line does, for Python programs."""

from __future__ import annotations

from bucatini.api.attach import attach
from bucatini.api.run import run
from bucatini.api.vm import vm

__all__ = ["attach", "run", "vm"]
