"""A host and a world made of two network namespaces joined by a veth pair, so that no packet leaves the machine.

`host` has a default route of both families to `world`, whose loopback holds addresses of every kind: public ones,
private ones, a metadata service. `bucatini run` is started inside `host`. Namespaces have no name and are held by a
descriptor: they vanish with this process, whatever happens to it.

A thread may enter a namespace for a moment, and a socket stays where it was made. So the tests hold the sockets of the
guest, the host and the world in their own hands: `guest.net.connect(...)`, `host.world.listen(...)`; and subprocesses
started inside `with namespace.entered():` live there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

from scapy.layers.l2 import Ether
from scapy.packet import Packet

import bucatini
from bucatini.host import syscalls
from support.guests import ORDINARY, PATIENCE, Done, Launcher, eventually

HOST4, HOST6 = "198.51.100.2", "2001:db8:77::2"
"""The host's own addresses on its uplink `up0`."""
WORLD4, WORLD6 = "198.51.100.1", "2001:db8:77::1"
"""Its router, in the world: documentation space, so not public."""
PUBLIC4, PUBLIC6 = "93.184.215.14", "2606:2800:21f:cb07::1"
RESOLVER4, RESOLVER6 = "8.8.8.8", "2001:4860:4860::8888"
PRIVATE4, PRIVATE6 = "10.9.9.9", "fd00:9::9"
METADATA4, METADATA6 = "169.254.169.254", "fd00:ec2::254"
DOCUMENTATION4, DOCUMENTATION6 = "203.0.113.10", "2001:db8:99::10"
WORLD_ADDRESSES = (
    *(PUBLIC4, PUBLIC6, RESOLVER4, RESOLVER6, PRIVATE4, PRIVATE6, METADATA4, METADATA6),
    *(DOCUMENTATION4, DOCUMENTATION6),
)
BLACK_HOLE4, BLACK_HOLE6 = "93.184.215.99", "2606:2800:21f:cb07::99"
"""Public addresses that never answer: the world drops what is for nobody."""
UNREACHABLE4, UNREACHABLE6 = "45.33.32.1", "2600:3c01::1"
"""Public addresses to which the host has an `unreachable` route."""
GUEST4, GUEST6 = "172.16.0.2", "fd42:6d73:62::2"
GATEWAY4, GATEWAY6 = "172.16.0.1", "fd42:6d73:62::1"
"""Of slot 0."""

GATEWAY_FRAME = Ether(src="02:6d:73:00:00:02", dst="02:6d:73:00:00:01")
"""From the guest to the gateway, in slot 0."""

ETH_P_ALL = 3
PACKET_OUTGOING = 4

_libc = ctypes.CDLL(None, use_errno=True)


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Namespace:
    """A network namespace, held by a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def create(cls) -> Namespace:
        """An empty one with `lo` up: no DAD, ping sockets for everybody, no limit of ICMP errors."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            made = cls(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        finally:
            _enter(before)
            os.close(before)
        with made.entered():
            Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
            Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
            # Errors are never left out: tests wait for them.
            Path("/proc/sys/net/ipv4/icmp_ratelimit").write_text("0")
            Path("/proc/sys/net/ipv6/icmp/ratelimit").write_text("0")
        made.run("ip", "link", "set", "lo", "up")
        return made

    @classmethod
    def of_process(cls, process_id: int) -> Namespace:
        return cls(os.open(f"/proc/{process_id}/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside; sockets and processes it makes stay there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _enter(self.descriptor)
        try:
            yield
        finally:
            _enter(before)
            os.close(before)

    def new_socket(
        self,
        family: int = socket.AF_INET,
        kind: int = socket.SOCK_STREAM,
        protocol: int = 0,
        *,
        timeout: float = PATIENCE,
    ) -> socket.socket:
        with self.entered():
            made = socket.socket(family, kind, protocol)
        made.settimeout(timeout)
        return made

    def bound(
        self, address: str, port: int = 0, kind: int = socket.SOCK_DGRAM, *, timeout: float = PATIENCE
    ) -> socket.socket:
        """A socket bound here, by default for datagrams."""
        made = self.new_socket(family_of(address), kind, timeout=timeout)
        try:
            if kind == socket.SOCK_STREAM:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family_of(address) == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((address, port))
        except OSError:
            made.close()
            raise
        return made

    def listen(self, address: str, port: int = 0, backlog: int = 128) -> socket.socket:
        """A listening TCP socket."""
        made = self.bound(address, port, socket.SOCK_STREAM)
        made.listen(backlog)
        return made

    def connect(self, address: str, port: int, *, timeout: float = PATIENCE) -> socket.socket:
        """A connected TCP socket."""
        made = self.new_socket(family_of(address), timeout=timeout)
        try:
            made.connect((address, port))
        except OSError:
            made.close()
            raise
        return made

    def run(self, *command: str, check: bool = True, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """A command inside, to its end."""
        with self.entered():
            return subprocess.run(command, capture_output=True, text=True, check=check, timeout=timeout)

    def ip(self, lines: str) -> None:
        """`ip -batch`, a command a line."""
        with self.entered():
            subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True, timeout=PATIENCE)

    def close(self) -> None:
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, syscalls.CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class FakeHost:
    """See the module. `folder` can be written by everybody."""

    def __init__(self, mtu: int = 1500) -> None:
        self.net = Namespace.create()
        self.world = Namespace.create()
        self.folder = Path(tempfile.mkdtemp(prefix="bucatini-host-"))
        self.folder.chmod(0o777)
        self.resolv_conf = self.folder / "resolv.conf"
        self.set_resolvers(RESOLVER4)
        self._connect(mtu)
        self._runners: list[Runner] = []

    def _connect(self, mtu: int) -> None:
        self.net.ip(f"link add up0 mtu {mtu} type veth peer name up1 mtu {mtu} netns {self.world.path}")
        self.world.ip(
            f"link set up1 up\naddr add {WORLD4}/24 dev up1\naddr add {WORLD6}/64 dev up1 nodad\n"
            + "".join(f"addr add {address} dev lo\n" for address in WORLD_ADDRESSES)
        )
        self.net.ip(
            f"link set up0 up\naddr add {HOST4}/24 dev up0\naddr add {HOST6}/64 dev up0 nodad\n"
            f"route add default via {WORLD4}\nroute add default via {WORLD6}\n"
            f"route add unreachable {UNREACHABLE4}\nroute add unreachable {UNREACHABLE6}\n"
        )

    def set_resolvers(self, *addresses: str, options: str = "") -> None:
        """What `/etc/resolv.conf` of the host says from now on, also to engines that run."""
        lines = [f"nameserver {address}" for address in addresses] + [f"options {options}"] * bool(options)
        self.resolv_conf.write_text("\n".join(lines) + "\n")

    def runner(self, user: str = "root") -> Runner:
        """Starts bucatini as `root` or as an `ordinary` user."""
        made = Runner(self, user)
        self._runners.append(made)
        return made

    def run(self, *words: str, user: str = "root", stdin: bytes = b"", before: str = "", timeout: float = 30) -> Done:
        """`bucatini run WORDS` to its end; nothing of it may be left."""
        runner = self.runner(user)
        done = runner.complete(["run", *words], stdin=stdin, before=before, timeout=timeout)
        runner.gone()
        return done

    @contextmanager
    def guest(self, *options: str, user: str = "root") -> Iterator[Guest]:
        """A guest that lives as long as the context; nothing of it may be left."""
        runner = self.runner(user)
        guest = Guest(self, runner, *runner.begin(["run", *options, "--", "cat"]))
        try:
            guest.enter("cat")
            yield guest
            guest.end()
            runner.gone()
        finally:
            runner.kill_all()
            guest.close()

    def close(self) -> None:
        for runner in self._runners:
            runner.kill_all()
        self.net.close()
        self.world.close()
        shutil.rmtree(self.folder)


class Runner(Launcher):
    """Starts `bucatini` in the fake host as one user. Its processes carry a mark, see `Launcher`."""

    def __init__(self, host: FakeHost, user: str) -> None:
        super().__init__(user, host.folder)
        self.host = host
        self.environment = {
            **self.environment,
            "PYTHONPATH": str(Path(bucatini.__file__).parent.parent),
            "BUCATINI_PURE": os.environ.get("BUCATINI_PURE", ""),
            "HOME": "/",
            "TMPDIR": str(host.folder),
            "SHELL": "/bin/sh",
            "LC_ALL": "C.UTF-8",
        }

    def program(self, words: Sequence[str], before: str = "") -> list[str]:
        """The command line of `bucatini WORDS`; `before` is shell run as root in its private mount namespace first."""
        return self.wrapped([sys.executable, "-m", "bucatini", *words], before)

    def wrapped(self, command: Sequence[str], before: str = "") -> list[str]:
        """Any command's line as this user, where interpreter, package, /dev/net/tun and resolvers are as `program` has
        them. Every step executes the next: the process that is started becomes the command."""
        script = [f"mount --bind {self.host.resolv_conf} /etc/resolv.conf"]
        identity = ""
        if self.user == "ordinary":
            script += [*_open_paths(self.folder), *_open_tun(self.folder)]
            identity = f"setpriv --reuid={ORDINARY} --regid={ORDINARY} --clear-groups"
        script += [before or ":", f'exec {identity} "$@"']
        return ["unshare", "--mount", "sh", "-ec", "\n".join(script), "sh", *command]

    def complete(self, words: Sequence[str], *, stdin: bytes = b"", before: str = "", timeout: float = 30) -> Done:
        """Run to the end, bounded."""
        return self.complete_words(self.program(words, before), stdin=stdin, timeout=timeout)

    def complete_words(self, words: Sequence[str], *, stdin: bytes = b"", timeout: float = 30) -> Done:
        """Run what `program` answered, perhaps changed, to the end."""
        with self.host.net.entered():
            done = subprocess.run(
                words,
                input=stdin,
                capture_output=True,
                env=self.environment,
                cwd="/tmp",
                timeout=timeout,
                check=False,
            )
        return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def begin(self, words: Sequence[str], *, before: str = "") -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        """Start in the background; stdin and stdout are pipes, stderr is the file in the answer."""
        errors = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
        with self.host.net.entered():
            process = subprocess.Popen(
                self.program(words, before),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self.environment,
                cwd="/tmp",
            )
        return process, errors


class Guest:
    """A running guest: `net` is its network namespace, `engine` the process that serves it."""

    def __init__(self, host: FakeHost, runner: Runner, engine: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self.host, self.runner, self.engine = host, runner, engine
        self.command = 0
        self._errors = errors
        self._last_words = ""

    def enter(self, *start: str) -> None:
        """Wait for the command, which begins with these words, and find its namespace."""
        line = " ".join(start)

        def look() -> int:
            found = next((pid for pid, words in self.runner.processes().items() if words.startswith(line)), 0)
            if not found and self.engine.poll() is not None:
                raise AssertionError(f"ended with status {self.engine.returncode}: {self.stderr}")
            return found

        self.command = eventually(look)
        self.net = Namespace.of_process(self.command)

    @property
    def stderr(self) -> str:
        """What was said so far, or in all after the end."""
        return self._last_words if self._errors.closed else read_all(self._errors)

    def close(self) -> None:
        """Let go of the streams; the processes have ended."""
        self._last_words = self.stderr
        if self.command:
            self.net.close()
        self.engine.wait(PATIENCE)
        for pipe in (self.engine.stdin, self.engine.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    @contextmanager
    def raw(self) -> Iterator[RawLink]:
        """The guest's `eth0` for frames made by hand."""
        with self.net.new_socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sock:
            sock.bind(("eth0", ETH_P_ALL))
            yield RawLink(sock)

    def end(self) -> int:
        """Let the command end; the engine's exit status. Idempotent."""
        if self.engine.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.engine.stdin.close()
        return self.engine.wait(PATIENCE)

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """A signal for the engine."""
        self.engine.send_signal(number)


class RawLink:
    """Frames out of and into the guest, beside its kernel."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, frame: bytes) -> None:
        self._sock.send(frame)

    def next(self, wanted: Callable[[Packet], bool], *, timeout: float = PATIENCE) -> Packet:
        """The next frame from the engine that is `wanted`; scapy's view of it. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            self._sock.settimeout(max(deadline - time.monotonic(), 0.001))
            frame, origin = self._sock.recvfrom(70000)
            if origin[2] == PACKET_OUTGOING:
                continue
            packet = Ether(frame)
            if wanted(packet):
                return packet


class SharedGuest:
    """A guest for many tests. One that a test broke says so there and then, and the next test gets a new one."""

    def __init__(self, host: FakeHost, *options: str) -> None:
        self._host = host
        self._options = options
        self._stack = contextlib.ExitStack()
        self._guest: Guest | None = None

    @contextmanager
    def checked(self) -> Iterator[Guest]:
        """The guest; its engine must be alive at the end."""
        if self._guest is None:
            self._guest = self._stack.enter_context(self._host.guest(*self._options))
        yield self._guest
        if self._guest.engine.poll() is not None:
            broken, self._guest = self._guest, None
            self._stack.close()
            raise AssertionError(f"the engine ended with status {broken.engine.returncode}: {broken.stderr}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def read_all(file: IO[bytes]) -> str:
    """A file's content from its start; where the next write goes is left alone."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


def guest_python(code: str, *words: str) -> list[str]:
    """A command for the guest: `code` under this interpreter, without site-packages."""
    return [sys.executable, "-I", "-S", "-c", code, *words]


def _open_paths(scratch: Path) -> Iterator[str]:
    """Shell that lets everybody reach interpreter and package: what closes the way is covered, the way made anew."""
    needed = sorted({sys.base_prefix, sys.prefix, str(Path(bucatini.__file__).parent.parent)}, key=len)
    covered: dict[str, str] = {}
    for wanted in needed:
        closed = next((str(part) for part in reversed(Path(wanted).parents) if not part.stat().st_mode & 1), None)
        if closed is None:
            continue
        if closed not in covered:
            covered[closed] = f"{scratch}/covered-{len(covered)}"
            yield f"mkdir -p {covered[closed]}; mount --bind {closed} {covered[closed]}"
            yield f"mount -t tmpfs -o mode=755 tmpfs {closed}"
        yield f"mkdir -p {wanted}; mount --bind {covered[closed]}/{os.path.relpath(wanted, closed)} {wanted}"


def _open_tun(scratch: Path) -> Iterator[str]:
    """Shell that gives everybody a /dev/net/tun, as udev does."""
    status = os.stat("/dev/net/tun")
    if status.st_mode & 0o006 != 0o006:
        number = f"{os.major(status.st_rdev)} {os.minor(status.st_rdev)}"
        yield f"test -e {scratch}/tun || mknod -m 666 {scratch}/tun c {number}"
        yield f"mount --bind {scratch}/tun /dev/net/tun"
