"""Captures in pcapng (draft-ietf-opsawg-pcapng): nanoseconds, directions, and our verdicts as comments.

One section, one Ethernet interface, one Enhanced Packet Block per frame, one Interface Statistics Block at the end.
The interface is the guest's, so a frame from the guest is outbound and a frame to it inbound, as tcpdump within the
guest would say. What is written is Ethernet; the virtio-net header between the kernel and us never is. Superframes
appear as the stack sees them: larger than the MTU and, where the kernel was to finish them, with only a partial
checksum.

A comment is what no packet holds: why the frame was dropped, or which rule admitted its flow. Does not: rotate,
filter, or read the clock (the caller hands in the wall-clock time).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from bucatini.observe.output import Output

__all__ = ["FROM_GUEST", "SNAPLEN", "TO_GUEST", "PcapngWriter"]

FROM_GUEST: Final = 2
"""epb_flags: outbound."""

TO_GUEST: Final = 1
"""epb_flags: inbound."""

SNAPLEN: Final = 262144
"""Bytes kept of a frame: what tcpdump takes by default, and more than any superframe."""

_LINKTYPE_ETHERNET = 1
_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_OPT_COMMENT, _IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _SHB_USERAPPL = 1, 2, 3, 9, 4
_ISB_IFRECV, _ISB_IFDROP = 4, 5
_NANOSECONDS = b"\x09"  # 10**-9

_PACKET_HEAD = struct.Struct(
    "<IIIIIII"
)  # type, total length, interface, time high and low, captured and original length
_OPTION = struct.Struct("<HH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
# epb_flags of each direction, followed by opt_endofopt.
_FLAGS = {flag: struct.pack("<HHIHH", 2, 4, flag, 0, 0) for flag in (FROM_GUEST, TO_GUEST)}
_COMMENT_LIMIT = 1024  # characters


class PcapngWriter:
    """A capture on descriptor `fd`, which it owns.

    `on_failure` hears once, with a line for people, when writing fails; later calls do nothing.
    """

    __slots__ = ("_frames", "_latest", "_output")

    def __init__(
        self,
        fd: int,
        *,
        name: str,
        on_failure: Callable[[str], None],
        interface: str = "eth0",
        description: str = "",
        application: str = "bucatini",
    ) -> None:
        self._output = Output(fd, name=name, on_failure=on_failure, trim=True)
        self._frames = 0
        self._latest = 0
        self._output.append(_section_header(application), _interface_description(interface, description))

    @property
    def active(self) -> bool:
        """False after a write error: the caller may stop handing in frames."""
        return self._output.active

    @property
    def lost(self) -> int:
        """Frames not written because the reader of a FIFO was too slow."""
        return self._output.lost

    def write(self, direction: int, ns: int, frame: bytes | bytearray | memoryview, comment: str | None = None) -> None:
        """Copy one frame. `direction` is `FROM_GUEST` or `TO_GUEST`; `ns` is wall-clock nanoseconds since 1970."""
        original = len(frame)
        captured = original if original <= SNAPLEN else SNAPLEN
        padding = _PADDING[captured & 3]
        options = _FLAGS[direction]
        if comment:
            options = _option(_OPT_COMMENT, comment[:_COMMENT_LIMIT].encode("utf-8", "replace")) + options
        total = 32 + captured + len(padding) + len(options)
        self._frames += 1
        self._latest = ns
        self._output.append(
            _PACKET_HEAD.pack(_PACKET, total, 0, ns >> 32, ns & 0xFFFFFFFF, captured, original),
            frame if captured == original else memoryview(frame)[:captured],
            padding,
            options,
            total.to_bytes(4, "little"),
        )

    def flush(self) -> None:
        """Write what is buffered, without waiting. Called at the end of a turn."""
        self._output.flush()

    def close(self) -> None:
        """Add the statistics, write the rest and close."""
        if self._output.active:
            self._output.append(self._statistics())
            self._output.close()

    def _statistics(self) -> bytes:
        body = struct.pack("<III", 0, self._latest >> 32, self._latest & 0xFFFFFFFF)
        body += _option(_ISB_IFRECV, self._frames.to_bytes(8, "little"))
        body += _option(_ISB_IFDROP, self._output.lost.to_bytes(8, "little"))
        return _block(_STATISTICS, body + bytes(4))


def _section_header(application: str) -> bytes:
    body = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)  # byte-order magic, version 1.0, length not known
    return _block(_SECTION, body + _option(_SHB_USERAPPL, application.encode()) + bytes(4))


def _interface_description(name: str, description: str) -> bytes:
    options = _option(_IF_NAME, name.encode())
    if description:
        options += _option(_IF_DESCRIPTION, description.encode())
    options += _option(_IF_TSRESOL, _NANOSECONDS)
    return _block(_INTERFACE, struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, SNAPLEN) + options + bytes(4))


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value + _PADDING[len(value) & 3]


def _block(kind: int, body: bytes) -> bytes:
    total = len(body) + 12
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)
