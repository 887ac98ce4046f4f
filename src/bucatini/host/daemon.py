"""Going to the background, and the PID file: whoever started us may take our exit for readiness (daemon(7)).

The fork comes first, while the process is small and has one thread. The caller's process stays behind to wait:

```text
starter (waits on a pipe)                engine (setsid, a child)
 <- "ready"          exit 0              PID file written, 0 1 2 on /dev/null, cwd /
 <- "STATUS line"    prints it, exits    fail(line, status): it ends by itself afterwards
 <- nothing, ended   its status, or 1    it said why on stderr, which is still the terminal's
```

Until it is ready the engine has the starter's stderr, so warnings reach the user. A signal that ends the starter ends
the engine: SIGTERM, SIGINT, SIGHUP and SIGQUIT are passed on, a second one kills; and an engine that becomes ready
without a starter (SIGKILL) is told so by an error.

The PID file is opened before anything else may fail and before privileges go, readable by its owner only, and holds
"PID\\n" before the starter exits. It stays when we end, as pasta's and passt's do: libvirt removes it itself after it
has killed us, and after a change of user or root directory we often could not.

Does not: drop privileges, close inherited descriptors, or lock the PID file.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from types import FrameType
from typing import NoReturn

from bucatini.base.errors import HostError
from bucatini.host.descriptors import silence_standard_streams

__all__ = ["Daemon", "PidFile", "become_daemon", "stay_in_foreground"]

_MODE = 0o600
_READY = b"ready\n"
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_FAILED = 1
_MOST = 1 << 16
"""Bytes of a last word that are printed."""


class PidFile:
    """The file of `--pid`, open from now on and emptied. Raises HostError naming it when it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY, _MODE)
        except OSError as error:
            raise HostError(f"cannot open the PID file {path!r}: {error.strerror}") from None
        except ValueError as error:  # a NUL in the path
            raise HostError(f"cannot open the PID file {path!r}: {error}") from None

    def fileno(self) -> int:
        """The descriptor, which whoever closes others must leave open; -1 after `write` or `close`."""
        return self._fd

    def write(self) -> None:
        """Write the caller's process number and close. Raises HostError."""
        try:
            os.write(self._fd, b"%d\n" % os.getpid())
        except OSError as error:
            raise HostError(f"cannot write the PID file {self._path!r}: {error.strerror}") from None
        finally:
            self.close()

    def close(self) -> None:
        """Close without writing. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Daemon:
    """What the engine owes to those who wait for it, in the background or not. Made by the functions below."""

    def __init__(self, pid_file: PidFile | None, starter: int) -> None:
        self._pid_file = pid_file
        self._starter = starter
        """Where the starter reads; -1: there is none, or it was told."""

    @property
    def descriptors(self) -> frozenset[int]:
        """What must stay open until `ready`."""
        numbers = (self._starter, -1 if self._pid_file is None else self._pid_file.fileno())
        return frozenset(number for number in numbers if number >= 0)

    def ready(self) -> None:
        """The network works: write the PID file; in the background also leave terminal and directory, and tell the
        starter, which exits with 0. Nothing reaches the terminal afterwards.

        Raises HostError when the PID file cannot be written or the starter was killed.
        """
        if self._pid_file is not None:
            self._pid_file.write()
        if self._starter < 0:
            return
        _flush()
        silence_standard_streams()
        os.chdir("/")
        if not self._tell(_READY):
            raise HostError("who started us is gone before we were ready")

    def fail(self, line: str, status: int = _FAILED) -> None:
        """Nothing will become of it: print `line` where the user sees it; the starter exits with `status`, 1 to 255.

        The caller ends by itself, and need not call this when it ends with a line on stderr and a status of its own.
        """
        if self._pid_file is not None:
            self._pid_file.close()
        if self._starter < 0:
            _print(line)
        else:
            self._tell(f"{status} {' '.join(line.splitlines())}\n".encode(errors="replace"))

    def _tell(self, word: bytes) -> bool:
        starter, self._starter = self._starter, -1
        try:
            os.write(starter, word)
        except OSError:
            return False
        finally:
            os.close(starter)
        return True


def stay_in_foreground(pid_file: str | None = None) -> Daemon:
    """The same promises without a fork: `ready` writes the PID file and nothing else. Raises HostError as `PidFile`."""
    return Daemon(None if pid_file is None else PidFile(pid_file), -1)


def become_daemon(pid_file: str | None = None) -> Daemon:
    """Go on in a child, in a new session; the caller's process waits for it and exits, without returning from here.

    Call it early, with one thread. Raises HostError when the PID file or a process cannot be had; nothing is forked
    then.
    """
    file = None if pid_file is None else PidFile(pid_file)
    _flush()
    listening, speaking = os.pipe2(os.O_CLOEXEC)
    # A signal between fork and handler would end the starter alone.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    try:
        child = os.fork()
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise HostError(f"cannot start a process: {error.strerror}") from None
    if child:
        os.close(speaking)
        _wait(child, listening, mask)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(listening)
    return Daemon(file, speaking)


def _wait(child: int, listening: int, mask: set[int | signal.Signals]) -> NoReturn:
    """Exit as the child says or ends, or of the signal that ended the waiting."""
    received: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)  # first: the child's answer may bring the next one before `_kill` returns
        _kill(child, signal.SIGKILL if len(received) > 1 else number)

    # A signal just before poll(2) would not end the wait: the byte that comes with it does.
    woken, waking = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    for number in _PASSED_ON:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask - set(_PASSED_ON))
    try:
        word = _last_word(child, listening, woken)
    except BaseException:
        _kill(child, signal.SIGKILL)
        raise
    if word == _READY:
        os._exit(0)
    if received:
        _die_of(received[0])
    status, _, line = word.removesuffix(b"\n").partition(b" ")
    if not status:
        os._exit(_status_of(child))
    _print(line.decode(errors="replace"))
    os._exit(int(status) or _FAILED)


def _last_word(child: int, listening: int, woken: int) -> bytes:
    """What the child wrote, until its line ends, or the child does: others may have inherited its end of the pipe.
    `woken` is readable when a signal came.
    """
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    poll.register(ended, select.POLLIN)
    poll.register(woken, select.POLLIN)
    word = b""
    while not word.endswith(b"\n"):
        found = {descriptor for descriptor, _ in poll.poll()}
        if woken in found:
            os.read(woken, _MOST)
        if found == {woken}:
            continue
        part = os.read(listening, _MOST) if listening in found else b""
        if not part:
            break
        word += part
    return word


def _status_of(child: int) -> int:
    """The exit status for a child that ended without a word; never 0."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        _print(f"ended by signal {-code} ({signal.strsignal(-code)}) before it was ready")
    return code if code > 0 else _FAILED


def _die_of(number: int) -> NoReturn:
    """End by a signal, so that whoever waits for us sees which."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def _kill(process_id: int, number: int) -> None:
    try:
        os.kill(process_id, number)
    except ProcessLookupError:
        pass


def _print(line: str) -> None:
    try:
        os.write(2, line.encode(errors="replace") + b"\n")
    except OSError:
        pass  # nobody can be told


def _flush() -> None:
    """What is buffered belongs to this process alone, and to the terminal."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass
