"""Frames on their way through the filter, each judged where it lies and handed on from there, or counted.

Two judges. Strict: `guard.flow_states` in front of the rules, so that who answers needs no rule, and what guest and
servers say about addresses is learned by `guard.snoop` and `snoop6`. Faithful: the table of Softnet 0.19.0, and its
snooper.

A virtio-net header of the guest's is a claim as well. It tells the host's kernel to write two bytes into the frame
after it was judged, and how to cut it, so it must say what the frame itself says: complete the checksum of its own TCP
or UDP header, cut by its own protocol, and not into a multitude. What is more than payload (DHCP, for one) is never
cut: only the first piece of it would have been looked at. All else is dropped, and flags that mean nothing here are
cleared. Links without such a header get an empty one: their frames are complete.

Does not: read from links, or know when.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from bucatini.base.reasons import DropReason
from bucatini.guard.admit import admit_faithful, admit_faithful_to_guest
from bucatini.guard.binding import Binding
from bucatini.guard.flow_states import FlowStates
from bucatini.guard.frame import IPV6, PLAIN, Frame
from bucatini.guard.live_policy import LivePolicy
from bucatini.guard.snoop import Snoop
from bucatini.guard.snoop6 import Snoop6
from bucatini.native import Arena
from bucatini.wire.virtio_net import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    HEADER_LENGTH,
    NEEDS_CSUM,
)

__all__ = ["Passage"]

OFFLOAD = int(DropReason.OFFLOAD)
LINK_FULL = int(DropReason.LINK_FULL)
LINK_WRITE_FAILED = int(DropReason.LINK_WRITE_FAILED)
HOST_SEND_FAILED = int(DropReason.HOST_SEND_FAILED)
BUG = int(DropReason.BUG)
ENOTCONN = errno.ENOTCONN
EMPTY_AT = 0
"""Where in the arena an empty header is."""
FULL = (-errno.EAGAIN, -errno.ENOBUFS, -errno.ENOMEM)
TCP, UDP = 6, 17
CHECKSUM_OFFSET = {TCP: 16, UDP: 6}
MAX_PIECES = 256
"""Frames that one is cut into; the smallest segments of an IPv4 host (RFC 1122) make 120 of 64 KiB."""
CUTS = {GSO_TCPV4: (4, TCP), GSO_TCPV6: (6, TCP)}


class Passage:
    """Between `link` and the TAP open as `tap`, for the guest of `binding`. `on_bug` hears of exceptions that nobody
    should have raised; each costs one frame.

    All frames lie in `arena`, those of a link without header with `HEADER_LENGTH` bytes before them that may be
    written; its own first bytes are zero and stay so. `now` is the leases' clock.
    """

    def __init__(
        self,
        arena: Arena,
        link: Any,
        tap: int,
        binding: Binding,
        live: LivePolicy,
        faithful: bool,
        on_bug: Callable[[Exception], None],
    ) -> None:
        self.arena = arena
        self.link = link
        self.tap = tap
        self.header: int = link.header
        self.binding = binding
        self.live = live
        self.faithful = faithful
        self.frame = Frame(arena.view, faithful, copy=arena.copy)
        self.snoop = Snoop(binding, faithful)
        self.snoop6 = Snoop6(binding)
        self.states = FlowStates(binding, live.rules)
        live.on_change = self.states.replace
        self.on_bug = on_bug
        self.from_guest_frames = 0
        self.to_guest_frames = 0
        """Handed on."""

    def from_guest(self, at: int, length: int, now: float) -> int:
        """The frame of `length` bytes at `at`, as the link received it: 0, and it is with the host, or why not."""
        try:
            reason = self._judge(at + self.header, length - self.header, now)
            if reason:
                return reason
            if not self.header:
                at -= HEADER_LENGTH
                length += HEADER_LENGTH
                self.arena.move(at, EMPTY_AT, HEADER_LENGTH)
            elif not self._header_fits(at):
                return OFFLOAD
            if self.arena.write(self.tap, at, length) < 0:
                return HOST_SEND_FAILED
        except Exception as error:
            self.on_bug(error)
            return BUG
        self.from_guest_frames += 1
        return 0

    def to_guest(self, at: int, length: int, now: float) -> int:
        """The same for a frame of the host's, which has its virtio-net header."""
        try:
            reason = self._judge_to_guest(at + HEADER_LENGTH, length - HEADER_LENGTH, now)
            if reason:
                return reason
            took = self.link.transmit(self.arena, at, length)
            if took == -ENOTCONN:
                return 0  # nobody is there who could miss it
            if took < 0:
                return LINK_FULL if took in FULL else LINK_WRITE_FAILED
        except Exception as error:
            self.on_bug(error)
            return BUG
        self.to_guest_frames += 1
        return 0

    def _judge(self, at: int, length: int, now: float) -> int:
        frame = self.frame
        frame.parse(at, length)
        if self.faithful:
            reason = admit_faithful(frame, self.binding, self.live.rules, now)
        else:
            reason = self.states.admit(frame, now)
        if reason:
            return reason
        return (self.snoop6 if frame.kind == IPV6 else self.snoop).from_guest(frame, now)

    def _judge_to_guest(self, at: int, length: int, now: float) -> int:
        frame = self.frame
        frame.parse(at, length)
        reason = admit_faithful_to_guest(frame) if self.faithful else self.states.admit_to_guest(frame, now)
        if not reason and not frame.bad:
            (self.snoop6 if frame.kind == IPV6 else self.snoop).to_guest(frame, now)
        return reason

    def _header_fits(self, at: int) -> bool:
        """Whether the virtio-net header at `at` asks for nothing but what the frame judged last is."""
        buf = self.arena.view
        flags, kind = buf[at] & NEEDS_CSUM, buf[at + 1] & ~GSO_ECN
        buf[at] = flags
        if not flags:
            return kind == GSO_NONE
        frame = self.frame
        ip = frame.ip
        if frame.protocol not in CHECKSUM_OFFSET or ip.version != frame.kind or ip.fragment or ip.fragment_offset:
            return False
        start = buf[at + 6] | buf[at + 7] << 8
        offset = buf[at + 8] | buf[at + 9] << 8
        if start != ip.payload_at - frame.at or offset != CHECKSUM_OFFSET[frame.protocol]:
            return False
        if kind == GSO_NONE:
            return True
        size = buf[at + 4] | buf[at + 5] << 8
        if frame.topic != PLAIN or ip.end - ip.payload_at > size * MAX_PIECES:
            return False
        if kind == GSO_UDP_L4:
            return frame.protocol == UDP
        return CUTS.get(kind) == (ip.version, frame.protocol)
