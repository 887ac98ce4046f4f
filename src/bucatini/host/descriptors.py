"""Descriptors that are inherited: closing what a process must not hold, and taking what it was handed.

A number that a user gives is looked at before anything else is opened (`check_inherited`): one that is free by then
would soon be a descriptor of ours, and what is done with it done to ourselves.
"""

from __future__ import annotations

import fcntl
import os

from bucatini.base.errors import ConfigError

__all__ = [
    "check_inherited",
    "fill_standard_streams",
    "keep_only",
    "release_descriptor",
    "silence_standard_streams",
    "take_descriptor",
]

_FIRST = 3
_LAST = 2**31 - 1


def keep_only(kept: set[int]) -> None:
    """Close every descriptor above 2 except those `kept`."""
    start = _FIRST
    for descriptor in sorted(each for each in kept if each >= _FIRST):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, _LAST)


def fill_standard_streams() -> None:
    """Open /dev/null for those of 0, 1 and 2 the caller was started without: no other file may get their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) < _FIRST:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def silence_standard_streams() -> None:
    """Replace 0, 1 and 2 by /dev/null, so that the far end of a pipe sees its end when the command is done with it."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in range(_FIRST):
        os.dup2(null, descriptor, inheritable=True)
    if null >= _FIRST:
        os.close(null)


def check_inherited(option: str, number: int | None, accepted: str) -> int:
    """The mode (stat(2)) of what is open under a number that was given; 0 where none was. `accepted` says, in the
    error, what may be. Raises ConfigError.
    """
    if number is None:
        return 0
    try:
        return os.fstat(number).st_mode
    except (OSError, OverflowError):
        raise ConfigError(f"{option} {number}: no such descriptor is open; {accepted}") from None


def take_descriptor(number: int) -> int:
    """The inherited descriptor, which is open, under a number that is no standard stream's; its own is closed, or
    leads to /dev/null.
    """
    taken = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    release_descriptor(number)
    return taken


def release_descriptor(number: int) -> None:
    """Close it, or put /dev/null in the place of a standard stream."""
    if number > 2:
        os.close(number)
        return
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, number)
    if null != number:
        os.close(null)
