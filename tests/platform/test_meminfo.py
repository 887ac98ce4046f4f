"""SO_MEMINFO (Linux 4.12): the send buffer and what waits in it. The window offered to the guest comes from it."""

from __future__ import annotations

import socket
import struct

SO_MEMINFO = 55
SNDBUF, WMEM_QUEUED = 3, 5


def meminfo(sock: socket.socket) -> tuple[int, ...]:
    return struct.unpack("=9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))


def test_says_the_buffer_and_what_is_queued() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname(), timeout=5) as near:
            far, _ = listener.accept()
            with far:
                assert meminfo(near)[SNDBUF] == near.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
                assert meminfo(near)[WMEM_QUEUED] == 0
                near.setblocking(False)
                sent = 0
                try:
                    while sent < 64 << 20:
                        sent += near.send(bytes(65536))
                except BlockingIOError:
                    pass
                info = meminfo(near)
                assert sent < 64 << 20
                assert info[WMEM_QUEUED] > info[SNDBUF] // 2
