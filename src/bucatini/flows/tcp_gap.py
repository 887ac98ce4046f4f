"""Bytes from the guest that came ahead of others: kept, within bounds, until the gap is closed (RFC 9293 3.10.7.4).

On a link that neither loses nor reorders, such as a TAP, nothing is ever kept; this is the one place where a TCP flow
holds payload, and only while bytes are missing. Bounds: `MAX_BYTES` and `MAX_PIECES` a flow here, and a budget of all
flows together behind `out.keep`. Beyond a bound what is furthest ahead is dropped, as if it were lost, and comes again.
The guest learns what is kept by selective acknowledgements, if it knows them, and sends only what is missing.
"""

from __future__ import annotations

import errno

from bucatini.base.out import TcpOut
from bucatini.flows.sequence import add, distance
from bucatini.flows.tcp_flow import TcpFlow

__all__ = ["MAX_BYTES", "MAX_PIECES", "blocks", "drain", "forget", "keep"]

MAX_BYTES = 1 << 20
MAX_PIECES = 256


def keep(flow: TcpFlow, seq: int, at: int, length: int, out: TcpOut) -> bool:
    """Keep `length` bytes at `at` of the current frame, whose first has the number `seq`, ahead of `rcv_nxt`.

    Returns whether they are kept, or were already.
    """
    pieces = flow.beyond
    position = len(pieces)
    while position and distance(pieces[position - 1][0], seq) > 0:
        position -= 1
    if position:
        before = pieces[position - 1]
        if distance(add(before[0], len(before[1])), add(seq, length)) >= 0:
            flow.beyond_last = before[0]
            return True
    if not _make_room(flow, position, length, out):
        return False
    data = out.keep(at, length)
    if data is None:
        return False
    pieces.insert(position, (seq, data))
    flow.beyond_bytes += length
    flow.beyond_last = seq
    return True


def _make_room(flow: TcpFlow, position: int, length: int, out: TcpOut) -> bool:
    """Let go of what is furthest ahead: what is near the gap is needed first. False when that is the newcomer."""
    pieces = flow.beyond
    while len(pieces) >= MAX_PIECES or flow.beyond_bytes + length > MAX_BYTES:
        if len(pieces) <= position:
            return False
        _, data = pieces.pop()
        flow.beyond_bytes -= len(data)
        out.let_go(len(data))
    return True


def blocks(flow: TcpFlow) -> list[tuple[int, int]]:
    """What is kept, as ranges of (first number, number behind the last) for a SACK option: the one that grew last goes
    first (RFC 2018 section 4).
    """
    ranges: list[tuple[int, int]] = []
    newest = 0
    for seq, data in flow.beyond:
        if distance(seq, flow.rcv_nxt) <= 0:
            # In order by now and waiting for room in the socket: below the ACK it would tell of a duplicate (RFC 2883).
            continue
        end = add(seq, len(data))
        if ranges and distance(seq, ranges[-1][1]) <= 0:
            if distance(end, ranges[-1][1]) > 0:
                ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((seq, end))
        if seq == flow.beyond_last:
            newest = len(ranges) - 1
    if newest:
        ranges.insert(0, ranges.pop(newest))
    return ranges


def drain(flow: TcpFlow, out: TcpOut) -> int:
    """Hand what is in order by now to the host socket. 0, or `-errno` when the socket failed for good."""
    pieces = flow.beyond
    while pieces:
        seq, data = pieces[0]
        done = distance(flow.rcv_nxt, seq)
        if done < 0:
            return 0
        left = len(data) - done
        if left > 0:
            took = out.push_kept(flow, data[done:] if done else data)
            if took < 0 and took not in (-errno.EAGAIN, -errno.ENOBUFS):
                return took
            if took > 0:
                flow.rcv_nxt = add(flow.rcv_nxt, took)
                flow.received += took
                flow.pushed += took
            if took < left:
                if not flow.await_space:
                    flow.await_space = True
                    out.await_space(flow)
                return 0
        del pieces[0]
        flow.beyond_bytes -= len(data)
        out.let_go(len(data))
    return 0


def forget(flow: TcpFlow, out: TcpOut) -> None:
    """The flow is over: give back what it holds."""
    for _, data in flow.beyond:
        out.let_go(len(data))
    flow.beyond_bytes = 0
    flow.beyond.clear()
