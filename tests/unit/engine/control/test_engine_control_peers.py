"""engine.control.peers: who is welcome; the guest's own processes are in the interop tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bucatini.engine.control.peers import is_welcome
from bucatini.host.privileges import limit_capabilities
from support.forked import in_child

CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
        os.chmod(tmp_path / "socket", 0o777)
        sock.settimeout(10)
        yield sock


def judged(
    listener: socket.socket,
    *before: str,
    ends: bool = False,
    judge: Callable[[socket.socket], bool] = is_welcome,
) -> bool:
    """Whether a process started by `before` is welcome; with `ends` it is gone by then."""
    path = listener.getsockname()
    words = [*before, sys.executable, "-I", "-S", "-c", CONNECT, path]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        sock = listener.accept()[0]
        if ends:
            process.stdin.close()
            process.wait(10)
        with sock:
            answer = judge(sock)
        process.stdin.close()
    return answer


def test_another_process_of_ours_is(listener: socket.socket) -> None:
    assert judged(listener)


def test_one_that_is_gone_is_not(listener: socket.socket) -> None:
    """Its number could be anybody's."""
    assert not judged(listener, ends=True)


@pytest.mark.root
def test_one_in_another_network_namespace_is_not(listener: socket.socket) -> None:
    assert not judged(listener, "unshare", "--net")


@pytest.mark.root
def test_one_with_its_own_processes_but_our_network_is(listener: socket.socket) -> None:
    assert judged(listener, "unshare", "--pid", "--fork")


@pytest.mark.root
@pytest.mark.parametrize(("before", "welcome"), [((), True), (("unshare", "--net"), False)])
def test_by_an_engine_that_may_not_look(listener: socket.socket, before: tuple[str, ...], welcome: bool) -> None:
    """The peer has capabilities, the engine gave its own up: then the socket tells the namespace."""

    def judge(sock: socket.socket) -> bool:
        def look() -> bool:
            limit_capabilities()
            return is_welcome(sock)

        return in_child(look)

    assert judged(listener, *before, judge=judge) is welcome


def test_our_own_end_is() -> None:
    one, two = socket.socketpair(socket.AF_UNIX)
    with one, two:
        assert is_welcome(one)
