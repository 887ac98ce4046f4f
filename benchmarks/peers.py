"""The engines that are compared: how each is started with a guest, where its gateway is, how it publishes ports.

All engines run in the fake host's namespace as the same ordinary user. The guest command is `probe hold TOKEN`, which
does nothing; the harness enters its network namespace to run clients and servers there. `native` is no engine: guest
and host are one namespace and the path between them is the kernel's loopback, the ceiling of the comparison.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from benchmarks import processes
from benchmarks.lab import ROUTER_V4, ROUTER_V6, TAG, BenchError, Lab, Space, TooLateError, last_line, poll_until, stop

ECHO_PORT = 6001
START_SECONDS = 15.0

_serial = itertools.count(1)
_published = itertools.count(7000, 2)


@dataclass
class Session:
    """One running engine and its guest. `bulk_port` and `echo_port` are published: same number on host and guest."""

    guest: Space
    host: Space
    gateway: dict[int, str]
    tag: str
    bulk_port: int
    echo_port: int
    log: Path | None = None
    holder: int | None = None
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    helpers: list[subprocess.Popen[str]] = field(default_factory=list)

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


class Native:
    """The kernel's loopback, no engine."""

    name = "native"
    title = "native loopback"
    default_mtu = 65536

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def missing(self) -> str | None:
        """Why this peer cannot take part, or None."""
        return None

    def version(self) -> str:
        """What is measured, for the head of the table."""
        return f"Linux {os.uname().release}"

    def open(self, mtu: int | None) -> Session:
        """Start the engine with a guest; `mtu` None means the engine's own default."""
        del mtu
        host = self.lab.host
        return Session(host, host, {4: "127.0.0.1", 6: "::1"}, "", next(_published), next(_published))

    def start_up(self) -> float:
        """Seconds from starting the engine with the command `true` to its end."""
        return timed(self.lab.host, ["true"])


class Wrapper:
    """An engine that takes the guest's command on its own command line, as pasta and `bucatini run` do."""

    name = ""
    title = ""
    default_mtu: int | None = None
    gateway: ClassVar[dict[int, str]] = {}
    extra_environment: ClassVar[dict[str, str]] = {}

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def command(self, mtu: int | None, ports: Sequence[int]) -> list[str]:
        """The command line up to the guest's command."""
        raise NotImplementedError

    def open(self, mtu: int | None) -> Session:
        """Start the engine with a guest; `mtu` None means the engine's own default."""
        tag, ports = f"{self.name}-{os.getpid()}-{next(_serial)}", (next(_published), next(_published))
        log = self.lab.log(tag)
        environment = {TAG: tag, **self.extra_environment}
        argv = [*self.command(mtu, ports), self.lab.probe, "hold", tag]
        process = self.lab.host.start(argv, log=log, env=environment)
        session = Session(self.lab.host, self.lab.host, self.gateway, tag, *ports, log, started=[process])
        try:
            session.holder = find_holder(tag, process, log, self.lab.host)
            finish(self.lab, session)
        except BaseException:
            session.close()
            raise
        return session

    def start_up(self) -> float:
        """Seconds from starting the engine with the command `true` to its end."""
        return timed(self.lab.host, [*self.command(None, ()), "true"], self.extra_environment)


class Pasta(Wrapper):
    """Debian's pasta. Run by root it gives up its privileges too early to start a command: an ordinary user only."""

    name = "pasta"
    title = "pasta"
    default_mtu = 65520
    gateway: ClassVar[dict[int, str]] = {4: ROUTER_V4, 6: ROUTER_V6}

    def missing(self) -> str | None:
        """Why this peer cannot take part, or None."""
        return None if shutil.which("pasta") else "pasta is not installed"

    def version(self) -> str:
        """The package's version, as the program does not always know its own."""
        return "pasta " + package_version("passt")

    def command(self, mtu: int | None, ports: Sequence[int]) -> list[str]:
        """Ports are published on the host's loopback, nothing is forwarded the other way."""
        publish = ["-t", ",".join(map(str, ports)) if ports else "none", "-u", "none", "-T", "none", "-U", "none"]
        size = [] if mtu is None else ["-m", str(mtu)]
        return ["pasta", "--config-net", "-q", *publish, *size, "--"]


class Bucatini(Wrapper):
    """This program in its compiled form."""

    name = "bucatini"
    title = "bucatini"
    gateway: ClassVar[dict[int, str]] = {4: "172.16.0.1", 6: "fd42:6d73:62::1"}
    python: Path | None = None
    problem: str | None = None

    def missing(self) -> str | None:
        """Why this peer cannot take part, or None."""
        return self.problem

    def version(self) -> str:
        """The program's own answer, which says whether it is compiled."""
        argv = [str(self.python), "-m", "bucatini", "--version"]
        return " ".join(self.lab.host.run(argv, 20, env=self.extra_environment).split())

    def command(self, mtu: int | None, ports: Sequence[int]) -> list[str]:
        """The default policy plus the host's loopback."""
        publish = [word for port in ports for word in ("-p", f"127.0.0.1:{port}:{port}")]
        size = [] if mtu is None else ["--mtu", str(mtu)]
        return [str(self.python), "-m", "bucatini", "run", "-q", "--allow", "host", *size, *publish, "--"]


class BucatiniPure(Bucatini):
    """This program interpreted."""

    name = "pure"
    title = "bucatini, pure"
    extra_environment: ClassVar[dict[str, str]] = {"BUCATINI_PURE": "1"}


class Slirp:
    """slirp4netns, which joins a namespace that someone else made."""

    name = "slirp4netns"
    title = "slirp4netns"
    default_mtu = 1500
    gateway: ClassVar[dict[int, str]] = {4: "10.0.2.2", 6: "fd00::2"}

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def missing(self) -> str | None:
        """Why this peer cannot take part, or None."""
        return None if shutil.which("slirp4netns") else "slirp4netns is not installed"

    def version(self) -> str:
        """The package's version."""
        return "slirp4netns " + package_version("slirp4netns")

    def _start(self, mtu: int | None, tag: str, api: str) -> Session:
        """Make a namespace, let the engine join it, wait until it says that it is ready."""
        host, log = self.lab.host, self.lab.log(tag)
        namespace = ["unshare", "--user", "--map-root-user", "--net", "--mount", self.lab.probe, "hold", tag]
        holder = host.start(namespace, log=self.lab.log(tag + "-ns"))
        session = Session(host, host, self.gateway, tag, next(_published), next(_published), log, started=[holder])
        ready, signal_ready = os.pipe()
        try:
            session.holder = find_holder(tag, holder, log, host)
            size = [] if mtu is None else ["-m", str(mtu)]
            argv = ["slirp4netns", "-c", "-6", "-r", str(signal_ready), "--api-socket", api, *size]
            argv += [str(session.holder), "tap0"]
            session.started.append(host.start(argv, log=log, env={TAG: tag}, pass_fds=[signal_ready]))
            os.close(signal_ready)
            signal_ready = -1
            os.set_blocking(ready, False)
            poll_until("slirp4netns ready", START_SECONDS, lambda: read_some(ready))
        except BaseException:
            session.close()
            raise
        finally:
            os.close(ready)
            if signal_ready >= 0:
                os.close(signal_ready)
        return session

    def open(self, mtu: int | None) -> Session:
        """Start the engine with a guest; `mtu` None means the engine's own default."""
        tag = f"{self.name}-{os.getpid()}-{next(_serial)}"
        api = str(self.lab.host.home / f"{tag}.sock")
        session = self._start(mtu, tag, api)
        try:
            finish(self.lab, session)
            for port in (session.bulk_port, session.echo_port):
                self._publish(api, port)
        except BaseException:
            session.close()
            raise
        return session

    def _publish(self, api: str, port: int) -> None:
        arguments = {"proto": "tcp", "host_addr": "127.0.0.1", "host_port": port, "guest_port": port}
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(api)
            control.sendall(json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode())
            control.shutdown(socket.SHUT_WR)
            answer = json.loads(control.recv(4096))
        if "error" in answer:
            raise BenchError(f"slirp4netns cannot publish port {port}: {answer['error']}")

    def start_up(self) -> float:
        """Seconds from starting the namespace to the engine's ready signal: it has no command of its own to run."""
        tag = f"{self.name}-{os.getpid()}-{next(_serial)}"
        before = time.perf_counter()
        session = self._start(None, tag, str(self.lab.host.home / f"{tag}.sock"))
        after = time.perf_counter()
        session.close()
        return after - before


Peer = Native | Pasta | Bucatini | BucatiniPure | Slirp


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
    session.guest = Space(session.holder, lab.host.uid, lab.host.gid, lab.host.home)
    session.guest.run(["ip", "link", "set", "lo", "up"], 5, root=True)
    session.guest.widen_ports()
    session.guest.run([lab.probe, "reach", session.gateway[4], str(ECHO_PORT), "10"], 20)


def read_some(fd: int) -> bytes:
    """What a non-blocking descriptor has now; empty if nothing."""
    try:
        return os.read(fd, 16)
    except BlockingIOError:
        return b""


def last_output(log: Path) -> str:
    """The last line that a process printed, for a footnote."""
    return last_line(log.read_text(errors="replace")) or "it printed nothing"


def package_version(package: str) -> str:
    """The version of a Debian package, or "unknown" elsewhere."""
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return "unknown"
