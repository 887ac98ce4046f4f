"""engine.filter.passage: what is handed on, byte for byte, and what a guest's virtio-net header may ask for."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from bucatini.base.address import pack
from bucatini.base.reasons import DropReason
from bucatini.engine.filter.passage import Passage
from bucatini.engine.layout import STRIDE
from bucatini.guard.binding import Binding, LeaseState
from bucatini.guard.live_policy import LivePolicy
from bucatini.guard.rule_grammar import parse_rule
from bucatini.native import Arena
from support.frames import NEEDS_CSUM, vnet

MAC, HOST_MAC = "02:00:00:00:00:07", "02:00:00:00:00:01"
GUEST, GATEWAY, PUBLIC, PRIVATE = "10.0.0.7", "10.0.0.1", "8.8.8.8", "10.9.9.9"
LINK_LOCAL = "fe80::ff:fe00:7"
AT = 64
EMPTY = bytes(12)
TCP4, TCP6, USO, UFO = 1, 4, 5, 3


class Link:
    """Remembers what it transmits."""

    def __init__(self, header: int) -> None:
        self.header = header
        self.sent: list[bytes] = []
        self.answer = 0

    def transmit(self, arena: Arena, at: int, length: int) -> int:
        if self.answer:
            return self.answer
        self.sent.append(arena.copy(at, length))
        return length


class Bench:
    def __init__(self, header: int, faithful: bool = False, *block: str) -> None:
        self.arena = Arena(4 * STRIDE)
        self.link = Link(header)
        self.binding = Binding(bytes.fromhex(MAC.replace(":", "")), [pack(GATEWAY)])
        self.binding.lease(pack(GUEST), 600, 0.0)
        self.live = LivePolicy((), [parse_rule(each) for each in block], [pack(GATEWAY)])
        self.bugs: list[Exception] = []
        self._near, self.host = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.host.setblocking(False)
        self.passage = Passage(
            self.arena, self.link, self._near.fileno(), self.binding, self.live, faithful, self.bugs.append
        )

    def from_guest(self, frame: bytes, header: bytes = b"", now: float = 1.0) -> str:
        """The drop reason's label, empty when the frame is with the host."""
        whole = header + frame
        self.arena.view[AT : AT + len(whole)] = whole
        reason = self.passage.from_guest(AT, len(whole), now)
        return DropReason(reason).label if reason else ""  # type: ignore[call-arg]

    def to_guest(self, frame: bytes, now: float = 1.0) -> str:
        whole = EMPTY + frame
        self.arena.view[AT : AT + len(whole)] = whole
        reason = self.passage.to_guest(AT, len(whole), now)
        return DropReason(reason).label if reason else ""  # type: ignore[call-arg]

    def close(self) -> None:
        self._near.close()
        self.host.close()


@pytest.fixture
def bare() -> Iterator[Bench]:
    """A guest on a socket."""
    made = Bench(0)
    yield made
    made.close()


@pytest.fixture
def virtio() -> Iterator[Bench]:
    """A guest whose frames have a virtio-net header."""
    made = Bench(12)
    yield made
    made.close()


def out(*layers: Any, source: str = MAC) -> bytes:
    frame = Ether(src=source, dst=HOST_MAC)
    for layer in layers:
        frame = frame / layer
    return bytes(frame)


def into(*layers: Any, to: str = MAC) -> bytes:
    frame = Ether(src=HOST_MAC, dst=to)
    for layer in layers:
        frame = frame / layer
    return bytes(frame)


SYN = out(IP(src=GUEST, dst=PUBLIC), TCP(sport=4000, dport=80, flags="S"))
QUESTION = out(IP(src=GUEST, dst=PUBLIC), UDP(sport=4000, dport=53), Raw(bytes(100)))


def test_frames_pass_unchanged(bare: Bench) -> None:
    asks = out(ARP(hwsrc=MAC, psrc=GUEST, pdst=GATEWAY))
    for frame in (SYN, QUESTION, asks, out(IP(src=GUEST, dst=GATEWAY), ICMP())):
        assert bare.from_guest(frame) == ""
        assert bare.host.recv(70000) == EMPTY + frame
    for frame in (into(IP(src=PRIVATE, dst=GUEST), TCP(flags="S")), into(ARP(), to="ff:ff:ff:ff:ff:ff")):
        assert bare.to_guest(frame) == ""
        assert bare.link.sent.pop() == EMPTY + frame
    assert (bare.passage.from_guest_frames, bare.passage.to_guest_frames) == (4, 2)


def test_what_does_not_pass(bare: Bench) -> None:
    assert bare.from_guest(out(IP(src=GUEST, dst=PUBLIC), UDP(), source=HOST_MAC)) == "foreign-source-mac"
    assert bare.from_guest(out(IP(src=PUBLIC, dst=PUBLIC), UDP())) == "source-not-guest"
    assert bare.from_guest(out(IP(src=GUEST, dst=PRIVATE), UDP())) == "policy-denied"
    assert bare.from_guest(SYN, now=700.0) == "lease-expired"
    assert bare.from_guest(SYN[:13]) == "truncated"
    assert bare.to_guest(into(IP(src=PUBLIC, dst=GUEST), UDP(), to=HOST_MAC)) == "foreign-mac"
    assert bare.to_guest(into(IP(src=PRIVATE, dst=GUEST), UDP(sport=67, dport=68))) == "rogue-dhcp"
    with pytest.raises(BlockingIOError):
        bare.host.recv(1)
    assert bare.link.sent == []


def test_who_answers_needs_no_rule(bare: Bench) -> None:
    answer = out(IP(src=GUEST, dst=PRIVATE), TCP(sport=80, dport=4000, flags="SA"))
    assert bare.from_guest(answer) == "policy-denied"
    assert bare.to_guest(into(IP(src=PRIVATE, dst=GUEST), TCP(sport=4000, dport=80, flags="S"))) == ""
    assert bare.from_guest(answer) == ""


@pytest.mark.parametrize("faithful", [False, True])
def test_another_policy_counts_from_the_next_frame(faithful: bool) -> None:
    bench = Bench(0, faithful)
    assert bench.from_guest(SYN) == ""
    bench.live.set({"allow": [], "block": ["8.0.0.0/8"], "desiredRevision": "1"})
    assert bench.from_guest(SYN) == "policy-denied"
    bench.live.set({"allow": ["8.8.8.8/32"], "block": ["8.0.0.0/8"], "desiredRevision": "2"})
    assert bench.from_guest(SYN) == ""
    bench.close()


@pytest.mark.parametrize("faithful", [False, True])
def test_leases_are_learned(faithful: bool) -> None:
    bench = Bench(0, faithful)
    bench.binding.clear()
    options = [("message-type", "request"), "end"]
    chaddr = bytes.fromhex(MAC.replace(":", ""))
    request = BOOTP(chaddr=chaddr, xid=7) / DHCP(options=options)
    assert bench.from_guest(out(IP(src="0.0.0.0", dst="255.255.255.255"), UDP(sport=68, dport=67), request)) == ""
    answer = BOOTP(op=2, chaddr=chaddr, xid=7, yiaddr=GUEST)
    ack = DHCP(options=[("message-type", "ack"), ("lease_time", 60), "end"])
    assert bench.to_guest(into(IP(src=GATEWAY, dst=GUEST), UDP(sport=67, dport=68), answer, ack), 5.0) == ""
    assert bench.binding.leased == pack(GUEST)
    assert bench.binding.state(64.0) == LeaseState.LEASED
    assert bench.binding.state(65.0) == LeaseState.EXPIRED
    bench.close()


def test_faithful_lets_no_ipv6_pass() -> None:
    bench = Bench(0, True)
    assert bench.from_guest(out(IPv6(src=LINK_LOCAL, dst="fe80::1"), UDP())) == "family-off"
    assert bench.to_guest(into(IPv6(src="fe80::1", dst=LINK_LOCAL), UDP())) == "family-off"
    bench.close()


# -- what goes wrong


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM])
def test_a_full_guest(bare: Bench, number: int) -> None:
    bare.link.answer = -number
    assert bare.to_guest(into(IP(src=PUBLIC, dst=GUEST), TCP())) == "link-full"


def test_a_guest_that_is_not_there(bare: Bench) -> None:
    """Nobody misses a frame."""
    bare.link.answer = -errno.ENOTCONN
    assert not bare.to_guest(into(IP(src=PUBLIC, dst=GUEST), TCP()))
    assert bare.passage.to_guest_frames == 0


def test_a_host_that_takes_nothing(bare: Bench) -> None:
    bare.host.close()
    assert bare.from_guest(SYN) == "host-send-failed"


def test_a_bug_costs_a_frame(bare: Bench) -> None:
    class Broken:
        def from_guest(self, frame: Any, now: float) -> int:
            raise ZeroDivisionError

        def to_guest(self, frame: Any, now: float) -> None:
            raise ZeroDivisionError

    kept, bare.passage.snoop = bare.passage.snoop, Broken()  # type: ignore[assignment]
    assert bare.from_guest(SYN) == "bug"
    assert bare.to_guest(into(IP(src=PUBLIC, dst=GUEST), TCP(sport=80, dport=4000, flags="SA"))) == "bug"
    assert [type(each) for each in bare.bugs] == [ZeroDivisionError, ZeroDivisionError]
    bare.passage.snoop = kept
    assert bare.from_guest(SYN) == ""


# -- a virtio-net header of the guest's

SYN6 = out(IPv6(src=LINK_LOCAL, dst="2600::1"), TCP(sport=4000, dport=80, flags="S"))
ASKS = out(
    IP(src="0.0.0.0", dst="255.255.255.255"), UDP(sport=68, dport=67),
    BOOTP(chaddr=bytes.fromhex(MAC.replace(":", ""))) / DHCP(options=[("message-type", "discover"), "end"]),
)  # fmt: skip
LATER = out(IP(src=GUEST, dst=PUBLIC, proto=6, frag=100), Raw(bytes(40)))
FIRST = out(IP(src=GUEST, dst=PUBLIC, proto=17, flags="MF"), UDP(sport=4000, dport=53, len=2000), Raw(bytes(64)))


@pytest.mark.parametrize(
    ("frame", "header"),
    [
        (SYN, vnet()),
        (SYN, vnet(NEEDS_CSUM, start=34, offset=16)),
        (SYN, vnet(NEEDS_CSUM, TCP4, size=1448, start=34, offset=16)),
        (SYN, vnet(NEEDS_CSUM, TCP4 | 0x80, size=1448, start=34, offset=16)),
        (SYN6, vnet(NEEDS_CSUM, TCP6, size=1428, start=54, offset=16)),
        (QUESTION, vnet(NEEDS_CSUM, start=34, offset=6)),
        (QUESTION, vnet(NEEDS_CSUM, USO, size=50, start=34, offset=6)),
        (ASKS, vnet(NEEDS_CSUM, start=34, offset=6)),
        (LATER, vnet()),
    ],
)
def test_headers_that_say_what_the_frame_says(virtio: Bench, frame: bytes, header: bytes) -> None:
    assert virtio.from_guest(frame, header) == ""
    assert virtio.host.recv(70000) == header + frame


@pytest.mark.parametrize(
    ("frame", "header"),
    [
        (SYN, vnet(NEEDS_CSUM, start=14, offset=12)),  # would write into the source address
        (SYN, vnet(NEEDS_CSUM, start=34, offset=6)),
        (SYN, vnet(NEEDS_CSUM, start=0, offset=6)),  # into the source MAC
        (SYN, vnet(NEEDS_CSUM, start=54, offset=16)),
        (SYN, vnet(0, TCP4, size=1448, start=34, offset=16)),
        (SYN, vnet(NEEDS_CSUM, TCP6, size=1448, start=34, offset=16)),
        (SYN, vnet(NEEDS_CSUM, USO, size=1448, start=34, offset=16)),
        (SYN, vnet(NEEDS_CSUM, UFO, size=1448, start=34, offset=16)),
        (SYN, vnet(NEEDS_CSUM, 2, size=1448, start=34, offset=16)),
        (SYN6, vnet(NEEDS_CSUM, TCP4, size=1448, start=54, offset=16)),
        (QUESTION, vnet(NEEDS_CSUM, TCP4, size=1448, start=34, offset=6)),
        (QUESTION, vnet(NEEDS_CSUM, start=34, offset=16)),
        (LATER, vnet(NEEDS_CSUM, start=34, offset=16)),
        (FIRST, vnet(NEEDS_CSUM, start=34, offset=6)),
        (out(ARP(hwsrc=MAC, psrc=GUEST, pdst=GATEWAY)), vnet(NEEDS_CSUM, start=14, offset=14)),
        (out(IP(src=GUEST, dst=GATEWAY), ICMP()), vnet(NEEDS_CSUM, start=34, offset=2)),
    ],
)
@pytest.mark.parametrize("faithful", [False, True])
def test_headers_that_would_change_the_frame(frame: bytes, header: bytes, faithful: bool) -> None:
    """The kernel writes the checksum where the header says, after we have looked."""
    bench = Bench(12, faithful)
    expected = "family-off" if faithful and frame == SYN6 else "offload"
    if not (faithful and frame == FIRST):  # which Softnet's reading takes for a whole datagram, cut short
        assert bench.from_guest(frame, header) == expected
        with pytest.raises(BlockingIOError):
            bench.host.recv(1)
    bench.close()


def test_requests_for_leases_are_not_cut(virtio: Bench) -> None:
    """Each piece would be a request, and only the first was seen to be in the guest's own name."""
    assert virtio.from_guest(ASKS, vnet(NEEDS_CSUM, USO, size=250, start=34, offset=6)) == "offload"


@pytest.mark.parametrize(("size", "said"), [(0, "offload"), (7, "offload"), (8, "")])
def test_what_would_be_cut_into_a_multitude(virtio: Bench, size: int, said: str) -> None:
    """2020 bytes behind the IP header: the kernel would cut, and stand still meanwhile, as long as it is told to."""
    frame = out(IP(src=GUEST, dst=PUBLIC), TCP(sport=4000, dport=80, flags="S") / Raw(bytes(2000)))
    assert virtio.from_guest(frame, vnet(NEEDS_CSUM, TCP4, size=size, start=34, offset=16)) == said


def test_flags_that_mean_nothing_here(virtio: Bench) -> None:
    assert virtio.from_guest(SYN, vnet(2 | 4)) == ""
    assert virtio.host.recv(70000) == EMPTY + SYN


def test_ports_of_an_earlier_frame_do_not_count(virtio: Bench) -> None:
    """The view is used again: what the last frame was must not be taken for what this one is."""
    assert virtio.from_guest(SYN, vnet(NEEDS_CSUM, start=34, offset=16)) == ""
    arp = out(ARP(hwsrc=MAC, psrc=GUEST, pdst=GATEWAY, op=1))
    assert virtio.from_guest(arp, vnet(NEEDS_CSUM, start=34, offset=16)) == "offload"
