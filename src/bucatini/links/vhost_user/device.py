"""The network device that the front end sets up by messages: features, memory, two rings, eventfds.

`handle` takes one message with its descriptors and returns the reply, or nothing. It owns every descriptor that it is
given: what is not kept is closed. A message that cannot be is answered with a failure where a reply is wanted, and is
an error of the connection elsewhere (PeerError): a front end and a back end that disagree about memory must not go on.

Ring 0 leads to the guest, ring 1 comes from it. A ring works between its kick descriptor and GET_VRING_BASE, while it
is enabled; without VHOST_USER_F_PROTOCOL_FEATURES it is enabled from the start.

Features are those of virtio 1.2 section 5.1.3 that the stack can use. With MRG_RXBUF and GUEST_TSO a superframe goes
into the guest's own buffers whole. Does not: legacy devices (VERSION_1 is needed), packed rings, more than one pair of
rings, live migration (no log of dirty memory).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any, ClassVar

from bucatini.base.errors import PeerError
from bucatini.host.tap import Offloads
from bucatini.links.vhost_user.messages import (
    NEED_REPLY,
    Header,
    Region,
    Request,
    answer,
    parse_region,
    parse_regions,
    parse_state,
    parse_u64,
    parse_vring_address,
)
from bucatini.native import GuestMemory, Ring

__all__ = ["CAPABILITIES", "FEATURES", "FROM_GUEST", "PROTOCOL_FEATURES", "TO_GUEST", "Device", "Queue"]

TO_GUEST, FROM_GUEST = 0, 1

CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6 = 1 << 0, 1 << 1, 1 << 7, 1 << 8
HOST_TSO4, HOST_TSO6, MRG_RXBUF = 1 << 11, 1 << 12, 1 << 15
EVENT_IDX, VHOST_PROTOCOL_FEATURES, VERSION_1 = 1 << 29, 1 << 30, 1 << 32
GUEST_USO4, GUEST_USO6, HOST_USO = 1 << 54, 1 << 55, 1 << 56
FEATURES = (
    CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | HOST_TSO4 | HOST_TSO6 | MRG_RXBUF | EVENT_IDX
    | VHOST_PROTOCOL_FEATURES | VERSION_1 | GUEST_USO4 | GUEST_USO6 | HOST_USO
)  # fmt: skip
"""What is offered; the guest's driver takes of it what it knows."""
REPLY_ACK, CONFIGURE_MEM_SLOTS = 1 << 3, 1 << 15
PROTOCOL_FEATURES = REPLY_ACK | CONFIGURE_MEM_SLOTS
MAX_SLOTS = 32
INDEX_MASK, NO_DESCRIPTOR = 0xFF, 0x100

CAPABILITIES = {"type": "net"}
"""What `--print-capabilities` says, as JSON (QEMU, interop/vhost-user, back-end conventions)."""


class Queue:
    """One ring with its descriptors. `kick` tells us, `call` tells the guest; -1: none."""

    def __init__(self, memory: GuestMemory, drops: list[int]) -> None:
        self.ring = Ring(memory, drops)
        self.kick = self.call = -1
        self.enabled = False
        self.started = False
        self.size = 0
        self.tables: tuple[int, int, int] | None = None

    @property
    def works(self) -> bool:
        """Whether chains may be taken."""
        return self.started and self.enabled and self.ring.placed


class Device:
    """State of one connection. `drops` as for `Ring`."""

    def __init__(self, drops: list[int]) -> None:
        self.memory = GuestMemory()
        self.queues = (Queue(self.memory, drops), Queue(self.memory, drops))
        self.features = 0
        self.protocol_features = 0

    @property
    def offloads(self) -> Offloads:
        """What the driver takes from us: all of it needs checksums left undone."""
        told = self.features if self.features & GUEST_CSUM else 0
        return Offloads(*(bool(told & bit) for bit in (GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6)))

    def handle(self, header: Header, body: bytes, descriptors: Sequence[int]) -> bytes | None:
        """The reply to send, or None. Raises PeerError when the connection cannot go on."""
        held = list(descriptors)
        try:
            try:
                method = self._METHODS.get(Request(header.request))
            except ValueError:
                method = None
            if method is None:
                raise PeerError(f"request {header.request} is not known here")
            value = method(self, body, held)
            if value is not None:
                return answer(header.request, value)
            return answer(header.request, bytes(8)) if self._wants_word(header) else None
        except PeerError:
            if not self._wants_word(header):
                raise
            return answer(header.request, _u64(1))
        finally:
            _close(held)

    def _wants_word(self, header: Header) -> bool:
        return bool(header.flags & NEED_REPLY and self.protocol_features & REPLY_ACK)

    # -- each request: the reply's body, or None; descriptors that are kept are taken out of `held`

    def _get_features(self, body: bytes, held: list[int]) -> bytes:
        return _u64(FEATURES)

    def _set_features(self, body: bytes, held: list[int]) -> None:
        features = _number(body)
        if features & ~FEATURES:
            raise PeerError(f"features {features & ~FEATURES:#x} were not offered")
        if not features & VERSION_1:
            raise PeerError("the guest's driver is of before virtio 1.0, which is not served")
        self.features = features
        for queue in self.queues:
            queue.ring.event_index = bool(features & EVENT_IDX)
            queue.ring.mergeable = bool(features & MRG_RXBUF)
            if not features & VHOST_PROTOCOL_FEATURES:
                queue.enabled = True

    def _nothing(self, body: bytes, held: list[int]) -> None:
        """Owners mean nothing where each connection is one."""

    def _get_protocol_features(self, body: bytes, held: list[int]) -> bytes:
        return _u64(PROTOCOL_FEATURES)

    def _set_protocol_features(self, body: bytes, held: list[int]) -> None:
        self.protocol_features = _number(body) & PROTOCOL_FEATURES

    def _get_queue_num(self, body: bytes, held: list[int]) -> bytes:
        return _u64(1)

    def _get_max_mem_slots(self, body: bytes, held: list[int]) -> bytes:
        return _u64(MAX_SLOTS)

    def _set_mem_table(self, body: bytes, held: list[int]) -> None:
        regions = parse_regions(body)
        if regions is None or len(regions) != len(held):
            raise PeerError("a memory table that does not fit its descriptors")
        for queue in self.queues:
            queue.ring.unplace()
        self.memory.clear()
        for region, descriptor in zip(regions, held, strict=True):
            self._map(region, descriptor)
        self._place_again()

    def _add_region(self, body: bytes, held: list[int]) -> None:
        region = parse_region(body)
        if region is None or len(held) != 1:
            raise PeerError("a memory region without its descriptor")
        self._map(region, held[0])
        self._place_again()

    def _remove_region(self, body: bytes, held: list[int]) -> None:
        region = parse_region(body)
        if region is None:
            raise PeerError("a memory region that is too short")
        for queue in self.queues:
            queue.ring.unplace()
        removed = self.memory.remove(region.guest, region.size, region.user)
        self._place_again()
        if not removed:
            raise PeerError("a memory region that is not there")

    def _map(self, region: Region, descriptor: int) -> None:
        """The mapping lives as long as the memory's view of it. Beyond the file's end it would be a fatal trap: the
        length is compared first (mmap(2), SIGBUS).
        """
        try:
            mapping = mmap.mmap(descriptor, region.offset + region.size, mmap.MAP_SHARED)
        except (OSError, ValueError, OverflowError) as error:
            raise PeerError(f"a memory region that cannot be mapped: {error}") from None
        if not self.memory.add(region.guest, region.size, region.user, mapping, region.offset):
            raise PeerError("a memory region that overlaps another, or one too many")

    def _place_again(self) -> None:
        """Memory has changed: rings that were placed are looked for again."""
        for queue in self.queues:
            if queue.tables is not None and queue.started:
                queue.ring.place(queue.size, *queue.tables)

    def _queue_of(self, index: int) -> Queue:
        if index not in (TO_GUEST, FROM_GUEST):
            raise PeerError(f"ring {index}: there are two")
        return self.queues[index]

    def _state(self, body: bytes) -> tuple[Queue, int]:
        state = parse_state(body)
        if state is None:
            raise PeerError("a ring's state that is too short")
        return self._queue_of(state[0]), state[1]

    def _set_vring_num(self, body: bytes, held: list[int]) -> None:
        queue, size = self._state(body)
        queue.size = size

    def _set_vring_addr(self, body: bytes, held: list[int]) -> None:
        address = parse_vring_address(body)
        if address is None:
            raise PeerError("a ring's addresses that are too short")
        queue = self._queue_of(address.ring)
        queue.tables = (address.descriptors, address.available, address.used)
        if not queue.ring.place(queue.size, *queue.tables):
            queue.tables = None
            raise PeerError(f"ring {address.ring} is outside the guest's memory, or of a size that cannot be")

    def _set_vring_base(self, body: bytes, held: list[int]) -> None:
        queue, base = self._state(body)
        queue.ring.next = base & 0xFFFF

    def _get_vring_base(self, body: bytes, held: list[int]) -> bytes:
        """Also stops the ring."""
        queue, _ = self._state(body)
        queue.ring.finish()
        queue.started = False
        _close([queue.kick])
        queue.kick = -1
        return struct.pack("=II", self.queues.index(queue), queue.ring.next)

    def _descriptor(self, body: bytes, held: list[int]) -> tuple[Queue, int]:
        number = _number(body)
        queue = self._queue_of(number & INDEX_MASK)
        if number & NO_DESCRIPTOR:
            return queue, -1
        if len(held) != 1:
            raise PeerError("a ring without its descriptor")
        try:
            os.set_blocking(held[0], False)
        except OSError as error:
            raise PeerError(f"a ring's descriptor that cannot be used: {error.strerror}") from None
        return queue, held.pop()

    def _set_vring_kick(self, body: bytes, held: list[int]) -> None:
        queue, descriptor = self._descriptor(body, held)
        _close([queue.kick])
        queue.kick = descriptor
        queue.started = descriptor >= 0
        if queue.tables is not None and not queue.ring.placed:
            queue.ring.place(queue.size, *queue.tables)

    def _set_vring_call(self, body: bytes, held: list[int]) -> None:
        queue, descriptor = self._descriptor(body, held)
        _close([queue.call])
        queue.call = descriptor
        if descriptor >= 0 and queue.started:
            # An engine before us may have given chains back and died before it said so; a call too many does no harm.
            with contextlib.suppress(OSError, ValueError):
                os.eventfd_write(descriptor, 1)

    def _set_vring_err(self, body: bytes, held: list[int]) -> None:
        """Nothing is ever told there."""

    def _set_vring_enable(self, body: bytes, held: list[int]) -> None:
        queue, enabled = self._state(body)
        queue.enabled = bool(enabled)

    def close(self) -> None:
        """Let go of memory and descriptors. Idempotent."""
        for queue in self.queues:
            queue.ring.unplace()
            queue.started = False
            _close([queue.kick, queue.call])
            queue.kick = queue.call = -1
        self.memory.clear()

    _METHODS: ClassVar[dict[Request, Any]] = {
        Request.GET_FEATURES: _get_features,
        Request.SET_FEATURES: _set_features,
        Request.SET_OWNER: _nothing,
        Request.RESET_OWNER: _nothing,
        Request.SET_MEM_TABLE: _set_mem_table,
        Request.SET_VRING_NUM: _set_vring_num,
        Request.SET_VRING_ADDR: _set_vring_addr,
        Request.SET_VRING_BASE: _set_vring_base,
        Request.GET_VRING_BASE: _get_vring_base,
        Request.SET_VRING_KICK: _set_vring_kick,
        Request.SET_VRING_CALL: _set_vring_call,
        Request.SET_VRING_ERR: _set_vring_err,
        Request.GET_PROTOCOL_FEATURES: _get_protocol_features,
        Request.SET_PROTOCOL_FEATURES: _set_protocol_features,
        Request.GET_QUEUE_NUM: _get_queue_num,
        Request.SET_VRING_ENABLE: _set_vring_enable,
        Request.GET_MAX_MEM_SLOTS: _get_max_mem_slots,
        Request.ADD_MEM_REG: _add_region,
        Request.REM_MEM_REG: _remove_region,
    }


def _u64(value: int) -> bytes:
    return struct.pack("=Q", value)


def _number(body: bytes) -> int:
    number = parse_u64(body)
    if number is None:
        raise PeerError("a message that is too short")
    return number


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)
