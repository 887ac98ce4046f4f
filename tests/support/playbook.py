"""Playbooks: a TCP flow played as a script that reads like a capture.

    play >> guest.syn() << host.connect()
    play >> host.connected() << guest.syn_ack(ack=1)

`>>` happens to the machine, `<<` is what it must do next; one vocabulary serves both. An event is one turn, several in
a tuple share a turn, as the engine has it: handlers, deadlines, flush. What is due by the next event, or at the end,
is compared line by line, and only in the fields that the script names.

Numbers are relative, as in a capture: the guest's SYN and ours are 0, the first byte is 1. Windows are bytes.
`HostSocket` behaves as the kernel does (peek offset, partial writes); payload is compared with what the other end
sent, byte by byte. What is plumbing (schedule, arm, pull, discard) is done and not written down.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterable
from errno import EAGAIN
from typing import Any

from bucatini.base.address import Endpoint
from bucatini.flows import tcp
from bucatini.flows.sequence import add, distance
from bucatini.flows.tcp_flow import TcpFlow
from bucatini.flows.tcp_gap import MAX_BYTES, MAX_PIECES, forget
from bucatini.flows.tcp_output import deadline, flush
from bucatini.flows.tcp_states import CLOSED, CONNECTING, NAMES, SYN_RECEIVED, SYN_SENT, TIME_WAIT, TRANSITIONS
from bucatini.stack.deadlines import Deadlines
from bucatini.wire.tcp import ACK, FIN, PSH, RST, SYN, URG, TcpOptions, TcpView

__all__ = ["SPACE", "HostSocket", "Line", "Playbook", "Recorder", "after", "guest", "host", "pattern", "turn"]

MSS = 1460
SCALE = 7
WINDOW = 1 << 20
SPACE = 1 << 20
"""Bytes of send buffer of a host socket that is never full."""
HEADERS = 54
"""Where payload begins in a frame."""
_PERIOD = bytes((i * 7 + (i >> 8) * 13) & 255 for i in range(65521))


def pattern(at: int, length: int) -> bytes:
    """`length` bytes of an endless stream, from `at` on."""
    at %= len(_PERIOD)
    return (_PERIOD * ((at + length) // len(_PERIOD) + 1))[at : at + length]


class Line:
    """One line of a script: whose side, the word, and the fields that matter."""

    def __init__(self, side: str, word: str, **fields: Any) -> None:
        self.side, self.word = side, word
        self.fields = {name: value for name, value in fields.items() if value is not None}

    def text(self, names: Iterable[str] | None = None) -> str:
        """For people; only the fields called `names`."""
        shown = self.fields if names is None else [name for name in self.fields if name in names]
        return " ".join([self.side, self.word, *(f"{name}={self.fields[name]}" for name in sorted(shown))])

    def matches(self, actual: Line) -> bool:
        """Whether `actual` is this line as far as this line says anything."""
        same = (self.side, self.word) == (actual.side, actual.word)
        return same and all(actual.fields.get(name) == value for name, value in self.fields.items())

    def __repr__(self) -> str:
        return self.text()


class _Guest:
    """What the guest sends, or sees. Fields left out: the next in order when sent, any when seen."""

    def syn(self, **fields: Any) -> Line:
        return Line("guest", "syn", **fields)

    def syn_ack(self, **fields: Any) -> Line:
        return Line("guest", "syn_ack", **fields)

    def ack(self, ack: int | None = None, **fields: Any) -> Line:
        return Line("guest", "ack", ack=ack, **fields)

    def data(self, length: int, **fields: Any) -> Line:
        return Line("guest", "data", length=length, **fields)

    def fin(self, **fields: Any) -> Line:
        return Line("guest", "fin", **fields)

    def rst(self, **fields: Any) -> Line:
        return Line("guest", "rst", **fields)

    def segment(self, flags: int, **fields: Any) -> Line:
        """Any flags; only sent."""
        return Line("guest", "segment", flags=flags, **fields)

    def unreachable(self, error: int | None = None) -> Line:
        """Seen: an ICMP error about its peer. Sent: one about itself."""
        return Line("guest", "unreachable", error=error)


class _Host:
    """What happens to the host socket, in the third person; what it is asked to do, in the imperative."""

    def accepts(self) -> Line:
        return Line("host", "accepts")

    def connected(self) -> Line:
        return Line("host", "connected")

    def failed(self, error: int) -> Line:
        return Line("host", "failed", error=error)

    def sends(self, length: int, urgent: bool = False) -> Line:
        """`urgent`: and the last byte is (tcp(7): it comes in line, and a peek stops before it)."""
        return Line("host", "sends", length=length, urgent=urgent or None)

    def ends(self) -> Line:
        return Line("host", "ends")

    def takes(self, room: int, space: int | None = None) -> Line:
        """From now on it takes `room` bytes more; no event of its own."""
        return Line("host", "takes", room=room, space=space)

    def writable(self, room: int = SPACE, space: int | None = None) -> Line:
        return Line("host", "writable", room=room, space=space)

    def connect(self) -> Line:
        return Line("host", "connect")

    def push(self, length: int, took: int | None = None) -> Line:
        return Line("host", "push", length=length, took=took)

    def await_space(self) -> Line:
        return Line("host", "await_space")

    def keep_alive(self) -> Line:
        return Line("host", "keep_alive")

    def shutdown(self) -> Line:
        return Line("host", "shutdown")

    def release(self) -> Line:
        return Line("host", "release")

    def close(self, how: str) -> Line:
        return Line("host", "close", how=how)

    def abort(self, how: str) -> Line:
        return Line("host", "abort", how=how)


guest = _Guest()
host = _Host()


def after(seconds: float) -> Line:
    """Time passes; deadlines come at their instants."""
    return Line("clock", "after", seconds=seconds)


def turn() -> Line:
    """A turn without an event of its own."""
    return Line("clock", "turn")


class HostSocket:
    """A connected stream socket as Linux has it, seen from this side. `stream` is all that the peer ever sent."""

    def __init__(self) -> None:
        self.stream = bytearray()
        self.ended = False
        self.error = 0
        self.mark = -1
        """Where the peer's urgent byte stands: a peek that begins before it ends before it."""
        self.discarded = 0
        self.peek_at = 0
        self.received = bytearray()
        self.room = SPACE
        self.space = SPACE
        self.is_shut = False
        self.is_open = True

    def peek(self, limit: int, skip: int) -> bytes | int:
        """`skip` bytes from the head; below zero: behind what was peeked before (SO_PEEK_OFF)."""
        if self.error:
            return -self.error
        begin = self.discarded + (self.peek_at if skip < 0 else skip)
        end = min(begin + limit, self.mark) if begin < self.mark else begin + limit
        found = bytes(self.stream[begin:end])
        if skip < 0:
            self.peek_at += len(found)
        return found or (0 if self.ended else -EAGAIN)

    def discard(self, count: int) -> int:
        """As recv(MSG_TRUNC): the peek offset follows, and stops at the head."""
        done = 0 if self.error else min(count, len(self.stream) - self.discarded)
        self.discarded += done
        self.peek_at = max(0, self.peek_at - done)
        return done

    def push(self, data: bytes) -> int:
        """As send(MSG_DONTWAIT)."""
        assert self.is_open
        assert not self.is_shut
        if self.error:
            return -self.error
        taken = min(len(data), self.room)
        self.received += data[:taken]
        self.room -= taken
        return taken or -EAGAIN


class Recorder:
    """`base.out.TcpOut` for one flow: acts on a `HostSocket`, writes down what the guest and the host would see."""

    def __init__(self) -> None:
        self.socket = HostSocket()
        self.deadlines = Deadlines()
        self.frame = b""
        """The frame from the guest that is being worked on."""
        self.now = 0.0
        self.log: list[tuple[float, Line]] = []
        self.moves: list[tuple[int, int]] = []
        self.rewinds = 0
        self.kept = 0
        self.budget = 1 << 22
        """Bytes ahead of gaps: those kept now, and how many may be."""
        self.lost = False
        """The link takes nothing: segments are written down nowhere."""
        self._last_state = CONNECTING
        self._queue: list[TcpFlow] = []
        self._waiting: deque[TcpFlow] = deque()
        self._pulled = b""
        self._gathers: TcpFlow | None = None
        self._gathered = b""

    def seen(self, flow: TcpFlow) -> None:
        """Write down a change of state."""
        if flow.state != self._last_state:
            self.moves.append((self._last_state, flow.state))
            self._last_state = flow.state

    def note(self, flow: TcpFlow, line: Line) -> None:
        self.seen(flow)
        self.log.append((self.now, line))

    def connect(self, flow: TcpFlow) -> None:
        self.note(flow, host.connect())

    def syn(self, flow: TcpFlow, flags: int) -> None:
        word = guest.syn if flags == SYN else guest.syn_ack
        ack = distance(flow.rcv_nxt, flow.irs) if flags & ACK else None
        window = distance(flow.rcv_edge, flow.rcv_nxt)
        assert 0 < window <= 0xFFFF
        self.note(flow, word(seq=0, ack=ack, win=window, scale=flow.rcv_scale))

    def segment(self, flow: TcpFlow, flags: int, seq: int, length: int) -> None:
        if flow.gathering:
            self.push_gathered()
        window = distance(flow.rcv_edge, flow.rcv_nxt)
        assert window >= 0
        assert window >> flow.rcv_scale <= 0xFFFF
        fields = {"seq": distance(seq, flow.iss), "ack": distance(flow.rcv_nxt, flow.irs), "win": window}
        if length:
            assert length == len(self._pulled)
            begin = fields["seq"] - 1
            assert self._pulled == self.socket.stream[begin : begin + length], "bytes do not belong to their number"
            line = guest.data(length, push=bool(flags & PSH), **fields)
        else:
            line = (guest.fin if flags & FIN else guest.ack)(**fields)
        self._pulled = b""
        self.seen(flow)
        if not self.lost:
            self.note(flow, line)

    def room(self, flow: TcpFlow) -> bool:
        return True

    def pull(self, flow: TcpFlow, limit: int) -> int:
        assert limit > 0
        skip = distance(flow.snd_nxt, flow.snd_una) + flow.discard_due if flow.peek_skips else -1
        got = self.socket.peek(limit, skip)
        if isinstance(got, bytes):
            self._pulled = got
            return len(got)
        return got

    def rewind(self, flow: TcpFlow) -> int:
        self.rewinds += 1
        self.socket.peek_at = flow.discard_due
        return -self.socket.error

    def discard(self, flow: TcpFlow, count: int) -> int:
        return self.socket.discard(count)

    def gather(self, flow: TcpFlow, at: int, length: int) -> None:
        assert length > 0
        self._gathered += self.frame[at : at + length]
        self._gathers = flow
        flow.gathering = True

    def push_gathered(self) -> None:
        flow, data = self._gathers, self._gathered
        if flow is not None:
            self._gathers, self._gathered = None, b""
            flow.gathering = False
            if self.socket.is_open:
                tcp.gathered_pushed(flow, self._push(flow, data), len(data), self)

    def push(self, flow: TcpFlow, at: int, length: int) -> int:
        assert length > 0
        return self._push(flow, self.frame[at : at + length])

    def keep(self, at: int, length: int) -> bytes | None:
        assert length > 0
        if self.kept + length > self.budget:
            return None
        self.kept += length
        return self.frame[at : at + length]

    def let_go(self, count: int) -> None:
        assert 0 < count <= self.kept
        self.kept -= count

    def push_kept(self, flow: TcpFlow, data: bytes) -> int:
        return self._push(flow, data)

    def _push(self, flow: TcpFlow, data: bytes) -> int:
        assert data
        took = self.socket.push(data)
        self.note(flow, host.push(len(data), took=max(took, 0)))
        return took

    def send_space(self, flow: TcpFlow) -> int:
        return min(self.socket.space, self.socket.room)

    def await_space(self, flow: TcpFlow) -> None:
        self.note(flow, host.await_space())

    def shutdown(self, flow: TcpFlow) -> None:
        self.push_gathered()
        self.socket.is_shut = True
        self.note(flow, host.shutdown())

    def _finish(self, flow: TcpFlow) -> None:
        self.socket.discard(flow.discard_due)
        flow.discard_due = 0
        self.socket.is_open = False
        forget(flow, self)

    def release(self, flow: TcpFlow) -> None:
        self.push_gathered()
        self._finish(flow)
        self.note(flow, host.release())

    def close(self, flow: TcpFlow, how: str) -> None:
        self._end(flow, host.close(how))

    def abort(self, flow: TcpFlow, how: str) -> None:
        self._end(flow, host.abort(how))

    def _end(self, flow: TcpFlow, line: Line) -> None:
        self.push_gathered()
        if flow.state == CLOSED:
            return
        self.seen(flow)
        flow.move(CLOSED)
        flow.open = False
        flow.deadline = float("inf")
        if line.fields["how"] == "closed":
            self._finish(flow)
        self.socket.is_open = False
        forget(flow, self)
        self.note(flow, line)

    def reset_guest(self, flow: TcpFlow) -> None:
        self.note(flow, guest.rst(seq=distance(flow.snd_nxt, flow.iss), ack=distance(flow.rcv_nxt, flow.irs)))

    def unreachable(self, flow: TcpFlow, error: int) -> None:
        self.note(flow, guest.unreachable(error))

    def schedule(self, flow: TcpFlow) -> None:
        if not flow.queued:
            flow.queued = True
            self._queue.append(flow)

    def acknowledge_later(self, flow: TcpFlow) -> None:
        if not flow.in_line:
            flow.in_line = True
            self._waiting.append(flow)

    def keep_alive(self, flow: TcpFlow) -> None:
        self.note(flow, host.keep_alive())

    def arm(self, flow: TcpFlow, at: float) -> None:
        self.deadlines.arm(flow, at)

    def next(self) -> float:
        """The earliest instant at which there is something to do."""
        if self._queue:
            return self.now
        at = self.deadlines.next()
        return min(at, self._waiting[0].ack_wait) if self._waiting else at

    def end_of_turn(self) -> None:
        """As the engine's sink: deadlines, acknowledgements that waited, then each queued flow once."""
        while (flow := self.deadlines.due(self.now)) is not None:
            deadline(flow, self.now, self)
            self.seen(flow)
        while self._waiting and not (self._waiting[0].ack_due and self._waiting[0].ack_wait > self.now):
            flow = self._waiting.popleft()
            flow.in_line = False
            if flow.ack_due:
                self.schedule(flow)
        queue, self._queue = self._queue, []
        for flow in queue:
            flush(flow, self.now, self)
            self.seen(flow)


class Playbook:
    """One flow from its first SYN on. `iss` is our initial sequence number, `irs` the guest's."""

    def __init__(
        self,
        iss: int = 1000,
        irs: int = 5000,
        link_mss: int = MSS,
        segmented: bool = False,
        peek_skips: bool = False,
        out: Recorder | None = None,
        batch: bool = False,
    ) -> None:
        self.out = out or Recorder()
        self.batch = batch
        """Whether segments of one turn come with one read of the link; else each is a batch of its own."""
        self.iss, self.irs = iss, irs
        self.link_mss, self.segmented, self.peek_skips = link_mss, segmented, peek_skips
        self.flow: TcpFlow | None = None
        self.reason = 0
        """What the machine answered to the last segment: a `DropReason`."""
        self.sent_next = self.sent_ack = 0
        """The guest's next number, and the last it acknowledged."""
        self.window = WINDOW
        self.scale = 0
        self._shown = 0
        self._expected: list[Line] = []
        self._script: list[str] = []
        self._edge: int | None = None
        self._compared = 0

    # -- the script

    def __rshift__(self, event: Line | tuple[Line, ...]) -> Playbook:
        self.settle()
        for line in event if isinstance(event, tuple) else (event,):
            self._script.append(f">> {line.text()}")
            getattr(self, f"_{line.side}")(line)
        if not (isinstance(event, Line) and event.word == "after"):
            self.run_turn()
        return self

    def __lshift__(self, line: Line) -> Playbook:
        self._expected.append(line)
        return self

    def settle(self) -> None:
        """Compare what was expected since the last event with what came."""
        expected, self._expected = self._expected, []
        actual = [line for _, line in self.out.log[self._shown :]]
        self._shown = len(self.out.log)
        if len(expected) == len(actual) and all(a.matches(b) for a, b in zip(expected, actual, strict=True)):
            self._script += [f"<< {line.text()}" for line in actual]
            return
        named = [line.fields if want.matches(line) else None for want, line in zip(expected, actual, strict=False)]
        texts = [
            want.text() if names else line.text() for want, line, names in zip(expected, actual, named, strict=False)
        ]
        texts += [line.text() for line in actual[len(expected) :]]
        diff = difflib.ndiff([line.text() for line in expected], texts)
        state = NAMES[self.flow.state] if self.flow else "no flow"
        raise AssertionError("\n".join(["(- expected, + came)", *self._script, *diff, f"in {state}"]))

    def skip(self) -> Playbook:
        """What came since the last event is of no interest."""
        self._expected = []
        self._shown = len(self.out.log)
        return self

    def watch(self, seconds: float) -> list[tuple[float, str]]:
        """What happens in so many seconds without an event: when, and which word."""
        self.settle()
        begin = self.out.now
        self._clock(after(seconds))
        found = [(round(at - begin, 3), line.word) for at, line in self.out.log[self._shown :]]
        self._shown = len(self.out.log)
        return found

    def establish(self, **options: Any) -> Playbook:
        """A handshake that the guest began; `options` are those of its SYN."""
        self >> guest.syn(**options) << host.connect()
        self >> host.connected() << guest.syn_ack(ack=1)
        return self >> guest.ack(1)

    def establish_published(self, **options: Any) -> Playbook:
        """A handshake that a peer began; `options` are those of the guest's SYN,ACK."""
        self >> host.accepts() << guest.syn(seq=0)
        return self >> guest.syn_ack(ack=1, **options) << guest.ack(1, seq=1)

    @property
    def state(self) -> str:
        """The state's name."""
        return NAMES[self.tcp.state]

    @property
    def tcp(self) -> TcpFlow:
        """The flow, which exists."""
        assert self.flow is not None
        return self.flow

    # -- events

    def run_turn(self) -> None:
        """The end of a turn."""
        self.out.push_gathered()
        self.out.end_of_turn()
        self.check()

    def _clock(self, line: Line) -> None:
        if line.word == "turn":
            return
        goal = self.out.now + line.fields["seconds"] + 1e-9
        for _ in range(10000):
            if self.out.next() > goal:
                break
            self.out.now = max(self.out.now, self.out.next())
            self.run_turn()
        else:
            raise AssertionError("time does not pass")
        self.out.now = goal

    def _host(self, line: Line) -> None:
        out, fields = self.out, line.fields
        if line.word == "accepts":
            self._new("ingress", 0)
            tcp.accepted(self.tcp, self.iss, out.now, out)
        elif line.word == "connected":
            tcp.host_connected(self.tcp, out.now, out)
        elif line.word == "failed":
            out.socket.error = fields["error"]
            tcp.host_failed(self.tcp, fields["error"], out)
        elif line.word == "sends":
            out.socket.stream += pattern(len(out.socket.stream) + 99, fields["length"])
            if fields.get("urgent"):
                out.socket.mark = len(out.socket.stream) - 1
            tcp.host_readable(self.tcp, False, fields.get("urgent", False), out)
        elif line.word == "ends":
            out.socket.ended = True
            tcp.host_readable(self.tcp, True, False, out)
        else:
            out.socket.room = fields["room"]
            out.socket.space = fields.get("space", SPACE)
            if line.word == "writable":
                tcp.host_writable(self.tcp, out)
        out.seen(self.tcp)

    def _new(self, direction: str, mss: int) -> None:
        peer = Endpoint(bytes((192, 0, 2, 1)), 80)
        self.flow = TcpFlow(Endpoint(bytes((172, 16, 0, 2)), 40000), peer, direction, self.out.now)
        self.flow.peek_skips = self.peek_skips
        self.flow.set_link(self.link_mss, self.segmented)
        self.flow.set_mss(mss)

    def _guest(self, line: Line) -> None:
        if line.word == "unreachable":
            tcp.guest_unreachable(self.tcp, self.out)
            return
        view, options = self._segment(line)
        if self.flow is None:
            self._new("egress", options.mss)
            tcp.open_from_guest(self.tcp, view, options, self.iss, self.out)
        else:
            self.reason = tcp.guest_segment(self.flow, view, options, self.out.now, self.out)
            if not self.batch:
                self.out.push_gathered()
        self.out.seen(self.tcp)

    def _segment(self, line: Line) -> tuple[TcpView, TcpOptions]:
        """The segment that `line` describes, what it leaves out filled in as a guest would; remembers what was sent."""
        fields, word = line.fields, line.word
        flags = {"syn": SYN, "syn_ack": SYN | ACK, "fin": FIN | ACK, "rst": RST | ACK}.get(word, ACK)
        flags = fields.get("flags", flags | (URG if fields.get("urgent") else 0))
        length = fields.get("length", 0)
        options = TcpOptions()
        if flags & SYN:
            options.mss = fields.get("mss", MSS)
            options.window_scale = fields.get("scale", SCALE)
            self.scale = max(options.window_scale, 0)
        seq = fields.get("seq", 0 if flags & SYN else self.sent_next)
        ack = fields.get("ack", self.sent_ack)
        self.sent_next = max(self.sent_next, seq + length + bool(flags & (SYN | FIN)))
        if flags & ACK:
            self.sent_ack = ack
        self.window = fields.get("win", self.window)
        view = TcpView()
        view.seq, view.ack, view.flags = add(self.irs, seq), add(self.iss, ack), flags
        view.window = min(self.window >> (0 if flags & SYN else self.scale), 0xFFFF)
        view.payload_at, view.end = HEADERS, HEADERS + length
        self.out.frame = bytes(HEADERS) + (pattern(seq - 1, length) if length else b"")
        return view, options

    # -- what holds at the end of every turn

    def check(self) -> None:
        """The invariants of a flow, whatever the guest and the host do."""
        flow, socket = self.flow, self.out.socket
        if flow is None:
            return
        assert 0 <= flow.state < len(NAMES)
        assert all(move in TRANSITIONS for move in self.out.moves)
        assert distance(flow.snd_nxt, flow.snd_una) >= 0
        assert distance(flow.snd_max, flow.snd_nxt) >= 0
        assert flow.discard_due >= 0
        if flow.open:
            acknowledged = distance(flow.snd_una, flow.iss) - 1
            assert socket.discarded + flow.discard_due == min(acknowledged, len(socket.stream))
            if self._edge is not None:
                assert distance(flow.rcv_edge, self._edge) >= 0, "the window shrank"
            self._edge = flow.rcv_edge
        taken = len(socket.received)
        assert flow.received == taken
        assert socket.received[self._compared :] == pattern(self._compared, taken - self._compared)
        self._compared = taken
        if flow.state not in (CONNECTING, SYN_SENT, SYN_RECEIVED, CLOSED):
            assert distance(flow.rcv_nxt, flow.irs) == 1 + taken + flow.guest_fin
        self._check_kept(flow)
        assert socket.is_open == (flow.state not in (TIME_WAIT, CLOSED))
        if flow.state != CLOSED and not flow.open and flow.state != CONNECTING:
            assert self.out.next() < float("inf"), "nothing will ever end this flow"

    def _check_kept(self, flow: TcpFlow) -> None:
        """What lies ahead of a gap is in order, in the window, and counted; nothing of it could be taken already."""
        pieces, base = flow.beyond, flow.rcv_nxt
        assert self.out.kept == flow.beyond_bytes == sum(len(data) for _, data in pieces) <= MAX_BYTES
        assert len(pieces) <= MAX_PIECES
        begins = [distance(seq, base) for seq, _ in pieces]
        assert begins == sorted(begins)
        for begin, (_, data) in zip(begins, pieces, strict=True):
            assert begin + len(data) <= distance(flow.rcv_edge, base)
        assert flow.await_space or not begins or begins[0] > 0
