"""The last step before the command: a forked child becomes it, as a shell's child would (execve(2), signal(7)).

Exit statuses and messages follow POSIX XCU section 2.8.2: 127 when it is not found, 126 when it cannot be executed.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import NoReturn

from bucatini.host.descriptors import keep_only
from bucatini.host.terminal import Standing, hand_over

__all__ = ["execute"]

NOT_FOUND = 127
NOT_EXECUTABLE = 126


def execute(
    command: tuple[str, ...],
    signal_mask: set[signal.Signals | int],
    standing: Standing,
    argv0: str | None = None,
) -> NoReturn:
    """Become `command`, with the caller's environment, directory and standard streams; all signals blocked on entry.

    `argv0` is what it finds as its own name in place of `command[0]`.
    """
    try:
        if standing.own_group:
            os.setpgid(0, 0)
        if standing.foreground:
            hand_over(os.getpid())
        keep_only(set())
        _restore_signals(signal_mask)
        os.execv(_look_up(command[0]), (argv0 or command[0], *command[1:]))  # noqa: S606  (the user's command is the purpose)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        os.write(2, f"bucatini: {command[0]}: {error.strerror}\n".encode(errors="surrogateescape"))
        os._exit(NOT_FOUND if missing else NOT_EXECUTABLE)


def _look_up(program: str) -> str:
    """The path to execute: the first executable file in PATH, or the first that is there and will tell why it is not.

    Not execvp(3): it takes a directory of PATH that we may not enter for the command itself being forbidden.
    """
    if "/" in program:
        return program
    found = [path for folder in os.get_exec_path() if os.path.isfile(path := os.path.join(folder or ".", program))]
    for path in found:
        if os.access(path, os.X_OK):
            return path
    if found:
        return found[0]
    raise FileNotFoundError(errno.ENOENT, "command not found")


def _restore_signals(mask: set[signal.Signals | int]) -> None:
    """What Python changed goes back to the default; what the caller ignored (nohup) stays ignored."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them for itself
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
