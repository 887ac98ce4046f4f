"""The controlling terminal: whose foreground it is, handing it over and taking it back (tty_ioctl(4), credentials(7)).

How the command stands to the terminal is decided once, before anything is forked:

* *Interactive*: our process group is the foreground one, standard input and output are terminals. The command gets a
  process group of its own and the foreground, as from a shell: Ctrl-C and Ctrl-Z reach it and not us, and a shell
  inside finds a group it can see (one outside its PID namespace would read as 0).
* *Member of a foreground pipeline* (`run -- x | less`): taking the foreground would stop the neighbours. The command
  stays in our group; the kernel gives keyboard signals to all of us, and stops and continues all of us.
* *Background or no terminal*: a group of its own, so that a signal we are sent can be passed to all of it.

Does not: allocate a pseudo-terminal; the command has the caller's own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["Standing", "Terminal", "hand_over"]


class Standing(NamedTuple):
    """How the command stands to the terminal."""

    own_group: bool
    """The command leads a process group; otherwise it stays in ours."""
    foreground: bool
    """The command's group becomes the terminal's foreground when it starts."""


class Terminal:
    """Our controlling terminal, its attributes as found."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._attributes: list[Any] = termios.tcgetattr(descriptor)

    @classmethod
    def find(cls) -> Terminal | None:
        """The caller's controlling terminal; None when there is none."""
        try:
            descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return cls(descriptor)
        except (OSError, termios.error):
            os.close(descriptor)
            return None

    def is_ours(self) -> bool:
        """Whether our process group is the foreground one."""
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:  # hung up
            return False

    def take_back(self) -> None:
        """Make our group the foreground and set the attributes as found; nothing happens once the terminal is gone."""
        with _undisturbed(), contextlib.suppress(OSError, termios.error):
            os.tcsetpgrp(self._descriptor, os.getpgrp())
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._attributes)

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def standing(terminal: Terminal | None) -> Standing:
    """What the module's head describes, for the caller's process group and standard descriptors."""
    if terminal is None or not terminal.is_ours():
        return Standing(own_group=True, foreground=False)
    interactive = os.isatty(0) and os.isatty(1)
    return Standing(own_group=interactive, foreground=interactive)


def hand_over(group: int) -> None:
    """Make `group`, of the caller's session, the foreground of its controlling terminal, if it has one."""
    with _undisturbed(), contextlib.suppress(OSError):
        descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            os.tcsetpgrp(descriptor, group)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Block SIGTTOU: the kernel sends it to a background group that changes the terminal, and stops the group."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
