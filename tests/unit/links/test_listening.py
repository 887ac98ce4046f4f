"""links.listening: whose file it is, who is let in, and what is left behind."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bucatini.base.errors import ConfigError, HostError
from bucatini.links.listening import Door, listen_at, peer_process
from bucatini.links.unix_stream import UnixStreamLink
from support.forked import in_child
from support.link_owner import Owner

KINDS = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "net.sock")


def client_of(path: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    made.settimeout(5)
    made.connect(path)
    return made


# -- listen_at


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_for_its_owner_alone(path: str, kind: int) -> None:
    before = os.umask(0)
    try:
        with listen_at(path, kind) as sock:
            status = os.stat(path)
            assert stat.S_ISSOCK(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o600
            assert sock.getblocking() is False
            assert sock.get_inheritable() is False
            assert sock.type == kind
        assert os.umask(0) == 0
    finally:
        os.umask(before)


@pytest.mark.parametrize("kind", KINDS)
def test_clients_can_connect_at_once(path: str, kind: int) -> None:
    with listen_at(path, kind), client_of(path, kind) as client:
        assert client.getpeername() == path


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_left_behind_is_taken_over(path: str, kind: int) -> None:
    with socket.socket(socket.AF_UNIX, kind) as old:
        old.bind(path)
    with listen_at(path, kind), client_of(path, kind):
        pass
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    os.unlink(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_a_path_in_use_is_refused(path: str, kind: int, other: int) -> None:
    with listen_at(path, other):
        inode = os.stat(path).st_ino
        with pytest.raises(HostError, match="cannot listen on .*: somebody listens there already"):
            listen_at(path, kind)
        assert os.stat(path).st_ino == inode
        client_of(path, other).close()


def test_a_path_whose_backlog_is_full_is_in_use(path: str) -> None:
    with listen_at(path) as sock:
        sock.listen(0)
        with client_of(path):
            with pytest.raises(HostError, match="somebody listens there already"):
                listen_at(path)


@pytest.mark.parametrize("make", ["file", "folder", "link", "dangling link", "link to a socket", "fifo"])
def test_what_is_no_socket_is_not_touched(path: str, make: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    if make == "file":
        Path(path).write_text("precious")
    elif make == "folder":
        os.mkdir(path)
    elif make == "fifo":
        os.mkfifo(path)
    else:
        if make == "link":
            other.write_text("precious")
        elif make == "link to a socket":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(str(other))
        os.symlink(other, path)
    before = os.lstat(path)
    with pytest.raises(HostError, match="a file that is no socket is in the way"):
        listen_at(path)
    assert os.lstat(path) == before
    if make in ("file", "link"):
        assert Path(path).read_text() == "precious"


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file or directory"):
        listen_at(str(tmp_path / "none" / "net.sock"))


def test_who_may_not() -> None:
    """Privileges may have gone by then: that it is not who started us is in the line."""
    if os.geteuid():
        pytest.skip("needs root")

    def as_nobody() -> str:
        os.seteuid(65534)
        with pytest.raises(HostError) as caught:
            listen_at("/root-only")
        return str(caught.value)

    assert in_child(as_nobody).endswith("Permission denied to user 65534, who makes it")


@pytest.mark.parametrize("length", [0, 108, 109, 5000])
def test_a_path_of_a_length_that_cannot_be(length: int) -> None:
    with pytest.raises(ConfigError, match="must be a path of 1 to 107 bytes"):
        listen_at("x" * length)


def test_lengths_are_bytes() -> None:
    with pytest.raises(ConfigError, match="must be a path of 1 to 107 bytes"):
        listen_at("\u00e9" * 54)
    with pytest.raises(ConfigError, match="must be a path"):
        listen_at("a\0b")


def test_the_longest_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = "x" * 107
    with listen_at(path), client_of(path):
        assert os.listdir() == [path]


@pytest.mark.root
def test_a_file_of_others_that_we_may_not_ask_at(path: str) -> None:
    """Who may not connect learns nothing of it, and takes nothing over."""
    with listen_at(path):
        pid = os.fork()
        if pid == 0:
            os.setgid(65534)
            os.setuid(65534)
            status = 1
            try:
                listen_at(path)
            except HostError:
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        client_of(path).close()


def test_nothing_is_left_open_by_what_fails(path: str) -> None:
    Path(path).write_text("")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(HostError):
            listen_at(path)
    assert len(os.listdir("/proc/self/fd")) == before


# -- Door


@pytest.fixture
def owner(path: str) -> Any:
    with Owner(UnixStreamLink("--socket p", Door(listen_at(path), path))) as made:
        yield made


def is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_the_first_is_the_guest_and_the_second_is_refused(owner: Owner, path: str) -> None:
    with client_of(path) as first:
        owner.until(lambda: owner.joins == 1)
        for _ in range(3):
            with client_of(path) as second:
                owner.until(lambda second=second: is_closed(second))
        first.sendall(b"\0\0\0\x0e" + bytes(14))
        assert owner.heard(1) == [bytes(14)]
        owner.send_all(b"x" * 20)
        assert first.recv(100) == b"\0\0\0\x14" + b"x" * 20
    refused = [line for line in owner.lines if "refused" in line]
    assert refused == [f"{path}: refused process {os.getpid()}: a guest is connected already"] * 3
    assert owner.lines[0] == f"--socket p: connected, process {os.getpid()}"
    assert owner.joins == 1


def test_both_come_at_once(owner: Owner, path: str) -> None:
    with client_of(path) as first, client_of(path) as second:
        owner.until(lambda: is_closed(second))
        assert not is_closed(first)


def test_one_goes_and_the_next_comes_in_the_same_turn(owner: Owner, path: str) -> None:
    """A hypervisor that is started anew is not refused for the one that has just ended."""
    for _ in range(20):
        first = client_of(path)
        owner.until(lambda: owner.link.fd >= 0)
        first.close()
        with client_of(path) as second:
            second.sendall(b"\0\0\0\x0e" + b"s" * 14)
            assert owner.heard(1) == [b"s" * 14]
        owner.until(lambda: owner.link.fd < 0)
    assert not [line for line in owner.lines if "refused" in line]


def test_the_path_is_free_for_the_next_after_close(owner: Owner, path: str) -> None:
    owner.link.close()
    owner.link.close()
    assert not os.path.exists(path)
    with listen_at(path):
        owner.link.close()
        assert os.path.exists(path)


def test_a_file_that_is_not_ours_any_more_stays(owner: Owner, path: str) -> None:
    os.unlink(path)
    with listen_at(path):
        owner.link.close()
        client_of(path).close()
    os.unlink(path)


def test_a_file_whose_mode_was_changed_is_still_ours(owner: Owner, path: str) -> None:
    os.chmod(path, 0o666)
    owner.link.close()
    assert not os.path.exists(path)


def test_a_file_that_is_gone_is_no_error(owner: Owner, path: str) -> None:
    os.unlink(path)
    owner.link.close()


def test_a_door_that_was_never_opened_can_be_closed(path: str) -> None:
    link = UnixStreamLink("--socket p", Door(listen_at(path), path))
    link.close()
    link.close()
    assert not os.path.exists(path)


def test_no_descriptor_for_a_client(owner: Owner, path: str) -> None:
    """It waits until there is one, and the rest of the engine is served meanwhile."""
    with client_of(path) as client:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            owner.settle()
            assert owner.joins == 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        owner.until(lambda: owner.joins == 1)
        client.sendall(b"\0\0\0\x0e" + bytes(14))
        assert owner.heard(1) == [bytes(14)]


def test_asking_whether_a_path_is_in_use_does_not_end_a_one_off_link(path: str) -> None:
    """A second engine that is started at the same path by mistake must not end the first."""
    with Owner(UnixStreamLink("--socket p", Door(listen_at(path), path), one_off=True)) as owner:
        with pytest.raises(HostError, match="somebody listens there already"):
            listen_at(path)
        owner.settle()
        assert owner.ends == 0
        with client_of(path) as client:
            owner.until(lambda: owner.joins)
            assert not is_closed(client)


def test_whose_process(path: str) -> None:
    with listen_at(path) as sock, client_of(path) as client:
        served, _ = sock.accept()
        with served:
            assert peer_process(served) == peer_process(client) == os.getpid()
    with socket.socket() as other:
        assert peer_process(other) == 0
    closed = socket.socket()
    closed.close()
    assert peer_process(closed) == 0


def failing(number: int) -> Callable[..., int]:
    def connect_ex(*_: object) -> int:
        return number

    return connect_ex


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_who_may_not_ask_takes_nothing_over(path: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with listen_at(path):
        inode = os.stat(path).st_ino
        monkeypatch.setattr(socket.socket, "connect_ex", failing(number))
        with pytest.raises(HostError):
            listen_at(path)
        assert os.stat(path).st_ino == inode
