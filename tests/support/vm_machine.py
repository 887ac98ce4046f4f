"""A QEMU machine that runs the guest of `vm_image`, and runs shell scripts in it.

A `Nic` is how one of its network devices reaches an engine. The control channel is a virtio port whose other end is one
half of a socket pair: nothing of it is on the network that is tested. KVM is used where it works, which is tried once
for each boot of this machine; else TCG, QEMU's own translator.

QEMU's version decides what is there: `reconnect` of stream links came with 8.0. With TCG, vhost-user devices need
`vectors=0`, without which QEMU 7.2 crashes.
"""

from __future__ import annotations

import base64
import functools
import os
import re
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from support.fakehost import FakeHost, Runner, read_all
from support.guests import PATIENCE
from support.vm_image import Image, image, locked, needed

QEMU = "qemu-system-x86_64"
BOOT_LIMIT = 40.0
"""Seconds until a guest answers, on a machine that has much else to do."""
KVM_LIMIT = 5.0
"""The same where KVM is tried. It takes less than one where it works."""
MEMORY = "1G"
"""Of which a guest uses little. But a kernel that a reboot puts over the old one takes TCG ten seconds, as all that it
had translated there goes piece by piece; where a kernel is, is random, and in much memory it is seldom there.
"""
BOOT = "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 mitigations=off cryptomgr.notests"


class Nic(NamedTuple):
    """A network device: `backend` are QEMU's words that make the netdev `netN`, where `{id}` stands for its name."""

    backend: tuple[str, ...]
    mac: str
    shares_memory: bool = False
    descriptor: int | None = None
    """One that QEMU is to inherit."""

    def words(self, index: int) -> list[str]:
        """QEMU's, for the device of this number."""
        name = f"net{index}"
        device = f"virtio-net-pci,netdev={name},mac={self.mac}" + ",vectors=0" * self.shares_memory
        return [*(word.format(id=name) for word in self.backend), "-device", device]


def stream(path: Path, mac: str, *, reconnect: bool = False) -> Nic:
    """A UNIX stream to an engine that listens; QEMU connects once unless it can be told to `reconnect`."""
    again = ",reconnect=1" * reconnect
    return Nic(("-netdev", f"stream,id={{id}},server=off,addr.type=unix,addr.path={path}{again}"), mac)


def dgram(engine: Path, ours: Path, mac: str) -> Nic:
    """UNIX datagrams between the engine's path and ours."""
    ends = f"local.type=unix,local.path={ours},remote.type=unix,remote.path={engine}"
    return Nic(("-netdev", f"dgram,id={{id}},{ends}"), mac)


def stream_descriptor(number: int, mac: str) -> Nic:
    """A connected UNIX stream."""
    return Nic(("-netdev", f"stream,id={{id}},server=off,addr.type=fd,addr.str={number}"), mac, descriptor=number)


def dgram_descriptor(number: int, mac: str) -> Nic:
    """A connected socket for UNIX datagrams."""
    return Nic(("-netdev", f"dgram,id={{id}},local.type=fd,local.str={number}"), mac, descriptor=number)


def tap(name: str, mac: str) -> Nic:
    """A TAP that is there."""
    return Nic(("-netdev", f"tap,id={{id}},ifname={name},script=no,downscript=no"), mac)


def vhost_user(path: Path, mac: str, *, reconnect: bool = False) -> Nic:
    """vhost-user to a back end that listens: it works in the guest's memory."""
    again = ",reconnect=1" * reconnect
    character = f"socket,id=char-{{id}},path={path}{again}"
    return Nic(("-chardev", character, "-netdev", "vhost-user,id={id},chardev=char-{id}"), mac, shares_memory=True)


class Result(NamedTuple):
    """How a script ended in the guest."""

    status: int
    output: str


class Machine:
    """Boots from the start on, is there once `ready`, and runs until `close`. `process` is QEMU's."""

    def __init__(self, host: FakeHost, user: str, nics: Sequence[Nic], *, accelerator: str = "") -> None:
        self.boot_seconds = 0.0
        self._runner: Runner = host.runner(user)
        self._number = 0
        self._said = b""
        self._console = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._control, inner = socket.socketpair()
        accelerator = accelerator or chosen_accelerator(host)
        command = _command(image(), nics, inner.fileno(), accelerator)
        before = _open_kvm(self._runner.folder) if accelerator == "kvm" else ""
        with inner, host.net.entered():
            self.process = subprocess.Popen(
                self._runner.wrapped(command, before),
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=self._console,
                env=self._runner.environment,
                pass_fds=[inner.fileno(), *(nic.descriptor for nic in nics if nic.descriptor is not None)],
                cwd="/tmp",
            )

    def ready(self, limit: float = BOOT_LIMIT) -> None:
        """Wait until the guest answers."""
        begun = time.monotonic()
        line = self._line(begun + limit, "the boot")
        assert line == "ready", line
        self.boot_seconds = time.monotonic() - begun

    def run(self, script: str, timeout: float = PATIENCE) -> Result:
        """Run shell in the guest; both output streams are in the answer. Raises AssertionError after the time."""
        self._ask(script)
        deadline = time.monotonic() + timeout
        words = self._line(deadline, script).split()
        assert words[:1] == [str(self._number)], f"{words} answers {script}"
        status, size = int(words[1]), int(words[2])
        while len(self._said) < size:
            self._read(deadline, script)
        output, self._said = self._said[:size], self._said[size:]
        return Result(status, output.decode(errors="replace"))

    def do(self, script: str, timeout: float = PATIENCE) -> str:
        """The same where it must end with status 0; the output."""
        status, output = self.run(script, timeout)
        assert status == 0, f"status {status} of: {script}\n{output}"
        return output

    def wait(self, condition: str, timeout: float = PATIENCE) -> str:
        """Repeat shell in the guest until its status is 0; the output of that last time."""
        tried = f'until out=$({condition}); do sleep 0.05; done; echo "$out"'
        return self.do(f"exec timeout {timeout:.0f} sh -c {shlex.quote(tried)}", timeout + PATIENCE)

    def reboot(self) -> None:
        """Start again from the kernel on, as `reboot -f` in the guest does; QEMU and its connections live on."""
        self._ask("reboot -f")
        self.ready()

    @property
    def console(self) -> str:
        """What the guest's kernel and QEMU said so far."""
        return "" if self._console.closed else read_all(self._console)

    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """Pull the plug. Idempotent."""
        self._control.close()
        self.process.kill()
        self.process.wait(PATIENCE)
        self._console.close()

    def __enter__(self) -> Self:
        try:
            self.ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, script: str) -> None:
        self._number += 1
        encoded = base64.b64encode(script.encode()).decode()
        self._control.sendall(f"{self._number} {encoded}\n".encode())

    def _line(self, deadline: float, what: str) -> str:
        while b"\n" not in self._said:
            self._read(deadline, what)
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def _read(self, deadline: float, what: str) -> None:
        self._control.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            said = self._control.recv(1 << 16)
        except (TimeoutError, ConnectionResetError):
            said = b""
        if not said:
            ended = self.process.poll()
            how = "no answer from the guest" if ended is None else f"QEMU ended with status {ended}"
            raise AssertionError(f"{how} to: {what}\n{self.console[-2000:]}")
        self._said += said


def _command(made: Image, nics: Sequence[Nic], control: int, accelerator: str) -> list[str]:
    shared = any(nic.shares_memory for nic in nics)
    words = [str(needed(QEMU, "qemu-system-x86")), "-machine", "q35" + ",memory-backend=mem" * shared]
    if shared:
        words += ["-object", f"memory-backend-memfd,id=mem,size={MEMORY},share=on"]
    if accelerator == "kvm":
        words += ["-accel", "kvm", "-cpu", "host"]
    else:
        # The instruction spares the guest the wait for random numbers.
        words += ["-accel", "tcg,thread=multi", "-cpu", "qemu64,+rdrand"]
    words += ["-m", MEMORY, "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]
    words += ["-kernel", str(made.kernel), "-initrd", str(made.initramfs), "-append", BOOT]
    words += ["-chardev", f"socket,id=control,fd={control}"]
    words += ["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=control"]
    for index, nic in enumerate(nics):
        words += nic.words(index)
    return words


@functools.cache
def qemu_version() -> tuple[int, int]:
    """Major and minor number."""
    shown = subprocess.run(
        [needed(QEMU, "qemu-system-x86"), "--version"], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    found = re.search(r"version (\d+)\.(\d+)", shown.stdout)
    assert found is not None, shown.stdout
    return int(found[1]), int(found[2])


def chosen_accelerator(host: FakeHost) -> str:
    """`kvm` where a guest boots with it in good time, else `tcg`."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = image().folder / f"accelerator-{boot}"
    with locked(image().folder / "accelerator.lock"):
        if not known.exists():
            known.write_text("kvm" if _kvm_works(host) else "tcg")
    return known.read_text()


def _open_kvm(scratch: Path) -> str:
    """Shell that gives everybody a /dev/kvm, as groups do where users run virtual machines."""
    status = os.stat("/dev/kvm")
    node = f"{scratch}/kvm"
    number = f"{os.major(status.st_rdev)} {os.minor(status.st_rdev)}"
    return f"test -e {node} || mknod -m 666 {node} c {number}; mount --bind {node} /dev/kvm"


def _kvm_works(host: FakeHost) -> bool:
    machine = Machine(host, "ordinary", (), accelerator="kvm")
    try:
        machine.ready(KVM_LIMIT)
    except AssertionError:
        return False
    finally:
        machine.close()
    return True
