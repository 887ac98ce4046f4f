"""What the command sees of the file system that is its own: /proc, /etc/resolv.conf, /etc/hosts (mount_namespaces(7)).

Runs in init, inside its mount namespace. Mounts made here never reach the host (slave propagation), mounts made on the
host later still arrive. The two files live on a tmpfs that is attached to the tree only while they are being bound over
the host's, so they can be written by the command and vanish with it.

Does not: hide anything of the host's file system: the command sees what the caller sees.
"""

from __future__ import annotations

import os

from bucatini.base.errors import HostError
from bucatini.host import syscalls

__all__ = ["bind_texts", "isolate_mounts", "mount_proc"]

_SCRATCH_PLACES = ("/tmp", "/run", "/mnt", "/dev/shm", "/var/tmp")
"""Where a tmpfs may be mounted for a moment; nothing is written below the directory itself."""

_FILE_MODE = 0o644


def isolate_mounts() -> None:
    """Keep our mounts from the host's tree. Raises HostError."""
    try:
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_SLAVE)
    except OSError as error:
        raise HostError(f"cannot make mounts private: {error.strerror}") from None


def mount_proc() -> list[str]:
    """Mount a /proc of the new PID namespace; returns a note when the kernel refuses, as under a masked /proc."""
    try:
        syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    except OSError as error:
        return [f"/proc stays the host's: {error.strerror}"]
    return []


def bind_texts(texts: dict[str, str]) -> list[str]:
    """Put `texts` (path: content) over existing files; returns a note for each that could not be covered."""
    if not texts:
        return []
    scratch = _mount_scratch()
    if scratch is None:
        return [f"{path} stays the host's: no place for a temporary mount" for path in texts]
    try:
        return [note for number, item in enumerate(texts.items()) for note in _bind(scratch, str(number), *item)]
    finally:
        syscalls.unmount(scratch, syscalls.MNT_DETACH)


def _mount_scratch() -> str | None:
    for place in _SCRATCH_PLACES:
        try:
            syscalls.mount("tmpfs", place, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755")
        except OSError:
            continue
        return place
    return None


def _bind(scratch: str, name: str, path: str, text: str) -> list[str]:
    source = os.path.join(scratch, name)
    try:
        with open(source, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), _FILE_MODE)
            file.write(text)
        syscalls.mount(source, path, flags=syscalls.MS_BIND)
    except OSError as error:
        return [f"{path} stays the host's: {error.strerror}"]
    return []
