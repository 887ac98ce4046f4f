"""What the state machines decide is done here: on host sockets and on the link (the production `Out`, see `base.out`).

The arena holds all frames. Slots at its front are the link's; behind them one frame is built for the guest at a time,
one reassembled packet is put, and a batch of datagrams is received with room for headers in front of each.

Order within a turn: handlers run (link, sockets), TCP flows that have something to say queue themselves once,
datagrams queue behind their flow; at the end of the turn datagrams leave first, then each queued flow says everything
in one go. Failures that a machine must not hear from inside its own call wait in `_news` for the same moment.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from bucatini.base.address import Endpoint, family_of
from bucatini.base.events import Ending, FlowClosed, FlowOpened, FlowRefused, Listener
from bucatini.base.reasons import Counters, DropReason
from bucatini.base.verdict import INGRESS
from bucatini.engine.datagrams import Datagrams
from bucatini.engine.layout import BATCH, REASSEMBLY_AT, TRANSMIT_AT
from bucatini.engine.reactor import Reactor
from bucatini.flows.datagram_flow import DatagramFlow
from bucatini.flows.table import FlowTable
from bucatini.flows.tcp import gathered_pushed, host_connected, host_failed, host_readable, host_writable
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.flows.tcp_gap import blocks, forget
from bucatini.flows.tcp_output import deadline, flush
from bucatini.host import sockets
from bucatini.native import Arena
from bucatini.stack.deadlines import Deadlines
from bucatini.stack.egress import Egress
from bucatini.stack.gateway import Gateway
from bucatini.stack.settings import StackSettings

__all__ = ["Sink"]

EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
READABLE = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP
HANGUP = select.EPOLLRDHUP | select.EPOLLHUP
EPOLLPRI = select.EPOLLPRI
EPOLLOUT = select.EPOLLOUT
EPOLLERR = select.EPOLLERR
RST = 0x04
ACK = 0x10
NEVER = float("inf")
CONNECTING = 0
TIME_WAIT = 9
CLOSED = 10
EAGAIN = errno.EAGAIN
ENOBUFS = errno.ENOBUFS
ENOTCONN = errno.ENOTCONN
BUG = int(DropReason.BUG)
LINK_FULL = int(DropReason.LINK_FULL)
LINK_WRITE_FAILED = int(DropReason.LINK_WRITE_FAILED)
MOST_GATHERED = 1 << 18
"""Bytes pushed with one call."""
LARGE_MTU = 16384
"""Bytes from which on a segment may be as large as a new socket's send buffer."""
MAX_KEPT = 16 << 20
"""Bytes ahead of gaps, of all flows together, and what Python's objects for them take."""
PIECE_COST = 160
PROTOCOL_NAMES = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}

ServiceStream = Callable[[Endpoint], socket.socket | None]
"""Gives our end of a stream to a service of the gateway at an endpoint, or None when the endpoint is no service."""


class Sink:
    """One guest's hands. `service_stream` answers for the gateway's own TCP services."""

    def __init__(
        self,
        arena: Arena,
        link: Any,
        egress: Egress,
        gateway: Gateway,
        table: FlowTable,
        reactor: Reactor,
        settings: StackSettings,
        counters: Counters,
        peek_offset: bool,
        train4: bool,
        train6: bool,
        service_stream: ServiceStream,
        resolve: Callable[[bytes, Callable[[bytes], None], int], None],
    ) -> None:
        self.arena = arena
        self.link = link
        self.egress = egress
        self.gateway = gateway
        self.table = table
        self.reactor = reactor
        self.settings = settings
        self.counters = counters
        self.deadlines = Deadlines()
        self.peek_skips = not peek_offset
        self.service_stream = service_stream
        self.outbound = sockets.ANYHOW
        """What sockets towards the network are bound to; may be replaced while flows live."""
        self.resolver = resolve
        self.multicast: Any = None
        """`engine.multicast.Multicast`; set by the composition root."""
        self.listeners: list[Listener] = []
        self.flow_events = True
        """Whether any of `listeners` wants to hear of flows opened and closed; of refused ones they always hear."""
        self.flows: dict[int, Any] = {}
        self.now = 0.0
        self.direct: Any = None
        """`pull` of a link that takes payload straight into the guest's memory, see `links.vhost_user`."""
        self.ask: Callable[[bytes], None] | None = None
        """Asks for the MAC address of a guest that is to be spoken to at this address and was never heard; None: known.
        """
        self.sent_frames = 0
        self.last_refusal = ""
        self.bug_seen = False
        self.kept = 0
        self._queue: list[TcpFlow] = []
        self._news: list[tuple[TcpFlow, int]] = []
        self._again: list[Callable[[], None]] = []
        self._blocked: list[TcpFlow] = []
        self._gathered: TcpFlow | None = None
        self._pieces: list[int] = []
        self._gathered_bytes = 0
        self._line: deque[TcpFlow] = deque()
        self.datagrams = Datagrams(self, train4, train6)

    # -- the link

    def transmit(self, at: int, length: int) -> None:
        """Send the frame at `at`; a refusal is counted, and the transport recovers as from any loss."""
        done = self.link.transmit(self.arena, at, length)
        if done == -ENOTCONN:
            return  # nobody is there who could miss it
        if done < 0:
            self.counters.values[LINK_FULL if done == -EAGAIN else LINK_WRITE_FAILED] += 1
        else:
            self.sent_frames += 1

    def transmit_frame(self, frame: bytes) -> None:
        """Send a complete Ethernet frame made elsewhere."""
        self.transmit(TRANSMIT_AT, self.egress.plain(TRANSMIT_AT, frame))

    def transmit_error(self, frame: bytes | None) -> None:
        """As `transmit_frame`, of an ICMP error, which may be None: none is due, or too many were."""
        if frame is not None:
            self.transmit_frame(frame)

    def place_packet(self, packet: bytes, version: int) -> tuple[int, int]:
        """Put a reassembled IP packet into the arena as a frame for `Ingress.frame`. Its position and length."""
        view = self.arena.view
        header = self.gateway.frame_header(version, self.link.header)
        end = REASSEMBLY_AT + len(header) + len(packet)
        view[REASSEMBLY_AT : REASSEMBLY_AT + len(header)] = header
        view[REASSEMBLY_AT + len(header) : end] = packet
        return REASSEMBLY_AT, len(header) + len(packet)

    def room(self, flow: TcpFlow) -> bool:
        """See `TcpOut`. Whoever hears no is scheduled by `room_again`."""
        if self.link.room():
            return True
        if not flow.blocked:
            flow.blocked = True
            self._blocked.append(flow)
        return False

    def room_again(self) -> None:
        """The link takes frames again: those who waited for it go on with this turn."""
        blocked, self._blocked = self._blocked, []
        for flow in blocked:
            flow.blocked = False
            self.schedule(flow)

    # -- TCP: base.out.TcpOut

    def connect(self, flow: TcpFlow) -> None:
        """See `TcpOut`."""
        target = flow.host or flow.peer
        try:
            stream = self.service_stream(flow.peer)
            if stream is not None:
                flow.sock = stream
                self._adopt(flow)
                self._news.append((flow, 0))
                return
            flow.sock = sockets.open_tcp(family_of(target.address))
            self.outbound.apply(flow.sock, target.address)
            self._widen(flow.sock)
            error = sockets.connect(flow.sock, target, self.outbound.scope_of(target.address))
        except OSError as failure:
            error = failure.errno or errno.EIO
        if error:
            self._news.append((flow, error))
            return
        self._adopt(flow)

    def _adopt(self, flow: TcpFlow) -> None:
        flow.fd = flow.sock.fileno()
        self.flows[flow.fd] = flow
        self.reactor.watch(flow.fd, self.ready, EDGE)

    def syn(self, flow: TcpFlow, flags: int) -> None:
        """See `TcpOut`."""
        mss = self.settings.mss(len(flow.guest.address))
        self.transmit(TRANSMIT_AT, self.egress.syn(flow, TRANSMIT_AT, flags, mss))

    def segment(self, flow: TcpFlow, flags: int, seq: int, length: int) -> None:
        """See `TcpOut`."""
        if flow.gathering:
            self.push_gathered()
        if flow.beyond_bytes and flow.sack and flags == ACK and not length:
            self.transmit(TRANSMIT_AT, self.egress.acknowledgement(flow, TRANSMIT_AT, seq, blocks(flow)))
            return
        self.transmit(TRANSMIT_AT, self.egress.segment(flow, TRANSMIT_AT, flags, seq, length))

    def pull(self, flow: TcpFlow, limit: int) -> int:
        """See `TcpOut`."""
        headers = 12 + len(flow.template)
        skip = -1
        if flow.peek_skips:
            skip = ((flow.snd_nxt - flow.snd_una) & 0xFFFFFFFF) + flow.discard_due
        got = -ENOBUFS if self.direct is None else self.direct(self.arena, flow.sock, headers, limit, skip)
        if got == -ENOBUFS:
            got = self.arena.peek(flow.sock, TRANSMIT_AT + headers, limit, skip)
        if not flow.peek_skips:
            return got
        if got == -EAGAIN and flow.rdhup:
            # Nothing behind the bytes in flight, and the peer sends no more: end of stream.
            return 0
        return got

    def rewind(self, flow: TcpFlow) -> int:
        """See `TcpOut`."""
        return 0 if flow.peek_skips else self.arena.set_peek_offset(flow.sock, flow.discard_due)

    def discard(self, flow: TcpFlow, count: int) -> int:
        """See `TcpOut`."""
        return self.arena.discard(flow.sock, count)

    def gather(self, flow: TcpFlow, at: int, length: int) -> None:
        """See `TcpOut`."""
        if self._gathered is not flow or self._gathered_bytes >= MOST_GATHERED:
            self.push_gathered()
            self._gathered = flow
            flow.gathering = True
        self._pieces.append(at)
        self._pieces.append(length)
        self._gathered_bytes += length
        if len(self._pieces) == 2 * BATCH:
            self.push_gathered()

    def push_gathered(self) -> None:
        """See `TcpOut`."""
        flow = self._gathered
        if flow is None:
            return
        pieces, total = self._pieces, self._gathered_bytes
        self._gathered, self._pieces, self._gathered_bytes = None, [], 0
        flow.gathering = False
        if flow.sock is not None:
            took = self.arena.send_pieces(flow.sock, pieces, len(pieces) >> 1)
            gathered_pushed(flow, took, total, self)

    def push(self, flow: TcpFlow, at: int, length: int) -> int:
        """See `TcpOut`."""
        return self.arena.send(flow.sock, at, length)

    def keep(self, at: int, length: int) -> bytes | None:
        """See `TcpOut`."""
        if self.kept + length + PIECE_COST > MAX_KEPT:
            return None
        self.kept += length + PIECE_COST
        return self.arena.copy(at, length)

    def let_go(self, count: int) -> None:
        """See `TcpOut`."""
        self.kept -= count + PIECE_COST

    def push_kept(self, flow: TcpFlow, data: bytes) -> int:
        """See `TcpOut`."""
        try:
            return flow.sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # type: ignore[no-any-return]
        except OSError as error:
            return -(error.errno or errno.EIO)

    def send_space(self, flow: TcpFlow) -> int:
        """See `TcpOut`."""
        return self.arena.send_space(flow.sock)

    def await_space(self, flow: TcpFlow) -> None:
        """See `TcpOut`. Renewing the interest makes the kernel look, and remember to call when there is no room now."""
        if flow.fd >= 0:
            self.reactor.rewatch(flow.fd, EDGE)

    def shutdown(self, flow: TcpFlow) -> None:
        """See `TcpOut`."""
        self.push_gathered()
        with contextlib.suppress(OSError):
            flow.sock.shutdown(socket.SHUT_WR)

    def reset_guest(self, flow: TcpFlow) -> None:
        """See `TcpOut`."""
        self.segment(flow, RST | ACK, flow.snd_nxt, 0)

    def unreachable(self, flow: TcpFlow, error: int) -> None:
        """See `TcpOut`."""
        self.transmit_error(self.gateway.unreachable_syn(flow, error))

    def release(self, flow: TcpFlow) -> None:
        """See `TcpOut`."""
        self.push_gathered()
        self._finish_queue(flow)
        self._close_socket(flow)
        self.table.waiting[flow.id] = flow

    def _finish_queue(self, flow: TcpFlow) -> None:
        """Consume what the guest has acknowledged: a socket closed with unread bytes would reset the peer."""
        if flow.discard_due and flow.sock is not None:
            self.arena.discard(flow.sock, flow.discard_due)
            flow.discard_due = 0

    def close(self, flow: TcpFlow, how: str) -> None:
        """See `TcpOut`."""
        self.push_gathered()
        if flow.state == CLOSED:
            return
        flow.move(CLOSED)
        flow.open = False
        flow.deadline = NEVER
        if how == "closed":
            self._finish_queue(flow)
        self._close_socket(flow)
        self.table.remove(flow)
        self.closed(flow, how)

    def abort(self, flow: TcpFlow, how: str) -> None:
        """See `TcpOut`."""
        self.push_gathered()
        if flow.sock is not None:
            sockets.reset_on_close(flow.sock)
        self.close(flow, how)

    def _close_socket(self, flow: Any) -> None:
        if flow.fd >= 0:
            self.reactor.forget(flow.fd)
            self.flows.pop(flow.fd, None)
            flow.fd = -1
        if flow.sock is not None:
            flow.sock.close()
            flow.sock = None
        forget(flow, self)

    def schedule(self, flow: TcpFlow) -> None:
        """See `TcpOut`."""
        if not flow.queued:
            flow.queued = True
            self._queue.append(flow)

    def resume_later(self, work: Callable[[], None]) -> None:
        """Call `work` in the next turn, which then follows at once: it has used up its share of this one."""
        self._again.append(work)

    def acknowledge_later(self, flow: TcpFlow) -> None:
        """See `TcpOut`. All wait equally long, so the line is in order of time."""
        if not flow.in_line:
            flow.in_line = True
            self._line.append(flow)

    def keep_alive(self, flow: TcpFlow) -> None:
        """See `TcpOut`."""
        with contextlib.suppress(OSError):
            flow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def arm(self, flow: TcpFlow, at: float) -> None:
        """See `TcpOut`."""
        self.deadlines.arm(flow, at)

    # -- flows begin and end

    def opened(self, flow: Any) -> None:
        """A flow was let in: give it its template and tell everybody."""
        if self.ask is not None and flow.direction == INGRESS:
            self.ask(flow.guest.address)
        self.egress.prepare(flow, flow.guest, flow.peer, flow.protocol)
        if flow.protocol == 6:
            flow.peek_skips = self.peek_skips
        else:
            self.deadlines.arm(flow, self.now + flow.timeout)
        self.announce(flow)

    def announce(self, flow: Any) -> None:
        """Tell everybody that `flow` exists."""
        if self.flow_events:
            name = PROTOCOL_NAMES[flow.protocol]
            self.tell(FlowOpened(flow.id, name, flow.direction, flow.guest, flow.peer, flow.host, flow.rule))

    def adopt_accepted(self, flow: TcpFlow, sock: socket.socket) -> None:
        """The host side of a flow to a published port: a socket that is connected already."""
        flow.sock = sock
        self._widen(sock)
        self._adopt(flow)

    def _widen(self, sock: socket.socket) -> None:
        """Of a link whose segments are large: a window below two of them would have the guest wait for a timer."""
        if self.settings.mtu > LARGE_MTU:
            sockets.widen(sock)

    def refused(self, event: FlowRefused) -> None:
        """A flow was not let in."""
        self.last_refusal = event.rule
        self.tell(event)

    def closed(self, flow: Any, how: str) -> None:
        """A flow is over: report it."""
        if self.flow_events:
            self.tell(
                FlowClosed(
                    flow.id,
                    PROTOCOL_NAMES[flow.protocol],
                    flow.direction,
                    flow.guest,
                    flow.peer,
                    flow.host,
                    flow.rule,
                    flow.received if flow.protocol == 6 else flow.sent,
                    flow.sent if flow.protocol == 6 else flow.received,
                    self.now - flow.opened_at,
                    Ending(how),
                )
            )

    def tell(self, event: Any) -> None:
        """Hand an event to every listener."""
        for listener in self.listeners:
            listener.on_event(event, self.now)

    # -- datagrams, see engine.datagrams

    def open_datagram(self, flow: DatagramFlow) -> int:
        """Give `flow` its socket. 0 or errno."""
        return self.datagrams.open(flow)

    def send_datagram(self, flow: DatagramFlow, at: int, length: int, cut: int) -> int:
        """Queue a datagram of the current frame for the host. Returns a `DropReason`, 0 when it is queued."""
        return self.datagrams.queue(flow, at, length, cut)

    def send_echo(self, flow: DatagramFlow, sequence: int, at: int, end: int) -> int:
        """Send an echo request with the payload at `at`..`end`. Returns a `DropReason` or 0."""
        return self.datagrams.send_echo(flow, sequence, at, end)

    def flush_datagrams(self) -> None:
        """Send what is queued or gathered, before the slots it lies in are used again."""
        self.push_gathered()
        self.datagrams.flush()

    def send_to_group(self, guest: Endpoint, group: Endpoint, payload: bytes, hop_limit: int) -> int:
        """Send a datagram of the guest to a multicast group. 0 or errno."""
        return self.multicast.send(guest, group, payload, hop_limit)  # type: ignore[no-any-return]

    def membership(self, frame: bytes) -> int:
        """The guest joins or leaves groups. Returns a `DropReason` or 0."""
        return self.multicast.report(frame, self.now)  # type: ignore[no-any-return]

    def resolve(self, message: bytes, guest: Endpoint, gateway: Endpoint) -> None:
        """Ask the resolver; its answer goes back as one datagram from the gateway."""
        self.datagrams.resolve(message, guest, gateway)

    # -- the reactor's side

    def ready(self, descriptor: int, events: int, now: float) -> None:
        """Handler of every TCP flow's socket."""
        flow = self.flows.get(descriptor)
        if flow is None:
            return
        self.now = now
        try:
            self._ready(flow, events, now)
        except Exception as error:
            self.bug(error, flow)

    def bug(self, error: Exception, flow: TcpFlow | None = None) -> None:
        """An exception that nobody should have raised strikes one flow and not the guest: count, say it once, end the
        flow.
        """
        self.counters.values[BUG] += 1
        if not self.bug_seen:
            self.bug_seen = True
            sys.stderr.write("bucatini: error of ours, please report it:\n")
            traceback.print_exception(error)
        if flow is not None and flow.state != CLOSED:
            flow.state = CLOSED
            flow.open = False
            flow.deadline = NEVER
            self._close_socket(flow)
            self.table.remove(flow)
            self.closed(flow, "failed")

    def _ready(self, flow: TcpFlow, events: int, now: float) -> None:
        if events & EPOLLERR:
            error = sockets.socket_error(flow.sock)
            if error:
                host_failed(flow, error, self)
                return
        if events & EPOLLOUT:
            if flow.state == CONNECTING:
                host_connected(flow, now, self)
            else:
                host_writable(flow, self)
        if events & READABLE:
            host_readable(flow, bool(events & HANGUP), bool(events & EPOLLPRI), self)

    def end_of_turn(self, now: float) -> float:
        """Flush everything; returns when the next deadline is, or `now` when work is left."""
        self.now = now
        self.gateway.now = now
        self.datagrams.flush()
        if self._news:
            self._deliver_news(now)
        due = self.deadlines.due(now)
        while due is not None:
            try:
                self._deadline(due, now)
            except Exception as error:
                self.bug(error)
            due = self.deadlines.due(now)
        if self._again:
            again, self._again = self._again, []
            for work in again:
                try:
                    work()
                except Exception as error:
                    self.bug(error)
        if self._line:
            self._call_waiting(now)
        queue = self._queue
        if queue:
            self._queue = []
            for flow in queue:
                try:
                    flush(flow, now, self)
                except Exception as error:
                    self.bug(error, flow)
        self.link.flush()
        if self._queue or self._news or self._again:
            return now
        due_at = self.deadlines.next()
        return min(due_at, self._line[0].ack_wait) if self._line else due_at

    def _call_waiting(self, now: float) -> None:
        """Queue the flows whose acknowledgement has waited long enough; forget those that needed to wait no more."""
        line = self._line
        while line:
            flow = line[0]
            if flow.ack_due and flow.ack_wait > now:
                return
            line.popleft()
            flow.in_line = False
            if flow.ack_due:
                self.schedule(flow)

    def _deliver_news(self, now: float) -> None:
        news, self._news = self._news, []
        for flow, error in news:
            if error:
                host_failed(flow, error, self)
            else:
                host_connected(flow, now, self)

    def _deadline(self, owner: Any, now: float) -> None:
        if isinstance(owner, TcpFlow):
            deadline(owner, now, self)
        elif isinstance(owner, DatagramFlow):
            self.datagrams.deadline(owner, now)
        else:
            owner.due(now)

    def revoke(self, flow: Any) -> None:
        """End a flow that policy refuses since it was changed: both ends of a TCP flow get a reset."""
        if isinstance(flow, TcpFlow) and flow.state not in (CONNECTING, TIME_WAIT):
            self.reset_guest(flow)
        self._end(flow, "ended by policy")

    def stop(self) -> None:
        """End every flow: peers of open TCP flows get a reset, as when a host goes down."""
        for flow in self.table.all():
            self._end(flow, "engine stopped")

    def _end(self, flow: Any, how: str) -> None:
        if isinstance(flow, TcpFlow):
            self.abort(flow, how)
        elif isinstance(flow, DatagramFlow):
            self.datagrams.close(flow, how)
        else:
            flow.close(how)
