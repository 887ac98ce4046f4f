"""One running engine with its guest: which processes it has, whether it lives, how it is ended, how it is waited for.

The guest command of every engine is `probe hold TOKEN`, which does nothing; the harness finds it by its token and
enters its network namespace. It does not know how any engine is started (peers.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import processes
from benchmarks.lab import BenchError, Lab, Place, Process, Space, TooLateError, last_line, poll_until, stop

ECHO_PORT, BULK_PORT = 6001, 6002
"""What the host serves: an echo server of TCP and UDP that always runs, and one iperf3 server per test."""

START_SECONDS = 15.0


@dataclass
class Session:
    """One running engine and its guest. `bulk_port` (TCP) and `echo_port` (TCP and UDP) are published: the same number
    on the host's loopback and in the guest. `forwards_out`: the guest's own loopback leads to the host's at ECHO_PORT
    (TCP and UDP) and BULK_PORT (TCP)."""

    guest: Place
    host: Space
    gateway: dict[int, str]
    tag: str
    bulk_port: int
    echo_port: int
    log: Path | None = None
    holder: int | None = None
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    helpers: list[Process] = field(default_factory=list)
    forwards_out: bool = True

    def alive(self) -> bool:
        """Whether the engine and the guest command still run."""
        if any(process.poll() is not None for process in self.started):
            return False
        return self.holder is None or Path(f"/proc/{self.holder}/ns/net").exists()

    def epitaph(self) -> str:
        """The last words of an engine that ended although it should run; empty if it runs."""
        return "" if self.alive() or self.log is None else f"the engine ended: {last_output(self.log)}"

    def engine(self) -> set[int]:
        """The process ids of the engine, without the guest command; empty for native loopback."""
        if not self.tag:
            return set()
        started = {process.pid for process in self.started if process.poll() is None}
        pids = processes.with_descendants(started) | processes.tagged(self.tag)
        return pids - {self.holder} if self.holder is not None else pids

    def close(self) -> None:
        """End the guest, then the engine, then whatever of it is left."""
        for helper in self.helpers:
            stop(helper)
        pids = self.engine()
        if self.holder is not None:
            kill(self.holder)
        for process in reversed(self.started):
            stop(process, grace=0.5)
        for pid in pids & processes.tagged(self.tag):
            kill(pid)


def kill(pid: int) -> None:
    """SIGKILL one process that the harness started, if it still exists."""
    if pid <= 1:
        raise ValueError(f"not the id of one process: {pid}")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def timed(space: Space, argv: list[str], env: dict[str, str] | None = None) -> float:
    """Seconds that a command takes, the harness's own `nsenter` and `setpriv` included."""
    before = time.perf_counter()
    space.run(argv, 30, env=env)
    return time.perf_counter() - before


def find_holder(tag: str, process: subprocess.Popen[str], log: Path, host: Space) -> int:
    """The process id of `probe hold TAG` once it runs in a network namespace other than the host's."""
    outside = os.stat(f"/proc/{host.pid}/ns/net").st_ino

    def look() -> int | None:
        for pid in processes.holders(tag):
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{pid}/ns/net").st_ino != outside:
                    return pid
        if process.poll() is not None:
            raise BenchError(f"ended at once with {process.returncode}: {last_output(log)}")
        return None

    try:
        return poll_until("the guest command", START_SECONDS, look)
    except TooLateError as problem:
        raise BenchError(f"{problem} (last output: {last_output(log)})") from None


def finish(lab: Lab, session: Session) -> None:
    """Make the guest's namespace ready for clients and wait until it reaches the host's loopback."""
    assert session.holder is not None
    guest = session.guest = Space(session.holder, lab.host.uid, lab.host.gid, lab.host.home)
    guest.run(["ip", "link", "set", "lo", "up"], 5, root=True)
    guest.widen_ports()
    guest.run([lab.probe, "reach", session.gateway[4], str(ECHO_PORT), "10"], 20)


def read_some(fd: int) -> bytes:
    """What a non-blocking descriptor has now; empty if nothing."""
    try:
        return os.read(fd, 16)
    except BlockingIOError:
        return b""


def last_output(log: Path) -> str:
    """The last line that a process printed, for a footnote."""
    return last_line(log.read_text(errors="replace")) or "it printed nothing"
