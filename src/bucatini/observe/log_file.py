"""A log file that never grows past its limit, for engines that run for months (pasta's `--log-file`, `--log-size`).

The first line says who writes: name, version, executable, process number. Every other is `SECONDS.FFFF: text`, the
time since the start by the monotonic clock, so lines are in order whatever happens to the wall clock. Each line is
written at once: a crash loses none.

A line that would pass the limit first makes room: 30 % of the limit, rounded up to a page, is taken out at the start
of the file, what is left of a line there is overwritten by the first line again, with a note and blanks up to the next
line's end. Everything is done through the one descriptor, since by then the path may be out of reach (another root
directory, another user). Where the file system can (ext4, XFS) the range is collapsed (fallocate(2)), in place and at
once; elsewhere (tmpfs, Btrfs) the rest is copied down, which takes about a millisecond for the usual 1 MiB.

A disk that is full, or any other failure to write, ends the log with one line for people; traffic goes on. Does not:
keep old files, notice that others truncate or replace the file, or filter by level (`log` does).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import sys
import time
from collections.abc import Callable

from bucatini import __version__
from bucatini.base.errors import ConfigError

__all__ = ["DEFAULT_LIMIT", "MAX_LINE", "MIN_LIMIT", "LogFile", "check_limit", "printable"]

DEFAULT_LIMIT = 1048576
"""Bytes."""
MIN_LIMIT = 40960
"""Bytes, as passt has it: five of its longest lines."""
MAX_LINE = 8192
"""Bytes of a line with time and line end; the rest of a longer one is left out."""

_PAGE = 4096
_CUT_PERCENT = 30
_MAX_FIRST = 2048
"""Bytes of the first line, which holds a path."""
_COPY = 1 << 20
_FALLOC_FL_COLLAPSE_RANGE = 0x08

_libc = ctypes.CDLL(None, use_errno=True)
# 64-bit offsets whatever the machine: glibc has both names, musl's fallocate always takes 64 bits.
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def check_limit(limit: int) -> int:
    """`limit`, in bytes, if it is one. Raises ConfigError naming --log-size."""
    if limit < MIN_LIMIT:
        raise ConfigError(f"--log-size {limit}: expected at least {MIN_LIMIT} bytes")
    return limit


class LogFile:
    """The file at `path`, emptied, made readable by its owner only if it is new. `limit` is in bytes.

    `clock` gives seconds, `start` is its instant that counts as 0 (default: now). `on_failure` hears once, with a line
    for people, when writing fails. Raises ConfigError naming --log-file or --log-size.
    """

    def __init__(
        self,
        path: str,
        limit: int = DEFAULT_LIMIT,
        *,
        name: str = "bucatini",
        start: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self._limit = check_limit(limit)
        self._cut = -(-limit * _CUT_PERCENT // 100 // _PAGE) * _PAGE
        self._path = path
        # Once: a relative path has no meaning after the working directory is left.
        self._writer = f"{name} {__version__}: {printable(os.path.abspath(sys.argv[0] or sys.executable))}"
        self._clock = clock
        self._start = clock() if start is None else start
        self._on_failure = on_failure or _to_stderr
        self._size = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise ConfigError(f"--log-file {path!r}: {error.strerror}") from None
        except ValueError as error:  # a NUL in the path
            raise ConfigError(f"--log-file {path!r}: {error}") from None
        # A terminal, a FIFO or /dev/null has no size to keep, and loses the lines its reader is too slow for.
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        os.set_blocking(self._fd, self._regular)
        self._append(self._first_line())

    @property
    def active(self) -> bool:
        """Whether lines still go anywhere: not failed, not closed."""
        return self._fd >= 0

    def fileno(self) -> int:
        """The descriptor, which whoever closes others must leave open; -1 when not `active`."""
        return self._fd

    def write(self, text: str) -> None:
        """Write one line. Control characters in it are written as escapes. Never raises OSError."""
        if self._fd < 0:
            return
        line = _shortened(f"{self._time()}: {printable(text)}", MAX_LINE - 1) + b"\n"
        try:
            if self._regular and self._size + len(line) > self._limit:
                self._rotate()
        except OSError as error:
            self._fail(error)
        self._append(line)

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, line: bytes) -> None:
        if self._fd < 0:
            return
        try:
            written = os.write(self._fd, line)
            if written < len(line) and self._regular:
                # The disk is nearly full; the kernel says so when asked for the rest.
                written += os.write(self._fd, line[written:])
        except BlockingIOError:
            return
        except OSError as error:
            if self._regular:
                os.ftruncate(self._fd, self._size)  # no half line
            self._fail(error)
            return
        self._size += written

    def _rotate(self) -> None:
        self._size = os.fstat(self._fd).st_size
        if self._size <= self._cut:
            return  # somebody else has emptied it
        if _fallocate(self._fd, _FALLOC_FL_COLLAPSE_RANGE, 0, self._cut) != 0:
            self._copy_down()
        self._size -= self._cut
        self._overwrite_start(self._first_line(f" - log truncated at {self._time()}"))

    def _copy_down(self) -> None:
        """Take the first `cut` bytes out by moving the others."""
        for offset in range(self._cut, self._size, _COPY):
            self._pwrite(offset - self._cut, os.pread(self._fd, _COPY, offset))
        os.ftruncate(self._fd, self._size - self._cut)

    def _overwrite_start(self, line: bytes) -> None:
        """Write `line` over the start, with blanks before its end so that it ends where another line did."""
        head = os.pread(self._fd, len(line) + MAX_LINE, 0)
        end = head.find(b"\n", len(line) - 1)
        self._pwrite(0, line[:-1].ljust(end) + b"\n")

    def _pwrite(self, offset: int, data: bytes) -> None:
        """Write at `offset`, which Linux does not do while O_APPEND is set: see pwrite(2), "Bugs"."""
        before = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, before & ~os.O_APPEND)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], offset + done)
        finally:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, before)

    def _first_line(self, note: str = "") -> bytes:
        tail = f" ({os.getpid()}){note}\n".encode()
        return _shortened(self._writer, _MAX_FIRST - len(tail)) + tail

    def _time(self) -> str:
        parts = int((self._clock() - self._start) * 10_000)
        return f"{parts // 10_000}.{parts % 10_000:04}"

    def _fail(self, error: OSError) -> None:
        self.close()
        self._on_failure(f"--log-file {self._path!r}: {error.strerror}; nothing more is logged, traffic goes on")


def _shortened(text: str, most: int) -> bytes:
    """UTF-8 of `text`, at most so many bytes, whole characters only."""
    encoded = text.encode(errors="replace")
    return encoded if len(encoded) <= most else encoded[:most].decode(errors="ignore").encode()


def printable(text: str) -> str:
    """`text` on one line: control characters become escapes, so that no name a guest chose can forge a line."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _to_stderr(line: str) -> None:
    try:
        os.write(2, f"bucatini: {line}\n".encode(errors="replace"))
    except OSError:
        pass  # nobody can be told
