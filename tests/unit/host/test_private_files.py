"""host.private_files, in a mount namespace of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bucatini.host import private_files, syscalls
from support.forked import in_child

pytestmark = pytest.mark.root


def in_new_mounts(paths: dict[str, str]) -> tuple[list[str], dict[str, str], int]:
    """Notes, what the paths then read as, and how many mounts the scratch left."""

    def bind() -> tuple[list[str], dict[str, str], int]:
        private_files.isolate_mounts()
        notes = private_files.bind_texts(paths)
        seen = {path: Path(path).read_text() for path in paths if os.path.exists(path)}
        left = sum(" /tmp tmpfs" in line for line in Path("/proc/self/mounts").read_text().splitlines())
        return notes, seen, left

    before = sum(" /tmp tmpfs" in line for line in Path("/proc/self/mounts").read_text().splitlines())
    notes, seen, left = in_child(bind, unshare=syscalls.CLONE_NEWNS)
    return notes, seen, left - before


@pytest.fixture
def elsewhere() -> Path:
    """A folder the scratch mount on /tmp does not hide."""
    return Path("/etc")


def test_texts_cover_the_files(elsewhere: Path) -> None:
    paths = {str(elsewhere / "passwd"): "covered: é\n", str(elsewhere / "group"): ""}
    before = (elsewhere / "passwd").read_text()
    assert in_new_mounts(paths) == ([], paths, 0)
    assert (elsewhere / "passwd").read_text() == before


def test_missing_target_is_a_note() -> None:
    notes, _, left = in_new_mounts({"/etc/no-such-file": "x", "/etc/passwd": "covered"})
    assert notes == ["/etc/no-such-file stays the host's: No such file or directory"]
    assert left == 0


def test_nothing_wanted_nothing_done() -> None:
    assert in_new_mounts({}) == ([], {}, 0)


def test_proc_is_that_of_the_new_processes() -> None:
    def mount() -> tuple[list[str], list[str]]:
        private_files.isolate_mounts()
        return private_files.mount_proc(), [name for name in os.listdir("/proc") if name.isdigit()]

    def first_process() -> tuple[list[str], list[str]]:
        return in_child(mount, unshare=syscalls.CLONE_NEWNS)

    assert in_child(first_process, unshare=syscalls.CLONE_NEWPID) == ([], ["1"])


def test_proc_that_cannot_be_had_is_a_note() -> None:
    """Without a PID namespace of its own a user namespace may not mount one."""
    said = in_child(private_files.mount_proc, unshare=syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    assert said == ["/proc stays the host's: Operation not permitted"]
