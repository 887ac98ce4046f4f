"""TCP from the guest, and what the host socket reports: the state machine (RFC 9293 3.10; RFC 5961; RFC 7323 for the
scale).

Goals. No payload of ours: the host socket's buffers are the only ones (see `tcp_flow`). Every end a real endpoint can
see, the guest sees too: a reset is a reset, an end of stream half closes, an unreachable host is an ICMP error. What
a guest can do to its own flows is its own affair; what it can do to us is bounded by one record per flow and a few
frames per turn.

Data flow, guest to host. A segment that begins at `rcv_nxt` is pushed into the socket straight from the frame; what
the socket takes is acknowledged, once per turn. Small ones that follow each other within one batch are gathered and
pushed together: they count as taken at once, and what the socket leaves is taken back (`gathered_pushed`). What lies
ahead of a gap is kept within bounds (`tcp_gap`); equal ACKs make the guest's fast retransmit bring it again. When the
socket takes only a part, the rest is dropped and asked for again as soon as the socket has room (`refused_tail`).

Data flow, host to guest. See `tcp_output`.

Ends. The guest's FIN counts only when every byte before it was taken; it becomes a shutdown of the socket's sending
half, nothing else stops: window, acknowledgements and retransmission go on as long as the other half lives. End of
stream from the host becomes our FIN once every byte was sent. A guest's RST at the expected number aborts the socket,
so that the peer sees a reset; inside the window but elsewhere it is challenged (RFC 5961 3.2), so is a SYN (4.2);
outside it is dropped. A socket error becomes RST, or an ICMP error while connecting.

Does not: SACK of our own data, timestamps, ECN, TCP Fast Open (data on a SYN is left for the guest to send again),
urgent pointers (urgent bytes stay in line).
"""

from __future__ import annotations

import errno

from bucatini.base.out import TcpOut
from bucatini.base.reasons import DropReason
from bucatini.flows.sequence import add, distance
from bucatini.flows.tcp_flow import NEVER, TcpFlow
from bucatini.flows.tcp_gap import drain, forget, keep
from bucatini.flows.tcp_output import (
    DISCARD_ACKS,
    DISCARD_AT,
    IDLE,
    KEEP,
    RTO_MIN,
    SYN_RTO,
    initial_window,
    outside,
    retransmit,
    wait_in_time_wait,
)
from bucatini.flows.tcp_states import (
    CLOSE_WAIT,
    CLOSED,
    CLOSING,
    CONNECTING,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    LAST_ACK,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
)
from bucatini.wire.tcp import TcpOptions, TcpView

__all__ = [
    "accepted",
    "gathered_pushed",
    "guest_segment",
    "guest_unreachable",
    "host_connected",
    "host_failed",
    "host_readable",
    "host_writable",
    "open_from_guest",
]

FIN = 0x01
SYN = 0x02
RST = 0x04
ACK = 0x10

WINDOW_SCALE = 8
"""Ours, when the guest offers the option: windows up to 16 MiB in steps of 256 bytes."""

GATHER = 1 << 14
"""Bytes; from here on a segment is worth a call of its own."""

DUPLICATE_ACKS = 3
"""RFC 5681 section 3.2."""

FINE = int(DropReason.NONE)
OUT_OF_WINDOW = int(DropReason.OUT_OF_WINDOW)

UNREACHABLE = frozenset(
    (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM, errno.EHOSTDOWN, errno.ENETDOWN, errno.ENONET)
)
"""Connect errors that a guest would see as an ICMP error on a real network; all others are answered with RST."""


def open_from_guest(flow: TcpFlow, view: TcpView, options: TcpOptions, isn: int, out: TcpOut) -> None:
    """A guest's SYN that policy allowed: hold it and dial. The flow's MSS is set by the caller, who knows the link."""
    flow.irs = view.seq
    flow.rcv_nxt = add(view.seq, 1)
    flow.iss = flow.snd_una = flow.snd_nxt = flow.snd_max = flow.recover = isn
    flow.snd_wnd = view.window
    _take_scale(flow, options)
    initial_window(flow)
    out.connect(flow)


def accepted(flow: TcpFlow, isn: int, now: float, out: TcpOut) -> None:
    """A peer connected to a published port: offer the conversation to the guest."""
    flow.move(SYN_SENT)
    flow.iss = flow.snd_una = flow.recover = isn
    flow.snd_nxt = flow.snd_max = add(isn, 1)
    flow.rcv_scale = WINDOW_SCALE
    initial_window(flow)
    out.syn(flow, SYN)
    flow.timer_at = now + SYN_RTO
    out.arm(flow, flow.timer_at)


def host_connected(flow: TcpFlow, now: float, out: TcpOut) -> None:
    """The host socket of a CONNECTING flow is connected: answer the guest's SYN."""
    if flow.state != CONNECTING:
        return
    flow.move(SYN_RECEIVED)
    flow.snd_nxt = flow.snd_max = add(flow.iss, 1)
    out.syn(flow, SYN | ACK)
    flow.timer_at = now + SYN_RTO
    out.arm(flow, flow.timer_at)


def host_failed(flow: TcpFlow, error: int, out: TcpOut) -> None:
    """The host socket failed with errno `error`: connect(2) refused or unreachable, or a reset later."""
    if flow.state == CLOSED:
        return
    if flow.state == CONNECTING:
        if error in UNREACHABLE:
            out.unreachable(flow, error)
            out.close(flow, "unreachable")
        else:
            out.reset_guest(flow)
            out.close(
                flow,
                "refused by peer"
                if error == errno.ECONNREFUSED
                else "timeout"
                if error == errno.ETIMEDOUT
                else "failed",
            )
        return
    if flow.state != TIME_WAIT:
        out.reset_guest(flow)
    out.close(flow, "timeout" if error == errno.ETIMEDOUT else "reset by peer")


def host_readable(flow: TcpFlow, hangup: bool, urgent: bool, out: TcpOut) -> None:
    """The host socket may have bytes or its end of stream. `hangup`: the peer sends no more; `urgent`: it sent an
    urgent byte.
    """
    flow.readable = True
    if hangup:
        flow.rdhup = True
    if hangup or urgent:
        flow.careful = True
    if flow.open and not flow.queued:
        out.schedule(flow)


def host_writable(flow: TcpFlow, out: TcpOut) -> None:
    """The host socket has room again."""
    if not flow.await_space:
        return
    flow.await_space = False
    flow.space = -1
    flow.ack_due = flow.ack_now = True
    if flow.beyond and not _drain(flow, out):
        return
    if flow.open and not flow.queued:
        out.schedule(flow)


def guest_unreachable(flow: TcpFlow, out: TcpOut) -> None:
    """The guest told by ICMP that its end cannot be reached (a published port): a hard error only before the
    handshake is over.
    """
    if flow.state == SYN_SENT:
        out.abort(flow, "unreachable")


def guest_segment(flow: TcpFlow, view: TcpView, options: TcpOptions, now: float, out: TcpOut) -> int:
    """One segment of an existing flow. Returns `DropReason.NONE`, or why it was of no use.

    `options` is valid when the segment has SYN. A SYN that may replace a flow in TIME_WAIT is the caller's business.
    """
    flow.last_guest_at = now
    if flow.open:
        return _synchronized(flow, view, now, out)
    if flow.state == SYN_RECEIVED:
        return _syn_received(flow, view, now, out)
    if flow.state == SYN_SENT:
        return _syn_sent(flow, view, options, now, out)
    if flow.state == CONNECTING:
        return _connecting(flow, view, out)
    return _time_wait(flow, view, out)


def _take_scale(flow: TcpFlow, options: TcpOptions) -> None:
    """RFC 7323 2.2, RFC 2018 2: scaling and SACK are on only when both SYNs carry the option."""
    flow.sack = options.sack_permitted
    if options.window_scale >= 0:
        flow.snd_scale = options.window_scale
        flow.rcv_scale = WINDOW_SCALE
    else:
        flow.snd_scale = flow.rcv_scale = 0


def _connecting(flow: TcpFlow, view: TcpView, out: TcpOut) -> int:
    """The guest waits in SYN_SENT. Its repeated SYN changes nothing; only its reset does (RFC 9293 3.5.2)."""
    if view.flags & RST and (view.seq == flow.rcv_nxt or view.seq == flow.irs):
        out.abort(flow, "reset by guest")
        return FINE
    return FINE if view.flags & SYN and view.seq == flow.irs else OUT_OF_WINDOW


def _syn_received(flow: TcpFlow, view: TcpView, now: float, out: TcpOut) -> int:
    if view.flags & RST:
        if view.seq != flow.rcv_nxt:
            return OUT_OF_WINDOW
        out.abort(flow, "reset by guest")
        return FINE
    if view.flags & SYN:
        if view.seq != flow.irs:
            return OUT_OF_WINDOW
        out.syn(flow, SYN | ACK)
        return FINE
    if not view.flags & ACK or view.ack != flow.snd_nxt:
        return OUT_OF_WINDOW
    _establish(flow, view, now, out)
    return _synchronized(flow, view, now, out)


def _syn_sent(flow: TcpFlow, view: TcpView, options: TcpOptions, now: float, out: TcpOut) -> int:
    acceptable = bool(view.flags & ACK) and view.ack == flow.snd_nxt
    if view.flags & RST:
        if not acceptable:
            return OUT_OF_WINDOW
        out.abort(flow, "reset by guest")
        return FINE
    if not acceptable or not view.flags & SYN:
        return OUT_OF_WINDOW
    flow.irs = view.seq
    flow.rcv_nxt = add(view.seq, 1)
    flow.set_mss(options.mss)
    _take_scale(flow, options)
    initial_window(flow)
    _establish(flow, view, now, out)
    flow.snd_wnd = view.window
    # The handshake's ACK goes before the first data segment, whose window the guest would otherwise not know.
    out.segment(flow, ACK, outside(flow), 0)
    return FINE


def _establish(flow: TcpFlow, view: TcpView, now: float, out: TcpOut) -> None:
    flow.move(ESTABLISHED)
    flow.open = True
    flow.snd_una = view.ack
    flow.snd_wnd = view.window << flow.snd_scale
    flow.snd_wl1 = view.seq
    flow.snd_wl2 = view.ack
    flow.retries = 0
    flow.timer_at = NEVER
    flow.idle_at = now + IDLE
    out.arm(flow, flow.idle_at)
    out.rewind(flow)
    if flow.readable and not flow.queued:
        out.schedule(flow)


def _time_wait(flow: TcpFlow, view: TcpView, out: TcpOut) -> int:
    if view.flags & RST:
        if view.seq != flow.rcv_nxt:
            return OUT_OF_WINDOW
        out.close(flow, "closed")
        return FINE
    if view.flags & FIN:
        out.segment(flow, ACK, outside(flow), 0)
        return FINE
    return OUT_OF_WINDOW


def _synchronized(flow: TcpFlow, view: TcpView, now: float, out: TcpOut) -> int:
    """RFC 9293 3.10.7.4, in its order: sequence, RST, SYN, ACK, text, FIN."""
    length = view.end - view.payload_at
    offset = distance(view.seq, flow.rcv_nxt)
    window = distance(flow.rcv_edge, flow.rcv_nxt)
    flags = view.flags
    if flags & RST:
        return _reset(flow, offset, window, out)
    if flags & SYN:
        _acknowledge(flow, out)
        return OUT_OF_WINDOW
    if not flags & ACK:
        return OUT_OF_WINDOW
    if offset + length < 0 or offset > window:
        # Also a keep-alive probe with one old byte (RFC 1122 4.2.3.6) and a zero-window probe end here: both want an
        # ACK.
        _acknowledge(flow, out)
        return OUT_OF_WINDOW
    if not _take_ack(flow, view, length, now, out):
        return OUT_OF_WINDOW
    if flow.state == CLOSED or not flow.open:
        return FINE
    if offset < 0 and length == 0:
        # A keep-alive probe without payload.
        _acknowledge(flow, out)
        return FINE
    if length or flags & FIN:
        return _take_text(flow, view, offset, length, window, now, out)
    return FINE


def _reset(flow: TcpFlow, offset: int, window: int, out: TcpOut) -> int:
    """RFC 5961 3.2: only the exact number resets; another one inside the window is challenged."""
    if offset == 0:
        out.abort(flow, "reset by guest")
        return FINE
    if 0 < offset < window:
        _acknowledge(flow, out)
    return OUT_OF_WINDOW


def _acknowledge(flow: TcpFlow, out: TcpOut) -> None:
    """Have an ACK leave with this turn's flush. Challenge ACKs are thereby limited to one per flow and turn (RFC 5961
    7).
    """
    flow.ack_due = flow.ack_now = True
    if not flow.queued:
        out.schedule(flow)


def _take_ack(flow: TcpFlow, view: TcpView, length: int, now: float, out: TcpOut) -> bool:
    """The acknowledgement and window fields. False when the number acknowledges what was never sent."""
    ahead = distance(view.ack, flow.snd_una)
    if ahead > distance(flow.snd_max, flow.snd_una):
        _acknowledge(flow, out)
        return False
    flow.retries = 0
    window = view.window << flow.snd_scale
    if ahead >= 0 and (
        distance(view.seq, flow.snd_wl1) > 0 or (view.seq == flow.snd_wl1 and distance(view.ack, flow.snd_wl2) >= 0)
    ):
        duplicate = (
            ahead == 0
            and length == 0
            and window == flow.snd_wnd
            and not view.flags & FIN
            and flow.snd_una != flow.snd_max
        )
        flow.snd_wl1 = view.seq
        flow.snd_wl2 = view.ack
        if window != flow.snd_wnd:
            if flow.snd_wnd == 0:
                # What leaves now must not wait for the pace of the probes.
                flow.probes = 0
                flow.timer_at = now + RTO_MIN
                out.arm(flow, flow.timer_at)
            flow.snd_wnd = window
            if flow.readable and not flow.queued:
                out.schedule(flow)
        if duplicate:
            _duplicate_ack(flow, now, out)
    if ahead > 0:
        _advance(flow, view.ack, ahead, now, out)
    return True


def _duplicate_ack(flow: TcpFlow, now: float, out: TcpOut) -> None:
    """Fast retransmit, once per window of data (RFC 6582's `recover`)."""
    flow.duplicate_acks += 1
    if flow.duplicate_acks == DUPLICATE_ACKS and distance(flow.snd_una, flow.recover) >= 0:
        retransmit(flow, out)
        flow.timer_at = now + RTO_MIN


def _advance(flow: TcpFlow, ack: int, ahead: int, now: float, out: TcpOut) -> None:
    """The guest acknowledged `ahead` more numbers: its bytes may be consumed, our FIN may be done."""
    flow.snd_una = ack
    flow.duplicate_acks = 0
    fin_acked = ack == flow.snd_max and (flow.state == FIN_WAIT_1 or flow.state == CLOSING or flow.state == LAST_ACK)
    flow.discard_due += ahead - 1 if fin_acked else ahead
    flow.kept_acks += 1
    if distance(flow.snd_nxt, ack) < 0:
        # It acknowledges bytes, perhaps our FIN, that were sent before we went back: go on behind them.
        flow.snd_nxt = ack
        flow.fin_sent = fin_acked
        out.rewind(flow)
    if distance(flow.recover, ack) < 0:
        flow.recover = ack
    if flow.snd_una == flow.snd_max and not flow.discard_due:
        flow.timer_at = NEVER
    else:
        flow.timer_at = now + (RTO_MIN if flow.snd_una != flow.snd_max else KEEP)
        out.arm(flow, flow.timer_at)
    if not flow.queued and (flow.readable or flow.discard_due >= DISCARD_AT or flow.kept_acks >= DISCARD_ACKS):
        out.schedule(flow)
    if fin_acked:
        _fin_acknowledged(flow, now, out)


def _fin_acknowledged(flow: TcpFlow, now: float, out: TcpOut) -> None:
    if flow.state == FIN_WAIT_1:
        flow.move(FIN_WAIT_2)
    elif flow.state == CLOSING:
        wait_in_time_wait(flow, now, out)
    elif flow.state == LAST_ACK:
        out.close(flow, "closed")


def _take_text(flow: TcpFlow, view: TcpView, offset: int, length: int, window: int, now: float, out: TcpOut) -> int:
    if offset == 0 and 0 < length < GATHER and _gathers(flow, view, length, window):
        out.gather(flow, view.payload_at, length)
        flow.rcv_nxt = add(flow.rcv_nxt, length)
        flow.received += length
        flow.pushed += length
        flow.ack_due = True
        if not flow.queued:
            out.schedule(flow)
        return FINE
    if flow.gathering:
        # What was gathered counts only once the socket has taken it.
        out.push_gathered()
        if flow.state == CLOSED:
            return FINE
        offset = distance(view.seq, flow.rcv_nxt)
        window = distance(flow.rcv_edge, flow.rcv_nxt)
    if flow.guest_fin:
        # Bytes after its own FIN, or the FIN again: acknowledge what we have (RFC 9293 3.10.7.4, seventh).
        _acknowledge(flow, out)
        return FINE
    if offset > 0:
        # Ahead of a gap. An equal ACK for each segment of the frame makes the guest's fast retransmit start.
        kept = length > 0 and offset + length <= window and keep(flow, view.seq, view.payload_at, length, out)
        for _ in range(min((length + flow.mss - 1) // flow.mss or 1, DUPLICATE_ACKS)):
            out.segment(flow, ACK, outside(flow), 0)
        return FINE if kept else OUT_OF_WINDOW
    fresh = length + offset
    fits = fresh if fresh <= window else window
    if fits > 0:
        took = out.push(flow, view.payload_at - offset, fits)
        if took < 0:
            if took != -errno.EAGAIN and took != -errno.ENOBUFS:
                host_failed(flow, -took, out)
                return FINE
            took = 0
        flow.rcv_nxt = add(flow.rcv_nxt, took)
        flow.received += took
        flow.pushed += took
        if took < fits:
            flow.refused_tail = True
            flow.space = 0
            flow.pushed = 0
            if not flow.await_space:
                flow.await_space = True
                out.await_space(flow)
    else:
        took = 0
    flow.ack_due = True
    if took < fresh or offset or view.flags & FIN or flow.beyond:
        flow.ack_now = True
    if view.flags & FIN and flow.rcv_nxt == add(view.seq, length):
        _take_fin(flow, now, out)
    elif flow.beyond and not _drain(flow, out):
        return FINE
    if not flow.queued:
        out.schedule(flow)
    return FINE


def _gathers(flow: TcpFlow, view: TcpView, length: int, window: int) -> bool:
    """Whether a segment that begins at `rcv_nxt` may wait for those behind it in the same batch: it is plain, and the
    socket should have room.
    """
    if view.flags & FIN or flow.guest_fin or flow.beyond or length > window:
        return False
    return flow.space - flow.pushed >= length


def gathered_pushed(flow: TcpFlow, took: int, total: int, out: TcpOut) -> None:
    """The socket was given the `total` bytes that were gathered and took `took`, or failed with `-errno`: what it left
    is the guest's to send again.
    """
    if took == total:
        return
    missing = total - max(took, 0)
    flow.rcv_nxt = add(flow.rcv_nxt, -missing)
    flow.received -= missing
    if took < 0 and took != -errno.EAGAIN and took != -errno.ENOBUFS:
        host_failed(flow, -took, out)
        return
    flow.ack_now = flow.refused_tail = True
    flow.space = flow.pushed = 0
    if not flow.await_space:
        flow.await_space = True
        out.await_space(flow)


def _drain(flow: TcpFlow, out: TcpOut) -> bool:
    """Push what a closed gap has set free. False when the host socket failed, and the flow with it."""
    failed = drain(flow, out)
    if failed:
        host_failed(flow, -failed, out)
    return failed == 0


def _take_fin(flow: TcpFlow, now: float, out: TcpOut) -> None:
    flow.rcv_nxt = add(flow.rcv_nxt, 1)
    flow.guest_fin = True
    # What a guest sent beyond its own end is not part of the stream.
    forget(flow, out)
    if distance(flow.rcv_edge, flow.rcv_nxt) < 0:
        flow.rcv_edge = flow.rcv_nxt
    out.shutdown(flow)
    if flow.state == ESTABLISHED:
        flow.move(CLOSE_WAIT)
    elif flow.state == FIN_WAIT_1:
        flow.move(CLOSING)
    elif flow.state == FIN_WAIT_2:
        wait_in_time_wait(flow, now, out)
