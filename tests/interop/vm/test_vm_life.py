"""Guests that start again and engines that do: a reboot, a crash of the engine, the next guest at the same link."""

from __future__ import annotations

import socket

import pytest

from support import vm_peers
from support.fakehost import PUBLIC4, PUBLIC6
from support.vm_engine import PUBLISHED, reconnects
from support.vm_served import Served

pytestmark = pytest.mark.root

DEBIAN_FAILS: dict[str, str] = {}


LOOPBACKS = ("127.0.0.1", "::1")


def is_reached(served: Served, *loopbacks: str) -> None:
    """By its published port."""
    for loopback in loopbacks:
        sock = served.host.net.bound(loopback, kind=socket.SOCK_STREAM)
        vm_peers.guest_is_called(served.machine, sock, served.files, (loopback, PUBLISHED), PUBLISHED, "small")


def reaches(served: Served) -> None:
    """The world, by both families."""
    for public in (PUBLIC4, PUBLIC6):
        vm_peers.guest_connects(served.machine, served.host.world, served.files, public, public, "small")


def test_reboot(served: Served) -> None:
    """The guest forgets the connections that it has; the engine has them still."""
    with served.host.world.listen(PUBLIC4, vm_peers.PORT) as listener:
        served.machine.do(f"vm_probe tcp-ask {PUBLIC4} {vm_peers.PORT} /tmp/small >/dev/null 2>&1 &")
        left = listener.accept()[0]
    with left:
        served.reboot()
        reaches(served)
        is_reached(served, *LOOPBACKS)


def test_engine_is_killed_and_started(served: Served) -> None:
    """The guest notices nothing but lost connections: it keeps its addresses and is reached at once. By IPv6, when its
    own address has been seen: it has none that was given."""
    if not reconnects(served.engine.links[0]):
        pytest.skip("QEMU before 8.0 does not connect a stream again")
    served.engine.kill()
    served.engine.start()
    served.engine.wait_connected()
    is_reached(served, "127.0.0.1")
    reaches(served)
    is_reached(served, *LOOPBACKS)


def test_next_guest(served: Served) -> None:
    """QEMU ends without a word; another one comes to the same engine."""
    served.machine.close()
    served.boot()
    reaches(served)
    is_reached(served, *LOOPBACKS)
