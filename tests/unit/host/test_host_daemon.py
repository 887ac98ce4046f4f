"""host.daemon in real processes: who waits for what, what the user sees, which status remains."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bucatini.base.errors import HostError
from bucatini.host.daemon import PidFile, become_daemon, stay_in_foreground

PATIENCE = 10.0

PRELUDE = """
import os, sys
from bucatini.host.daemon import become_daemon, stay_in_foreground
hold, tell, pid_file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] or None
def say(text): os.write(tell, text.encode() + b"\\n")
def stay():
    say(f"pid {os.getpid()}")
    os.read(hold, 1)  # until the test lets go
"""


class Started:
    """A starter, and what its daemon says through a pipe of the test's."""

    def __init__(self, code: str, pid_file: Path | None) -> None:
        hold_end, self._hold = os.pipe()
        self.said, tell_end = os.pipe()
        words = [str(hold_end), str(tell_end), "" if pid_file is None else str(pid_file)]
        self.starter = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(hold_end, tell_end),
            text=True,
        )
        os.close(hold_end)
        os.close(tell_end)

    def line(self) -> str:
        """The next line the daemon says; empty when all processes have ended."""
        ready, _, _ = select.select([self.said], [], [], PATIENCE)
        assert ready, "nothing was said"
        line = b""
        while not line.endswith(b"\n") and (part := os.read(self.said, 1)):
            line += part
        return line.decode().rstrip("\n")

    def end(self) -> tuple[int, str, str]:
        """The starter's status, and what came on stdout and stderr."""
        out, err = self.starter.communicate(timeout=PATIENCE)
        return self.starter.returncode, out, err

    def release(self) -> None:
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1


@contextmanager
def started(code: str, pid_file: Path | None = None) -> Iterator[Started]:
    made = Started(code, pid_file)
    try:
        yield made
    finally:
        made.release()
        if made.starter.poll() is None:
            made.starter.kill()
        made.end()
        while made.line():
            pass
        os.close(made.said)


class TestReady:
    def test_the_starter_exits_when_the_engine_is_ready_and_not_before(self, tmp_path: Path) -> None:
        code = """
daemon = become_daemon(pid_file)
print("warning: early", file=sys.stderr)
stay()
daemon.ready()
print("late", file=sys.stderr, flush=True)
stay()
"""
        path = tmp_path / "pid"
        made = Started(code.replace("stay()\ndaemon", "say('before'); os.read(hold, 1)\ndaemon", 1), path)
        assert made.line() == "before"
        assert made.starter.poll() is None
        assert path.read_bytes() == b""
        made.release()
        assert made.end() == (0, "", "warning: early\n")
        assert made.line().startswith("pid ")
        os.close(made.said)

    def test_the_engine_stays_in_a_session_of_its_own_without_terminal_and_directory(self, tmp_path: Path) -> None:
        code = """
become_daemon(pid_file).ready()
say(" ".join(os.readlink(f"/proc/self/fd/{n}") for n in range(3)))
say(os.getcwd())
say(str(os.getsid(0) == os.getpid()))
stay()
"""
        path = tmp_path / "pid"
        with started(code, path) as made:
            # Both streams are read to their end: the daemon does not hold them.
            assert made.end() == (0, "", "")
            assert made.line() == "/dev/null /dev/null /dev/null"
            assert made.line() == "/"
            assert made.line() == "True"
            pid = int(made.line().split()[1])
            assert path.read_text() == f"{pid}\n"
            os.kill(pid, 0)
        assert path.read_text() == f"{pid}\n", "the file stays"

    def test_the_pid_file_is_written_when_the_starter_has_gone(self, tmp_path: Path) -> None:
        """Callers read it at once; looked at many times because a race would show rarely."""
        for number in range(5):
            path = tmp_path / str(number)
            with started("become_daemon(pid_file).ready(); stay()", path) as made:
                assert made.starter.wait(PATIENCE) == 0
                assert path.read_text().strip().isdigit()

    def test_what_was_printed_before_the_fork_is_printed_once(self) -> None:
        with started("print('once', end=''); become_daemon().ready(); print('never'); stay()") as made:
            assert made.end() == (0, "once", "")

    def test_others_who_inherit_the_pipe_do_not_matter(self) -> None:
        code = """
daemon = become_daemon()
for descriptor in daemon.descriptors: os.set_inheritable(descriptor, True)
if os.fork() == 0:
    stay()
    os._exit(0)
os._exit(7)
"""
        with started(code) as made:
            assert made.starter.wait(PATIENCE) == 7


class TestFailure:
    @pytest.mark.parametrize("status", [1, 2])
    def test_a_line_and_a_status(self, status: int, tmp_path: Path) -> None:
        code = f"become_daemon(pid_file).fail('no such\\ninterface', {status}); os._exit(0)"
        with started(code, tmp_path / "pid") as made:
            assert made.end() == (status, "", "no such interface\n")
        assert (tmp_path / "pid").read_bytes() == b""

    def test_an_exit_without_a_word_keeps_its_status(self) -> None:
        with started("become_daemon(); print('bad option', file=sys.stderr); sys.exit(2)") as made:
            assert made.end() == (2, "", "bad option\n")

    def test_an_exit_with_0_that_was_never_ready_is_1(self) -> None:
        with started("become_daemon(); sys.exit(0)") as made:
            assert made.end() == (1, "", "")

    def test_an_exception_is_1_and_seen(self) -> None:
        with started("become_daemon(); raise ValueError('oops')") as made:
            status, _, err = made.end()
        assert status == 1
        assert err.endswith("ValueError: oops\n")

    def test_a_killed_engine_is_1_and_said(self) -> None:
        with started("become_daemon(); os.kill(os.getpid(), 9)") as made:
            assert made.end() == (1, "", "ended by signal 9 (Killed) before it was ready\n")


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
    def test_that_end_the_waiting_end_the_engine(self, number: signal.Signals) -> None:
        code = "import signal; become_daemon(); signal.signal(2, signal.SIG_DFL); stay()"
        with started(code) as made:
            assert made.line().startswith("pid ")
            made.starter.send_signal(number)
            assert made.end()[0] == -number
            assert made.line() == "", "the engine has ended"

    def test_a_second_one_kills(self) -> None:
        code = """
import signal
become_daemon()
signal.signal(signal.SIGTERM, lambda *_: say("deaf"))
stay()
stay()
"""
        with started(code) as made:
            made.line()
            made.starter.send_signal(signal.SIGTERM)
            assert made.line() == "deaf"
            made.starter.send_signal(signal.SIGTERM)
            assert made.end()[0] == -signal.SIGTERM
            assert made.line() == ""

    def test_ignored_ones_stay_ignored(self) -> None:
        code = "import signal; signal.signal(1, signal.SIG_IGN); become_daemon().ready; stay()"
        with started(code) as made:
            made.line()
            made.starter.send_signal(signal.SIGHUP)
            made.release()
            assert made.end()[0] == 1

    def test_an_engine_whose_starter_was_killed_is_told(self) -> None:
        code = """
daemon = become_daemon()
stay()
try:
    daemon.ready()
except Exception as error:
    say(f"{type(error).__name__}: {error}")
"""
        made = Started(code, None)
        assert made.line().startswith("pid ")
        made.starter.kill()
        made.starter.wait(PATIENCE)
        made.release()
        assert made.line() == "HostError: who started us is gone before we were ready"
        made.end()
        os.close(made.said)


class TestForeground:
    def test_writes_the_file_and_keeps_the_terminal(self, tmp_path: Path) -> None:
        path = tmp_path / "pid"
        daemon = stay_in_foreground(str(path))
        assert len(daemon.descriptors) == 1
        daemon.ready()
        assert path.read_text() == f"{os.getpid()}\n"
        assert daemon.descriptors == frozenset()
        assert os.getcwd() != "/"

    def test_failure_is_printed(self, capfd: pytest.CaptureFixture[str]) -> None:
        stay_in_foreground().fail("no such interface", 2)
        assert capfd.readouterr().err == "no such interface\n"


class TestPidFile:
    def test_is_emptied_at_once_and_private(self, tmp_path: Path) -> None:
        path = tmp_path / "pid"
        file = PidFile(str(path))
        assert path.stat().st_mode & 0o777 == 0o600
        file.close()
        file.close()
        path.write_text("99999\n")
        PidFile(str(path)).close()
        assert path.read_bytes() == b""

    @pytest.mark.parametrize("make", [PidFile, become_daemon, stay_in_foreground])
    def test_that_cannot_be_opened_is_one_line_and_nothing_forks(self, make: object, tmp_path: Path) -> None:
        path = f"{tmp_path}/none/pid"
        with pytest.raises(HostError, match=rf"^cannot open the PID file '{path}': No such file or directory$"):
            make(path)  # type: ignore[operator]
        with pytest.raises(HostError, match="null"):
            make("a\0b")  # type: ignore[operator]

    def test_on_a_full_disk(self) -> None:
        file = PidFile("/dev/full")
        with pytest.raises(HostError, match="'/dev/full': No space left on device"):
            file.write()
        assert file.fileno() == -1
