"""Becoming somebody with fewer rights: user, groups and capabilities (capabilities(7), user_namespaces(7)).

Root of the machine is not who should read a guest's frames, so a compat command started by it becomes `nobody` or the
user of `--runas`, and keeps the few capabilities it was told to. Capabilities survive the change of user only if the
kernel is asked to keep them (PR_SET_KEEPCAPS), and only as permitted ones: they are made effective again afterwards.
A change of user also makes the process "not dumpable", which hides its own /proc/self from it: that is undone, or no
user namespace could be mapped any more.

All is per thread in the kernel: call these functions while there is only one. Does not: filter system calls, or close
what the old user had opened.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from bucatini.base.errors import ConfigError, HostError

__all__ = [
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_ADMIN",
    "CAP_SYS_PTRACE",
    "drop_for_good",
    "drop_to",
    "find_group",
    "find_user",
    "is_real_root",
    "limit_capabilities",
    "nobody",
    "parse_user",
]

# linux/capability.h
CAP_SETPCAP = 8
CAP_NET_BIND_SERVICE = 10
CAP_NET_ADMIN = 12
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21

_VERSION_3 = 0x20080522
_HEADER = struct.Struct("=Ii")  # version, thread (0: the caller)
_SETS = struct.Struct("=6I")  # effective, permitted, inheritable: the low 32 bits of each, then the high ones

# linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38

_IDENTITY_MAP = ["0", "0", "4294967295"]
_MAX_ID = 2**32 - 2  # -1 means "unchanged"
_OVERFLOW_ID = 65534  # what nobody is nearly everywhere
_ACCEPTED = "expected USER or USER:GROUP, as names or numbers"

_libc = ctypes.CDLL(None, use_errno=True)


def parse_user(value: str) -> tuple[int, int]:
    """The user and group numbers that `value`, `USER[:GROUP]`, means. Raises ConfigError naming --runas.

    Without a group a number means the group of the same number, and a name the user's primary group. The number 0 is
    accepted, a name for it is not: who wants to stay root must have looked it up.
    """
    user, colon, group = value.partition(":")
    if not user or (colon and not group):
        raise ConfigError(f"--runas {value!r}: {_ACCEPTED}")
    number = _number(user, value)
    if number is not None:
        return number, _group(group, value) if colon else number
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):
        raise ConfigError(f"--runas {value!r}: there is no user {user!r}; {_ACCEPTED}") from None
    if entry.pw_uid == 0:
        raise ConfigError(f"--runas {value!r}: user {user!r} is root; {_ACCEPTED} of another user")
    return entry.pw_uid, _group(group, value) if colon else entry.pw_gid


def find_user(option: str, value: str) -> tuple[int, int]:
    """The number and the primary group of a user that this host has, by name or number. Raises ConfigError."""
    import pwd

    try:
        entry = pwd.getpwuid(int(value)) if value.isdecimal() else pwd.getpwnam(value)
    except (KeyError, ValueError, OverflowError):
        raise ConfigError(f"{option} {value!r}: must be a user of this host, a name or a number") from None
    return entry.pw_uid, entry.pw_gid


def find_group(option: str, value: str) -> int:
    """The number of a group that this host has, by name or number. Raises ConfigError."""
    import grp

    try:
        entry = grp.getgrgid(int(value)) if value.isdecimal() else grp.getgrnam(value)
    except (KeyError, ValueError, OverflowError):
        raise ConfigError(f"{option} {value!r}: must be a group of this host, a name or a number") from None
    return entry.gr_gid


def is_real_root() -> bool:
    """Whether the caller is root of the machine, not only of a user namespace. True when the kernel does not say."""
    if os.geteuid() != 0:
        return False
    try:
        with open("/proc/self/uid_map") as file:
            return file.read().split() == _IDENTITY_MAP
    except OSError:
        return True


def nobody() -> tuple[int, int]:
    """User and group numbers of `nobody`; 65534 where there is no such user."""
    import pwd

    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return _OVERFLOW_ID, _OVERFLOW_ID
    return entry.pw_uid, entry.pw_gid


def drop_to(user_id: int, group_id: int, keep: frozenset[int] = frozenset()) -> None:
    """Become this user and group, without supplementary groups, with those capabilities of `keep` the caller has.

    The bounding set stays (see `limit_capabilities`). Raises HostError when the kernel refuses; the caller must leave
    then, for part of the change may have happened.
    """
    try:
        _leave_groups()
        _prctl(_PR_SET_KEEPCAPS, 1)
        os.setresgid(group_id, group_id, group_id)
        os.setresuid(user_id, user_id, user_id)
        _prctl(_PR_SET_KEEPCAPS, 0)
        _keep_only(keep)
        _prctl(_PR_SET_DUMPABLE, 1)
    except OSError as error:
        raise HostError(f"cannot become user {user_id}, group {group_id}: {error.strerror}") from None


def drop_for_good(user_id: int, group_id: int, keep: frozenset[int] = frozenset()) -> None:
    """`drop_to`, and nothing that is executed from now on gets more back: no program is set-user-ID (no_new_privs of
    prctl(2)), and the bounding set is `keep`, as far as the caller may say so (CAP_SETPCAP). Raises HostError.
    """
    try:
        _limit_bounding(keep)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise HostError(f"cannot give up privileges: {error.strerror}") from None
    drop_to(user_id, group_id, keep)


def limit_capabilities(keep: frozenset[int] = frozenset()) -> None:
    """Give up every capability but those of `keep`; what the caller does not have is not gained. For good: programs it
    executes get no others either, where it may say so (CAP_SETPCAP). Raises HostError.
    """
    try:
        _limit_bounding(keep)
        _keep_only(keep)
    except OSError as error:
        raise HostError(f"cannot give up capabilities: {error.strerror}") from None


def _number(word: str, value: str) -> int | None:
    if not (word.isascii() and word.isdigit()):
        return None
    number = int(word) if len(word) < 11 else _MAX_ID + 1
    if number > _MAX_ID:
        raise ConfigError(f"--runas {value!r}: {word} is no user or group number, the largest is {_MAX_ID}")
    return number


def _group(group: str, value: str) -> int:
    number = _number(group, value)
    if number is not None:
        return number
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise ConfigError(f"--runas {value!r}: there is no group {group!r}; {_ACCEPTED}") from None


def _leave_groups() -> None:
    try:
        os.setgroups([])
    except PermissionError:
        pass  # An ordinary user has no say in it, nor has root of a user namespace that denies setgroups.


def _keep_only(keep: frozenset[int]) -> None:
    """Effective and permitted become what of `keep` is permitted; inheritable becomes empty, and so ambient with it."""
    _, permitted = _capabilities()
    kept = permitted & sum(1 << number for number in keep)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    data = ctypes.create_string_buffer(_SETS.pack(low, low, 0, high, high, 0), _SETS.size)
    _check(_libc.capset(_HEADER.pack(_VERSION_3, 0), data))


def _capabilities() -> tuple[int, int]:
    """(effective, permitted) of the caller, as bit masks."""
    data = ctypes.create_string_buffer(_SETS.size)
    _check(_libc.capget(ctypes.create_string_buffer(_HEADER.pack(_VERSION_3, 0), _HEADER.size), data))
    low_effective, low_permitted, _, high_effective, high_permitted, _ = _SETS.unpack(data.raw)
    return low_effective | high_effective << 32, low_permitted | high_permitted << 32


def _limit_bounding(keep: frozenset[int]) -> None:
    """Take everything but `keep` out of the bounding set, up to the last capability this kernel knows."""
    effective, _ = _capabilities()
    if not effective & 1 << CAP_SETPCAP:
        return
    for number in range(64):
        if number in keep:
            continue
        try:
            _prctl(_PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return


def _prctl(option: int, argument: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
