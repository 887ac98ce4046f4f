"""host.tap: offload sets as values, and a TAP in a namespace of its own."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.host.tap import VNET_HEADER_LENGTH, Offloads, open_tap, read_mac
from support.forked import in_new_network

KNOWN = 0x67


@given(mask=st.integers(0, 255))
def test_mask_and_back(mask: int) -> None:
    assert Offloads.from_mask(mask).mask == mask & KNOWN


def test_names() -> None:
    assert Offloads.from_names("checksum", "tso4").mask == 0x03
    assert Offloads.from_names() == Offloads.from_mask(0)
    assert Offloads.from_names(*Offloads._fields) == Offloads()
    with pytest.raises(ValueError, match="not an offload: lro; known: checksum, tso4, tso6, uso4, uso6"):
        Offloads.from_names("lro", "tso4")


needs_tun = pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun")


@pytest.mark.root
@needs_tun
class TestDevice:
    def test_carries_frames_behind_a_header(self) -> None:
        """The first frame of an interface coming up is the kernel's own (MLD); what matters here is its header."""

        def first_frame() -> tuple[bytes, bool]:
            from bucatini.host.netlink import Netlink

            tap = open_tap("eth0", Offloads())
            with Netlink() as netlink:
                netlink.set_link(2, up=True)
            os.set_blocking(tap.descriptor, True)
            return os.read(tap.descriptor, 65536), os.get_inheritable(tap.descriptor)

        frame, inheritable = in_new_network(first_frame)
        flags, gso_type, _, _, _, _, buffers = struct.unpack_from("<BBHHHHH", frame)
        assert (flags, gso_type, buffers) == (0, 0, 0)
        assert frame[VNET_HEADER_LENGTH : VNET_HEADER_LENGTH + 2] == b"\x33\x33"  # IPv6 multicast
        assert inheritable is False

    @pytest.mark.parametrize("wanted", [0x00, 0x01, 0x03, 0x07])
    def test_grants_no_more_than_wanted(self, wanted: int) -> None:
        granted = in_new_network(lambda: open_tap("eth0", Offloads.from_mask(wanted)).offloads.mask)
        assert granted == wanted

    def test_mac_is_the_interfaces(self) -> None:
        def macs() -> tuple[bytes, str, bytes]:
            from bucatini.host.netlink import Netlink

            tap = open_tap("eth0", Offloads())
            done = subprocess.run(["ip", "-j", "link", "show", "eth0"], capture_output=True, check=True)
            with Netlink() as netlink:
                netlink.set_link(2, mac=bytes.fromhex("026d73000002"))
            return tap.mac, str(json.loads(done.stdout)[0]["address"]), read_mac(tap.descriptor)

        first, shown, then = in_new_network(macs)
        assert first == bytes.fromhex(shown.replace(":", ""))
        assert then == bytes.fromhex("026d73000002")

    @pytest.mark.parametrize("name", ["", "sixteen-bytes-xx", "tap%d", "a/b", ".", "a b"])
    def test_name_that_the_kernel_would_change_or_refuse(self, name: str) -> None:
        def refused() -> int | None:
            try:
                open_tap(name, Offloads())
            except OSError as error:
                return error.errno
            return None

        assert in_new_network(refused) == errno.EINVAL

    def test_vanishes_with_its_descriptor(self) -> None:
        def names() -> list[list[str]]:
            import socket

            tap = open_tap("eth0", Offloads())
            during = [name for _, name in socket.if_nameindex()]
            os.close(tap.descriptor)
            return [during, [name for _, name in socket.if_nameindex()]]

        during, after = in_new_network(names)
        assert "eth0" in during
        assert "eth0" not in after

    def test_taken_name_is_refused(self) -> None:
        def error() -> tuple[int | None, int]:
            before = len(os.listdir("/proc/self/fd"))
            try:
                open_tap("lo", Offloads())
            except OSError as error:
                return error.errno, len(os.listdir("/proc/self/fd")) - before
            return None, 0

        number, leaked = in_new_network(error)
        assert number == errno.EBUSY
        assert leaked == 0
