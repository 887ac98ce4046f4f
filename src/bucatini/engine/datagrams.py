"""UDP and ICMP echo on host sockets: the part of the sink that deals in datagrams.

Towards the host: datagrams of one flow that came in one turn leave together. Equal ones, but for a shorter last,
leave as one train that the kernel cuts (UDP_SEGMENT); the rest by sendmmsg(2). A train the guest made itself (USO) is
passed on as it is. If the host's route takes no trains, each datagram goes alone.

Towards the guest: a socket is read a batch at a time. A train (UDP_GRO) becomes one superframe when the link takes
it; equal datagrams in a row are joined to one, because a frame costs the same whatever it holds.

Errors: the kernel reports what the network said about a datagram on the socket's error queue (IP_RECVERR, ip(7));
each report becomes the ICMP error the guest would have got from the network, quoting its own datagram.
"""

from __future__ import annotations

import errno
import select
from typing import Any

from bucatini.base.address import Endpoint, pack
from bucatini.base.reasons import DropReason
from bucatini.engine.layout import DATAGRAM_AT, DATAGRAM_BATCH, HEADROOM, STRIDE
from bucatini.flows.datagram_flow import DatagramFlow
from bucatini.host import sockets

__all__ = ["Datagrams"]

EPOLLIN = select.EPOLLIN
EPOLLERR = select.EPOLLERR
HOST_SEND_FAILED = int(DropReason.HOST_SEND_FAILED)
OFFLOAD = int(DropReason.OFFLOAD)
HOST_BUFFER_FULL = int(DropReason.HOST_BUFFER_FULL)
MAX_TRAIN = 64
"""Datagrams the kernel cuts from one send (UDP_MAX_SEGMENTS)."""
MAX_TRAIN_BYTES = 65000
MAX_CARS = 128
"""Datagrams in a train of the guest's making: what any Linux makes. One frame must not become a flood."""
MAX_ERRORS = 16
"""Reports taken from one error queue in a turn."""
NEVER = float("inf")
DNS_LIMIT = 65507
"""Bytes: the longest UDP payload over IPv4; the link takes a frame of any size."""


class Datagrams:
    """Works for one `Sink`. `train4`, `train6`: the link takes trains of that family (USO)."""

    def __init__(self, sink: Any, train4: bool, train6: bool) -> None:
        self.sink = sink
        self.arena = sink.arena
        self.train4 = train4
        self.train6 = train6
        self.pending: list[DatagramFlow] = []
        self.lengths = [0] * DATAGRAM_BATCH
        self.cuts = [0] * DATAGRAM_BATCH

    def _trains(self, flow: DatagramFlow) -> bool:
        return self.train4 if len(flow.guest.address) == 4 else self.train6

    # -- a flow begins and ends

    def open(self, flow: DatagramFlow) -> int:
        """Give `flow` its socket, connected to its peer. 0 or errno."""
        target = flow.host or flow.peer
        try:
            if flow.protocol == 17:
                sock = sockets.open_udp(flow.guest.port, target, self._trains(flow), self.sink.outbound)
            else:
                sock = sockets.open_ping(target.address, self.sink.outbound)
        except OSError as error:
            return error.errno or errno.EIO
        self.adopt(flow, sock)
        return 0

    def adopt(self, flow: DatagramFlow, sock: Any) -> None:
        """Let `flow` use `sock`, which is connected."""
        flow.sock = sock
        flow.fd = sock.fileno()
        self.sink.flows[flow.fd] = flow
        self.sink.reactor.watch(flow.fd, self.ready if flow.protocol == 17 else self.ready_echo, EPOLLIN)

    def close(self, flow: DatagramFlow, how: str) -> None:
        """The flow is over. Idempotent."""
        if flow.sock is None:
            return
        sink = self.sink
        sink.reactor.unwatch(flow.fd)
        sink.flows.pop(flow.fd, None)
        flow.sock.close()
        flow.sock = None
        flow.fd = -1
        flow.deadline = NEVER
        sink.table.remove(flow)
        sink.closed(flow, how)

    def leave_lost_addresses(self, present: frozenset[bytes]) -> None:
        """End the flows whose socket has a source that is not among `present`, the host's addresses (packed).

        Such a socket keeps it for ever: over IPv4 every send fails, over IPv6 nobody can answer. The guest's next
        datagram begins a new flow.
        """
        for flow in list(self.sink.flows.values()):
            if isinstance(flow, DatagramFlow) and flow.sock is not None:
                source = pack(flow.sock.getsockname()[0].partition("%")[0])
                if any(source) and source not in present:
                    self.close(flow, "unreachable")

    def deadline(self, flow: DatagramFlow, now: float) -> None:
        """Silence may have lasted long enough."""
        if flow.sock is None:
            return
        at = flow.last_active + flow.timeout
        if at <= now:
            self.close(flow, "closed")
        else:
            self.sink.deadlines.arm(flow, at)

    # -- guest to host

    def queue(self, flow: DatagramFlow, at: int, length: int, cut: int) -> int:
        """See `Sink.send_datagram`. `cut`: the frame is a train of datagrams of that size."""
        if 0 < cut < length:
            if length > cut * MAX_CARS:
                return OFFLOAD
            # The pieces of a train are queued like single datagrams: they leave as one train again.
            for offset in range(0, length, cut):
                self._queue_one(flow, at + offset, min(cut, length - offset))
            return 0
        self._queue_one(flow, at, length)
        return 0

    def _queue_one(self, flow: DatagramFlow, at: int, length: int) -> None:
        if not flow.pieces:
            self.pending.append(flow)
        flow.pieces.append(at)
        flow.pieces.append(length)
        flow.sent += length

    def flush(self) -> None:
        """See `Sink.flush_datagrams`."""
        if not self.pending:
            return
        pending, self.pending = self.pending, []
        for flow in pending:
            pieces = flow.pieces
            flow.pieces = []
            if flow.sock is not None:
                self._send(flow, pieces)

    def _send(self, flow: DatagramFlow, pieces: list[int]) -> None:
        start = 0
        total = len(pieces) >> 1
        while start < total:
            count, size = _train(pieces, start, total)
            sent = 0
            if count > 1:
                part = pieces[2 * start : 2 * (start + count)]
                sent = self.arena.send_datagrams(flow.sock, part, count, size)
                if sent == -errno.ECONNREFUSED and self._failed(flow, sent, 0):
                    # A report about an earlier datagram came in place of the result: try once more.
                    sent = self.arena.send_datagrams(flow.sock, part, count, size)
            if count == 1 or sent in (-errno.EINVAL, -errno.EMSGSIZE, -errno.EIO):
                sent = self._send_singly(flow, pieces[2 * start : 2 * (start + count)], count)
            elif sent < 0:
                self._failed(flow, sent, count)
            start += count

    def _send_singly(self, flow: DatagramFlow, pieces: list[int], count: int) -> int:
        done = 0
        while done < count:
            sent = self.arena.send_datagrams(flow.sock, pieces[2 * done :], count - done, 0)
            if sent < 0:
                # A report about an earlier datagram is returned once in place of this one's result: try this one again.
                if self._failed(flow, sent, 0):
                    sent = self.arena.send_datagrams(flow.sock, pieces[2 * done :], 1, 0)
                if sent < 0:
                    self._failed(flow, sent, 1)
                    sent = 1
            done += sent
        return count

    def _failed(self, flow: DatagramFlow, error: int, count: int) -> bool:
        """Count `count` lost datagrams; pass on what the error queue holds. Whether anything was there."""
        full = error in (-errno.EAGAIN, -errno.ENOBUFS)
        if count:
            self.sink.counters.values[HOST_BUFFER_FULL if full else HOST_SEND_FAILED] += count
        if full:
            return False
        reported = self._report_errors(flow)
        if count and not reported:
            self.sink.transmit_error(self.sink.gateway.unreachable_flow(flow, -error, 0, b""))
        return reported

    def _report_errors(self, flow: DatagramFlow) -> bool:
        for taken in range(MAX_ERRORS):
            report = sockets.read_error(flow.sock)
            if report is None:
                return taken > 0
            self.sink.transmit_error(self.sink.gateway.relay_error(flow, report))
        return True

    # -- host to guest

    def ready(self, descriptor: int, events: int, now: float) -> None:
        """Handler of UDP sockets."""
        flow = self.sink.flows.get(descriptor)
        if flow is None:
            return
        self.sink.now = now
        if events & EPOLLERR and not self._report_errors(flow):
            sockets.socket_error(flow.sock)
        if events & EPOLLIN:
            self._receive(flow, now)

    def _receive(self, flow: DatagramFlow, now: float) -> None:
        headers = 12 + len(flow.template)
        # The headers of a datagram end where its payload begins: slots are shifted by the headroom.
        first = DATAGRAM_AT + HEADROOM
        lengths, cuts = self.lengths, self.cuts
        count = self.arena.receive_datagrams(flow.sock, first, STRIDE, DATAGRAM_BATCH, lengths, cuts)
        if count <= 0:
            return
        flow.last_active = now
        sink = self.sink
        egress = sink.egress
        trains = self._trains(flow)
        index = 0
        while index < count:
            length = lengths[index]
            at = first + index * STRIDE
            joined = 1
            cut = cuts[index]
            if length < 0:
                index += 1
                continue
            if trains and not cut and length:
                joined, length = self._join(index, count, at)
                cut = lengths[index] if joined > 1 else 0
            flow.received += length
            sink.transmit(at - headers, egress.datagram(flow, at - headers, length, cut))
            index += joined

    def _join(self, index: int, count: int, at: int) -> tuple[int, int]:
        """Move the payloads of equal datagrams from `index` on together. How many, and their bytes in all."""
        lengths, cuts = self.lengths, self.cuts
        size = lengths[index]
        most = min(count - index, MAX_TRAIN_BYTES // size)
        joined = 1
        total = size
        view = self.arena.view
        while joined < most:
            length = lengths[index + joined]
            if length > size or length <= 0 or cuts[index + joined]:
                break
            source = at + joined * STRIDE
            view[at + total : at + total + length] = view[source : source + length]
            total += length
            joined += 1
            if length < size:
                break
        return joined, total

    # -- ICMP echo

    def send_echo(self, flow: DatagramFlow, sequence: int, at: int, end: int) -> int:
        """See `Sink.send_echo`. Identifier and checksum are the kernel's (icmp(7))."""
        kind = 8 if flow.protocol == 1 else 128
        message = bytes((kind, 0, 0, 0, 0, 0, sequence >> 8, sequence & 0xFF)) + bytes(self.arena.view[at:end])
        try:
            flow.sock.send(message)
        except OSError as error:
            self._failed(flow, -(error.errno or errno.EIO), 0)
            return HOST_SEND_FAILED
        flow.sent += end - at
        return 0

    def ready_echo(self, descriptor: int, events: int, now: float) -> None:
        """Handler of ping sockets."""
        flow = self.sink.flows.get(descriptor)
        if flow is None:
            return
        self.sink.now = now
        if events & EPOLLERR and not self._report_errors(flow):
            sockets.socket_error(flow.sock)
        for _ in range(DATAGRAM_BATCH):
            try:
                message = flow.sock.recv(65536)
            except OSError:
                return
            if len(message) < 8 or message[0] not in (0, 129):
                continue
            flow.last_active = now
            flow.received += len(message) - 8
            self.sink.transmit_frame(self.sink.gateway.echo_reply(flow, message))

    # -- DNS

    def resolve(self, message: bytes, guest: Endpoint, gateway: Endpoint) -> None:
        """See `Sink.resolve`."""

        def answer(response: bytes) -> None:
            self.sink.transmit_frame(self.sink.gateway.datagram(gateway, guest, response))

        self.sink.resolver(message, answer, DNS_LIMIT)
        self.sink.reactor.interrupt()


def _train(pieces: list[int], start: int, total: int) -> tuple[int, int]:
    """How many datagrams from `start` on make one train, and the size of its cars: equal ones, and one shorter at the
    end.
    """
    size = pieces[2 * start + 1]
    if size == 0:
        return 1, 0
    most = min(MAX_TRAIN, MAX_TRAIN_BYTES // size, total - start)
    count = 1
    while count < most:
        length = pieces[2 * (start + count) + 1]
        if length > size or length == 0:
            break
        count += 1
        if length < size:
            break
    return count, size
