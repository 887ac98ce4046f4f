"""Going to the background with a real guest: who may take what for readiness, and what is left when it ends.

A small engine, made of `host.daemon`, `host.privileges` and `host.guest`, stands for the commands that are built of
them: it forks first, gives up its rights, makes a guest with a TAP and says that it is ready.
"""

from __future__ import annotations

import os
import pwd
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.fakehost import FakeHost, Runner, _open_paths, _open_tun
from support.guests import ORDINARY, PATIENCE, Done

pytestmark = pytest.mark.root

ENGINE = r"""
import asyncio, os, signal, sys
from bucatini.base.errors import ConfigError, HostError
from bucatini.host.daemon import become_daemon, stay_in_foreground
COMMAND = ("sh", "-c", "exec sleep 1000 </dev/null >/dev/null 2>&1")  # the streams are not the command's to keep
pid_file, foreground, runas, interface = sys.argv[1], sys.argv[2] == "foreground", sys.argv[3], sys.argv[4]
try:
    daemon = (stay_in_foreground if foreground else become_daemon)(pid_file or None)
except HostError as error:
    sys.exit(f"engine: {error}")
try:
    if runas:
        from bucatini.host.privileges import drop_to, is_real_root, nobody, parse_user
        drop_to(*(nobody() if runas == "nobody-by-itself" else parse_user(runas)))
        print("engine: warning: runs as another user", file=sys.stderr)
    from bucatini.host.guest import GuestSettings, launch
    address = bytes((172, 16, 0, 2))
    guest = launch(GuestSettings(COMMAND, b"\x02msb\x00\x02", 1500, ((address, 30),), (bytes((172, 16, 0, 1)),),
        interface=interface))
    tap = guest.tap()
except (ConfigError, HostError) as error:
    daemon.fail(f"engine: {error}", 2)
    sys.exit(2)
async def serve():
    guest.start()
    daemon.ready()
    return await guest.wait()
try:
    status = asyncio.run(serve())
finally:
    guest.close()
sys.exit(status)
"""


class Engines:
    """Starts the engine above as one user, in the fake host."""

    def __init__(self, host: FakeHost, user: str) -> None:
        self.runner: Runner = host.runner(user)
        self.pid_file = host.folder / f"{self.runner.mark}.pid"

    def words(self, *, pid_file: Path | None, runas: str = "", interface: str = "eth0", how: str = "") -> list[str]:
        before = "\n".join([*_open_paths(self.runner.folder), *_open_tun(self.runner.folder)]) if runas else ""
        program = self.runner.program([], before)
        assert program[-3:] == [sys.executable, "-m", "bucatini"]
        return [*program[:-2], "-c", ENGINE, str(pid_file or ""), how, runas, interface]

    def start(self, *, runas: str = "", interface: str = "eth0", pid_file: Path | None = None) -> Done:
        """To the end of the starter and of both its streams."""
        words = self.words(pid_file=pid_file or self.pid_file, runas=runas, interface=interface)
        return self.runner.complete_words(words)

    def pid(self) -> int:
        text = self.pid_file.read_text()
        assert re.fullmatch(r"[1-9][0-9]*\n", text)
        return int(text)

    def end(self, number: int = signal.SIGTERM) -> None:
        """A signal for the engine; nothing may be left of it and of its guest."""
        with self.watched():
            os.kill(self.pid(), number)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """What is done inside ends the engine, and nothing is left of it and of its guest."""
        process = os.pidfd_open(self.pid())
        try:
            yield
            assert select.select([process], [], [], 2 * PATIENCE)[0], "the engine stays"
        finally:
            os.close(process)
        self.runner.gone()


@pytest.fixture
def engines(host: FakeHost, user: str) -> Iterator[Engines]:
    made = Engines(host, user)
    yield made
    made.runner.kill_all()


@pytest.fixture
def of_root(host: FakeHost) -> Iterator[Engines]:
    made = Engines(host, "root")
    yield made
    made.runner.kill_all()


def status_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(re.findall(r"^(\w+):[ \t]*(.*)$", text, re.MULTILINE))


def test_ready_means_a_guest_that_runs(engines: Engines) -> None:
    done = engines.start()
    assert (done.status, done.stdout, done.stderr) == (0, "", "")
    processes = engines.runner.processes()
    pid = engines.pid()
    assert pid in processes
    assert len(processes) == 4, "engine, agent, init, command"
    assert any(words.startswith("sleep 1000") for words in processes.values())
    # That both streams came to their end says that none of them holds what the starter was given.
    assert os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    engines.end()
    assert engines.pid_file.exists(), "the file stays, as pasta's does"


def test_the_engine_ends_with_its_guest(engines: Engines) -> None:
    assert engines.start().status == 0
    with engines.watched():
        os.kill(engines.runner.find("sleep", "1000"), signal.SIGKILL)


def test_what_cannot_be_is_one_line_and_a_status(engines: Engines) -> None:
    done = engines.start(interface="x" * 16)
    assert done.status == 2, done
    assert re.fullmatch(r"engine: .+\n", done.stderr), done
    assert engines.pid_file.read_text() == ""
    engines.runner.gone()


def test_a_pid_file_that_cannot_be_opened_ends_it_at_once(engines: Engines) -> None:
    done = engines.start(pid_file=Path("/nonexistent/pid"))
    assert (done.status, done.stderr) == (1, "engine: cannot open the PID file '/nonexistent/pid': "
                                             "No such file or directory\n")  # fmt: skip
    engines.runner.gone()


@pytest.mark.parametrize(
    ("runas", "user_id", "group_id"),
    [
        (str(ORDINARY), ORDINARY, ORDINARY),
        (f"{ORDINARY}:{ORDINARY + 1}", ORDINARY, ORDINARY + 1),
        ("nobody", pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid),
        ("nobody-by-itself", pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid),
    ],
)
def test_root_that_becomes_somebody_serves_a_guest(of_root: Engines, runas: str, user_id: int, group_id: int) -> None:
    """The PID file is where only root may write; namespaces are made by somebody without any right."""
    folder = of_root.runner.folder / "root-only"
    folder.mkdir(mode=0o700, exist_ok=True)
    of_root.pid_file = folder / "pid"
    of_root.pid_file.unlink(missing_ok=True)
    done = of_root.start(runas=runas)
    assert (done.status, done.stderr) == (0, "engine: warning: runs as another user\n"), done
    pid = of_root.pid()
    for each in of_root.runner.processes():
        status = status_of(each)
        assert status["Uid"].split() == [str(user_id)] * 4
        assert status["Gid"].split() == [str(group_id)] * 4
    status = status_of(pid)
    assert status["Groups"].strip() == ""
    assert (int(status["CapEff"], 16), int(status["CapPrm"], 16), int(status["CapAmb"], 16)) == (0, 0, 0)
    of_root.end()


def test_a_bad_user_is_one_line(of_root: Engines) -> None:
    done = of_root.start(runas="root")
    assert done.status == 2
    assert done.stderr == "engine: --runas 'root': user 'root' is root; " \
                          "expected USER or USER:GROUP, as names or numbers of another user\n"  # fmt: skip
    of_root.runner.gone()


def test_in_the_foreground_the_pid_file_is_written_and_the_terminal_kept(of_root: Engines) -> None:
    words = of_root.words(pid_file=of_root.pid_file, how="foreground")
    with of_root.runner.host.net.entered():
        process = subprocess.Popen(words, env=of_root.runner.environment, cwd="/tmp", stderr=subprocess.PIPE)
    with process:
        of_root.runner.find("sleep", "1000")
        pid = of_root.pid()
        assert os.readlink(f"/proc/{pid}/fd/2").startswith("pipe:")
        assert process.poll() is None
        of_root.end()
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
