"""`Out`, the narrow door through which the state machines act. They say what; the sink of the engine, or a test's
recorder, does it.

Calls that touch a host socket answer like the kernel calls behind them: a count, or `-errno`. None raises. `flow` is
always the flow the machine is working on; everything else a call needs (addresses, header template, socket) is found
there.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["TcpOut"]


class TcpOut(Protocol):
    """What a TCP flow may ask for."""

    def connect(self, flow: Any) -> None:
        """Open the host socket towards `flow.host or flow.peer`; the end is told by `host_connected` or
        `host_failed`, never from inside.
        """

    def syn(self, flow: Any, flags: int) -> None:
        """Send a SYN or SYN,ACK with our options; its number is `flow.iss`."""

    def segment(self, flow: Any, flags: int, seq: int, length: int) -> None:
        """Send a segment with the `length` bytes pulled last; acknowledgement number and window are the flow's."""

    def room(self, flow: Any) -> bool:
        """Whether the link takes a superframe now; if not, `flush` is called once it does."""

    def pull(self, flow: Any, limit: int) -> int:
        """Peek up to `limit` bytes of the host socket beyond those in flight. 0 is end of stream."""

    def rewind(self, flow: Any) -> int:
        """Begin peeking behind the `discard_due` bytes at the head of the queue again. 0 or -errno."""

    def discard(self, flow: Any, count: int) -> int:
        """Consume `count` acknowledged bytes. Returns the bytes consumed."""

    def push(self, flow: Any, at: int, length: int) -> int:
        """Hand the payload at `at` of the current frame to the host socket. Returns the bytes it took."""

    def gather(self, flow: Any, at: int, length: int) -> None:
        """Push the payload at `at` of the current frame together with what else is gathered of this flow: at the end of
        the batch, or with `push_gathered`. `tcp.gathered_pushed` is told what became of it.
        """

    def push_gathered(self) -> None:
        """Push what is gathered, of whatever flow, now."""

    def keep(self, at: int, length: int) -> bytes | None:
        """A copy of bytes of the current frame, or None when too many are kept by all flows together."""

    def let_go(self, count: int) -> None:
        """One piece of `count` bytes that `keep` gave is needed no more."""

    def push_kept(self, flow: Any, data: bytes) -> int:
        """As `push`, of bytes that were kept."""

    def send_space(self, flow: Any) -> int:
        """Bytes the host socket's send buffer takes now; may be negative."""

    def await_space(self, flow: Any) -> None:
        """Have `host_writable` called once the send buffer has room again."""

    def shutdown(self, flow: Any) -> None:
        """Send end of stream to the peer (SHUT_WR)."""

    def release(self, flow: Any) -> None:
        """Consume `discard_due` and close the host socket; what it took is still delivered. The flow lives on
        (TIME_WAIT).
        """

    def close(self, flow: Any, how: str) -> None:
        """The flow is over: forget it, close its socket and report `how`; when that is `closed`, consume
        `discard_due` first.
        """

    def abort(self, flow: Any, how: str) -> None:
        """As `close`, but the peer gets a reset (SO_LINGER with zero time)."""

    def reset_guest(self, flow: Any) -> None:
        """Send RST to the guest."""

    def unreachable(self, flow: Any, error: int) -> None:
        """Tell the guest by ICMP that `flow.peer` cannot be reached, for the reason errno `error` gives."""

    def schedule(self, flow: Any) -> None:
        """Have `flush` called at the end of this turn."""

    def acknowledge_later(self, flow: Any) -> None:
        """Have `flush` called once more, at `flow.ack_wait` or soon after, unless a turn with this flow comes first."""

    def keep_alive(self, flow: Any) -> None:
        """Have the kernel ask the peer from now on whether it still lives (SO_KEEPALIVE)."""

    def arm(self, flow: Any, at: float) -> None:
        """Have `deadline` called not long after `at` (seconds); an earlier call may come and must be harmless."""
