"""TCP towards the guest: what leaves at the end of a turn, and what time makes leave (RFC 9293 3.8, 3.10.8; RFC 6298;
RFC 5681).

Once per turn `flush` (1) consumes what the guest acknowledged, (2) pulls bytes from the host socket into superframes
as far as the guest's window goes, (3) sends one acknowledgement if none travelled on data; that of a small request
waits a moment for its answer. One clock per flow, its meaning read from the state:

```text
handshake      SYN or SYN,ACK again after 1, 2, 4, 8, 16 s, then the flow ends
in flight      from the first unacknowledged byte again after 0.2 s, doubling to 30 s; after 12 times the flow ends
zero window    a probe (an old sequence number, no payload) after 0.2 s, doubling to 60 s, as long as it is answered
idle           after 2 h a probe, to the peer too; after 9, 75 s apart, the flow ends (tcp(7), tcp_keepalive_*)
TIME_WAIT      2 s: the wire to the guest has no length, only a lost last ACK has to be covered
```

There is no congestion control: the wire is a queue of this kernel. Loss is a full queue, and it is answered by going
back to the first unacknowledged byte, once per window.
"""

from __future__ import annotations

from errno import EAGAIN, EINTR

from bucatini.base.out import TcpOut
from bucatini.flows.sequence import add, distance
from bucatini.flows.tcp_flow import NEVER, TcpFlow
from bucatini.flows.tcp_states import (
    CLOSE_WAIT,
    CLOSED,
    CONNECTING,
    ESTABLISHED,
    FIN_WAIT_1,
    LAST_ACK,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
)

__all__ = [
    "deadline",
    "flush",
    "initial_window",
    "outside",
    "retransmit",
    "update_window",
    "wait_in_time_wait",
]

FIN = 0x01
SYN = 0x02
PSH = 0x08
ACK = 0x10

MAX_BURST = 16
"""Superframes per flow and turn: about 1 MiB, so that one download does not starve the rest."""
MAX_IN_FLIGHT = 1 << 24
"""Bytes: more of a window is not used; it is the largest a scale of 8 can express."""
MAX_SKIP = (1 << 18) - (1 << 14)
"""Bytes in flight where the kernel keeps no peek offset and they are read again at each peek: with `DISCARD_AT` bytes
that may stay before them, no more than `native` has scratch memory for.
"""
INITIAL_WINDOW = 65535
"""Bytes offered with our SYN: the most an unscaled field holds, and no more than every send buffer takes."""

DISCARD_AT = 1 << 11
"""Acknowledged bytes may stay in the socket's queue up to this many: a short answer then costs no call of its own."""
DISCARD_ACKS = 8
"""Acknowledgements whose bytes may stay: a peek walks over what stays, packet by packet."""
KEEP = 0.01
"""Seconds they stay at most: little, for they take room in the peer's window that it may be waiting for."""
ACK_BYTES = 2 * 1448
"""From this many on an acknowledgement does not wait."""
ACK_DELAY = 0.001
"""Seconds, see `_may_wait`."""

SMALL_WINDOW = 16384
"""Bytes; of a link with a large MTU two segments may be more than a send buffer."""

RTO_MIN = 0.2
"""Seconds, as Linux has it (tcp(7)); RFC 6298 asks for 1 s on paths that can be long."""
RTO_MAX = 30.0
RETRIES = 12
SYN_RTO = 1.0
SYN_RETRIES = 5
PERSIST_MAX = 60.0
IDLE = 7200.0
IDLE_PROBE = 75.0
IDLE_PROBES = 9
TIME_WAIT_SECONDS = 2.0


def initial_window(flow: TcpFlow) -> None:
    """Open the receive window for the handshake, before the host socket can be asked."""
    flow.rcv_edge = add(flow.rcv_nxt, INITIAL_WINDOW)
    flow.rcv_acked = flow.rcv_nxt
    flow.space = INITIAL_WINDOW


def update_window(flow: TcpFlow, out: TcpOut) -> None:
    """Move the right edge of the receive window to what the host socket takes; it never moves back (RFC 9293
    3.8.6.2.2).

    An eighth of the space is left to the kernel's own overhead. A window of less than two segments is not offered
    (silly window avoidance, RFC 1122 4.2.3.3): the socket calls when a third of it is free.
    """
    if flow.guest_fin or not flow.open:
        return
    space = flow.space - flow.pushed
    if space < flow.space >> 1 or flow.space < 0:
        flow.space = space = out.send_space(flow)
        flow.pushed = 0
    usable = space - (space >> 3)
    limit = 0xFFFF << flow.rcv_scale
    if usable > limit:
        usable = limit
    offered = distance(flow.rcv_edge, flow.rcv_nxt)
    small = min(2 * flow.mss, SMALL_WINDOW)
    if usable >= small and usable > offered:
        flow.rcv_edge = add(flow.rcv_nxt, usable)
    elif offered < small and not flow.await_space:
        flow.await_space = True
        out.await_space(flow)


def outside(flow: TcpFlow) -> int:
    """The number of a segment without payload: the first that was never sent, or the edge of the guest's window if that
    comes before.

    It differs from `snd_nxt` after going back. A guest may have taken what is sent again: to it `snd_nxt` would be an
    old number, and the acknowledgement under it lost (RFC 9293 3.10.7.4, first).
    """
    edge = add(flow.snd_una, flow.snd_wnd)
    return flow.snd_max if distance(flow.snd_max, edge) <= 0 else edge


def flush(flow: TcpFlow, now: float, out: TcpOut) -> None:
    """End of turn: consume, pull, acknowledge. Safe in every state."""
    flow.queued = False
    if flow.state == CLOSED:
        return
    if flow.open:
        if (flow.discard_due >= DISCARD_AT or flow.kept_acks >= DISCARD_ACKS) and not _discard(flow, out):
            return
        if flow.readable:
            _pump(flow, now, out)
            if flow.state == CLOSED:
                return
    if flow.ack_due and flow.state != CONNECTING:
        update_window(flow, out)
        if not flow.ack_now and _may_wait(flow, now):
            out.acknowledge_later(flow)
            return
        out.segment(flow, ACK, outside(flow), 0)
        if flow.refused_tail and not flow.await_space:
            # The guest saw the window reopen; three more copies make its fast retransmit start at once (RFC 5681 3.2).
            flow.refused_tail = False
            for _ in range(3):
                out.segment(flow, ACK, outside(flow), 0)
        _acknowledged(flow)


def _may_wait(flow: TcpFlow, now: float) -> bool:
    """Whether the acknowledgement of a few bytes may wait for an answer to travel on (RFC 9293 3.8.6.3; RFC 1122
    4.2.3.2).

    Not when two segments of an ordinary size or more were taken, and never longer than `ACK_DELAY`, a fraction of
    what the RFC allows: a guest whose Nagle algorithm waits for it loses no more than that.
    """
    if flow.ack_wait == NEVER:
        flow.ack_wait = now + ACK_DELAY
    return distance(flow.rcv_nxt, flow.rcv_acked) < ACK_BYTES and now < flow.ack_wait and not flow.refused_tail


def _acknowledged(flow: TcpFlow) -> None:
    """An acknowledgement of everything taken so far has left."""
    flow.ack_due = flow.ack_now = False
    flow.rcv_acked = flow.rcv_nxt
    flow.ack_wait = NEVER


def _discard(flow: TcpFlow, out: TcpOut) -> bool:
    done = out.discard(flow, flow.discard_due)
    if done == flow.discard_due:
        flow.discard_due = flow.kept_acks = 0
        return True
    # Bytes that were peeked cannot be gone unless the peer reset the connection.
    out.reset_guest(flow)
    out.close(flow, "reset by peer")
    return False


def _pump(flow: TcpFlow, now: float, out: TcpOut) -> None:
    """Pull what the guest's window allows. Leaves `readable` set only when the turn's share is used up or the window
    is.
    """
    if flow.fin_sent:
        flow.readable = False
        return
    limit_in_flight = MAX_SKIP if flow.peek_skips else MAX_IN_FLIGHT
    burst = 0
    while burst < MAX_BURST:
        in_flight = distance(flow.snd_nxt, flow.snd_una)
        window = flow.snd_wnd if flow.snd_wnd < limit_in_flight else limit_in_flight
        usable = window - in_flight
        if usable <= 0 or (usable < flow.mss and in_flight > 0):
            # The guest's window is used up; its next acknowledgement, or the probe, brings us back (RFC 9293
            # 3.8.6.2.1).
            _arm_transmit(flow, now, out)
            return
        if not out.room(flow):
            # Back when the link takes frames again; what is in flight keeps its clock.
            if in_flight:
                _arm_transmit(flow, now, out)
            return
        limit = flow.superframe if flow.superframe < usable else usable
        got = out.pull(flow, limit)
        if got > 0:
            if flow.ack_due:
                update_window(flow, out)
                _acknowledged(flow)
            out.segment(flow, ACK | PSH if got < limit else ACK, flow.snd_nxt, got)
            flow.snd_nxt = add(flow.snd_nxt, got)
            if distance(flow.snd_nxt, flow.snd_max) > 0:
                flow.sent += distance(flow.snd_nxt, flow.snd_max)
                _sent_further(flow)
            burst += 1
            if got < limit and not flow.careful:
                # Less than was asked for: the queue is drained, and what comes next is a new edge.
                flow.readable = False
                break
        elif got == 0:
            flow.readable = False
            _send_fin(flow, out)
            break
        else:
            flow.readable = False
            if got != -EAGAIN and got != -EINTR:
                out.reset_guest(flow)
                out.close(flow, "reset by peer")
                return
            break
    if burst == MAX_BURST:
        out.schedule(flow)
    _arm_transmit(flow, now, out)


def _send_fin(flow: TcpFlow, out: TcpOut) -> None:
    if flow.state == ESTABLISHED:
        flow.move(FIN_WAIT_1)
    elif flow.state == CLOSE_WAIT:
        flow.move(LAST_ACK)
    update_window(flow, out)
    out.segment(flow, ACK | FIN, flow.snd_nxt, 0)
    _acknowledged(flow)
    flow.fin_sent = True
    flow.snd_nxt = add(flow.snd_nxt, 1)
    if distance(flow.snd_nxt, flow.snd_max) > 0:
        _sent_further(flow)


def _sent_further(flow: TcpFlow) -> None:
    """`snd_nxt` is where nothing was sent before. With nothing in flight until now the clock starts anew."""
    if flow.snd_una == flow.snd_max:
        flow.timer_at = NEVER
    flow.snd_max = flow.snd_nxt


def _arm_transmit(flow: TcpFlow, now: float, out: TcpOut) -> None:
    """Arm the clock for what is in flight, or for the probe when nothing can be."""
    if flow.timer_at < NEVER:
        return
    flow.timer_at = now + RTO_MIN
    out.arm(flow, flow.timer_at)


def retransmit(flow: TcpFlow, out: TcpOut) -> None:
    """Go back to the first byte the guest has not acknowledged."""
    if out.rewind(flow) < 0:
        out.reset_guest(flow)
        out.close(flow, "reset by peer")
        return
    flow.fin_sent = False
    flow.snd_nxt = flow.snd_una
    flow.recover = flow.snd_max
    flow.duplicate_acks = 0
    flow.readable = True
    if not flow.queued:
        out.schedule(flow)


def wait_in_time_wait(flow: TcpFlow, now: float, out: TcpOut) -> None:
    """Both directions are done: let go of the socket, keep the numbers for a moment."""
    flow.move(TIME_WAIT)
    flow.open = False
    out.release(flow)
    flow.timer_at = now + TIME_WAIT_SECONDS
    out.arm(flow, flow.timer_at)


def deadline(flow: TcpFlow, now: float, out: TcpOut) -> None:
    """The armed instant has come, or an older one: do what is due and arm the next."""
    state = flow.state
    if state == CLOSED:
        return
    if flow.timer_at <= now:
        flow.timer_at = NEVER
        if state == TIME_WAIT:
            out.close(flow, "closed")
            return
        if state in (SYN_SENT, SYN_RECEIVED):
            _repeat_syn(flow, now, out)
        elif flow.open:
            _transmit_timeout(flow, now, out)
    elif flow.idle_at <= now and flow.open:
        _idle(flow, now, out)
    if flow.state != CLOSED:
        at = flow.timer_at if flow.timer_at < flow.idle_at else flow.idle_at
        if at < NEVER:
            out.arm(flow, at)


def _repeat_syn(flow: TcpFlow, now: float, out: TcpOut) -> None:
    flow.retries += 1
    if flow.retries > SYN_RETRIES:
        out.reset_guest(flow)
        out.abort(flow, "timeout")
        return
    out.syn(flow, SYN if flow.state == SYN_SENT else SYN | ACK)
    flow.timer_at = now + SYN_RTO * (1 << flow.retries)


def _transmit_timeout(flow: TcpFlow, now: float, out: TcpOut) -> None:
    if flow.snd_una == flow.snd_max and (flow.discard_due or not (flow.readable and flow.snd_wnd == 0)):
        flow.retries = 0
        if flow.discard_due and not _discard(flow, out):
            return
        if flow.readable:
            out.schedule(flow)
        return
    if not out.room(flow):
        # A link that takes nothing (a virtual machine that is paused) is not a guest that does not answer.
        flow.timer_at = now + RTO_MAX
        return
    flow.retries += 1
    if flow.retries > RETRIES:
        out.reset_guest(flow)
        out.abort(flow, "timeout")
        return
    if flow.snd_wnd == 0:
        _probe(flow, out)
        # An answer clears `retries`; `probes` keeps the pace slow until the window opens.
        flow.probes += 1
        flow.timer_at = now + min(RTO_MIN * (1 << min(flow.probes, 20)), PERSIST_MAX)
        return
    flow.timer_at = now + min(RTO_MIN * (1 << flow.retries), RTO_MAX)
    retransmit(flow, out)


def _probe(flow: TcpFlow, out: TcpOut) -> None:
    """A segment outside the guest's window, which it must answer with its current window (RFC 9293 3.8.4, 3.10.7.4)."""
    out.segment(flow, ACK, add(flow.snd_una, -1), 0)


def _idle(flow: TcpFlow, now: float, out: TcpOut) -> None:
    silent = now - flow.last_guest_at
    if silent < IDLE:
        flow.idle_at = flow.last_guest_at + IDLE
        return
    if silent >= IDLE + IDLE_PROBE * IDLE_PROBES:
        out.reset_guest(flow)
        out.abort(flow, "timeout")
        return
    _probe(flow, out)
    out.keep_alive(flow)
    flow.idle_at = now + IDLE_PROBE
