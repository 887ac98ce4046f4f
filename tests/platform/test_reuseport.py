"""SO_REUSEPORT on UDP (socket(7)): of sockets of one port, the one connected to the sender gets its datagrams.

A published UDP port has a listener and one connected socket for each conversation (`engine.publish`).
"""

from __future__ import annotations

import socket

import pytest


def bound(family: int, address: str, port: int = 0) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.settimeout(5)
    sock.bind((address, port))
    return sock


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
@pytest.mark.parametrize("anywhere", [False, True], ids=["same-address", "listener-anywhere"])
def test_connected_socket_takes_precedence(family: int, address: str, anywhere: bool) -> None:
    everywhere = "0.0.0.0" if family == socket.AF_INET else "::"
    with bound(family, everywhere if anywhere else address) as listener:
        port = listener.getsockname()[1]
        with bound(family, address) as known, bound(family, address) as stranger, bound(family, address, port) as own:
            own.connect(known.getsockname())
            for number in range(20):
                known.sendto(b"known%d" % number, (address, port))
                stranger.sendto(b"stranger%d" % number, (address, port))
            assert [own.recv(100) for _ in range(20)] == [b"known%d" % number for number in range(20)]
            assert [listener.recv(100) for _ in range(20)] == [b"stranger%d" % number for number in range(20)]
