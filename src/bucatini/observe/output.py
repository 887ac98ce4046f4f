"""Where captures and logs go: a descriptor written in whole records, never waited for, given up on the first error.

Observation must not change what it observes. So a record is copied to a bounded buffer; `flush` writes what the
descriptor takes at once. A regular file takes all of it. A FIFO, pipe or terminal is asked with poll(2) before each
piece of at most PIPE_BUF bytes, which pipe(7) then promises not to block; O_NONBLOCK would leak to others who share
the open description, among them the command whose terminal it is. Records that find the buffer full are lost and
counted. After an error (disk full, reader gone) nothing is written any more and the user is told once: traffic goes
on.
"""

from __future__ import annotations

import os
import re
import select
import stat
from collections.abc import Callable

from bucatini.base.errors import ConfigError

__all__ = ["Output", "open_output"]

CAPACITY = 8 << 20
"""Bytes held while a reader is slow: some hundred superframes."""

FLUSH_AT = 256 << 10
"""Bytes held before they are written without being asked."""

_INHERITED = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,6})|/dev/std(in|out|err)")
_STANDARD = {"in": 0, "out": 1, "err": 2}


def open_output(path: str, option: str, *, append: bool) -> int:
    """Descriptor to write to `path`, closed on exec; new files are readable by their owner only, for they hold traffic.

    `/dev/fd/N` is the inherited descriptor itself, neither reopened nor truncated. Opening a FIFO waits for its reader.
    Raises ConfigError naming `option` when it cannot be opened.
    """
    inherited = _INHERITED.fullmatch(path)
    try:
        if inherited:
            number, standard = inherited.groups()
            return os.dup(int(number) if number else _STANDARD[standard])
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | (os.O_APPEND if append else os.O_TRUNC)
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise ConfigError(f"{option} {path!r}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        raise ConfigError(f"{option} {path!r}: {error}") from None


class Output:
    """Owns `fd` from now on, unless `owned` is false.

    `on_failure` is called once, with a line for people, if writing fails. With `trim`, a regular file written from its
    start is cut back to the last complete flush then, so that it does not end within a record.
    """

    __slots__ = ("_buffer", "_capacity", "_fd", "_name", "_on_failure", "_owned", "_poll", "_trim", "_written", "lost")

    def __init__(
        self,
        fd: int,
        *,
        name: str,
        on_failure: Callable[[str], None],
        capacity: int = CAPACITY,
        trim: bool = False,
        owned: bool = True,
    ) -> None:
        self._fd: int | None = fd
        self._name = name
        self._on_failure = on_failure
        self._capacity = capacity
        self._owned = owned
        self._buffer = bytearray()
        self._written = 0
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._trim = trim and regular
        self._poll: select.poll | None = None
        if not regular:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLOUT)
        self.lost = 0
        """Records that found no room."""

    @property
    def active(self) -> bool:
        """Whether records still go anywhere: not failed, not closed."""
        return self._fd is not None

    @property
    def pending(self) -> int:
        """Bytes not yet written."""
        return len(self._buffer)

    def append(self, *parts: bytes | bytearray | memoryview) -> bool:
        """Copy one record, given as byte-wise parts, to the buffer. False when it is lost."""
        if self._fd is None:
            return False
        size = sum(map(len, parts))
        if len(self._buffer) + size > self._capacity:
            self.flush()
            if len(self._buffer) + size > self._capacity or self._fd is None:
                self.lost += 1
                return False
        for part in parts:
            self._buffer += part
        if len(self._buffer) >= FLUSH_AT and self._poll is None:
            self.flush()
        return True

    def flush(self) -> None:
        """Write what the descriptor takes without waiting."""
        if self._fd is None or not self._buffer:
            return
        done = 0
        try:
            with memoryview(self._buffer) as view:
                while done < len(view):
                    if self._poll is None:
                        done += os.write(self._fd, view[done:])
                    elif self._poll.poll(0):
                        done += os.write(self._fd, view[done : done + select.PIPE_BUF])
                    else:
                        break
        except BlockingIOError:
            pass  # whoever gave us the descriptor had made it non-blocking
        except OSError as error:
            self._fail(error)
            return
        del self._buffer[:done]
        self._written += done

    def close(self, patience: float = 1.0) -> None:
        """Write the rest, at most `patience` seconds late for a slow reader, then close. Harmless twice."""
        if self._fd is None:
            return
        self.flush()
        rounds = 20
        while self._buffer and self._poll is not None and rounds:
            self._poll.poll(1000 * patience / 20)
            self.flush()
            rounds -= 1
        self._release()

    def _fail(self, error: OSError) -> None:
        self._buffer.clear()
        if self._trim and self._fd is not None:
            os.ftruncate(self._fd, self._written)
        self._release()
        self._on_failure(f"{self._name}: {error.strerror}; nothing more is written to it, traffic goes on")

    def _release(self) -> None:
        if self._fd is not None and self._owned:
            os.close(self._fd)
        self._fd = None
        self._buffer.clear()
