"""Debian's `passt` and `bucatini vm`, started in the fake host for guests of `vm_machine`, and what they give a guest.

Ours is ready when it says so, passt when its path listens. QEMU runs as the user that started the engine.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self

import pytest

from bucatini.base.address import text
from bucatini.config.addressing import derive
from support.fakehost import HOST4, HOST6, RESOLVER4, WORLD4, FakeHost, Runner, read_all
from support.guests import PATIENCE, eventually
from support.pasta_engine import debian_version
from support.vm_machine import (
    Machine,
    Nic,
    dgram,
    dgram_descriptor,
    qemu_version,
    stream,
    stream_descriptor,
    tap,
    vhost_user,
)

LINKS = ("stream", "dgram", "vhost-user")
PUBLISHED = 10001
"""The port of the host, TCP and UDP, that is the first guest's of the same number; the second one's is the next."""
OPTION = {"stream": "--socket", "dgram": "--dgram", "vhost-user": "--vhost-user", "tap": "--tap"}
PAIRED = {"fd-stream": socket.SOCK_STREAM, "fd-dgram": socket.SOCK_DGRAM}
"""Links that both ends inherit."""
OPTION |= dict.fromkeys(PAIRED, "--fd")
TAP = "vm0"

ROUTER6 = "fe80::77:1"
"""Of the host: link-local, as routers' are. passt's answers by UDP come from another address if it is not."""
LISTENING, CONNECTED = ("00010000", "0001", "01"), ("00000000", "0001", "03")
"""Flags, type and state, in /proc/net/unix, of the streams that listen and of those that have their peer."""


class Network(NamedTuple):
    """What a guest is to be given. `gateway4` and `gateway6` are addresses that lead to the host's loopback."""

    address4: str
    mask4: int
    gateway4: str
    address6: str
    gateway6: str
    mtu: int
    name_server: str

    def gateway(self, family: int) -> str:
        return self.gateway4 if family == 4 else self.gateway6

    def address(self, family: int) -> str:
        return self.address4 if family == 4 else self.address6


class VmEngine:
    """One engine, for a guest at each of its links; started by `start`, any number of times."""

    def __init__(self, host: FakeHost, kind: str, links: Sequence[str], user: str, options: Sequence[str] = ()) -> None:
        self.host, self.kind, self.links, self.user = host, kind, links, user
        self.options = options
        self.networks = [_network(kind, link, slot) for slot, link in enumerate(links)]
        self.folder = Path(tempfile.mkdtemp(prefix="vm-", dir=host.folder))
        self.folder.chmod(0o777)
        self.paths = [self.folder / f"engine{index}" for index in range(len(links))]
        self._runner: Runner = host.runner(user)
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._said_before = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._pairs = {
            index: socket.socketpair(socket.AF_UNIX, PAIRED[link]) for index, link in enumerate(links) if link in PAIRED
        }

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def output(self) -> str:
        """What all processes said so far."""
        return "" if self._output.closed else read_all(self._output)

    def nic(self, index: int = 0) -> Nic:
        """The device of the guest of that number."""
        mac, path = f"52:54:00:12:34:{0x56 + index:02x}", self.paths[index]
        link = self.links[index]
        if link == "dgram":
            return dgram(path, self.folder / f"qemu{index}", mac)
        if link == "tap":
            return tap(TAP, mac)
        if link in PAIRED:
            theirs = self._pairs[index][1].fileno()
            return (stream_descriptor if link == "fd-stream" else dgram_descriptor)(theirs, mac)
        return (stream if link == "stream" else vhost_user)(path, mac, reconnect=reconnects(link))

    def machine(self, index: int = 0) -> Machine:
        """The guest of that number, which begins to boot."""
        made = Machine(self.host, self.user, [self.nic(index)])
        if index in self._pairs:
            self._pairs[index][1].close()
        return made

    def start(self) -> None:
        """Until it is ready: ours says so for each link, when it takes signals too."""
        self._said_before = len(self.output)
        with self.host.net.entered():
            self._process = subprocess.Popen(
                self._runner.wrapped(self._words()),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=self._runner.environment,
                pass_fds=[ours.fileno() for ours, _ in self._pairs.values()],
                cwd="/tmp",
            )
        for ours, _ in self._pairs.values():
            ours.close()
        eventually(self._ready, or_else=lambda: f"not ready: {self.output}")

    def kill(self) -> None:
        """As a crash does: what it made in the file system stays."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Whatever became of it. Idempotent."""
        self._runner.kill_all()
        if self._process is not None:
            self._process.wait(PATIENCE)
        self._output.close()
        for pair in self._pairs.values():
            for end in pair:
                end.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _words(self) -> list[str]:
        if self.kind == "debian":
            words = ["/usr/bin/passt", "--foreground", "--stderr", *self.options]
            return [*words, "--socket", str(self.paths[0]), *self._ports(0)]
        words = ["vm", *self.options]
        for index, (link, path) in enumerate(zip(self.links, self.paths, strict=True)):
            word = str(path)
            if link == "dgram":
                word += f",{self.folder / f'qemu{index}'}"
            elif link == "tap":
                word = TAP
            elif link in PAIRED:
                word = str(self._pairs[index][0].fileno())
            words += [OPTION[link], word, *self._ports(index)]
        return [sys.executable, "-m", "bucatini", *words]

    def _ports(self, index: int) -> list[str]:
        return ["-t", str(PUBLISHED + index), "-u", str(PUBLISHED + index)]

    def _ready(self) -> bool:
        if not self.alive():
            raise AssertionError(f"ended with status {self.process.returncode}: {self.output}")
        if self.kind == "ours":
            return self.output[self._said_before :].count(": ready") == len(self.links)
        return str(self.paths[0]) in self._bound(LISTENING)

    def wait_connected(self) -> None:
        """Until a guest is at each link where guests connect."""
        wanted = {str(path) for path, link in zip(self.paths, self.links, strict=True) if link != "dgram"}
        eventually(lambda: self._bound(CONNECTED) >= wanted, or_else=lambda: f"no guest: {self.output}")

    def _bound(self, state: tuple[str, str, str]) -> set[str]:
        """Paths of UNIX sockets that are in this state."""
        with self.host.net.entered():
            lines = [line.split() for line in Path("/proc/thread-self/net/unix").read_text().splitlines()]
        return {words[7] for words in lines if len(words) > 7 and tuple(words[3:6]) == state}


def _network(kind: str, link: str, slot: int) -> Network:
    if kind == "debian":
        return Network(HOST4, 24, WORLD4, HOST6, f"{ROUTER6}%eth0", 65520, RESOLVER4)
    made = derive(slot)
    address4, gateway4, address6, gateway6 = [text(packed or b"") for packed in made[2:]]
    mtu = 1500 if link == "vhost-user" else 65520
    return Network(address4, 30, gateway4, address6, gateway6, mtu, gateway4)


def reconnects(link: str) -> bool:
    """Whether QEMU finds an engine again that was started anew."""
    return link != "stream" or qemu_version() >= (8, 0)


def require(kind: str) -> None:
    """Skips the test where the engine is not there."""
    if kind == "debian" and (not debian_version() or not os.access("/usr/bin/passt", os.X_OK)):
        pytest.skip("no passt: apt-get install passt")
