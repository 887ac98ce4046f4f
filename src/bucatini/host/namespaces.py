"""Entering new namespaces, and saying in one line why the machine forbids it (namespaces(7), user_namespaces(7)).

Root makes the network namespace directly. Anybody else first makes a user namespace in which they are root: one user
and one group mapped, `setgroups` denied as the kernel demands before an unprivileged group map. A "root" without
CAP_SYS_ADMIN (in a container) goes the second way too.
"""

from __future__ import annotations

import errno
import os

from bucatini.base.errors import HostError
from bucatini.host import syscalls

__all__ = ["enter_network_namespace", "enter_private_namespaces", "prepare_process_namespace"]


def enter_network_namespace() -> bool:
    """Move the caller into a new network namespace; true when that took a user namespace of our own.

    Raises HostError naming the setting that most likely forbids it.
    """
    if os.geteuid() == 0:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
        except PermissionError:
            pass
        else:
            return False
    _enter_user_namespace()
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
    except OSError as error:
        raise _refused("network", error) from None
    return True


def prepare_process_namespace() -> None:
    """Make the caller's next child PID 1 of a new PID namespace."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID)
    except OSError as error:
        raise _refused("PID", error) from None


def enter_private_namespaces() -> None:
    """Move the caller into new mount, UTS and IPC namespaces."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC)
    except OSError as error:
        raise _refused("mount, UTS and IPC", error) from None


def _enter_user_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {user} 1")
        _write("/proc/self/gid_map", f"0 {group} 1")
    except OSError as error:
        raise _refused("user", error) from None


def _write(path: str, text: str) -> None:
    with open(path, "w") as entry:
        entry.write(text)


_PERMISSION = (
    "check sysctl kernel.unprivileged_userns_clone (1 allows), kernel.apparmor_restrict_unprivileged_userns (0 allows),"
    " user.max_user_namespaces (not 0), and a container's seccomp profile"
)
_REASONS = {
    errno.EPERM: _PERMISSION,
    errno.EACCES: _PERMISSION,
    errno.ENOSPC: "sysctl user.max_{kind}_namespaces is reached or 0",
    errno.EUSERS: "user namespaces are nested too deeply",
    errno.EINVAL: "this kernel is built without them",
}
_SYSCTL_KIND = {"user": "user", "network": "net", "PID": "pid", "mount, UTS and IPC": "{mnt,uts,ipc}"}


def _refused(kind: str, error: OSError) -> HostError:
    reason = _REASONS.get(error.errno or 0, "").replace("{kind}", _SYSCTL_KIND[kind])
    return HostError(f"cannot make a {kind} namespace: {error.strerror}" + (f": {reason}" if reason else ""))
