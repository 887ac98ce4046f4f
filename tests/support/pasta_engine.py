"""Debian's `pasta` and ours, started by the same words in the fake host, and the namespaces they serve.

A `Holder` is a process in a user and network namespace of its own: what a user makes with `unshare -Urn`, and attaches
to by process number. A `Session` is what a rootless container manager makes: a user and mount namespace in which the
manager is uid 0, and network namespaces that have a path. Both belong to an ordinary user; so do the engines, as
Debian's gives its rights away when root starts it.

An engine is ready when its PID file is written. It and its children are found by the mark of their `Runner`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

import pytest

from support.fakehost import FakeHost, Namespace, Runner, read_all
from support.guests import ORDINARY, PATIENCE, eventually

STUDIED = "0.0~git20230309"
"""The version of Debian's package whose failures are known."""
LINK = "up0"
"""The name of the TAP: that of the fake host's uplink."""


@functools.cache
def debian_version() -> str:
    """Of the package passt, or empty."""
    words = ["dpkg-query", "--show", "--showformat=${Version}", "passt"]
    if shutil.which(words[0]) is None:
        return ""
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE).stdout.strip()


class PastaEngine:
    """One implementation of the command."""

    def __init__(self, kind: str, program: str) -> None:
        self.kind = kind
        self.program = program

    @classmethod
    def debian(cls) -> PastaEngine:
        """The package's. Skips the test where there is none."""
        if not debian_version() or not os.access("/usr/bin/pasta", os.X_OK):
            pytest.skip("no pasta: apt-get install passt")
        return cls("debian", "/usr/bin/pasta")

    @classmethod
    def ours(cls, host: FakeHost) -> PastaEngine:
        """The one that `bucatini compat install` writes."""
        return cls("ours", str(install_compat(host) / "pasta"))

    def start(
        self,
        place: Place,
        options: Sequence[str],
        target: Sequence[str],
        *,
        foreground: bool = True,
        log: Path | None = None,
    ) -> Running:
        """Start `pasta OPTIONS TARGET` and wait until it is ready, in the background of its own if not `foreground`."""
        pid_file = place.scratch / f"{time.monotonic_ns()}.pid"
        words = [self.program, *["--foreground"] * foreground, "--pid", str(pid_file)]
        words += ["--log-file", str(log)] * (log is not None)
        process, output = place.begin([*words, *options, *target])
        try:
            return Running(place, process, output, pid_file, daemon=not foreground)
        except BaseException:
            process.kill()
            process.wait(PATIENCE)
            output.close()
            raise

    def complete(
        self, place: Place, options: Sequence[str], target: Sequence[str], *, timeout: float = 20
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        process, output = place.begin([self.program, *options, *target])
        with output:
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)
                raise AssertionError(f"still runs after {timeout} s: {read_all(output)}") from None
            return subprocess.CompletedProcess(options, status, read_all(output), "")


class Running:
    """An engine that is ready. `pid` is the number in its PID file."""

    def __init__(
        self, place: Place, process: subprocess.Popen[bytes], output: IO[bytes], pid_file: Path, *, daemon: bool
    ) -> None:
        self.place, self.process, self.pid_file = place, process, pid_file
        self._output = output
        if daemon:
            status = process.wait(PATIENCE)
            assert status == 0, f"ended with status {status}: {self.output}"
        self.pid = eventually(self._read_pid, or_else=lambda: f"no PID file: {self.output}")

    def _read_pid(self) -> int:
        text = self.pid_file.read_text() if self.pid_file.exists() else ""
        if not text.endswith("\n") and self.process.poll() is not None:
            raise AssertionError(f"ended with status {self.process.returncode}: {self.output}")
        return int(text) if text.endswith("\n") else 0

    @property
    def output(self) -> str:
        """What it said so far on its standard streams."""
        return "" if self._output.closed else read_all(self._output)

    def alive(self) -> bool:
        return self.process.poll() is None or _runs(self.pid)

    def gone(self, within: float) -> bool:
        """Whether it ends of itself within so many seconds."""
        return _in_time(lambda: not self.alive(), within)

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """End it by its PID file; the exit status, or None when it went to the background."""
        foreground = self.process.poll() is None
        if _runs(self.pid):
            os.kill(self.pid, number)
        assert self.gone(PATIENCE), f"signal {number} does not end it"
        return self.process.wait(PATIENCE) if foreground else None

    def close(self) -> None:
        """For the end of the test, whatever became of it."""
        for pid in {self.pid, self.process.pid}:
            if _runs(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        eventually(lambda: not _runs(self.pid))
        self._output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Place:
    """Where an ordinary user starts engines: in the fake host."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.runner: Runner = host.runner("ordinary")
        self.scratch = Path(tempfile.mkdtemp(prefix="pasta-", dir=host.folder))
        self.scratch.chmod(0o777)

    def words(self, command: Sequence[str]) -> list[str]:
        return self.runner.wrapped(command)

    def begin(self, command: Sequence[str]) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        """Start in the background; both output streams are the file in the answer, the input is empty."""
        output = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
        with self.host.net.entered():
            process = subprocess.Popen(
                self.words(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.runner.environment,
                cwd="/tmp",
            )
        return process, output

    def run(self, *command: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """A command that must succeed, to its end."""
        with self.host.net.entered():
            done = subprocess.run(
                self.words(command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
                env=self.runner.environment,
                cwd="/tmp",
            )
        assert done.returncode == 0, f"{command}: {done}"
        return done

    def hold(self, *command: str) -> subprocess.Popen[bytes]:
        """Start `COMMAND cat`, which lives until its input is closed; waits until it has become `cat`."""
        with self.host.net.entered():
            process = subprocess.Popen(
                self.words([*command, "cat"]),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=self.runner.environment,
                cwd="/tmp",
            )
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "cat\n")
        return process

    def close(self) -> None:
        self.runner.kill_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class NamedUser(Place):
    """An ordinary user who has a name, and identities for namespaces of its own: what RootlessKit and Podman ask for.

    The files that say so are bound over the machine's in a private mount namespace.
    """

    NAME = "somebody"
    FIRST_SUBORDINATE = 700000

    def __init__(self, host: FakeHost, first_in_path: Path | None = None) -> None:
        super().__init__(host)
        home = self.scratch / "home"
        home.mkdir()
        os.chown(home, ORDINARY, ORDINARY)
        subordinate = f"{self.NAME}:{self.FIRST_SUBORDINATE}:65536\n"
        self._write("passwd", f"{self.NAME}:x:{ORDINARY}:{ORDINARY}::{home}:/bin/sh\n")
        self._write("group", f"{self.NAME}:x:{ORDINARY}:\n")
        (self.scratch / "subuid").write_text(subordinate)
        (self.scratch / "subgid").write_text(subordinate)
        path = self.runner.environment["PATH"]
        self.runner.environment |= {
            "HOME": str(home),
            "USER": self.NAME,
            "XDG_RUNTIME_DIR": str(home),
            "PATH": path if first_in_path is None else f"{first_in_path}:{path}",
        }

    def _write(self, name: str, line: str) -> None:
        (self.scratch / name).write_text(Path("/etc", name).read_text() + line)

    def words(self, command: Sequence[str]) -> list[str]:
        names = ("passwd", "group", "subuid", "subgid")
        before = [f"test -e /etc/{name} && mount --bind {self.scratch}/{name} /etc/{name}" for name in names]
        return self.runner.wrapped(command, "\n".join(before))


class Holder:
    """A user and network namespace made by an ordinary user, and the process that keeps them. `lo` is down."""

    def __init__(self, place: Place) -> None:
        self.process = place.hold("unshare", "--user", "--map-root-user", "--net")
        self.pid = self.process.pid
        self.net = Namespace.of_process(self.pid)

    def end(self) -> None:
        """The last process in the namespaces ends. Idempotent."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        self.end()
        self.net.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Session(Place):
    """A rootless container manager's user and mount namespace; see the module."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__(host)
        self._holder = super().hold("unshare", "--user", "--map-root-user", "--mount")
        self._made = 0

    def words(self, command: Sequence[str]) -> list[str]:
        holder: subprocess.Popen[bytes] | None = getattr(self, "_holder", None)
        if holder is None:
            return super().words(command)
        return ["nsenter", f"--target={holder.pid}", "--user", "--mount", "--", *command]

    @contextmanager
    def network(self) -> Iterator[tuple[str, Namespace]]:
        """A network namespace with a path, as `ip netns add` and the container managers make it."""
        self._made += 1
        path = str(self.scratch / f"netns-{self._made}")
        self.run("sh", "-ec", 'touch "$1"; unshare --net="$1" true', "sh", path)
        made = Namespace(os.open(self.seen(path), os.O_RDONLY | os.O_CLOEXEC))
        try:
            yield path, made
        finally:
            made.close()
            self.remove(path)

    def seen(self, path: str) -> Path:
        """The session's path as this process may open it."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def remove(self, path: str) -> None:
        """Take the path away, as the end of a container does. Idempotent."""
        self.run("sh", "-c", 'test ! -e "$1" || { umount --lazy "$1"; rm "$1"; }', "sh", path)

    def close(self) -> None:
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(PATIENCE)
        super().close()


def install_compat(host: FakeHost) -> Path:
    """The folder with our commands under their foreign names. Skips the test where there is no such verb."""
    folder = host.folder / "compat"
    if not folder.exists():
        folder.mkdir(mode=0o755)
        done = host.runner().complete(["compat", "install", str(folder)])
        if done.status:
            folder.rmdir()
            if "unknown verb" in done.stderr:
                pytest.skip("bucatini compat does not exist")
            raise AssertionError(done)
    return folder


def _runs(pid: int) -> bool:
    """Whether there is such a process, and it is not waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _in_time(look: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
