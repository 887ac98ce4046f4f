"""One QEMU with the guest of vm_image.py in it, and the commands that are run there.

The control channel is a virtio-serial port whose other end is a socket pair of the harness: it needs no network, and
nobody else can reach it. QEMU emulates the processor (TCG): what is measured works the same where there is no KVM, and
the guest is then the slowest part, so an engine's own CPU time per byte says more than the rate.
"""

from __future__ import annotations

import itertools
import math
import shlex
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab import BenchError, Lab, Place, Process, failure_reason, stop
from benchmarks.session import Session, last_output
from benchmarks.vm_image import LEASE_PATH, PORT, READY, Image

QEMU = "qemu-system-x86_64"
LINK, MAC = "eth0", "52:54:00:12:34:56"
MEMORY = "512M"
BOOT_SECONDS, SPARE_SECONDS = 60.0, 5.0
KILLED = 128 + 9

_serial = itertools.count(1)


class Machine(Place):
    """A running guest. Programs are found there by their names; one command runs at a time."""

    def __init__(self, lab: Lab, image: Image, network: Sequence[str]) -> None:
        """Boot it; `network` are QEMU's options that make the network device."""
        ours, theirs = socket.socketpair()
        self.control = ours
        self._received = b""
        self.log = lab.log("qemu")
        self.process: subprocess.Popen[str] | None = None
        try:
            with theirs:
                argv = qemu_command(image, theirs.fileno(), network)
                self.process = lab.host.start(argv, log=self.log, pass_fds=[theirs.fileno()])
            if self._answer(BOOT_SECONDS).stdout.strip() != READY:
                raise BenchError("the guest did not boot as it should")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it."""
        self.control.close()
        stop(self.process)

    def alive(self) -> bool:
        """Whether it runs and its control channel works."""
        return self.control.fileno() >= 0 and self.process is not None and self.process.poll() is None

    def shell(self, line: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run one line of shell. Raises BenchError only if no answer comes; then the guest is of no use any more."""
        try:
            self.control.settimeout(timeout)
            self.control.sendall(line.encode() + b"\n")
            return self._answer(timeout)
        except OSError as problem:
            self.control.close()
            raise BenchError(f"the guest's control channel: {problem}") from None

    def _answer(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Read "STATUS BYTES BYTES" and the output and the errors that follow."""
        self.control.settimeout(timeout)
        try:
            while b"\n" not in self._received:
                self._receive()
            head, _, self._received = self._received.partition(b"\n")
            status, output, errors = map(int, head.split())
            while len(self._received) < output + errors:
                self._receive()
        except (OSError, ValueError) as problem:
            self.control.close()
            raise BenchError(f"the guest does not answer: {problem} (console: {last_output(self.log)})") from None
        text, self._received = self._received[: output + errors], self._received[output + errors :]
        parts = text[:output], text[output:]
        return subprocess.CompletedProcess([], status, *(part.decode(errors="replace") for part in parts))

    def _receive(self) -> None:
        data = self.control.recv(65536)
        if not data:
            raise OSError("QEMU ended")
        self._received += data

    def run(self, argv: Sequence[str], timeout: float) -> str:
        """Run to the end and return stdout. Raises BenchError with the reason on failure, or on timeout."""
        name = Path(argv[0]).name
        bounded = ["timeout", "-s", "KILL", str(math.ceil(timeout)), name, *argv[1:]]
        done = self.shell(shlex.join(bounded), timeout + SPARE_SECONDS)
        if done.returncode == KILLED:
            raise BenchError(f"{name} {' '.join(argv[1:3])}: no end within {timeout:g} s")
        if done.returncode != 0:
            raise BenchError(f"{name} {argv[1] if len(argv) > 1 else ''}: {failure_reason(done)}")
        return done.stdout

    def start(self, argv: Sequence[str], *, log: Path) -> Process:
        """Start a process in the background. What it prints is kept in the guest, in a file named like `log`."""
        command = shlex.join([Path(argv[0]).name, *argv[1:]])
        done = self.shell(f"{command} < /dev/null > /tmp/{log.name} 2>&1 & echo $!", SPARE_SECONDS)
        return Remote(self, int(done.stdout))

    def port_tables(self, table: str) -> str:
        """The kernel's tables of sockets in the guest."""
        return self.run(["cat", f"/proc/net/{table}", f"/proc/net/{table}6"], SPARE_SECONDS)

    def set_mtu(self, mtu: int) -> None:
        """Give the guest's network interface this MTU."""
        self.run(["ip", "link", "set", LINK, "mtu", str(mtu)], SPARE_SECONDS)

    def configure(self) -> None:
        """Take what the engine offers by DHCP, as often as it takes for it to answer."""
        self.run(["udhcpc", "-i", LINK, "-n", "-q", "-f", "-t", "5", "-T", "2", "-s", f"/{LEASE_PATH}"], 20)


@dataclass(frozen=True)
class Remote:
    """A background process in the guest."""

    machine: Machine
    pid: int

    def poll(self) -> int | None:
        """0 once it has ended, however it ended; None while it runs."""
        state = self.machine.shell(f"cut -d ' ' -f 3 /proc/{self.pid}/stat", SPARE_SECONDS).stdout.strip()
        return 0 if state in ("", "Z") else None

    def wait(self, timeout: float | None = None) -> int:
        """Does not wait: the next command runs later anyway."""
        if self.poll() is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return 0

    def kill(self) -> None:
        """Send it SIGKILL, and wait for its end."""
        self.machine.shell(f"kill -9 {self.pid}; while kill -0 {self.pid}; do sleep 0.02; done", SPARE_SECONDS)


class MachineSession(Session):
    """An engine whose guest is a virtual machine."""

    def machine(self) -> Machine:
        """The guest."""
        assert isinstance(self.guest, Machine)
        return self.guest

    def alive(self) -> bool:
        """Whether the engine and the virtual machine still run."""
        return super().alive() and self.machine().alive()

    def epitaph(self) -> str:
        """The last words of the engine or the guest, whichever ended although it should run; empty if both run."""
        if super().alive() and not self.machine().alive():
            return f"the guest ended or hangs: {last_output(self.machine().log)}"
        return super().epitaph()

    def close(self) -> None:
        """End the guest, then the engine."""
        if isinstance(self.guest, Machine):
            self.guest.close()
        super().close()


def qemu_command(image: Image, control: int, network: Sequence[str]) -> list[str]:
    """QEMU's command line. Memory is shared, which vhost-user needs, and the same for every engine."""
    return [
        *(QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-M", "q35,memory-backend=memory", "-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on"),
        *("-m", MEMORY, "-accel", "tcg,thread=multi", "-cpu", "qemu64", "-smp", "1"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", "console=ttyS0 quiet panic=-1 reboot=t mitigations=off"),
        *("-chardev", f"socket,id=control,fd={control}", "-device", "virtio-serial-pci"),
        *("-device", f"virtserialport,chardev=control,name={PORT}"),
        *network,
    ]
