"""host.terminal and host.supervisor on a pseudo-terminal: an interactive shell inside, job control from outside."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.guests import PATIENCE, Launcher, eventually, interpreter, parent, readable_sources

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun"),
]

CTRL_C, CTRL_Z, CTRL_BACKSLASH = "\x03", "\x1a", "\x1c"


class Screen:
    """A pseudo-terminal whose session a program leads, as a terminal window has it."""

    def __init__(self, words: Sequence[str], environment: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._seen = ""
        self.program = subprocess.Popen(
            ["setsid", "--ctty", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            cwd="/tmp",
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def line(self, text: str) -> None:
        self.type(text + "\r")

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for the pattern; what came up to its end is consumed."""
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self._seen)) is None:
            if not select.select([self._ours], [], [], max(0, deadline - time.monotonic()))[0]:
                pytest.fail(f"{pattern!r} never came; on the screen: {self._seen!r}")
            try:
                self._seen += os.read(self._ours, 4096).decode()
            except OSError:  # EIO: nobody has the terminal open any more
                pytest.fail(f"{pattern!r} never came before the end; on the screen: {self._seen!r}")
        self._seen = self._seen[found.end() :]
        return found

    def attributes(self) -> list[object]:
        return termios.tcgetattr(self._ours)

    def foreground(self) -> int:
        return os.tcgetpgrp(self._ours)

    def close(self) -> None:
        os.close(self._ours)
        self.program.kill()
        self.program.wait()


class Desk:
    """A launcher, and screens to run it on."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.screens: list[Screen] = []

    def direct(self, *command: str) -> Screen:
        """The engine leads the terminal's session."""
        return self._open(self.launcher.words((), command))

    def shell(self) -> tuple[Screen, str]:
        """An interactive shell, with `$RUN` standing for the engine's command line up to the command."""
        words = self.launcher.words((), ())
        screen = self._open(["bash", "--norc", "--noprofile", "-i"], RUN=" ".join(words))
        screen.expect("outer> ")
        return screen, "$RUN"

    def _open(self, words: Sequence[str], **more: str) -> Screen:
        screen = Screen(words, {**self.launcher.environment, **more})
        self.screens.append(screen)
        return screen


@pytest.fixture(scope="module")
def sources() -> Iterator[Path]:
    with readable_sources() as folder:
        yield folder


@pytest.fixture
def desk(sources: Path) -> Iterator[Desk]:
    launcher = Launcher("root", sources)
    desk = Desk(launcher)
    yield desk
    for screen in desk.screens:
        screen.close()
    try:
        assert launcher.gone()
    finally:
        launcher.kill_all()


def state(pid: int) -> str:
    return re.findall(r"^State:\t(\w)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0]


def await_state(pid: int, wanted: str) -> None:
    eventually(lambda: state(pid) in wanted, or_else=lambda: f"state {state(pid)}, not {wanted}")


INNER_SHELL = ("env", "PS1=inner> ", "bash", "--norc", "--noprofile", "-i")


class TestShellInside:
    @pytest.mark.parametrize("user", ["root", "ordinary"])
    def test_has_job_control(self, sources: Path, user: str) -> None:
        interpreter(user)
        launcher = Launcher(user, sources)
        screen = Screen(launcher.words((), INNER_SHELL), launcher.environment)
        try:
            complaints = screen.expect("(?s)^(.*)inner> ")[1]
            assert complaints == ""  # bash says "no job control in this shell" here when it is unhappy
            screen.line("sleep 1000")
            sleeper = launcher.find("sleep 1000")
            screen.type(CTRL_Z)
            screen.expect(r"Stopped\s+sleep 1000")
            await_state(sleeper, "T")
            screen.expect("inner> ")
            screen.line("fg")
            await_state(sleeper, "S")
            screen.type(CTRL_C)
            screen.expect("inner> ")
            screen.line("echo status=$?")
            screen.expect("status=130")
            screen.line("exit 5")
            assert screen.program.wait(PATIENCE) == 5
        finally:
            screen.close()
            launcher.kill_all()
        assert launcher.gone()


class TestShellOutside:
    def test_ctrl_c_ends_the_command(self, desk: Desk) -> None:
        screen, run = desk.shell()
        screen.line(f"{run} sleep 1000; echo status=$?")
        desk.launcher.find("sleep 1000")
        screen.type(CTRL_C)
        screen.expect("status=130")
        screen.expect("outer> ")

    def test_ctrl_backslash_too(self, desk: Desk) -> None:
        screen, run = desk.shell()
        screen.line(f"{run} sleep 1000; echo status=$?")
        desk.launcher.find("sleep 1000")
        screen.type(CTRL_BACKSLASH)
        screen.expect(f"status={128 + signal.SIGQUIT}")

    def test_ctrl_z_stops_and_fg_continues(self, desk: Desk) -> None:
        screen, run = desk.shell()
        screen.line(f"{run} sleep 1000")
        sleeper = desk.launcher.find("sleep 1000")
        for _ in range(2):
            screen.type(CTRL_Z)
            screen.expect("Stopped")
            screen.expect("outer> ")
            await_state(sleeper, "T")
            assert screen.foreground() == screen.program.pid
            screen.line("echo the shell is $((1 + 1)) hands")
            screen.expect("the shell is 2 hands")
            screen.line("fg")
            await_state(sleeper, "S")
            eventually(lambda: screen.foreground() == sleeper)
        screen.type(CTRL_C)
        screen.expect("outer> ")
        screen.line("echo status=$?")
        screen.expect("status=130")

    @pytest.mark.parametrize("key", [CTRL_C, CTRL_BACKSLASH])
    def test_bg_continues_and_fg_brings_back(self, desk: Desk, key: str) -> None:
        """The shell sends no SIGCONT to a job that runs already: we hold the foreground and pass the keys."""
        screen = self.stopped_and_put_in_background(desk, "sleep 1000")
        screen.line("fg")
        eventually(lambda: screen.foreground() != screen.program.pid)
        screen.type(key)
        screen.expect("outer> ")

    def test_bg_then_fg_gives_the_terminal_when_the_command_reads(self, desk: Desk, tmp_path: Path) -> None:
        go = tmp_path / "go"
        # Not a shell's loop: dash waits in vfork for a child that is stopped before its exec, and cannot stop itself.
        script = tmp_path / "script"
        script.write_text(
            f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\nprint('got', input())"
        )
        screen = self.stopped_and_put_in_background(desk, f"{interpreter('root')} {script}")
        screen.line("fg")
        eventually(lambda: screen.foreground() != screen.program.pid)
        go.touch()
        screen.line("typed")
        screen.expect("got typed")
        screen.expect("outer> ")

    @staticmethod
    def stopped_and_put_in_background(desk: Desk, command: str) -> Screen:
        screen, run = desk.shell()
        screen.line(f"{run} {command}")
        pid = desk.launcher.find(command)
        screen.type(CTRL_Z)
        screen.expect("Stopped")
        screen.expect("outer> ")
        screen.line("bg")
        await_state(pid, "S")
        assert screen.foreground() == screen.program.pid
        screen.expect("outer> ")
        return screen

    def test_background_command_that_reads_is_stopped(self, desk: Desk) -> None:
        screen, run = desk.shell()
        screen.line(f"{run} cat &")
        reader = desk.launcher.find("cat")
        engine = parent(parent(parent(reader)))
        await_state(engine, "T")
        assert state(reader) == "T"
        screen.expect("outer> ")
        screen.line("")
        screen.expect("Stopped")
        screen.expect("outer> ")
        screen.line("fg")
        eventually(lambda: screen.foreground() == reader)
        screen.line("mirrored")
        screen.expect("mirrored\r\nmirrored\r\n")
        screen.type("\x04")
        screen.expect("outer> ")

    def test_terminal_is_as_before_after_a_killed_command(self, desk: Desk) -> None:
        screen, run = desk.shell()
        before = screen.attributes()
        screen.line(f"{run} sh -c 'stty raw -echo; sleep 1000'")
        desk.launcher.find("sleep 1000")
        assert screen.attributes() != before
        screen.line("nobody reads this")
        os.kill(desk.launcher.find("sh -c"), signal.SIGKILL)
        screen.expect("outer> ")
        screen.line("stty -a | grep -c ' echo '")
        screen.expect("1\r\n")

    def test_pipeline_neighbours_keep_the_terminal(self, desk: Desk) -> None:
        """`run -- x | pager`: the pager reads keys from /dev/tty, so the command must not take the foreground."""
        screen, run = desk.shell()
        screen.line(f"{run} echo text | sh -c 'cat; read key </dev/tty; echo got $key'")
        screen.expect("text\r\n")
        screen.line("key1")
        screen.expect("got key1")
        screen.expect("outer> ")

    def test_pipeline_is_stopped_and_interrupted_as_one(self, desk: Desk) -> None:
        screen, run = desk.shell()
        screen.line(f"{run} sleep 1000 | cat")
        sleeper = desk.launcher.find("sleep 1000")
        screen.type(CTRL_Z)
        screen.expect("Stopped")
        await_state(sleeper, "T")
        screen.expect("outer> ")
        screen.line("fg")
        await_state(sleeper, "S")
        screen.type(CTRL_C)
        screen.expect("outer> ")
        screen.line("echo ${PIPESTATUS[0]} of $((1 + 1))")
        screen.expect("of 2")

    def test_pager_at_the_end_of_a_pipeline_has_the_keys(self, desk: Desk) -> None:
        screen, run = desk.shell()
        screen.line(f"echo text | {run} sh -c 'cat; read key </dev/tty; echo got $key'")
        screen.expect("text\r\n")
        screen.line("key2")
        screen.expect("got key2")
        screen.expect("outer> ")


class TestHangUp:
    def test_closed_terminal_ends_the_command(self, desk: Desk) -> None:
        screen, run = desk.shell()
        screen.line(f"{run} sleep 1000")
        desk.launcher.find("sleep 1000")
        screen.close()
        desk.screens.remove(screen)
        assert desk.launcher.gone()
