"""`bucatini switch` in a fake host, with guests that are namespaces behind TAPs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Self

from scapy.layers.l2 import Ether

from support.fakehost import ETH_P_ALL, PACKET_OUTGOING, FakeHost, RawLink, read_all
from support.guests import PATIENCE, eventually
from support.tap_guest import TapGuest

__all__ = ["Switched", "hears", "reaches_tcp"]


class Switched:
    """Guests by name, and the engine that joins them. `told` are names whose MAC address the engine is told,
    `pumped` those behind a socket in place of a TAP.
    """

    def __init__(
        self, host: FakeHost, guests: dict[str, str], *options: str, told: Sequence[str] = (),
        of_guest: dict[str, list[str]] | None = None, pumped: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.host, self.options = host, options
        self.told, self.of_guest = told, of_guest or {}
        self.guests = {name: TapGuest(mac, pumped=name in pumped) for name, mac in guests.items()}
        self._runner = host.runner("root")
        self._errors: IO[bytes]
        self.start()

    def start(self) -> None:
        """Begin to serve; the guests may be in the middle of something."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `stop`
        words, descriptors = ["switch"], []
        for name, guest in self.guests.items():
            descriptors.append(os.dup(guest.tap.descriptor))
            words += ["--fd", str(descriptors[-1]), "--name", name, *self.of_guest.get(name, ())]
            if name in self.told:
                words += ["--mac", guest.mac]
        with self.host.net.entered():
            self.engine = subprocess.Popen(
                self._runner.program([*words, *self.options]),
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stderr=self._errors,
                cwd="/tmp",
                env=self._runner.environment,
            )
        for descriptor in descriptors:
            os.close(descriptor)
        eventually(self._is_ready, or_else=lambda: self.stderr)

    def _is_ready(self) -> bool:
        assert self.engine.poll() is None, self.stderr
        return self.stderr.count("ready for a guest") == len(self.guests)

    @property
    def stderr(self) -> str:
        return read_all(self._errors)

    def __getitem__(self, name: str) -> TapGuest:
        return self.guests[name]

    def stop(self) -> None:
        """End the engine, and see that it was well."""
        self.engine.send_signal(signal.SIGTERM)
        assert self.engine.wait(PATIENCE) == 0, self.stderr
        assert "error of ours" not in self.stderr, self.stderr
        self._errors.close()

    def lease_all(self) -> None:
        """Every guest has its address."""
        for guest in self.guests.values():
            guest.client.udhcpc()
        for guest in self.guests.values():
            guest.client.bound()
        for guest in self.guests.values():
            eventually(lambda guest=guest: guest.address("-6"))

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        """Whatever became of it. Idempotent."""
        if self.engine.poll() is None:
            self.engine.kill()
            self.engine.wait(PATIENCE)
        self._errors.close()
        for guest in self.guests.values():
            guest.close()
        self.guests = {}

    def __exit__(self, *error: object) -> None:
        try:
            if not error[0]:
                self.stop()
        finally:
            self.close()


class Ears(RawLink):
    """Everything that reaches a guest's interface."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.sock = sock

    def heard(self) -> list[Ether]:
        """All so far."""
        frames = []
        self.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, origin = self.sock.recvfrom(70000)
                if origin[2] != PACKET_OUTGOING:
                    frames.append(Ether(frame))
        return frames


@contextlib.contextmanager
def hears(guest: TapGuest):  # type: ignore[no-untyped-def]
    """The guest's `eth0` for frames made by hand, and for what it gets."""
    with guest.net.new_socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sock:
        sock.bind(("eth0", ETH_P_ALL))
        yield Ears(sock)


def reaches_tcp(guest: TapGuest, address: str, port: int, seconds: float = PATIENCE) -> str:
    """`open`, `refused` or `silent`."""
    try:
        guest.net.connect(address, port, timeout=seconds).close()
    except TimeoutError:
        return "silent"
    except OSError:
        return "refused"
    return "open"
