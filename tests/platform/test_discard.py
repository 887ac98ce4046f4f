"""MSG_TRUNC on TCP (tcp(7)): bytes are consumed without being copied. `native.Arena.discard` relies on it."""

from __future__ import annotations

import socket


def test_consumes_and_leaves_the_buffer_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname(), timeout=5) as near:
            far, _ = listener.accept()
            with far:
                near.sendall(b"0123456789")
                far.settimeout(5)
                far.recv(10, socket.MSG_PEEK | socket.MSG_WAITALL)
                buffer = bytearray(b"....")
                assert far.recv_into(buffer, 4, socket.MSG_TRUNC) == 4
                assert buffer == b"...."
                assert far.recv(10) == b"456789"
