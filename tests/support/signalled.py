"""A command that is signalled at the worst moment of its start: a path of it is there, and nobody knows yet."""

from __future__ import annotations

import sys
from collections.abc import Sequence

CODE = """
import os, signal, sys
import bucatini.links.listening as listening
real = listening.listen_at
def listen_at(*words):
    made = real(*words)
    os.kill(os.getpid(), signal.SIGTERM)
    return made
listening.listen_at = listen_at
from bucatini.__main__ import main
sys.exit(main())
"""


def signalled(*words: str) -> Sequence[str]:
    """The command line of `bucatini` with these words, which is ended (SIGTERM) by itself once a path is there."""
    return [sys.executable, "-c", CODE, *words]
