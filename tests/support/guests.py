"""Starting `launch_guest.py` as root or as somebody else, and counting what it leaves behind.

Each test's processes carry a mark in their environment, which forked processes share and executed ones inherit; so what
is left of a run can be found among all processes. As an ordinary user the sources are read from a copy that everybody
may read, and /dev/net/tun is a node of ours with mode 0666, bound over the machine's inside a private mount namespace.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

import bucatini

ORDINARY = 54321
"""An identity nobody has: an ordinary user needs no name."""
PATIENCE = 10.0
"""Seconds to wait for anything."""
T = TypeVar("T")
MARK = "BUCATINI_TEST_MARK"
DRIVER = Path(__file__).with_name("launch_guest.py")


class Launcher:
    """Starts the driver as one user, and knows its mark."""

    def __init__(self, user: str, sources: Path) -> None:
        self.user = user
        self.mark = uuid.uuid4().hex
        self.folder = sources
        self.environment = {
            "PATH": os.defpath + ":/usr/sbin:/sbin",
            "PYTHONPATH": str(sources),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PS1": "outer> ",
            "TERM": "dumb",
            MARK: self.mark,
        }

    def words(self, keys: Sequence[str], command: Sequence[str], *, before: str = "") -> list[str]:
        """The command line; `before` is shell run as root in a private mount namespace first."""
        driver = [interpreter(self.user), str(self.folder / DRIVER.name), *keys, "--", *command]
        if self.user == "ordinary":
            identity = f"--reuid={ORDINARY} --regid={ORDINARY} --clear-groups"
            tun = f"mount --bind {self.folder}/tun /dev/net/tun"
            script = f'{tun}; {before or ":"}; exec setpriv {identity} "$@"'
        elif before:
            script = f'{before}; exec "$@"'
        else:
            return driver
        return ["unshare", "--mount", "sh", "-ec", script, "sh", *driver]

    def run(self, *command: str, keys: Sequence[str] = (), stdin: bytes = b"", before: str = "") -> Done:
        """Run to the end, bounded."""
        done = subprocess.run(
            self.words(keys, command, before=before),
            input=stdin,
            capture_output=True,
            env=self.environment,
            cwd="/tmp",
            timeout=3 * PATIENCE,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *command: str, keys: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start in the background; stdin and stdout are pipes."""
        return subprocess.Popen(
            self.words(keys, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd="/tmp",
            text=True,
        )

    def processes(self) -> dict[int, str]:
        """Process id and command line of everything alive that carries the mark."""
        wanted = f"{MARK}={self.mark}".encode()
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
        return found

    def find(self, *start: str) -> int:
        """The one process whose command line begins with these words; waits for it."""
        line = " ".join(start)
        return eventually(lambda: next((pid for pid, words in self.processes().items() if words.startswith(line)), 0))

    def gone(self) -> bool:
        """Whether nothing with the mark is left, soon."""
        eventually(lambda: not self.processes(), or_else=lambda: f"left: {self.processes()}")
        return True

    def kill_all(self) -> None:
        """For the end of a failed test."""
        for pid in self.processes():
            with suppressed():
                os.kill(pid, signal.SIGKILL)


class Done:
    """How a run ended."""

    def __init__(self, status: int, stdout: str, stderr: str) -> None:
        self.status, self.stdout, self.stderr = status, stdout, stderr

    def __repr__(self) -> str:
        return f"status {self.status}\n{self.stdout}\n{self.stderr}"


@contextmanager
def suppressed() -> Iterator[None]:
    """Ignore that a process is gone."""
    try:
        yield
    except ProcessLookupError:
        pass


def eventually(look: Callable[[], T], *, or_else: Callable[[], str] = lambda: "never came") -> T:
    """The first true value of `look`, within the time."""
    deadline = time.monotonic() + PATIENCE
    while not (value := look()):
        if time.monotonic() > deadline:
            pytest.fail(or_else())
        time.sleep(0.01)
    return value


def parent(pid: int) -> int:
    """Of a process, as this PID namespace numbers it."""
    return int(re.findall(r"^PPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0])


@cache
def interpreter(user: str) -> str:
    """A Python that this user may execute; the test is skipped when there is none."""
    if user == "root":
        return sys.executable
    for candidate in (sys.executable, "/usr/bin/python3"):
        version = "import sys, ctypes; sys.exit(sys.version_info < (3, 11))"
        identity = [f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]
        words = ["setpriv", *identity, candidate, "-c", version]
        if subprocess.run(words, capture_output=True, cwd="/", check=False).returncode == 0:
            return candidate
    pytest.skip("no Python 3.11 that an ordinary user may execute")


@contextmanager
def readable_sources() -> Iterator[Path]:
    """A copy of the package, the driver and a TUN node that everybody may use."""
    folder = Path(tempfile.mkdtemp(prefix="bucatini-test-"))
    try:
        package = Path(bucatini.__file__).parent
        for part in ("__init__.py", "_build.py", "base", "host"):
            source, copy = package / part, folder / "bucatini" / part
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                copy.parent.mkdir(exist_ok=True)
                shutil.copy(source, copy)
        shutil.copy(DRIVER, folder)
        number = os.stat("/dev/net/tun").st_rdev
        for python in {interpreter("root"), "/usr/bin/python3"}:
            subprocess.run([python, "-m", "compileall", "-q", str(folder)], check=False)
        os.mknod(folder / "tun", 0o020666, number)
        subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
        os.chmod(folder / "tun", 0o666)
        yield folder
    finally:
        shutil.rmtree(folder)
