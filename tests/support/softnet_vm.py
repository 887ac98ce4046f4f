"""The command softnet beside a virtual machine that is a namespace: its `eth0` is a TAP, and a thread carries frames
between that and the socket that softnet inherits, as a hypervisor does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from scapy.layers.l2 import Ether
from scapy.packet import Packet

from support.fakehost import FakeHost, Namespace, read_all
from support.guests import PATIENCE, eventually

MAC = "52:54:00:ab:cd:ef"
TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x1002
PREFIX = struct.Struct("!I")
SCRIPT = """#!/bin/sh
case "$reason" in
BOUND|RENEW|REBIND|REBOOT)
    ip addr replace "$new_ip_address/$new_subnet_mask" dev eth0
    ip route replace default via "$new_routers"
    env > {folder}/lease.part && mv {folder}/lease.part {folder}/lease ;;
esac
"""


class Softnet:
    """A softnet process in the host, and the other end of its socket. `number` is the descriptor it inherits the socket
    as, `control` that of its control socket: a standard stream, or None for a number above; without `control` there is
    no control socket. `more` are descriptors it inherits beside.
    """

    def __init__(
        self,
        host: FakeHost,
        *options: str,
        kind: socket.SocketKind = socket.SOCK_DGRAM,
        number: int | None = 0,
        control: int | None = -1,
        user: str = "ordinary",
        more: Sequence[int] = (),
        before: str = "",
        mac: str = MAC,
    ) -> None:
        self.host, self.mac, self.kind = host, mac, kind
        self.runner = host.runner(user)
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, kind)
        self.sock.settimeout(PATIENCE)
        self.number = theirs.fileno() if number is None else number
        given = {self.number: theirs}
        words = ["--vm-fd", str(self.number), "--vm-mac-address", mac, *options]
        if control != -1:
            self.control_socket, answering = socket.socketpair()
            self.control = self.control_socket.makefile("rwb")
            number = answering.fileno() if control is None else control
            given[number] = answering
            words += ["--control-fd", str(number)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        program = self.runner.wrapped([sys.executable, "-m", "bucatini.cli.softnet", *words], before)
        self.process = self._start(program, given, more)
        for end in given.values():
            end.close()

    def _start(
        self, program: Sequence[str], given: dict[int, socket.socket], more: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        with self.host.net.entered():
            return subprocess.Popen(
                program,
                stdin=given.get(0, subprocess.DEVNULL),
                stdout=given.get(1, subprocess.DEVNULL),
                stderr=given.get(2, self._errors),
                pass_fds=[*(number for number in given if number > 2), *more],
                env=self.runner.environment,
                cwd="/tmp",
            )

    # -- as the process

    @property
    def said(self) -> str:
        return read_all(self._errors)

    def signal(self, number: int = signal.SIGINT) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def alive(self) -> bool:
        return self.process.poll() is None

    def descriptors(self) -> list[str]:
        """What it has open."""
        folder = f"/proc/{self.process.pid}/fd"
        found = []
        for each in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"{folder}/{each}"))
        return sorted(found)

    def ask(self, method: str, **params: object) -> dict[str, object]:
        """One request over the control socket, and its answer."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, **({"params": params} if params else {})}
        self.control.write(json.dumps(request).encode() + b"\n")
        self.control.flush()
        answer = json.loads(self.control.readline())
        assert answer["id"] == 1
        return answer  # type: ignore[no-any-return]

    # -- as a guest of frames

    def send(self, packet: Packet) -> None:
        frame = bytes(packet)
        self.sock.sendall(PREFIX.pack(len(frame)) + frame if self.kind == socket.SOCK_STREAM else frame)

    def receive(self, wanted: Callable[[Packet], bool], seconds: float = PATIENCE) -> Packet | None:
        """The next frame that is wanted; None when none comes in time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                packet = Ether(self._frame())
            except TimeoutError:
                return None
            if wanted(packet):
                return packet
        return None

    def _frame(self) -> bytes:
        if self.kind != socket.SOCK_STREAM:
            return self.sock.recv(70000)
        size = PREFIX.unpack(self.sock.recv(PREFIX.size, socket.MSG_WAITALL))[0]
        return self.sock.recv(size, socket.MSG_WAITALL)

    def close(self) -> None:
        """Whatever became of it. Idempotent."""
        self.runner.kill_all()
        self.process.wait(PATIENCE)
        self.sock.close()
        if hasattr(self, "control"):
            self.control.close()
            self.control_socket.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class SoftnetGuest(Softnet):
    """With a namespace as the guest."""

    def __init__(self, host: FakeHost, *options: str, **how: object) -> None:
        super().__init__(host, *options, **how)  # type: ignore[arg-type]
        self.folder = Path(tempfile.mkdtemp(prefix="softnet-", dir=host.folder))
        self.net = Namespace.create()
        with self.net.entered():
            self._tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self._tap, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP_NO_PI))
        self.net.ip(f"link set eth0 address {self.mac}\nlink set eth0 up")
        self.lease: dict[str, str] = {}
        """For whoever wants to keep what `dhclient` answered."""
        self._stop = threading.Event()
        self._pump = threading.Thread(target=self._carry, daemon=True)
        self._pump.start()

    def dhclient(self) -> dict[str, str]:
        """Runs it until it has a lease, which is given to the interface; what its script was told."""
        script, lease = self.folder / "script", self.folder / "lease"
        script.write_text(SCRIPT.format(folder=self.folder))
        script.chmod(0o755)
        lease.unlink(missing_ok=True)
        words = ["dhclient", "-4", "-d", "-1", "-sf", str(script), "-lf", str(self.folder / "leases")]
        with self.net.entered():
            client = subprocess.Popen(
                [*words, "-pf", "/dev/null", "eth0"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        try:
            eventually(lease.exists, or_else=lambda: f"no lease; softnet: {self.said}")
            return dict(line.partition("=")[::2] for line in lease.read_text().splitlines())
        finally:
            client.kill()
            client.communicate()

    def _carry(self) -> None:
        """Frames in both directions. What the other side does not take is lost, as on a wire."""
        poller = select.poll()
        poller.register(self._tap, select.POLLIN)
        poller.register(self.sock, select.POLLIN)
        while not self._stop.is_set():
            for descriptor, _ in poller.poll(50):
                with contextlib.suppress(OSError):
                    if descriptor == self._tap:
                        self.sock.send(os.read(self._tap, 70000))
                    else:
                        os.write(self._tap, self.sock.recv(70000, socket.MSG_DONTWAIT))

    def close(self) -> None:
        self._stop.set()
        self._pump.join(PATIENCE)
        os.close(self._tap)
        self.net.close()
        super().close()
