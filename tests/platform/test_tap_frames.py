"""What a TAP device takes from us beyond ordinary frames (networking/tuntap; VIRTIO 1.2 section 5.1.6.2).

Checksums left to the device are trusted, not looked at; a frame may be longer than the interface's MTU, so a datagram
of any size needs no fragments.
"""

from __future__ import annotations

import os
import socket
import struct

import pytest

from bucatini.host.netlink import Netlink
from bucatini.host.tap import Offloads, open_tap
from bucatini.wire.checksum import finish, partial, pseudo_header
from support.forked import in_new_network

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun"),
]

GUEST, PEER = bytes([172, 16, 0, 2]), bytes([172, 16, 0, 1])
PORT = 7
NEEDS_CSUM = 1


def frame(payload: bytes, mac: bytes, *, flags: int, checksum: int) -> bytes:
    """A UDP datagram from the peer to the guest, virtio-net header first; the checksum is as given."""
    udp = struct.pack("!HHHH", 9, PORT, 8 + len(payload), checksum) + payload
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, PEER, GUEST)
    header = header[:10] + struct.pack("!H", finish(partial(header))) + header[12:]
    vnet = struct.pack("<BBHHHHH", flags, 0, 0, 0, 34 if flags else 0, 6 if flags else 0, 0)
    return vnet + mac + b"\x02\0\0\0\0\1\x08\x00" + header + udp


def delivered(payload: bytes, *, flags: int, checksum: int) -> bytes | None:
    """What a socket behind a TAP of MTU 1500 receives when the frame is written; None when nothing comes."""

    def run() -> bytes | None:
        tap = open_tap("eth0", Offloads())
        with Netlink() as netlink:
            index = socket.if_nametoindex("eth0")
            netlink.set_link(index, up=True, mac=b"\x02\0\0\0\0\2", mtu=1500)
            netlink.add_address(index, GUEST, 30)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", PORT))
            data = frame(payload, b"\x02\0\0\0\0\2", flags=flags, checksum=checksum)
            assert os.write(tap.descriptor, data) == len(data)
            # The write delivers within the call: what is not there now never comes.
            try:
                return sock.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None

    return in_new_network(run)


def test_checksum_left_to_the_device_is_trusted() -> None:
    pseudo = pseudo_header(PEER, GUEST, 17, 8 + 5)
    assert delivered(b"hello", flags=NEEDS_CSUM, checksum=pseudo) == b"hello"


def test_wrong_checksum_is_seen_without_the_flag() -> None:
    """So the test above shows something."""
    assert delivered(b"hello", flags=0, checksum=0x1234) is None


@pytest.mark.parametrize("length", [1473, 9000, 60000, 65507])
def test_frame_longer_than_the_mtu_is_delivered(length: int) -> None:
    payload = os.urandom(length)
    pseudo = pseudo_header(PEER, GUEST, 17, 8 + length)
    assert delivered(payload, flags=NEEDS_CSUM, checksum=pseudo) == payload
