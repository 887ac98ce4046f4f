"""The search list of a resolv.conf(5): the words of a `search` or `domain` line as names that can be passed on.

Names travel further than the file: into DHCP option 119 (RFC 3397) and the DNSSL of router advertisements (RFC 8106),
so what is no host name is left out here. The bounds are those of resolv.conf(5); the C library dropped them in glibc
2.26, those who read what we announce did not.

Does not: find the line (`resolvers` does), or encode names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["MAX_NAMES", "MAX_TEXT", "search_list"]

MAX_NAMES = 6
"""glibc MAXDNSRCH before 2.26."""
MAX_TEXT = 256
"""Characters of the whole list, with one blank between names."""

_MAX_NAME = 253
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62}))*")


def search_list(words: Iterable[str]) -> tuple[str, ...]:
    """The names among `words`, in order, without final dots, each once; as many as the bounds admit.

    The root, `.`, stands for "no search" where it is written (systemd-resolved does) and is no name here.
    """
    names: list[str] = []
    room = MAX_TEXT
    for word in words:
        name = word.removesuffix(".")
        if len(name) > _MAX_NAME or not _NAME.fullmatch(name) or name.lower() in map(str.lower, names):
            continue
        if len(names) == MAX_NAMES or len(name) > room:
            break
        names.append(name)
        room -= len(name) + 1
    return tuple(names)
