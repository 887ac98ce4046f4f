"""Lines by level, to stderr, file and a syslog that is a socket of the test."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucatini.base.address import Endpoint, pack
from bucatini.base.events import TCP, Ending, FlowClosed, FlowOpened, FlowRefused, Refusal
from bucatini.base.verdict import EGRESS
from bucatini.observe.log import Level, Log, LogListener, Syslog, level_of
from bucatini.observe.log_file import LogFile

GUEST, PEER = Endpoint(pack("172.16.0.2"), 4000), Endpoint(pack("192.0.2.1"), 443)
EVENTS = (
    FlowOpened(1, TCP, EGRESS, GUEST, PEER, None, "public"),
    FlowRefused(TCP, EGRESS, GUEST, PEER, "private", Refusal.POLICY),
    FlowClosed(1, TCP, EGRESS, GUEST, PEER, None, "public", 5, 6, 0.5, Ending.CLOSED),
)


class Daemon:
    """A syslog daemon's socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)

    def line(self) -> str:
        return self.socket.recv(4096).decode()

    def stop(self) -> None:
        self.socket.close()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "log.socket")
    yield made
    made.stop()


def say_all(log: Log) -> None:
    for number, level in enumerate((log.error, log.warning, log.info, log.debug, log.trace)):
        level(f"line {number}")


@pytest.mark.parametrize(
    ("level", "lines"),
    [(Level.ERROR, 1), (Level.WARNING, 2), (Level.INFO, 3), (Level.DEBUG, 4), (Level.TRACE, 5)],
)
def test_levels_on_all_targets(
    level: Level, lines: int, tmp_path: Path, daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), clock=lambda: 0.0)
    log = Log(level, name="pasta", file=file, syslog=Syslog("pasta", path=str(daemon.path)))
    say_all(log)
    words = ["error: line 0", "warning: line 1", "line 2", "line 3", "line 4"][:lines]
    assert capfd.readouterr().err.splitlines() == [f"pasta: {word}" for word in words]
    assert path.read_text().splitlines()[1:] == [f"0.0000: {word}" for word in words]
    heard = [daemon.line() for _ in range(lines)]
    assert [int(line[1:3]) for line in heard] == [27, 28, 30, 31, 31][:lines]
    assert [line.rsplit(": ", 1)[1] for line in heard] == [f"line {number}" for number in range(lines)]
    daemon.socket.settimeout(0)
    with pytest.raises(BlockingIOError):
        daemon.line()
    log.close()


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ({}, Level.INFO),
        ({"quiet": True}, Level.WARNING),
        ({"debug": True}, Level.DEBUG),
        ({"trace": True}, Level.TRACE),
        ({"trace": True, "debug": True, "quiet": True}, Level.TRACE),
    ],
)
def test_level_of_options(flags: dict[str, bool], level: Level) -> None:
    assert level_of(**flags) is level


def test_the_terminal_can_be_left(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = Log(file=LogFile(str(tmp_path / "log")))
    log.info("early")
    log.leave_terminal()
    log.leave_terminal()
    log.info("late")
    log.close()
    assert capfd.readouterr().err == "bucatini: early\n"
    assert os.fstat(2), "it stays open"
    assert (tmp_path / "log").read_text().endswith(": late\n")


def test_without_a_target_nothing_is_said() -> None:
    log = Log(Level.TRACE, stderr=None)
    say_all(log)
    assert not log.says(Level.ERROR)
    assert log.descriptors == frozenset()
    log.close()


def test_a_reader_of_stderr_who_does_not_read_is_not_waited_for() -> None:
    reader, writer = os.pipe()
    log = Log(stderr=writer)
    for _ in range(2000):
        log.info("x" * 100)
    os.read(reader, 1 << 16)
    log.flush()
    assert select.select([reader], [], [], 0)[0]
    log.close()
    os.close(reader)
    log = Log(stderr=writer)
    log.error("nobody hears")
    log.close()
    os.close(writer)


def test_lines_are_one_line(daemon: Daemon, capfd: pytest.CaptureFixture[str]) -> None:
    log = Log(syslog=Syslog("x", path=str(daemon.path)))
    log.info("a\nb\x1b[0m")
    assert capfd.readouterr().err == "bucatini: a\\nb\\x1b[0m\n"
    assert daemon.line().endswith(": a\\nb\\x1b[0m")
    log.close()


class TestSyslog:
    def test_is_framed(self, daemon: Daemon) -> None:
        """RFC 3164 section 4.1: severity and facility, a day without a zero, no host name."""
        when = time.mktime((2026, 3, 7, 8, 9, 10, 0, 0, -1))
        log = Syslog("pasta", path=str(daemon.path), now=lambda: when)
        log.write(Level.INFO, "Template interface: eth0")
        assert daemon.line() == f"<30>Mar  7 08:09:10 pasta[{os.getpid()}]: Template interface: eth0"
        log.close()

    @pytest.mark.root
    def test_as_the_c_library_does_it(self, tmp_path: Path) -> None:
        """`syslog.syslog` and ours, side by side, in a mount namespace where /dev/log is the test's."""
        code = r"""
import os, re, socket, sys, syslog
from bucatini.host import syscalls
from bucatini.observe.log import Syslog
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_SLAVE)
syscalls.mount("tmpfs", "/dev", "tmpfs")
heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
heard.bind("/dev/log")
syslog.openlog("pasta", syslog.LOG_PID, syslog.LOG_DAEMON)
syslog.syslog(syslog.LOG_WARNING, "text")
Syslog("pasta").write(4, "text")
lines = [heard.recv(1000).decode() for _ in range(2)]
print([re.sub(r"\d\d:\d\d:\d\d", "TIME", line) for line in lines])
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
        theirs, ours = eval(done.stdout)
        assert re.fullmatch(r"<28>\w\w\w [ \d]\d TIME pasta\[\d+\]: text", ours)
        assert ours == theirs.rstrip("\0\n")

    def test_missing_is_silent(self, tmp_path: Path) -> None:
        log = Syslog("x", path=str(tmp_path / "none"))
        log.write(Level.ERROR, "lost")
        assert log.fileno() == -1
        log.close()

    def test_of_another_kind_is_silent(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.bind(str(tmp_path / "s"))
            stream.listen()
            Syslog("x", path=str(tmp_path / "s")).write(Level.ERROR, "lost")

    def test_full_queue_loses_lines_and_never_waits(self, daemon: Daemon) -> None:
        log = Syslog("x", path=str(daemon.path))
        for number in range(2000):
            log.write(Level.INFO, f"{number} " + "y" * 2000)
        assert len(daemon.line()) == 1024
        log.close()
        log.close()
        log.write(Level.INFO, "late")

    def test_restarted_daemon_hears_again(self, daemon: Daemon) -> None:
        log = Syslog("x", path=str(daemon.path))
        log.write(Level.INFO, "one")
        assert daemon.line().endswith(": one")
        daemon.stop()
        log.write(Level.INFO, "lost")
        again = Daemon(daemon.path)
        log.write(Level.INFO, "two")
        assert again.line().endswith(": two")
        again.stop()
        log.close()


class TestListener:
    def test_says_a_line_per_event_at_debug(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        log = Log(Level.DEBUG, stderr=None, file=LogFile(str(path), clock=lambda: 0.0))
        listener = LogListener(log)
        assert listener.wants_flows
        for event in EVENTS:
            listener.on_event(event, 12.0)
        log.close()
        assert path.read_text().splitlines()[1:] == [
            "0.0000: tcp 172.16.0.2:4000 -> 192.0.2.1:443 allowed (public)",
            "0.0000: tcp 172.16.0.2:4000 -> 192.0.2.1:443 refused by policy (private)",
            "0.0000: tcp 172.16.0.2:4000 -> 192.0.2.1:443 closed after 500 ms: 5 B sent, 6 B received",
        ]

    def test_is_free_above(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        log = Log(Level.INFO, stderr=None, file=LogFile(str(path)))
        listener = LogListener(log)
        assert not listener.wants_flows
        for event in EVENTS:
            listener.on_event(event, 12.0)
        assert log.descriptors == {log._file.fileno()}  # type: ignore[union-attr]
        log.close()
        assert path.read_text().count("\n") == 1
