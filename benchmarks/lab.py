"""The place where everything is measured: a fake host and a fake world, an ordinary user, and bounded processes.

Theory of operation. Two network namespaces joined by a veth pair stand for "this machine" (198.51.100.2,
2001:db8:77::2, a default route) and "the rest of the world" (its router). Engines run in the first, so no packet can
leave the machine. The namespaces have no names: each lives as long as one `probe hold` process, which the kernel kills
when the harness dies, so nothing is left behind whatever happens. Every process is started through `nsenter` and
`setpriv`: in a given namespace, as an ordinary user, with a parent-death signal. Processes are ended only by the
process id the harness got when it started them.

It does not know any engine (peers.py) or any measurement (cases.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

USER = "bucatini-bench"
DESCRIPTORS = 65536
TAG = "BUCATINI_BENCH_TAG"
TUN = Path("/dev/net/tun")
HOST_V4, HOST_V6 = "198.51.100.2", "2001:db8:77::2"
ROUTER_V4, ROUTER_V6 = "198.51.100.1", "2001:db8:77::1"
RESERVED_PORTS = range(20000, 21000)

T = TypeVar("T")


class BenchError(Exception):
    """One measurement or one peer failed; the text is the footnote of the table."""


class TooLateError(BenchError):
    """What was waited for did not happen in time."""


def poll_until(what: str, seconds: float, attempt: Callable[[], T | None]) -> T:
    """Call `attempt` until it returns something true, at most for `seconds`; raise TooLateError naming `what`."""
    end = time.monotonic() + seconds
    while True:
        value = attempt()
        if value:
            return value
        if time.monotonic() >= end:
            raise TooLateError(f"{what}: not within {seconds:g} s")
        time.sleep(0.005)


class Process(Protocol):
    """A process that the harness started, on this machine or in a virtual one: as much of Popen as is used."""

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raise subprocess.TimeoutExpired if that does not come in time."""

    def kill(self) -> None:
        """Send it SIGKILL."""


def stop(process: Process | None, grace: float = 0.0) -> None:
    """End one process that the harness started: wait `grace` seconds, then SIGKILL, then reap it."""
    if process is None:
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
        return
    process.kill()
    process.wait(5)


def failure_reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why a command failed, in one line: the error field of iperf3's JSON, or the last line that was printed."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(done.stdout)["error"])
    return last_line(done.stderr) or last_line(done.stdout) or f"exit code {done.returncode}"


def last_line(text: str) -> str:
    """The last line of what a program printed, without a leading time stamp, so that equal reasons look equal."""
    lines = text.strip().splitlines()
    return re.sub(r"^\[?\d+\.\d+\]?:? ", "", lines[-1]) if lines else ""


class Place:
    """Where programs run: a network namespace or a virtual machine."""

    def run(self, argv: Sequence[str], timeout: float) -> str:
        """Run to the end and return stdout. Raises BenchError with the reason on failure, or on timeout."""
        raise NotImplementedError

    def start(self, argv: Sequence[str], *, log: Path) -> Process:
        """Start a process in the background."""
        raise NotImplementedError

    def port_tables(self, table: str) -> str:
        """The kernel's tables of sockets, IPv4 and IPv6: `table` is "tcp" or "udp"."""
        raise NotImplementedError

    def run_json(self, argv: Sequence[str], timeout: float) -> dict[str, Any]:
        """Like run(); the output is one JSON object."""
        output = self.run(argv, timeout)
        try:
            value = json.loads(output)
        except ValueError:
            raise BenchError(f"{Path(argv[0]).name}: output is not JSON") from None
        return dict(value)

    def ports(self, table: str) -> set[int]:
        """Local ports in use here: `table` is "tcp" (listening only) or "udp"."""
        found: set[int] = set()
        for line in self.port_tables(table).splitlines():
            _, local, _, state = line.split()[:4]
            if local != "local_address" and (table == "udp" or state == "0A"):
                found.add(int(local.rsplit(":", 1)[1], 16))
        return found

    def wait_port(self, table: str, port: int, process: Process | None = None) -> None:
        """Wait (5 s at most) until `port` is bound; `process`, if given, must stay alive meanwhile."""

        def bound() -> bool:
            if process is not None and process.poll() is not None:
                raise BenchError(f"the server for port {port} ended at once")
            return port in self.ports(table)

        poll_until(f"{table} port {port}", 5, bound)


@dataclass(frozen=True)
class Space(Place):
    """A network namespace (that of process `pid`) as seen by the ordinary user `uid`."""

    pid: int
    uid: int
    gid: int
    home: Path

    def command(self, argv: Sequence[str], *, root: bool = False) -> list[str]:
        """The argument vector that runs `argv` in this namespace; `root` keeps the privileges."""
        user = [] if root else [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        enter = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]
        return [*enter, "setpriv", *user, "--pdeathsig", "KILL", "--", *argv]

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """A small, equal environment for everything that is measured."""
        path = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
        return {"PATH": path, "HOME": str(self.home), "LANG": "C.UTF-8", **(extra or {})}

    def start(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        root: bool = False,
    ) -> subprocess.Popen[str]:
        """Start a process in the background; what it prints goes to `log`, its stdin stays open until it ends. `root`
        keeps the privileges."""
        with log.open("w") as output:
            return subprocess.Popen(
                self.command(argv, root=root),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment(env),
                cwd=self.home,
                start_new_session=True,
                pass_fds=pass_fds,
                text=True,
            )

    def run(self, argv: Sequence[str], timeout: float, *, root: bool = False, env: dict[str, str] | None = None) -> str:
        """Run to the end and return stdout. Raises BenchError with the reason on failure, or on timeout."""
        try:
            done = subprocess.run(
                self.command(argv, root=root),
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self.environment(env),
                cwd=self.home,
                timeout=timeout,
                text=True,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"{Path(argv[0]).name} {' '.join(argv[1:3])}: no end within {timeout:g} s") from None
        if done.returncode != 0:
            raise BenchError(f"{Path(argv[0]).name} {argv[1] if len(argv) > 1 else ''}: {failure_reason(done)}")
        return done.stdout

    def port_tables(self, table: str) -> str:
        """The kernel's tables of sockets in this namespace."""
        texts = []
        for name in (table, table + "6"):
            with contextlib.suppress(OSError):
                texts.append(Path(f"/proc/{self.pid}/net/{name}").read_text())
        return "".join(texts)

    def widen_ports(self) -> None:
        """Give clients ports 10000 to 65535 and let them reuse those in TIME_WAIT: short connections need many.

        RESERVED_PORTS stay out of it: a port that a client had lately cannot be bound for some time."""
        script = (
            f"echo {RESERVED_PORTS[0]}-{RESERVED_PORTS[-1]} > /proc/sys/net/ipv4/ip_local_reserved_ports;"
            "echo 10000 65535 > /proc/sys/net/ipv4/ip_local_port_range; echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse;"
            "echo 4096 > /proc/sys/net/core/somaxconn"
        )
        self.run(["sh", "-c", script], 5, root=True)


class Lab:
    """The fake host and world, the working directory and the compiled probe. A context manager; needs root."""

    def __init__(self, user: str = USER) -> None:
        self._user = user
        self._stack = contextlib.ExitStack()
        self._logs = 0
        self.home: Path
        self.probe: str
        self.host: Space
        self.world: Space

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _set_up(self) -> None:
        if os.geteuid() != 0:
            raise BenchError("needs root, to make the namespaces; what is measured runs as an ordinary user")
        for tool in ("nsenter", "setpriv", "unshare", "ip", "gcc", "iperf3"):
            if shutil.which(tool) is None:
                raise BenchError(f"{tool} is not installed")
        raise_descriptor_limit()
        uid, gid = self._stack.enter_context(ordinary_user(self._user))
        self._stack.enter_context(open_tun())
        self.home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bucatini-bench-")))
        self.home.chmod(0o755)
        work = self.home / "work"
        work.mkdir()
        os.chown(work, uid, gid)
        self.probe = build_probe(self.home)
        self.host = self._make_space(uid, gid, work)
        self.world = self._make_space(uid, gid, work)
        self._join()

    def _make_space(self, uid: int, gid: int, work: Path) -> Space:
        here = os.stat("/proc/self/ns/net").st_ino
        argv = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", self.probe, "hold", "space"]
        holder = subprocess.Popen(argv, stdin=subprocess.DEVNULL, text=True, start_new_session=True)
        self._stack.callback(stop, holder)
        path = f"/proc/{holder.pid}/ns/net"
        poll_until("a network namespace", 5, lambda: holder.poll() is None and os.stat(path).st_ino != here)
        return Space(holder.pid, uid, gid, work)

    def _join(self) -> None:
        """Connect the two namespaces and give the fake host its addresses and default routes."""
        host, world = self.host, self.world
        for space in (host, world):
            space.run(["ip", "link", "set", "lo", "up"], 5, root=True)
            space.widen_ports()
        self_peer = ["peer", "name", "up1", "netns", str(world.pid)]
        host.run(["ip", "link", "add", "up0", "type", "veth", *self_peer], 5, root=True)
        ends = ((host, "up0", HOST_V4, HOST_V6), (world, "up1", ROUTER_V4, ROUTER_V6))
        for space, link, v4, v6 in ends:
            space.run(["ip", "link", "set", link, "up"], 5, root=True)
            space.run(["ip", "addr", "add", f"{v4}/24", "dev", link], 5, root=True)
            space.run(["ip", "addr", "add", f"{v6}/64", "dev", link, "nodad"], 5, root=True)
        host.run(["ip", "route", "add", "default", "via", ROUTER_V4], 5, root=True)
        host.run(["ip", "-6", "route", "add", "default", "via", ROUTER_V6], 5, root=True)

    def log(self, name: str) -> Path:
        """A fresh file for what one process prints."""
        self._logs += 1
        return self.home / f"{self._logs:05d}-{name}.log"


@contextlib.contextmanager
def ordinary_user(name: str) -> Iterator[tuple[int, int]]:
    """The user and group id of `name`, a system user that is made if it is missing and then removed at the end."""
    made = False
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        shell = shutil.which("nologin") or "/bin/false"
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", shell, name]
        subprocess.run(command, check=True, timeout=30)
        made = True
        entry = pwd.getpwnam(name)
    try:
        yield entry.pw_uid, entry.pw_gid
    finally:
        if made:
            remove_user(name)


def remove_user(name: str) -> None:
    """Remove a user; its last processes may take a moment to be gone. One that stays is said on stderr."""
    command = ["userdel", name]
    for _ in range(10):
        done = subprocess.run(command, check=False, timeout=30, capture_output=True, text=True)
        if done.returncode == 0:
            return
        time.sleep(0.2)
    print(f"the user {name} stays: {failure_reason(done)}", file=sys.stderr)


@contextlib.contextmanager
def open_tun() -> Iterator[None]:
    """Let ordinary users open /dev/net/tun, as distributions with udev do; put its mode back at the end."""
    try:
        mode = stat.S_IMODE(TUN.stat().st_mode)
    except OSError as problem:
        raise BenchError(f"{TUN}: {problem.strerror}") from None
    TUN.chmod(0o666)
    try:
        yield
    finally:
        TUN.chmod(mode)


def build_probe(directory: Path, name: str = "probe", *options: str) -> str:
    """Compile probe.c into `directory` and return the path of the program."""
    source, program = Path(__file__).with_name("probe.c"), directory / name
    command = ["gcc", "-O2", "-Wall", "-std=gnu11", *options, "-o", str(program), str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise BenchError(f"probe.c: {done.stderr.strip().splitlines()[-1]}")
    return str(program)


def raise_descriptor_limit() -> None:
    """Let this process and all it starts open many files, as far as this machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (DESCRIPTORS, hard):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return


def raise_interrupt(_signal: int, _frame: object) -> None:
    """Signal handler: end like ^C, so that every context manager cleans up."""
    raise KeyboardInterrupt


def clean_up_on_signals() -> None:
    """Make SIGTERM and SIGHUP unwind the stack instead of ending the process where it stands."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, raise_interrupt)
