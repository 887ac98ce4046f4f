"""Links that are made elsewhere: sockets that the engine and QEMU inherit, and a TAP that QEMU opens."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from support import vm_peers
from support.fakehost import PUBLIC4, PUBLIC6, FakeHost
from support.guests import PATIENCE
from support.vm_engine import PUBLISHED, TAP, VmEngine
from support.vm_peers import Files
from support.vm_served import configure

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("vm-other-links")]


@pytest.fixture
def place() -> Iterator[FakeHost]:
    """A fake host with a TAP that stays."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with contextlib.closing(FakeHost()) as made:
        made.net.run("ip", "tuntap", "add", TAP, "mode", "tap")
        made.net.run("ip", "link", "set", TAP, "up")
        yield made


@pytest.mark.parametrize(("link", "user"), [("fd-stream", "ordinary"), ("fd-dgram", "ordinary"), ("tap", "root")])
def test_it_works(place: FakeHost, link: str, user: str) -> None:
    with VmEngine(place, "ours", [link], user) as engine, engine.machine() as machine:
        files = Files(machine)
        configure(machine)
        for public, size in ((PUBLIC4, "big"), (PUBLIC6, "small")):
            vm_peers.guest_connects(machine, place.world, files, public, public, size)
        sock = place.net.bound("127.0.0.1", kind=socket.SOCK_STREAM)
        vm_peers.guest_is_called(machine, sock, files, ("127.0.0.1", PUBLISHED), PUBLISHED, "big")
        sock = place.net.bound("127.0.0.1")
        vm_peers.guest_gets_datagrams(machine, sock, ("127.0.0.1", PUBLISHED), PUBLISHED, "small", 2048)
        if link == "fd-stream":
            machine.close()
            assert engine.process.wait(PATIENCE) == 0
        else:
            assert engine.alive(), engine.output
            assert engine.stop() == 0
