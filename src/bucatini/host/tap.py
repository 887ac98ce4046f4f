"""The TAP device: a guest's Ethernet link as a file descriptor (kernel documentation networking/tuntap).

Each read and write is one frame behind a 12-byte virtio-net header (VIRTIO 1.2 section 5.1.6, little-endian). The
header lets the guest's kernel hand over segments of up to 64 KiB with their checksum undone, and take such segments
from us; which kinds is asked of the kernel, best first, because each came with another Linux version.

The device is not persistent: it vanishes with its last descriptor. UDP tunnel offload (0x80) is never asked for: it
needs a longer header, and with 12 bytes every read fails.

Does not: set addresses or bring the interface up (`netconf.py`), nor read and write frames (`links/`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import NamedTuple

__all__ = ["VNET_HEADER_LENGTH", "Offloads", "Tap", "adopt_tap", "negotiate", "open_tap", "read_mac"]

VNET_HEADER_LENGTH = 12
"""Bytes of the virtio-net header before each frame: with `num_buffers`, as VIRTIO 1.x has it."""

_SIOCGIFHWADDR = 0x8927
_TUNSETIFF = 0x400454CA
_TUNGETIFF = 0x800454D2
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETVNETLE = 0x400454DC
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000
_FLAGS = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR

_NAME_MAX = 15  # bytes; IFNAMSIZ has room for a NUL
_MAC_AT = 18  # struct ifreq: name, address family, address
_MAC_LENGTH = 6

_CSUM, _TSO4, _TSO6, _USO4, _USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
_BEST_FIRST = (_CSUM | _TSO4 | _TSO6 | _USO4 | _USO6, _CSUM | _TSO4 | _TSO6, _CSUM)
"""USO came with Linux 6.2, as a pair; without the checksum flag the kernel grants nothing."""


class Offloads(NamedTuple):
    """What the guest's kernel may leave undone in frames it gives us. Default: everything known."""

    checksum: bool = True
    tso4: bool = True
    tso6: bool = True
    uso4: bool = True
    uso6: bool = True

    @property
    def mask(self) -> int:
        """TUN_F_* bits."""
        return self.checksum * _CSUM | self.tso4 * _TSO4 | self.tso6 * _TSO6 | self.uso4 * _USO4 | self.uso6 * _USO6

    @classmethod
    def from_mask(cls, mask: int) -> Offloads:
        """The offloads of TUN_F_* bits; unknown bits are ignored."""
        return cls(*(bool(mask & bit) for bit in (_CSUM, _TSO4, _TSO6, _USO4, _USO6)))

    @classmethod
    def from_names(cls, *names: str) -> Offloads:
        """Only those named by field; raises ValueError for a name that is none."""
        unknown = set(names) - set(cls._fields)
        if unknown:
            raise ValueError(f"not an offload: {', '.join(sorted(unknown))}; known: {', '.join(cls._fields)}")
        return cls(*(field in names for field in cls._fields))


class Tap(NamedTuple):
    """An open TAP: non-blocking descriptor, owned by the receiver, and what the kernel granted."""

    descriptor: int
    offloads: Offloads
    mac: bytes
    """6 bytes: the interface's address when this was made; whoever rules the guest's namespace may change it."""


def open_tap(name: str, wanted: Offloads, *, reuse: bool = False) -> Tap:
    """A new TAP interface `name` in the caller's network namespace, with the best offloads within `wanted`. With
    `reuse` a persistent one that exists and is in nobody's hands is taken too.

    Raises OSError: ENOENT and EACCES tell of /dev/net/tun, EPERM of the privilege, EINVAL of the name, EBUSY of an
    interface that has it already.
    """
    if not 0 < len(os.fsencode(name)) <= _NAME_MAX or "%" in name:  # the kernel would choose or cut the name
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", os.fsencode(name), _FLAGS if reuse else _FLAGS | _IFF_TUN_EXCL)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_LENGTH))
        fcntl.ioctl(descriptor, _TUNSETVNETLE, struct.pack("i", 1))
        return Tap(descriptor, negotiate(descriptor, wanted), read_mac(descriptor))
    except BaseException:
        os.close(descriptor)
        raise


def adopt_tap(descriptor: int) -> Tap:
    """An open TAP that somebody else made, with the best offloads there are. It becomes the caller's own.

    Raises OSError: ENOTTY of a descriptor that is none, EINVAL of a TUN or of one opened without IFF_VNET_HDR.
    """
    flags = struct.unpack_from("16xH", fcntl.ioctl(descriptor, _TUNGETIFF, bytes(40)))[0]
    if not flags & _IFF_TAP or not flags & _IFF_VNET_HDR or not flags & _IFF_NO_PI:
        raise OSError(errno.EINVAL, "must be a TAP opened with IFF_NO_PI and IFF_VNET_HDR")
    fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_LENGTH))
    fcntl.ioctl(descriptor, _TUNSETVNETLE, struct.pack("i", 1))
    os.set_blocking(descriptor, False)
    os.set_inheritable(descriptor, False)
    return Tap(descriptor, negotiate(descriptor, Offloads()), read_mac(descriptor))


def read_mac(descriptor: int) -> bytes:
    """The 6 bytes the interface behind an open TAP has now. Raises OSError."""
    answer = fcntl.ioctl(descriptor, _SIOCGIFHWADDR, bytes(40))
    return answer[_MAC_AT : _MAC_AT + _MAC_LENGTH]


def negotiate(descriptor: int, wanted: Offloads) -> Offloads:
    """Have an open TAP leave undone, in what is read from it, the best offloads within `wanted`; those it grants."""
    for best in _BEST_FIRST:
        mask = best & wanted.mask
        try:
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, mask)
        except OSError:
            continue
        return Offloads.from_mask(mask)
    return Offloads.from_mask(0)
