"""Noticing that a network namespace's path is gone: its process ended, or its name was deleted (inotify(7), proc(5)).

A process tells of its end by a pidfd. The name of a namespace on an ordinary file system is watched by inotify, in its
directory, because deleting the last name of a mounted file is no event of the file. File systems that the kernel makes
up (proc, sysfs, devpts) tell inotify nothing, and inotify may be used up: the path is then tried once a second.

Gone means the path, not the namespace: that lives on as long as a process or a descriptor of ours holds it.

Does not: follow a symbolic link at the end of the path, or run a timer; who asks decides when.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import struct
from types import TracebackType
from typing import Self

from bucatini.host import syscalls

__all__ = ["INTERVAL", "NetnsWatch"]

INTERVAL = 1.0
"""Seconds between two tries where nothing tells us."""

_SILENT = ("proc", "sysfs", "devpts")
_EVENTS = syscalls.IN_DELETE | syscalls.IN_MOVED_FROM | syscalls.IN_ONLYDIR
_EVENT = struct.Struct("=iIII")  # watch, events, cookie, length of the name
_READ_SIZE = 1 << 16
_TURN = 64
"""Reads in one call; whoever deletes names faster only makes us come back."""


class NetnsWatch:
    """A watch on one path. Never raises: where nothing better can be had, the path is tried."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._gone = False
        self._pidfd = _open_process(path)
        self._inotify = -1
        if self._pidfd < 0:
            self._inotify = _open_watch(os.path.dirname(path) or ".")
        self._name = os.fsencode(os.path.basename(path))
        self.interval = INTERVAL if self.fileno() is None else None
        """Seconds after which to ask `gone` again, and again; None: only when `fileno` is readable."""
        self._gone = self._missing()  # from here on nothing is missed

    def fileno(self) -> int | None:
        """Readable when `gone` has something to look at; None: see `interval`."""
        return max(self._pidfd, self._inotify) if max(self._pidfd, self._inotify) >= 0 else None

    def gone(self) -> bool:
        """Whether the path has been gone, if only for a moment, since the watch began. Never blocks."""
        if not self._gone:
            if self._pidfd >= 0:
                self._gone = _ended(self._pidfd)
            else:
                self._gone = (self._inotify >= 0 and self._deleted()) or self._missing()
        return self._gone

    def close(self) -> None:
        """Stop watching. Idempotent."""
        for descriptor in (self._pidfd, self._inotify):
            if descriptor >= 0:
                os.close(descriptor)
        self._pidfd = self._inotify = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _deleted(self) -> bool:
        """Read events; whether one is about our name."""
        for _ in range(_TURN):
            try:
                events = os.read(self._inotify, _READ_SIZE)
            except BlockingIOError:
                break
            if self._name in _names(events):
                return True
        return False

    def _missing(self) -> bool:
        """Whether the path leads nowhere; one that we may not follow (EACCES) is there."""
        try:
            os.close(os.open(self._path, os.O_PATH | os.O_CLOEXEC))
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return True
        except OSError:
            return False
        return False


def _open_process(path: str) -> int:
    """A pidfd for the process whose directory in /proc `path` is in, or -1."""
    found = re.match(r"/proc/(\d+)/", path)
    if found:
        with contextlib.suppress(OSError, OverflowError):
            return os.pidfd_open(int(found[1]))
    return -1


def _open_watch(folder: str) -> int:
    """An inotify descriptor for `folder`, or -1 where it would tell nothing."""
    if _file_system(folder) in _SILENT:
        return -1
    inotify = -1
    try:
        inotify = syscalls.open_inotify()
        syscalls.add_watch(inotify, folder, _EVENTS)
    except OSError:
        if inotify >= 0:
            os.close(inotify)
        return -1
    return inotify


def _file_system(folder: str) -> str:
    """The type of the file system `folder` is on, empty when that cannot be said."""
    try:
        device = os.stat(folder).st_dev
        with open("/proc/self/mountinfo", "rb") as mounts:
            for line in mounts:
                # ID parent major:minor root mount-point options [tags...] - type source options (proc(5))
                words = line.decode(errors="replace").split()
                if words[2] == f"{os.major(device)}:{os.minor(device)}":
                    return words[words.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass
    return ""


def _ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _names(events: bytes) -> set[bytes]:
    names = set()
    offset = 0
    while offset + _EVENT.size <= len(events):
        length = _EVENT.unpack_from(events, offset)[3]
        offset += _EVENT.size
        names.add(events[offset : offset + length].rstrip(b"\0"))
        offset += length
    return names
