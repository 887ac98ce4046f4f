"""What an engine in the background says, by level, to stderr, a log file or the system's log (syslog(3), RFC 3164).

Levels are syslog's, with `TRACE` below. Up to the configured level a line goes to each target there is; traces are
debug lines to syslog, which knows no finer level. A line for syslog is framed as the C library does,
`<PRI>Mmm dd hh:mm:ss NAME[PID]: TEXT` in one datagram to /dev/log, never waited for: a machine without a log, or with a
slow one, loses lines and nothing else. The socket is connected at the start, before the file system may go, and once
more when the daemon behind it was restarted.

stderr is not waited for either; what its reader does not take at once is kept up to a bound, see `output`.

Does not: limit how often something is said: the callers say each thing once.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from enum import IntEnum

from bucatini.base.events import Event
from bucatini.observe.console import sentence
from bucatini.observe.log_file import LogFile, printable
from bucatini.observe.output import Output

__all__ = ["DEV_LOG", "Level", "Log", "LogListener", "Syslog", "level_of"]

DEV_LOG = "/dev/log"

_DAEMON = 3 << 3  # facility, RFC 3164 section 4.1.1
_DEBUG = 7
_STDERR_CAPACITY = 64 << 10  # bytes
_MAX_DATAGRAM = 1024  # bytes, RFC 3164 section 4.1
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Level(IntEnum):
    """How much is said. The numbers are syslog's severities; `TRACE` is ours."""

    ERROR = 3
    WARNING = 4
    INFO = 6
    DEBUG = 7
    TRACE = 8


_WORDS = {Level.ERROR: "error: ", Level.WARNING: "warning: "}


def level_of(*, quiet: bool = False, debug: bool = False, trace: bool = False) -> Level:
    """The level that `--quiet`, `--debug` and `--trace` mean together: the more talkative one wins."""
    if trace:
        return Level.TRACE
    if debug:
        return Level.DEBUG
    return Level.WARNING if quiet else Level.INFO


class Syslog:
    """The system's log as facility daemon. No log on this machine is no error. `now` gives wall-clock seconds."""

    def __init__(self, name: str, *, path: str = DEV_LOG, now: Callable[[], float] = time.time) -> None:
        self._name = name
        self._path = path
        self._now = now
        self._socket = self._connect()
        # The C library reads the time zone's file at the first use, and keeps it.
        time.localtime(now())

    def write(self, severity: int, text: str) -> None:
        """Send one line; control characters are written as escapes. Never blocks, never raises OSError."""
        if self._socket is None:
            return
        when = time.localtime(self._now())
        stamp = f"{_MONTHS[when.tm_mon - 1]} {when.tm_mday:2} {when.tm_hour:02}:{when.tm_min:02}:{when.tm_sec:02}"
        head = f"<{_DAEMON | min(severity, _DEBUG)}>{stamp} {self._name}[{os.getpid()}]: "
        datagram = (head + printable(text)).encode(errors="replace")[:_MAX_DATAGRAM]
        try:
            self._socket.send(datagram)
        except BlockingIOError:
            pass  # its queue is full
        except OSError:
            self._send_again(datagram)

    def fileno(self) -> int:
        """The descriptor, which whoever closes others must leave open; -1 when there is no log."""
        return -1 if self._socket is None else self._socket.fileno()

    def close(self) -> None:
        """Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send_again(self, datagram: bytes) -> None:
        """After the log was restarted. One that is not back yet is tried again with the next line."""
        again = self._connect()
        if again is None or self._socket is None:
            return
        self._socket.close()
        self._socket = again
        try:
            again.send(datagram)
        except OSError:
            pass

    def _connect(self) -> socket.socket | None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            made.connect(self._path)
        except OSError:
            made.close()
            return None
        return made


class Log:
    """Says lines of at most `level` to those of `stderr` (a descriptor), `file` and `syslog` that are given.

    `name` opens each line on stderr. The log owns `file` and `syslog`.
    """

    def __init__(
        self,
        level: Level = Level.INFO,
        *,
        name: str = "bucatini",
        stderr: int | None = 2,
        file: LogFile | None = None,
        syslog: Syslog | None = None,
    ) -> None:
        self.level = level
        self._name = name
        self._stderr = stderr if stderr is None else _output(stderr)
        self._file = file
        self._syslog = syslog

    def error(self, text: str) -> None:
        """Something asked for cannot be."""
        self.say(Level.ERROR, text)

    def warning(self, text: str) -> None:
        """Something asked for is not quite what was meant."""
        self.say(Level.WARNING, text)

    def info(self, text: str) -> None:
        """What was found and chosen at the start, and what changed since."""
        self.say(Level.INFO, text)

    def debug(self, text: str) -> None:
        """A line per flow."""
        self.say(Level.DEBUG, text)

    def trace(self, text: str) -> None:
        """A line per packet or socket event."""
        self.say(Level.TRACE, text)

    def says(self, level: Level) -> bool:
        """Whether lines of `level` go anywhere; ask before making an expensive one."""
        return level <= self.level and not (self._stderr is None and self._file is None and self._syslog is None)

    def say(self, level: Level, text: str) -> None:
        """A line of any level. Never raises OSError."""
        if level > self.level:
            return
        if self._file is not None:
            self._file.write(_WORDS.get(level, "") + text)
        if self._syslog is not None:
            self._syslog.write(level, text)
        if self._stderr is not None:
            line = f"{self._name}: {_WORDS.get(level, '')}{printable(text)}\n"
            self._stderr.append(line.encode(errors="replace"))
            self._stderr.flush()

    def flush(self) -> None:
        """Try again what a slow reader of stderr did not take, without waiting. For the end of a turn."""
        if self._stderr is not None:
            self._stderr.flush()

    def leave_terminal(self) -> None:
        """Say nothing on stderr any more. Call it before `Daemon.ready`, which puts /dev/null there."""
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    @property
    def descriptors(self) -> frozenset[int]:
        """What must stay open, stderr aside."""
        targets = (self._file, self._syslog)
        return frozenset(number for target in targets if target is not None and (number := target.fileno()) >= 0)

    def close(self) -> None:
        """Close file and syslog, and let go of stderr, which stays open. Idempotent."""
        self.leave_terminal()
        for target in (self._file, self._syslog):
            if target is not None:
                target.close()


class LogListener:
    """Listener that says each event as a debug line."""

    __slots__ = ("_log",)

    def __init__(self, log: Log) -> None:
        self._log = log

    @property
    def wants_flows(self) -> bool:
        """Whether anything would be said."""
        return self._log.says(Level.DEBUG)

    def on_event(self, event: Event, now: float) -> None:
        """Say the sentence of `event`."""
        if self._log.says(Level.DEBUG):
            self._log.debug(sentence(event))


def _output(fd: int) -> Output:
    return Output(fd, name="stderr", on_failure=_ignore, capacity=_STDERR_CAPACITY, owned=False)


def _ignore(line: str) -> None:
    """Nobody can be told that telling fails."""
