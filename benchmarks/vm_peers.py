"""The engines of the group `vm`: how each is started for a virtual machine, and how QEMU is told to use it.

All run in the fake host's namespace as the same ordinary user, as QEMU does. Each listens on a UNIX socket (or, for
datagrams, has one of two), publishes a few ports to its guest (session.py says which) and lets it reach the host's
loopback at its gateway address. The guest stays up as long as its engine.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from typing import ClassVar

from benchmarks.lab import ROUTER_V4, TAG, BenchError, Lab, poll_until
from benchmarks.peers import Bucatini, next_ports, package_version
from benchmarks.rows import MACHINE, VM_DGRAM, VM_PASST, VM_STREAM, VM_USER
from benchmarks.session import ECHO_PORT, START_SECONDS, Session, last_output
from benchmarks.vm_guest import MAC, Machine, MachineSession
from benchmarks.vm_image import Image

ATTEMPTS = 2
"""How often in a row a peer may fail to come up; then it is not tried again, as a failed boot takes long."""

_serial = itertools.count(1)


class MachinePeer:
    """An engine and the way in which QEMU hands it the frames."""

    name = ""
    title = ""
    default_mtu: int | None = None
    kind = MACHINE
    gateway: ClassVar[dict[int, str]] = {}
    image: ClassVar[Image | None] = None
    problem: ClassVar[str | None] = None

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._failures: list[str] = []

    def missing(self) -> str | None:
        """Why this peer cannot take part, or None."""
        return self.problem or self.engine_missing()

    def engine_missing(self) -> str | None:
        """Why this engine cannot take part, or None."""
        raise NotImplementedError

    def version(self) -> str:
        """What is measured, for the head of the table."""
        raise NotImplementedError

    def command(self, path: str, bulk: int, echo: int) -> list[str]:
        """The engine's command line: its socket, and `bulk` (TCP) and `echo` (TCP and UDP) published."""
        raise NotImplementedError

    def network(self, path: str) -> list[str]:
        """QEMU's options for a stream socket at which the engine listens."""
        return [*("-netdev", f"stream,id=net,server=off,addr.type=unix,addr.path={path}"), *device()]

    def open(self, mtu: int | None) -> Session:
        """Start the engine, then boot a guest that takes an address from it. A measurement sets the MTU itself."""
        del mtu
        if len(self._failures) >= ATTEMPTS:
            raise BenchError(self._failures[-1])
        try:
            session = self._open()
        except (BenchError, OSError) as problem:
            self._failures.append(str(problem))
            raise
        self._failures.clear()
        return session

    def _open(self) -> Session:
        assert self.image is not None
        host = self.lab.host
        tag = f"{self.name}-{os.getpid()}-{next(_serial)}"
        path = host.home / f"{tag}.sock"
        bulk, echo = next_ports()
        log = self.lab.log(tag)
        process = host.start(self.command(str(path), bulk, echo), log=log, env={TAG: tag})
        session = MachineSession(host, host, self.gateway, tag, bulk, echo, log, started=[process], forwards_out=False)

        def listens() -> bool:
            if process.poll() is not None:
                raise BenchError(f"ended at once with {process.returncode}: {last_output(log)}")
            return path.exists() and stat.S_ISSOCK(path.stat().st_mode)

        try:
            poll_until(f"the socket of {self.title}", START_SECONDS, listens)
            machine = Machine(self.lab, self.image, self.network(str(path)))
            session.guest = machine
            machine.configure()
            machine.run([self.lab.probe, "reach", self.gateway[4], str(ECHO_PORT), "10"], 20)
        except BaseException:
            session.close()
            raise
        return session

    def open_range(self, ports: range) -> Session | None:
        """None: not measured with a virtual machine."""
        del ports
        return None

    def start_up(self, ports: range | None = None) -> float | None:
        """None: not measured with a virtual machine."""
        del ports
        return None


class Passt(MachinePeer):
    """Debian's passt, which has the stream socket only."""

    name = VM_PASST
    title = "passt, stream"
    gateway: ClassVar[dict[int, str]] = {4: ROUTER_V4}

    def engine_missing(self) -> str | None:
        """Why this engine cannot take part, or None."""
        return None if shutil.which("passt") else "passt is not installed"

    def version(self) -> str:
        """The package's version, as the program does not always know its own."""
        return "passt " + package_version("passt")

    def command(self, path: str, bulk: int, echo: int) -> list[str]:
        """Its default: the guest has the host's address, and the router's address is the host's loopback."""
        return ["passt", "-f", "-e", "-q", "-s", path, "-t", f"{bulk},{echo}", "-u", f"{echo}"]


class BucatiniStream(MachinePeer):
    """This program, compiled, over a stream socket."""

    name = VM_STREAM
    title = "bucatini, stream"
    gateway: ClassVar[dict[int, str]] = {4: Bucatini.gateway[4]}

    def engine_missing(self) -> str | None:
        """Why this engine cannot take part, or None."""
        return Bucatini.problem

    def version(self) -> str:
        """The program's own answer, which says whether it is compiled."""
        return Bucatini(self.lab).version()

    def link(self, path: str) -> list[str]:
        """The option that says how frames come."""
        return ["--socket", path]

    def command(self, path: str, bulk: int, echo: int) -> list[str]:
        """The default policy plus the host's loopback."""
        ports = ["-p", f"127.0.0.1:{bulk}:{bulk}", "-p", f"127.0.0.1:{echo}:{echo}"]
        ports += ["-p", f"127.0.0.1:{echo}:{echo}/udp"]
        return [str(Bucatini.python), "-m", "bucatini", "vm", *self.link(path), "-q", "--allow", "host", *ports]


class BucatiniUser(BucatiniStream):
    """This program, compiled, as the back end of a virtio device: it reads and writes the guest's memory itself."""

    name = VM_USER
    title = "bucatini, vhost-user"

    def link(self, path: str) -> list[str]:
        """The option that says how frames come."""
        return ["--vhost-user", path]

    def network(self, path: str) -> list[str]:
        """QEMU's options. With TCG, QEMU 7.2 crashes if this device has interrupt vectors of its own."""
        socket = ["-chardev", f"socket,id=link,path={path}", "-netdev", "vhost-user,id=net,chardev=link"]
        return [*socket, *device("vectors=0")]


class BucatiniDgram(BucatiniStream):
    """This program, compiled, over a pair of datagram sockets."""

    name = VM_DGRAM
    title = "bucatini, datagrams"

    def link(self, path: str) -> list[str]:
        """The option that says how frames come."""
        return ["--dgram", f"{path},{path}-qemu"]

    def network(self, path: str) -> list[str]:
        """QEMU's options."""
        ends = f"local.type=unix,local.path={path}-qemu,remote.type=unix,remote.path={path}"
        return ["-netdev", f"dgram,id=net,{ends}", *device()]


def device(*options: str) -> list[str]:
    """QEMU's options for the guest's network device."""
    return ["-device", ",".join(["virtio-net-pci", "netdev=net", f"mac={MAC}", *options])]
