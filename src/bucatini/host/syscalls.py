"""The few system calls Python 3.11 has no function for: unshare(2), setns(2), mount(2), prctl(2), inotify(7), and
connect(2) to nobody.

Each raises OSError with the kernel's errno, as the functions of `os` do.

Does not: judge errors or phrase them for people; the callers know what they were trying to do.
"""

from __future__ import annotations

import ctypes
import os

__all__ = [
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "IN_DELETE",
    "IN_MOVED_FROM",
    "IN_ONLYDIR",
    "MNT_DETACH",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_REC",
    "MS_SLAVE",
    "add_watch",
    "disconnect",
    "mount",
    "open_inotify",
    "set_not_dumpable",
    "setns",
    "unmount",
    "unshare",
]

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# linux/mount.h
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_SLAVE = 1 << 19
MNT_DETACH = 2

# linux/inotify.h
IN_MOVED_FROM = 0x40
IN_DELETE = 0x200
IN_ONLYDIR = 0x01000000

_PR_SET_DUMPABLE = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


def unshare(flags: int) -> None:
    """Leave the namespaces named by the CLONE_NEW* `flags` for new ones; the next child enters a new PID namespace."""
    _check(_libc.unshare(flags))


def setns(descriptor: int, flag: int) -> None:
    """Enter the namespace `descriptor` stands for, which must be of the kind of the CLONE_NEW* `flag`."""
    _check(_libc.setns(descriptor, flag))


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount `source` of file system type `kind` on `target`; with MS_BIND or a propagation flag `kind` is empty."""
    _check(_libc.mount(source.encode(), os.fsencode(target), kind.encode() or None, flags, options.encode() or None))


def unmount(target: str, flags: int = 0) -> None:
    """Unmount `target`; MNT_DETACH takes it out of the tree at once, even while in use."""
    _check(_libc.umount2(os.fsencode(target), flags))


def set_not_dumpable() -> None:
    """Keep processes of the same user from tracing the caller and reading its memory, until it executes a program."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def open_inotify() -> int:
    """A new inotify descriptor, non-blocking."""
    return _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def add_watch(inotify: int, path: str, events: int) -> None:
    """Let `inotify` tell of the IN_* `events` at `path`."""
    _check(_libc.inotify_add_watch(inotify, os.fsencode(path), ctypes.c_uint32(events)))


def disconnect(descriptor: int) -> None:
    """End the connection of a datagram socket: connect(2) to an address of family AF_UNSPEC."""
    _check(_libc.connect(descriptor, bytes(16), 16))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
