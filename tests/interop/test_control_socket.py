"""The control socket of a running engine: who may use it, what it bears, and `bucatini forward` in front of it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fakehost import HOST4, FakeHost, Guest, guest_python
from support.guests import ORDINARY, PATIENCE, Done, eventually

pytestmark = pytest.mark.root

LOOPBACK4 = "127.0.0.1"
ASK = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(10)
sock.connect(sys.argv[1])
try:
    sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"forward.list"}\\n')
    print(sock.recv(1000).decode() or "closed")
except OSError:
    print("closed")
"""
"""Run by who is to be refused or not."""


@pytest.fixture(scope="module", params=["root", "ordinary"])
def served(host: FakeHost, request: pytest.FixtureRequest) -> Iterator[tuple[Guest, str]]:
    path = str(host.folder / f"control-{request.param}")
    with host.guest("--control", path, "-p", "8400:400", user=request.param) as guest:
        yield guest, path
    assert not os.path.exists(path)


@pytest.fixture
def guest(served: tuple[Guest, str]) -> Guest:
    return served[0]


@pytest.fixture
def path(served: tuple[Guest, str]) -> str:
    return served[1]


@contextlib.contextmanager
def connected(host: FakeHost, path: str) -> Iterator[socket.socket]:
    """Root in the host's own namespace; the namespace is looked at when the connection is taken."""
    with host.net.entered(), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path)
        yield sock


def answers(sock: socket.socket, count: int = 1) -> list[Any]:
    got = b""
    while got.count(b"\n") < count:
        part = sock.recv(1 << 16)
        assert part, got
        got += part
    return [json.loads(line) for line in got.splitlines()]


def forward(host: FakeHost, user: str, path: str, *words: str) -> Done:
    """`bucatini forward` to its end."""
    return host.runner(user).complete(["forward", "--control", path, *words])


class TestProtocol:
    def test_several_requests_in_one_write_and_one_in_several(self, host: FakeHost, path: str) -> None:
        with connected(host, path) as sock:
            line = b'{"jsonrpc":"2.0","id":%d,"method":"forward.list","params":{}}\n'
            sock.sendall(line % 1 + line % 2 + line[:20])
            assert [each["id"] for each in answers(sock, 2)] == [1, 2]
            sock.sendall(line[20:] % 3)
            (answer,) = answers(sock)
            assert answer["result"] == [
                {
                    "direction": "in",
                    "protocol": "tcp",
                    "address": None,
                    "device": None,
                    "port": 8400,
                    "target": 400,
                    "automatic": False,
                }
            ]

    def test_a_line_without_end(self, host: FakeHost, path: str) -> None:
        with connected(host, path) as sock:
            with contextlib.suppress(OSError):
                for _ in range(64):
                    sock.sendall(b"x" * 4096)
            with contextlib.suppress(ConnectionResetError):
                assert b"longer than 65536 bytes" in sock.recv(1000)
                assert sock.recv(1000) == b""

    def test_the_seventeenth_waits_in_vain(self, host: FakeHost, path: str) -> None:
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connected(host, path)) for _ in range(16)]
            for sock in socks:
                sock.sendall(b"{}\n")
                answers(sock)
            with connected(host, path) as extra, contextlib.suppress(ConnectionResetError, BrokenPipeError):
                extra.sendall(b"{}\n")
                assert extra.recv(100) == b""
        time.sleep(0.05)

        def again() -> bool:
            with connected(host, path) as sock, contextlib.suppress(OSError):
                sock.sendall(b"{}\n")
                return bool(sock.recv(100))
            return False

        eventually(again)


class TestWhoMaySpeak:
    def test_the_socket_is_the_owners(self, path: str) -> None:
        status = os.stat(path)
        assert stat.S_IMODE(status.st_mode) == 0o600

    def test_a_process_of_the_guest_may_not(self, host: FakeHost, user: str) -> None:
        """It has the same user and sees the same file."""
        path = str(host.folder / f"from-inside-{user}")
        done = host.run("--control", path, "--", *guest_python(ASK, path), user=user)
        assert (done.status, done.stdout) == (0, "closed\n"), done

    def test_the_same_user_of_the_host_may(self, host: FakeHost, guest: Guest, path: str) -> None:
        runner = host.runner(guest.runner.user)
        done = runner.complete_words(runner.wrapped([sys.executable, "-I", "-S", "-c", ASK, path]))
        assert '"port":8400' in done.stdout, done

    def test_another_user_may_not(self, host: FakeHost, guest: Guest, path: str) -> None:
        """Even where the file lets him."""
        if guest.runner.user == "root":
            os.chmod(path, 0o666)
            try:
                runner = host.runner("ordinary")
                done = runner.complete_words(runner.wrapped([sys.executable, "-I", "-S", "-c", ASK, path]))
            finally:
                os.chmod(path, 0o600)
        else:
            os.chmod(path, 0o666)
            ids = ["setpriv", f"--reuid={ORDINARY + 1}", f"--regid={ORDINARY + 1}", "--clear-groups"]
            try:
                runner = host.runner("root")
                python = ["/usr/bin/python3", "-I", "-S", "-c", ASK, path]
                done = runner.complete_words(runner.wrapped([*ids, *python]))
            finally:
                os.chmod(path, 0o600)
        assert done.stdout == "closed\n", done


class TestPath:
    def test_a_stale_socket_is_replaced(self, host: FakeHost, user: str) -> None:
        folder = host.folder / f"stale-{user}"
        folder.mkdir()
        folder.chmod(0o777)
        path = folder / "socket"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
        path.chmod(0o777)
        if user == "ordinary":
            os.chown(path, ORDINARY, ORDINARY)
        with host.guest("--control", str(path), user=user):
            assert forward(host, user, str(path), "ls").stdout == "nothing is forwarded\n"
        assert not path.exists()

    def test_one_in_use_is_an_error(self, host: FakeHost, guest: Guest, path: str) -> None:
        done = host.run("--control", path, "true", user=guest.runner.user)
        assert (done.status, done.stdout) == (2, "")
        assert done.stderr == f"bucatini run: --control '{path}': it is in use; another engine may serve it\n"
        assert os.path.exists(path)

    def test_a_file_is_no_socket(self, host: FakeHost, user: str) -> None:
        path = host.folder / f"file-{user}"
        path.write_text("precious")
        done = host.run("--control", str(path), "true", user=user)
        assert done.status == 2
        assert done.stderr.endswith("there is a file of that name, and it is no socket\n")
        assert path.read_text() == "precious"

    def test_a_folder_that_is_not_there(self, host: FakeHost, user: str) -> None:
        done = host.run("--control", "/nowhere/socket", "true", user=user)
        assert (done.status, done.stderr) == (
            2,
            "bucatini run: --control '/nowhere/socket': No such file or directory\n",
        )


class TestForwardVerb:
    def test_add_list_remove(self, host: FakeHost, guest: Guest, path: str) -> None:
        user = guest.runner.user
        done = forward(host, user, path, "add", "8401:401", "-u", "127.0.0.1/8402:402", "-T", "403", "-U404:8404")
        assert (done.status, done.stdout, done.stderr) == (0, "", ""), done
        listed = forward(host, user, path, "ls")
        assert [line.split() for line in listed.stdout.splitlines()] == [
            ["direction", "protocol", "listens", "leads", "to"],
            ["in", "tcp", "*:8400", "guest:400"],
            ["in", "tcp", "*:8401", "guest:401"],
            ["in", "udp", "127.0.0.1:8402", "guest:402"],
            ["out", "tcp", "guest's", "loopback:403", "host's", "loopback:403"],
            ["out", "udp", "guest's", "loopback:404", "host's", "loopback:8404"],
        ]
        as_json = json.loads(forward(host, user, path, "ls", "--json").stdout)
        assert [(each["port"], each["target"]) for each in as_json][3:] == [(403, 403), (404, 8404)]
        with guest.net.listen("0.0.0.0", 401) as listener, host.world.connect(HOST4, 8401), listener.accept()[0]:
            pass
        done = forward(host, user, path, "rm", "8401:401", "-u", "127.0.0.1/8402:402", "-T", "403", "-U404:8404")
        assert (done.status, done.stderr) == (0, ""), done
        assert len(forward(host, user, path, "ls").stdout.splitlines()) == 2

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("add",), "add: no port is named; see 'bucatini forward add --help'"),
            (("add", "8400"), "forward.add '8400:8400/tcp': '8400:400/tcp' listens there already"),
            (("add", "70000"), "forward.add '70000': port '70000' is not a number from 1 to 65535; accepted:"),
            (("rm", "8499"), "forward.remove '8499': nothing of it is forwarded"),
            (("ls", "8499"), "ls: '8499' means nothing here"),
            (("frobnicate",), "'frobnicate' is not one of ls, add, rm"),
            ((), "say ls, add or rm"),
        ],
    )
    def test_errors_are_one_line(
        self, host: FakeHost, guest: Guest, path: str, words: tuple[str, ...], message: str
    ) -> None:
        done = forward(host, guest.runner.user, path, *words)
        assert (done.status, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
        assert done.stderr.startswith(f"bucatini forward: {message}"), done

    def test_no_engine_there(self, host: FakeHost, user: str) -> None:
        done = forward(host, user, "/nowhere", "ls")
        assert (done.status, done.stderr) == (
            1,
            "bucatini forward: --control '/nowhere': No such file or directory; is its engine running?\n",
        )

    def test_from_inside_the_guest(self, host: FakeHost, user: str) -> None:
        path = str(host.folder / f"inside-{user}")
        command = [sys.executable, "-m", "bucatini", "forward", "--control", path, "add", "8499"]
        done = host.run("--control", path, "--", *command, user=user)
        assert done.status == 1, done
        assert "does not talk to this user, or to this network namespace" in done.stderr

    def test_path_from_the_environment(self, host: FakeHost, guest: Guest, path: str) -> None:
        runner = host.runner(guest.runner.user)
        runner.environment["BUCATINI_CONTROL"] = path
        assert "guest:400" in runner.complete(["forward", "ls"]).stdout


def test_a_killed_engine_leaves_a_file_that_the_next_replaces(host: FakeHost, user: str) -> None:
    path = Path(host.folder / f"killed-{user}")
    with host.guest("--control", str(path), user=user) as guest:
        guest.engine.kill()
        guest.engine.wait(PATIENCE)
        assert path.exists()
    with host.guest("--control", str(path), user=user):
        assert forward(host, user, str(path), "ls").status == 0
