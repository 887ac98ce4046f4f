"""host.namespaces: refusals name what to change. Entering them is tested in tests/interop/test_guest_process.py."""

from __future__ import annotations

import errno
import os

import pytest

from bucatini.base.errors import HostError
from bucatini.host import namespaces, syscalls
from support.forked import in_child


@pytest.mark.parametrize(
    ("kind", "number", "said"),
    [
        ("user", errno.EPERM, "kernel.apparmor_restrict_unprivileged_userns"),
        ("user", errno.EPERM, "kernel.unprivileged_userns_clone"),
        ("user", errno.ENOSPC, "user.max_user_namespaces"),
        ("network", errno.ENOSPC, "user.max_net_namespaces"),
        ("PID", errno.ENOSPC, "user.max_pid_namespaces"),
        ("user", errno.EUSERS, "nested too deeply"),
        ("user", errno.EINVAL, "built without"),
        ("network", errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_refusal_is_one_line_with_a_way_out(kind: str, number: int, said: str) -> None:
    text = str(namespaces._refused(kind, OSError(number, os.strerror(number))))
    assert text.startswith(f"cannot make a {kind} namespace: {os.strerror(number)}")
    assert said in text
    assert "\n" not in text


@pytest.mark.root
def test_root_needs_no_user_namespace() -> None:
    def enter() -> tuple[bool, bool, bool]:
        names = ("user", "net")
        before = [os.readlink(f"/proc/self/ns/{name}") for name in names]
        own = namespaces.enter_network_namespace()
        after = [os.readlink(f"/proc/self/ns/{name}") for name in names]
        return own, before[0] == after[0], before[1] == after[1]

    assert in_child(enter) == (False, True, False)


@pytest.mark.root
def test_anybody_else_gets_one() -> None:
    def enter() -> tuple[bool, int, list[str]]:
        os.setgroups([])
        os.setresgid(54321, 54321, 54321)
        os.setresuid(54321, 54321, 54321)
        # A process that changed its identity is not dumpable and may not write its own maps; one that executed may.
        import ctypes

        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
        own = namespaces.enter_network_namespace()
        with open("/proc/self/gid_map") as entry:
            return own, os.getuid(), entry.read().split()

    assert in_child(enter) == (True, 0, ["0", "54321", "1"])


@pytest.mark.root
def test_next_child_is_the_first_process() -> None:
    def first() -> int:
        namespaces.prepare_process_namespace()
        return in_child(os.getpid)

    assert in_child(first) == 1


@pytest.mark.root
def test_limit_is_an_error_of_the_host() -> None:
    def refused() -> str:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        with open("/proc/sys/user/max_net_namespaces", "w") as limit:
            limit.write("0")
        try:
            namespaces.enter_network_namespace()
        except HostError as error:
            return str(error)
        return ""

    assert "namespace" in in_child(refused)


@pytest.mark.root
def test_netns_only_makes_no_user_namespace() -> None:
    def enter() -> tuple[bool, bool]:
        before = os.readlink("/proc/self/ns/user")
        return namespaces.enter_network_namespace(netns_only=True), os.readlink("/proc/self/ns/user") == before

    assert in_child(enter) == (False, True)


@pytest.mark.root
def test_netns_only_without_privilege_is_an_error() -> None:
    def refused() -> str:
        os.setresuid(54321, 54321, 54321)
        try:
            namespaces.enter_network_namespace(netns_only=True)
        except HostError as error:
            return str(error)
        return ""

    assert in_child(refused).startswith("cannot make a network namespace: Operation not permitted")


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        ("/proc/12/ns/net", FileNotFoundError(2, "x"), "there is no process 12"),
        ("/proc/12/ns/net", ProcessLookupError(3, "x"), "there is no process 12"),
        ("/run/netns/a", FileNotFoundError(2, "x"), "there is no network namespace /run/netns/a"),
        ("/etc/passwd/a", NotADirectoryError(20, "x"), "there is no network namespace /etc/passwd/a"),
        ("/run/netns/a", PermissionError(13, "Permission denied"), "cannot open /run/netns/a: Permission denied"),
        ("a\0b", ValueError("embedded null byte"), "cannot open a\0b: embedded null byte"),
    ],
)
def test_path_that_cannot_be_opened(path: str, error: OSError | ValueError, said: str) -> None:
    assert namespaces._unopened(path, "network", error) == said
