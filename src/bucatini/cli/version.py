"""`bucatini version`: what runs, in which form, on what. The first thing to ask for in a report."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from bucatini import __version__
from bucatini._build import form
from bucatini.base.errors import ConfigError
from bucatini.cli.printing import print_text

__all__ = ["main"]


def main(words: Sequence[str]) -> int:
    """Print version, form (compiled or pure, and why), Python and kernel. Raises ConfigError if given arguments."""
    if list(words) in (["-h"], ["--help"]):
        print_text("usage: bucatini version\n\nSay what runs here: version, compiled or pure, Python, kernel.\n")
        return 0
    if words:
        raise ConfigError(f"unexpected argument {words[0]!r}")
    python = ".".join(map(str, sys.version_info[:3]))
    kernel = os.uname()
    print_text(
        f"bucatini {__version__}, {form()}\n"
        f"{sys.implementation.name} {python}, {kernel.sysname} {kernel.release} {kernel.machine}\n"
    )
    return 0
