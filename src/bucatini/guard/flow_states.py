"""Who began: a bounded table of flows in front of the rules, so that an answer needs no rule of its own.

Theory of operation. The rules are asked about the beginner of a flow, once under each policy: a table never changes,
so its answer does not either. From then on both ways pass because the flow is there. What goes the way of the beginner
renews it; who answers renews nothing, and so cannot keep a flow open. An entry holds who began, until when, and which
policy approved; this is no TCP state machine, and the two ends keep handshakes, sequence numbers and closing to
themselves.

    packet                           begins a flow     lives for
    TCP, SYN and none of ACK FIN RST  yes              60 s, until the beginner's next segment
    TCP, any other                    no               300 s
    UDP                               yes              30 s
    echo request                      yes              30 s
    echo reply                        no               -
    fragment, other ICMP, the rest    untracked

A flow is its exact five-tuple; an echo its two addresses, identifier and direction, so that two who ping each other
have two flows. A bare SYN of the end that did not begin goes to the rules even where there is a flow, since it may be a
new connection on an old tuple; where they let it pass, the flow stays its beginner's, and passes both ways as ever.
What is untracked, or can begin nothing, cannot satisfy a rule of a stateful table (NO_FLOW); where no rule decides it
passes as the defaults have it, so path MTU discovery needs ICMP not to be blocked.

Where no rule decides: from the guest to what is open (`reach`); to the guest, everything. What comes in so is a flow
when it is a bare SYN: the peer shows that it begins, and is answered without a rule, even one that is blocked as a
destination; a Block for `in` keeps it out. A datagram or an echo request shows nothing of the sort. It is no flow until
a rule for `in` allows it, and the guest's answer needs to be allowed as what it is, a packet that the guest sends.
Otherwise a peer that goes on sending would keep open what a rule has closed.

A new table of rules (`replace`) counts from the next packet on. No flow is ended by it: one that was approved before is
asked about once more, by its beginner's direction, when its next packet comes, and lives on if the answer is yes. The
same holds after each change of the lease.

Bounds: 32,768 flows. When they are used up, what would begin another is refused and counted in `refused`; none is
evicted. So a guest, or a peer that the rules let in, can keep this guest from new flows and nobody else, and for 300 s
at the most after it stops. What is over is looked for once a second, and never believed in between.

A table that is not stateful may be put behind this one too: its rules are then satisfied by what is untracked as well.

Ports 0 of TCP and UDP are refused (RFC 8085 section 5.1, RFC 6335 section 6). Does not: verify checksums, believe ICMP
errors that quote a flow, follow FIN and RST, put fragments together, or take frames that were parsed as `faithful`.
"""

from __future__ import annotations

from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.guard.admit import admit, admit_to_guest, is_payload_to_guest
from bucatini.guard.binding import Binding
from bucatini.guard.frame import PLAIN, Frame
from bucatini.guard.reach import BLOCK, NO_RULE, is_open, readings
from bucatini.guard.rules import RuleTable

__all__ = ["ECHO_TTL", "MAX_FLOWS", "SYN_TTL", "TCP_TTL", "UDP_TTL", "FlowStates"]

MAX_FLOWS = 32768
SYN_TTL = 60.0
TCP_TTL = 300.0
UDP_TTL = 30.0
ECHO_TTL = 30.0
"""Seconds."""
SWEEP_EVERY = 1.0

ICMP, TCP, ICMPV6 = 1, 6, 58
ECHO_TYPES = {ICMP: (8, 0), ICMPV6: (128, 129)}
"""Request and reply: RFC 792, RFC 4443 section 4."""

REFUSED, BY_DEFAULT, BY_RULE = 0, 1, 2
"""What the policy says of one direction, address and port."""

PORT_ZERO = int(DropReason.PORT_ZERO)
POLICY_DENIED = int(DropReason.POLICY_DENIED)
NO_FLOW = int(DropReason.NO_FLOW)
FLOW_TABLE_FULL = int(DropReason.FLOW_TABLE_FULL)

Key = tuple[int, bytes, int, bytes, int | str]
"""Protocol, the guest's address and port, the peer's; of an echo the identifier, and who asked."""


class _Packet:
    """What a packet means to the table."""

    __slots__ = ("begins", "is_syn", "key", "peer", "port", "seconds")

    def __init__(
        self,
        peer: bytes,
        port: int,
        key: Key | None = None,
        begins: bool = False,
        seconds: float = 0.0,
        is_syn: bool = False,
    ) -> None:
        self.peer = peer
        self.port = port
        """Of the peer; 0 where there is none."""
        self.key = key
        """None: untracked."""
        self.begins = begins
        self.seconds = seconds
        self.is_syn = is_syn


class _Flow:
    """One entry."""

    __slots__ = ("direction", "epoch", "until")

    def __init__(self, direction: str, until: float, epoch: int) -> None:
        self.direction = direction
        """Of who began."""
        self.until = until
        self.epoch = epoch
        """Of the policy that approved it."""


class FlowStates:
    """The flows of one guest under `rules`. Frames must have been parsed strictly; `now` never runs backwards."""

    def __init__(self, binding: Binding, rules: RuleTable, limit: int = MAX_FLOWS) -> None:
        self._binding = binding
        self._rules = rules
        self._limit = limit
        self._flows: dict[Key, _Flow] = {}
        self._epoch = 0
        self._revision = binding.revision
        self._next_sweep = 0.0
        self.refused = 0
        """Packets that would have begun a flow when there was no room."""
        self.expired = 0
        """Flows whose time was over."""

    def __len__(self) -> int:
        """Flows held, those that ended within the last second among them."""
        return len(self._flows)

    @property
    def rules(self) -> RuleTable:
        """Those in force."""
        return self._rules

    def replace(self, rules: RuleTable) -> None:
        """Put other rules in force, whole, from the next packet on."""
        self._rules = rules
        self._epoch += 1

    def admit(self, frame: Frame, now: float) -> int:
        """0, or why the guest may not send this frame: `admit.admit`, with flows."""
        if frame.topic != PLAIN:
            return admit(frame, self._binding, self._rules, now)
        return admit(frame, self._binding, None, now) or self._judge(frame, EGRESS, now)

    def admit_to_guest(self, frame: Frame, now: float) -> int:
        """0, or why this frame may not reach the guest: `admit.admit_to_guest`, with flows."""
        bad = admit_to_guest(frame, self._binding, None)
        return self._judge(frame, INGRESS, now) if not bad and is_payload_to_guest(frame) else bad

    def _judge(self, frame: Frame, direction: str, now: float) -> int:
        """The decision about one packet whose speaker is not in doubt."""
        self._catch_up(now)
        packet = _read(frame, direction)
        if packet is None:
            return PORT_ZERO
        flow = self._find(packet, now)
        if flow is not None and flow.direction == direction:
            flow.until = now + packet.seconds
            return 0
        # An answer. Not opened: a new connection on the tuple of an old one, nor the way for others than its two ends.
        if flow is not None and not packet.is_syn:
            return 0
        approval = self._approve(direction, packet)
        if approval == REFUSED:
            return POLICY_DENIED
        if flow is not None:
            return 0
        # Not opened: a rule that means who may begin, by what does not show who did.
        if packet.key is None or not packet.begins or not _makes_flow(direction, packet, approval):
            return NO_FLOW if approval == BY_RULE and self._rules.stateful else 0
        if len(self._flows) >= self._limit:
            self.refused += 1
            return FLOW_TABLE_FULL
        self._flows[packet.key] = _Flow(direction, now + packet.seconds, self._epoch)
        return 0

    def _find(self, packet: _Packet, now: float) -> _Flow | None:
        """The flow of this packet, if it still lives and the policy of today approves of it."""
        key = packet.key
        flow = None if key is None else self._flows.get(key)
        if key is None or flow is None:
            return None
        if now >= flow.until:
            del self._flows[key]
            self.expired += 1
            return None
        if flow.epoch != self._epoch:
            if not _makes_flow(flow.direction, packet, self._approve(flow.direction, packet)):
                del self._flows[key]
                return None
            flow.epoch = self._epoch
        return flow

    def _approve(self, direction: str, packet: _Packet) -> int:
        """Whether the rules, or the defaults, let a flow begin: each reading of the address has to be let through."""
        approval = BY_DEFAULT
        for address in readings(packet.peer):
            verdict = self._rules.decide(direction, address, packet.port)
            if verdict == BLOCK:
                return REFUSED
            if verdict != NO_RULE:
                approval = BY_RULE
            elif direction == EGRESS and not is_open(address, packet.port, self._binding):
                return REFUSED
        return approval

    def _catch_up(self, now: float) -> None:
        """What changed since the last packet: the lease, and once a second who is over."""
        if self._binding.revision != self._revision:
            self._revision = self._binding.revision
            self._epoch += 1
        if now >= self._next_sweep:
            held = len(self._flows)
            self._flows = {key: flow for key, flow in self._flows.items() if now < flow.until}
            self.expired += held - len(self._flows)
            self._next_sweep = now + SWEEP_EVERY


def _makes_flow(direction: str, packet: _Packet, approval: int) -> bool:
    """Whether a beginning that was approved so is a flow, and its other end may answer."""
    if approval == BY_DEFAULT and direction == INGRESS:
        return packet.key is not None and packet.key[0] == TCP
    return approval != REFUSED


def _read(frame: Frame, direction: str) -> _Packet | None:
    """What the packet in a frame of this direction is about; None when a port is 0."""
    ip = frame.ip
    own = frame.copy(ip.source_at, ip.address_length)
    peer = frame.copy(ip.destination_at, ip.address_length)
    own_port, port = frame.source_port, frame.destination_port
    if direction == INGRESS:
        own, own_port, peer, port = peer, port, own, own_port
    protocol = frame.protocol
    if ip.fragment:
        return _Packet(peer, port)
    if protocol == 6 or protocol == 17:  # TCP, UDP: bare numbers, as most packets pass here
        if not (own_port and port):
            return None
        key = protocol, own, own_port, peer, port
        if protocol == 17:
            return _Packet(peer, port, key, True, UDP_TTL)
        is_syn = frame.buf[ip.payload_at + 13] & 0x17 == 0x02  # SYN, and none of ACK, FIN and RST
        return _Packet(peer, port, key, is_syn, SYN_TTL if is_syn else TCP_TTL, is_syn)
    if protocol == (ICMP if ip.version == 4 else ICMPV6):
        return _read_icmp(frame, direction, own, peer)
    return _Packet(peer, 0)


def _read_icmp(frame: Frame, direction: str, own: bytes, peer: bytes) -> _Packet:
    buf, at = frame.buf, frame.ip.payload_at
    request, reply = ECHO_TYPES[frame.protocol]
    kind = buf[at]
    if buf[at + 1] or kind not in (request, reply):
        return _Packet(peer, 0)
    asked = direction if kind == request else INGRESS if direction == EGRESS else EGRESS
    key = frame.protocol, own, buf[at + 4] << 8 | buf[at + 5], peer, asked
    return _Packet(peer, 0, key, kind == request, ECHO_TTL)
