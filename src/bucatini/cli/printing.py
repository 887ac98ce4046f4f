"""What the commands print: help and versions on stdout, one line per error on stderr."""

from __future__ import annotations

import os
import sys

__all__ = ["fill_standard_streams", "print_error", "print_text", "printable"]


def fill_standard_streams() -> None:
    """Put /dev/null where a standard stream was closed by the caller: a socket of ours must not take its number."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "r" if descriptor == 0 else "w", closefd=False))


def print_text(text: str) -> None:
    """`text` on stdout. A reader that went away (`bucatini --help | head -1`) is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes again on exit; give it somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(who: str, text: str) -> None:
    """One line `who: text` on stderr."""
    try:
        sys.stderr.write(f"{who}: {printable(text)}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody can be told


def printable(text: str) -> str:
    """`text` on one line, without control characters or halves of characters that could confuse a terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
