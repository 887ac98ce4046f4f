"""What a hypervisor and its guest's virtio driver do, for tests of the device's side.

`Memory` is guest memory that can be shared, `Queue` the driver's side of a split virtqueue in it (virtio 1.2 section
2.7), `Nic` a network driver with one queue each way, `FrontEnd` the hypervisor's end of vhost-user. Nothing here checks
what the device does more than a driver would; what a hostile driver does is written by `describe`, `raw` and
`set_index`. For machines of little-endian order only.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from bucatini.links.vhost_user.device import FEATURES, PROTOCOL_FEATURES
from bucatini.links.vhost_user.messages import Request

__all__ = ["GUEST", "USER", "FrontEnd", "Memory", "Nic", "Queue", "fence"]

GUEST = 0x4000_0000
USER = 0x7F12_3450_0000
"""Where the memory begins for the guest, and for the hypervisor."""
NEXT, WRITE, INDIRECT = 1, 2, 4
VNET = 12
PATIENCE = 5.0
_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")
_ORDER = threading.Lock()


def fence() -> None:
    """All that was written before is visible before anything is read after it."""
    with _ORDER:
        pass


class Memory:
    """`size` bytes that a descriptor stands for. `take` hands them out, from the start on, and never gets them back."""

    def __init__(self, size: int = 1 << 20, guest: int = GUEST, user: int = USER) -> None:
        self.size = size
        self.guest = guest
        self.user = user
        self.descriptor = os.memfd_create("guest")
        os.ftruncate(self.descriptor, size)
        self.mapping = mmap.mmap(self.descriptor, size)
        self.view = memoryview(self.mapping)
        self.words = self.view.cast("H")
        self.taken = 0

    @property
    def region(self) -> tuple[int, int, int, Any, int]:
        """The arguments of `GuestMemory.add`."""
        return (self.guest, self.size, self.user, self.mapping, 0)

    def take(self, size: int, align: int = 16) -> int:
        """The offset of `size` bytes that nobody has."""
        at = -(-self.taken // align) * align
        assert at + size <= self.size, "the guest has no memory left"
        self.taken = at + size
        return at

    def close(self) -> None:
        """Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            self.words.release()
            self.view.release()
            with contextlib.suppress(BufferError):
                self.mapping.close()


class Queue:
    """`size` descriptors in `memory`; `start` is the index that both rings begin with."""

    def __init__(self, memory: Memory, size: int = 16, start: int = 0, event_index: bool = False) -> None:
        self.memory = memory
        self.size = size
        self.event_index = event_index
        self.descriptors = memory.take(16 * size, 16)
        self.available = memory.take(6 + 2 * size, 2)
        self.used = memory.take(6 + 8 * size, 4)
        self.index = self.seen = self.kicked = start & 0xFFFF
        self.free = list(range(size))
        self.chains: dict[int, list[int]] = {}
        """Descriptors of each chain that the device has, by its head."""
        self.set_index(self.index)
        self.raw(self.used + 2, self.seen)

    @property
    def addresses(self) -> tuple[int, int, int, int]:
        """The arguments of `Ring.place`: size, and the tables as the hypervisor sees them."""
        user = self.memory.user
        return (self.size, user + self.descriptors, user + self.available, user + self.used)

    # -- as it should be

    def add(self, buffers: Sequence[tuple[int, int]], writable: bool) -> int:
        """Make a chain of (guest address, length) available; its head."""
        mine = [self.free.pop(0) for _ in buffers]
        for position, (address, length) in enumerate(buffers):
            last = position == len(buffers) - 1
            flags = (0 if last else NEXT) | (WRITE if writable else 0)
            self.describe(mine[position], address, length, flags, 0 if last else mine[position + 1])
        self.chains[mine[0]] = mine
        self.offer(mine[0])
        return mine[0]

    def offer(self, head: int) -> None:
        """The next entry of the available ring is `head`."""
        self.raw(self.available + 4 + 2 * (self.index % self.size), head)
        fence()
        self.set_index(self.index + 1)

    def collect(self) -> list[tuple[int, int]]:
        """Chains that came back since the last time: (head, bytes written)."""
        found = []
        while self.seen != self.read(self.used + 2):
            fence()
            head, length = _USED.unpack_from(self.memory.view, self.used + 4 + 8 * (self.seen % self.size))
            self.free += self.chains.pop(head)
            found.append((head, length))
            self.seen = (self.seen + 1) & 0xFFFF
        return found

    def wants_kick(self) -> bool:
        """Whether the device asked to be told of what was made available since this was asked last."""
        fence()
        old, self.kicked = self.kicked, self.index
        if self.event_index:
            event = self.read(self.used + 4 + 8 * self.size)
            return (self.index - event - 1) & 0xFFFF < (self.index - old) & 0xFFFF
        return old != self.index and not self.read(self.used) & 1

    def ask(self) -> bool:
        """Have the device tell of the next chain that comes back. Whether one is there already."""
        if self.event_index:
            self.raw(self.available + 4 + 2 * self.size, self.seen)
        else:
            self.raw(self.available, 0)
        fence()
        return self.seen != self.read(self.used + 2)

    def hush(self) -> None:
        """Have it not tell."""
        if self.event_index:
            self.raw(self.available + 4 + 2 * self.size, self.seen - 1)
        else:
            self.raw(self.available, 1)

    # -- as somebody likes

    def describe(self, index: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        """Write one descriptor."""
        address &= (1 << 64) - 1
        _DESCRIPTOR.pack_into(self.memory.view, self.descriptors + 16 * index, address, length, flags, following)

    def raw(self, at: int, value: int) -> None:
        """Write 16 bits at once: the device may read them at any moment."""
        self.memory.words[at >> 1] = value & 0xFFFF

    def read(self, at: int) -> int:
        """Read 16 bits."""
        return int(self.memory.words[at >> 1])

    def set_index(self, index: int) -> None:
        """The available ring's index."""
        self.index = index & 0xFFFF
        self.raw(self.available + 2, self.index)


class Nic:
    """A network driver: `send` gives frames to the device, `post` buffers, `frames` takes what came in them."""

    def __init__(self, memory: Memory, size: int = 16, start: int = 0, event_index: bool = False) -> None:
        self.memory = memory
        self.receiving = Queue(memory, size, start, event_index)
        self.sending = Queue(memory, size, start, event_index)
        self.places: dict[int, list[tuple[int, int]]] = {}
        """Where in memory the buffers of each posted chain are."""
        self.room: dict[tuple[int, ...], list[list[int]]] = {}
        """Places to use again, by their sizes."""

    def _place(self, sizes: tuple[int, ...]) -> list[int]:
        known = self.room.setdefault(sizes, [])
        return known.pop() if known else [self.memory.take(size) for size in sizes]

    def send(self, frame: bytes, pieces: Sequence[int] = ()) -> int:
        """A frame, virtio-net header first, cut into buffers of `pieces` bytes and the rest. The chain's head."""
        cuts = [*pieces, len(frame) - sum(pieces)]
        offsets = self._place(tuple(cuts))
        done = 0
        for offset, size in zip(offsets, cuts, strict=True):
            self.memory.view[offset : offset + size] = frame[done : done + size]
            done += size
        buffers = [(self.memory.guest + offset, size) for offset, size in zip(offsets, cuts, strict=True)]
        head = self.sending.add(buffers, False)
        self.places[-1 - head] = list(zip(offsets, cuts, strict=True))
        return head

    def sent(self) -> int:
        """Frames that the device is done with."""
        done = self.sending.collect()
        for head, _ in done:
            place = self.places.pop(-1 - head)
            self.room[tuple(size for _, size in place)].append([offset for offset, _ in place])
        return len(done)

    def post(self, *sizes: int) -> int:
        """A chain of empty buffers for the device to fill; its head."""
        offsets = self._place(sizes)
        head = self.receiving.add([(self.memory.guest + o, s) for o, s in zip(offsets, sizes, strict=True)], True)
        self.places[head] = list(zip(offsets, sizes, strict=True))
        return head

    def frames(self) -> list[bytes]:
        """Frames that came, virtio-net header first; each may take several chains."""
        found: list[bytes] = []
        chains = self.receiving.collect()
        while chains:
            content = self._content(*chains.pop(0))
            used = 1
            while len(content) < VNET or used < int.from_bytes(content[10:12], "little"):
                content += self._content(*chains.pop(0))
                used += 1
            found.append(content)
        return found

    def _content(self, head: int, length: int) -> bytes:
        place = self.places.pop(head)
        whole = b"".join(bytes(self.memory.view[offset : offset + size]) for offset, size in place)
        assert length <= len(whole)
        self.room[tuple(size for _, size in place)].append([offset for offset, _ in place])
        return whole[:length]


class FrontEnd:
    """A hypervisor at the other end of `control`. `turn` lets the device work, also while a reply is awaited."""

    def __init__(self, control: socket.socket, turn: Callable[[], object]) -> None:
        self.control = control
        self.turn = turn
        self.reply_ack = False
        self.kicks = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        self.calls = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        control.setblocking(False)

    def close(self) -> None:
        """Vanish. Idempotent."""
        self.control.close()
        for descriptor in (*self.kicks, *self.calls):
            os.close(descriptor)
        self.kicks, self.calls = [], []

    def send(self, request: int, body: bytes = b"", descriptors: Sequence[int] = (), flags: int = 1) -> None:
        """One message, with one call."""
        message = struct.pack("=III", request, flags, len(body)) + body
        socket.send_fds(self.control, [message], list(descriptors))

    def reply(self) -> bytes:
        """The body of the next reply."""
        header = self._read(12)
        _, flags, size = struct.unpack("=III", header)
        assert flags == 5, flags
        return self._read(size)

    def _read(self, size: int) -> bytes:
        data = b""
        end = time.monotonic() + PATIENCE
        while len(data) < size:
            assert time.monotonic() < end, "no reply"
            self.turn()
            with contextlib.suppress(BlockingIOError):
                part = self.control.recv(size - len(data))
                assert part, "the connection was closed"
                data += part
        return data

    def ask(self, request: int, body: bytes = b"", descriptors: Sequence[int] = ()) -> bytes:
        """A request that is answered anyhow."""
        self.send(request, body, descriptors)
        return self.reply()

    def tell(self, request: int, body: bytes = b"", descriptors: Sequence[int] = ()) -> int:
        """A request, and its acknowledgement where that was agreed on: 0 when all is well."""
        if not self.reply_ack:
            self.send(request, body, descriptors)
            self.turn()
            return 0
        self.send(request, body, descriptors, 9)
        return int.from_bytes(self.reply(), "little")

    def number(self, request: int, value: int, descriptors: Sequence[int] = ()) -> int:
        """A request about one number."""
        return self.tell(request, struct.pack("=Q", value), descriptors)

    def state(self, request: int, index: int, value: int) -> int:
        """A request about a ring."""
        return self.tell(request, struct.pack("=II", index, value))

    # -- the usual order of things

    def begin(self, features: int = FEATURES, protocol: int = PROTOCOL_FEATURES) -> None:
        """Agree on features; with `protocol` 0 as of before there were any."""
        assert int.from_bytes(self.ask(Request.GET_FEATURES), "little") == FEATURES
        if protocol:
            assert int.from_bytes(self.ask(Request.GET_PROTOCOL_FEATURES), "little") == PROTOCOL_FEATURES
            self.number(Request.SET_PROTOCOL_FEATURES, protocol)
            self.reply_ack = bool(protocol & 8)
        self.tell(Request.SET_OWNER)
        assert self.number(Request.SET_FEATURES, features) == 0

    def share(self, *memories: Memory) -> int:
        """The memory table."""
        body = struct.pack("=II", len(memories), 0)
        for each in memories:
            body += struct.pack("=QQQQ", each.guest, each.size, each.user, 0)
        return self.tell(Request.SET_MEM_TABLE, body, [each.descriptor for each in memories])

    def place(self, index: int, queue: Queue, base: int | None = None) -> int:
        """Size, index and tables of a ring."""
        size, descriptors, available, used = queue.addresses
        self.state(Request.SET_VRING_NUM, index, size)
        self.state(Request.SET_VRING_BASE, index, queue.index if base is None else base)
        body = struct.pack("=IIQQQQ", index, 0, descriptors, used, available, 0)
        return self.tell(Request.SET_VRING_ADDR, body)

    def run(self, index: int) -> None:
        """Give the ring its eventfds and enable it."""
        self.number(Request.SET_VRING_CALL, index, [self.calls[index]])
        self.number(Request.SET_VRING_KICK, index, [self.kicks[index]])
        self.state(Request.SET_VRING_ENABLE, index, 1)

    def stop(self, index: int) -> int:
        """Stop the ring; where it was."""
        return int(struct.unpack("=II", self.ask(Request.GET_VRING_BASE, struct.pack("=II", index, 0)))[1])

    def start(self, nic: Nic, features: int = FEATURES, protocol: int = PROTOCOL_FEATURES) -> None:
        """From nothing to a device that works."""
        self.begin(features, protocol)
        assert self.share(nic.memory) == 0
        for index, queue in enumerate((nic.receiving, nic.sending)):
            assert self.place(index, queue) == 0
            self.run(index)

    def kick(self, index: int) -> None:
        """Tell the device, as the guest does."""
        os.eventfd_write(self.kicks[index], 1)

    def called(self, index: int) -> bool:
        """Whether the device told the guest since the last time."""
        try:
            return os.eventfd_read(self.calls[index]) > 0
        except BlockingIOError:
            return False
