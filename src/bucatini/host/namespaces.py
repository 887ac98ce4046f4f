"""Entering namespaces, new or somebody's, and saying in one line why that fails (namespaces(7), user_namespaces(7)).

Root makes the network namespace directly. Anybody else first makes a user namespace in which they are root: one user
and one group mapped, `setgroups` denied as the kernel demands before an unprivileged group map. A "root" without
CAP_SYS_ADMIN (in a container) goes the second way too.

To join somebody's network namespace takes CAP_SYS_ADMIN both in the user namespace that owns it and in our own. Whoever
made that user namespace gets it there by joining it first; root has it already, and joins all the same when told to.
All paths are opened before anything is entered: afterwards we may not be who may look into /proc any more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re

from bucatini.base.errors import HostError
from bucatini.host import syscalls

__all__ = [
    "enter_network_namespace",
    "enter_private_namespaces",
    "join_network_namespace",
    "prepare_process_namespace",
]

_NS_GET_NSTYPE = 0xB703
_KINDS = {syscalls.CLONE_NEWNET: "network", syscalls.CLONE_NEWUSER: "user"}


def enter_network_namespace(*, netns_only: bool = False) -> bool:
    """Move the caller into a new network namespace; true when that took a user namespace of our own.

    With `netns_only` it never does. Raises HostError naming the setting that most likely forbids it.
    """
    if os.geteuid() == 0 and not netns_only:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
        except PermissionError:
            pass
        else:
            return False
    if not netns_only:
        _enter_user_namespace()
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
    except OSError as error:
        raise _refused("network", error) from None
    return not netns_only


def join_network_namespace(netns: str, userns: str | None) -> None:
    """Move the caller into the user namespace at `userns`, unless it is there already, then the network one at `netns`.

    Raises HostError naming the path, and the option that helps.
    """
    network = _open_namespace(netns, syscalls.CLONE_NEWNET)
    if os.path.samestat(os.fstat(network), os.stat("/proc/self/ns/net")):
        raise HostError(f"{netns} is the network namespace we are in ourselves: there is nothing to attach")
    if userns is not None:
        user = _open_namespace(userns, syscalls.CLONE_NEWUSER)
        _join(user, syscalls.CLONE_NEWUSER, userns, _NOT_THE_OWNER)
        os.close(user)
    _join(network, syscalls.CLONE_NEWNET, netns, _NO_USERNS if userns is None else _WRONG_USERNS.format(userns))
    os.close(network)


_NOT_THE_OWNER = "only who made it may, and root"
_NO_USERNS = "name the user namespace it belongs to with --userns, or be root"
_WRONG_USERNS = "does it belong to the user namespace {}? Name its own with --userns"


def _open_namespace(path: str, flag: int) -> int:
    kind = _KINDS[flag]
    try:
        # Not blocking, not controlling: whatever the path may be, opening it does nothing more.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise HostError(_unopened(path, kind, error)) from None
    try:
        found = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError:
        found = 0
    if found != flag:
        os.close(descriptor)
        raise HostError(f"{path} is not a {kind} namespace")
    return descriptor


def _unopened(path: str, kind: str, error: OSError | ValueError) -> str:
    process = re.match(r"/proc/(\d+)/", path)
    if process and isinstance(error, FileNotFoundError | ProcessLookupError):
        return f"there is no process {process[1]}"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"there is no {kind} namespace {path}"
    reason = error.strerror if isinstance(error, OSError) else str(error)
    if process and isinstance(error, PermissionError):
        reason = f"{reason}: process {process[1]} is somebody else's, or has more rights than we; be its user or root"
    return f"cannot open {path}: {reason}"


def _join(descriptor: int, flag: int, path: str, hint: str) -> None:
    try:
        syscalls.setns(descriptor, flag)
    except OSError as error:
        if error.errno == errno.EINVAL and flag == syscalls.CLONE_NEWUSER:
            return  # It is our own: what else EINVAL may mean takes a second thread.
        reason = f"{error.strerror}: {hint}" if error.errno == errno.EPERM else error.strerror
        raise HostError(f"cannot join the {_KINDS[flag]} namespace {path}: {reason}") from None


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
