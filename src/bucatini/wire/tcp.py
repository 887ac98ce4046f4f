"""TCP headers: RFC 9293 section 3.1; options of RFC 7323 (window scale, timestamps) and RFC 2018 (SACK permitted).

Checksums are neither verified nor computed here: most frames come and go with the checksum left to the link.
"""

from __future__ import annotations

from bucatini.wire.octets import load32, store16, store32, store_bytes

__all__ = [
    "ACK",
    "CWR",
    "ECE",
    "FIN",
    "HEADER_LENGTH",
    "MAXIMUM_WINDOW_SCALE",
    "PSH",
    "RST",
    "SYN",
    "URG",
    "TcpOptions",
    "TcpView",
    "emit_tcp",
    "flags_text",
    "sack_option",
    "syn_options",
]

HEADER_LENGTH = 20
"""Without options."""

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10
URG = 0x20
ECE = 0x40
CWR = 0x80

MAXIMUM_SACK_BLOCKS = 4
"""What 40 bytes of options hold, RFC 2018 section 3."""
MAXIMUM_WINDOW_SCALE = 14
"""RFC 7323 2.3."""

_FLAG_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")


class TcpView:
    """Header of one segment; numbers in host order, offsets into the buffer. Meaningful only after `parse` returned
    true.
    """

    __slots__ = (
        "ack",
        "checksum",
        "destination_port",
        "end",
        "flags",
        "options_at",
        "payload_at",
        "seq",
        "source_port",
        "urgent",
        "window",
    )

    source_port: int
    destination_port: int
    seq: int
    ack: int
    flags: int
    window: int
    """As written: not scaled."""
    checksum: int
    urgent: int
    options_at: int
    """Options lie at `options_at..payload_at`."""
    payload_at: int
    end: int

    def __init__(self) -> None:
        self.source_port = 0
        self.destination_port = 0
        self.seq = 0
        self.ack = 0
        self.flags = 0
        self.window = 0
        self.checksum = 0
        self.urgent = 0
        self.options_at = 0
        self.payload_at = 0
        self.end = 0

    def parse(self, buf: memoryview, at: int, end: int) -> bool:
        """Reads the segment at `at..end`. False when it is shorter than its header, or its header than 20 bytes."""
        if end - at < 20:
            return False
        header = buf[at + 12] >> 4 << 2
        if header < 20 or header > end - at:
            return False
        self.source_port = buf[at] << 8 | buf[at + 1]
        self.destination_port = buf[at + 2] << 8 | buf[at + 3]
        self.seq = load32(buf, at + 4)
        self.ack = load32(buf, at + 8)
        self.flags = buf[at + 13]
        self.window = buf[at + 14] << 8 | buf[at + 15]
        self.checksum = buf[at + 16] << 8 | buf[at + 17]
        self.urgent = buf[at + 18] << 8 | buf[at + 19]
        self.options_at = at + 20
        self.payload_at = at + header
        self.end = end
        return True


class TcpOptions:
    """The options that matter in a SYN; meaningful after `parse`."""

    __slots__ = ("mss", "sack_permitted", "timestamps", "window_scale")

    mss: int
    """Bytes; 0 when absent."""
    window_scale: int
    """0 to 14; -1 when absent."""
    sack_permitted: bool
    timestamps: bool

    def __init__(self) -> None:
        self.mss = 0
        self.window_scale = -1
        self.sack_permitted = False
        self.timestamps = False

    def parse(self, buf: memoryview, at: int, end: int) -> None:
        """Reads the options at `at..end`, as far as they make sense: a broken length ends the list, what came before
        counts.

        An option of a known kind and the wrong length is skipped. Of two of a kind the first counts, as nobody sends
        two.
        """
        self.mss = 0
        self.window_scale = -1
        self.sack_permitted = False
        self.timestamps = False
        while at < end:
            kind = buf[at]
            if kind == 0:  # end of list
                return
            if kind == 1:  # no operation
                at += 1
                continue
            if at + 1 >= end:
                return
            length = buf[at + 1]
            if length < 2 or at + length > end:
                return
            if kind == 2 and length == 4 and self.mss == 0:
                self.mss = buf[at + 2] << 8 | buf[at + 3]
            elif kind == 3 and length == 3 and self.window_scale < 0:
                self.window_scale = min(buf[at + 2], 14)  # RFC 7323 2.3: more than 14 is taken as 14
            elif kind == 4 and length == 2:
                self.sack_permitted = True
            elif kind == 8 and length == 10:
                self.timestamps = True
            at += length


def emit_tcp(
    buf: memoryview,
    at: int,
    source_port: int,
    destination_port: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    options: bytes = b"",
) -> None:
    """Writes a header with checksum 0 and urgent pointer 0 at `at`: 20 bytes and `options`, a multiple of 4 bytes up to
    40.
    """
    store16(buf, at, source_port)
    store16(buf, at + 2, destination_port)
    store32(buf, at + 4, seq)
    store32(buf, at + 8, ack)
    buf[at + 12] = 20 + len(options) << 2 & 0xF0
    buf[at + 13] = flags & 0xFF
    store16(buf, at + 14, window)
    store32(buf, at + 16, 0)
    if options:
        store_bytes(buf, at + 20, options)


def syn_options(mss: int, window_scale: int = -1, sack_permitted: bool = False) -> bytes:
    """Options for our SYN or SYN,ACK: the MSS, the window scale unless it is -1, and whether we take SACK. Padded to 4
    bytes.
    """
    options = bytes((2, 4, mss >> 8 & 0xFF, mss & 0xFF))
    if window_scale >= 0:
        options += bytes((1, 3, 3, min(window_scale, MAXIMUM_WINDOW_SCALE)))
    return options + b"\x01\x01\x04\x02" if sack_permitted else options


def sack_option(blocks: list[tuple[int, int]]) -> bytes:
    """The SACK option (RFC 2018), at most four blocks of (first number, number behind the last), padded to 4 bytes."""
    kept = blocks[:MAXIMUM_SACK_BLOCKS]
    edges = b"".join(left.to_bytes(4, "big") + right.to_bytes(4, "big") for left, right in kept)
    return bytes((1, 1, 5, 2 + len(edges))) + edges


def flags_text(flags: int) -> str:
    """`SYN,ACK` and the like, lowest bit first; `-` when none is set."""
    return ",".join(name for bit, name in enumerate(_FLAG_NAMES) if flags >> bit & 1) or "-"
