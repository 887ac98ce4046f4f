"""Whatever a guest sends, the isolation filter answers; what it lets pass has the guest's MAC and its own source."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bucatini.base.address import pack
from bucatini.base.reasons import DropReason
from bucatini.guard.admit import (
    ALLOW,
    admit,
    admit_faithful,
    admit_faithful_to_guest,
    admit_to_guest,
)
from bucatini.guard.binding import Binding
from bucatini.guard.frame import Frame
from bucatini.guard.snoop import Snoop
from bucatini.wire.checksum import internet
from bucatini.wire.ip import IpView

MAC, OTHER_MAC, GATEWAY_MAC = (bytes.fromhex(f"0200000000{last}") for last in ("01", "09", "fe"))
OWN4, OTHER4, GATEWAY4 = pack("192.168.0.2"), pack("192.168.0.9"), pack("192.168.0.1")
LINK, OWN6, OTHER6 = pack("fe80::ff:fe00:1"), pack("2001:db8::2"), pack("fe80::ff:fe00:9")
DELEGATED = pack("2001:db8:5::77")
NOW = 100.0


class Everything:
    """The rule that keeps nobody out: what is dropped then, identity dropped."""

    def decide(self, direction: str, address: bytes, port: int) -> int:
        return ALLOW


def binding() -> Binding:
    bound = Binding(MAC, [GATEWAY4, pack("fe80::1")])
    bound.lease(OWN4, 600, 0.0)
    bound.bind(OWN6)
    bound.bind_prefix(pack("2001:db8:5::"), 64)
    return bound


macs = st.sampled_from([MAC, MAC, MAC, OTHER_MAC, b"\xff" * 6])
addresses4 = st.sampled_from([OWN4, OWN4, OTHER4, GATEWAY4, bytes(4), b"\xff" * 4, pack("1.1.1.1"), pack("224.0.0.22")])
addresses6 = st.sampled_from(
    [LINK, OWN6, DELEGATED, OTHER6, bytes(16), pack("fe80::1"), pack("ff02::1"), pack("2606:4700::1")]
)
ports = st.sampled_from([53, 67, 68, 546, 547, 9999])


@st.composite
def udp(draw: st.DrawFn) -> tuple[int, bytes]:
    body = draw(st.binary(max_size=8) | dhcp())
    length = draw(st.sampled_from([8 + len(body), 8 + len(body), 7, 9000]))
    return 17, struct.pack("!HHHH", draw(ports), draw(ports), length, 0) + body


@st.composite
def dhcp(draw: st.DrawFn) -> bytes:
    chaddr = draw(macs) + bytes(10)
    head = bytes([draw(st.sampled_from([1, 1, 1, 2])), 1, draw(st.sampled_from([6, 6, 6, 16, 17])), 0])
    kind = bytes([53, 1, draw(st.integers(1, 8))])
    options = kind + draw(st.sampled_from([b"\xff", b"", b"\x33\x04\0\0\2\x58\xff", b"\x3d\x09"]))
    return head + bytes(20) + chaddr + bytes(192) + b"\x63\x82\x53\x63" + options


@st.composite
def icmpv6(draw: st.DrawFn) -> tuple[int, bytes]:
    kind = draw(st.sampled_from([128, 130, 131, 133, 134, 135, 136, 137, 143, 1, 151, 200]))
    target = draw(addresses6) if kind in (135, 136) else draw(st.binary(max_size=16))
    option = st.builds(lambda *head_mac: bytes(head_mac[:2]) + head_mac[2], st.integers(1, 3), st.integers(0, 2), macs)
    options = b"".join(draw(st.lists(option, max_size=2)))
    return 58, bytes([kind, draw(st.sampled_from([0, 0, 0, 1])), 0, 0, 0, 0, 0, 0]) + target + options


transports = st.one_of(
    udp(),
    icmpv6(),
    st.tuples(st.just(6), st.just(bytes(20))),
    st.tuples(st.sampled_from([1, 2]), st.builds(lambda kind: bytes([kind]) + bytes(7), st.integers(0, 255))),
    st.tuples(st.integers(0, 255), st.binary(max_size=40)),
)


@st.composite
def ipv4(draw: st.DrawFn) -> tuple[int, bytes]:
    protocol, body = draw(transports)
    options = draw(st.sampled_from([b"", b"", b"", b"\x94\4\0\0", b"\x83\3\4\0", b"\1\1\1\1"]))
    fragment = draw(st.sampled_from([0, 0, 0, 0x4000, 0x2000, 1, 0x2001]))
    total = 20 + len(options) + len(body)
    head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, total, 1, fragment, 64, protocol, 0)
    head += draw(addresses4) + draw(addresses4) + options
    return 0x0800, head[:10] + internet(head).to_bytes(2, "big") + head[12:] + body


@st.composite
def ipv6(draw: st.DrawFn) -> tuple[int, bytes]:
    protocol, body = draw(transports)
    for kind in draw(st.lists(st.sampled_from([0, 43, 44, 51, 60]), max_size=2)):
        filling = bytes.fromhex(draw(st.sampled_from(["000000000000", "c90400000000", "000100000000", "010400000000"])))
        body = bytes([protocol, kind == 51]) + filling + bytes(4 * (kind == 51)) + body
        protocol = kind
    hops = draw(st.sampled_from([255, 255, 255, 64, 1]))
    return 0x86DD, struct.pack("!IHBB", 6 << 28, len(body), protocol, hops) + draw(addresses6) + draw(addresses6) + body


@st.composite
def arp(draw: st.DrawFn) -> tuple[int, bytes]:
    odd = [b"\0\6\x08\0\6\4", b"\0\1\x08\0\6\3", b"\0\1\x08\0\xff\xff"]
    head = draw(st.sampled_from([b"\0\1\x08\0\6\4"] * 4 + odd))
    operation = bytes([0, draw(st.sampled_from([1, 1, 2, 9]))])
    return 0x0806, head + operation + draw(macs) + draw(addresses4) + draw(macs) + draw(addresses4)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    ethertype, body = draw(st.one_of(ipv4(), ipv6(), arp(), st.tuples(st.integers(0, 65535), st.binary(max_size=64))))
    frame = bytearray(draw(macs) + draw(macs) + ethertype.to_bytes(2, "big") + body)
    for at, value in draw(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=2)):
        if at < len(frame) and draw(st.booleans()):
            frame[at] = value
    return bytes(frame[: draw(st.sampled_from([len(frame)] * 6 + [34, 42, 54, draw(st.integers(0, len(frame)))]))])


noise = st.binary(max_size=120) | st.binary(max_size=60).map(lambda data: GATEWAY_MAC + MAC + b"\x08\0" + data)


def look(frame: bytes, faithful: bool = False) -> Frame:
    """In the middle of bytes that are not the frame's, so that reading over its end is noticed as a wrong answer."""
    view = Frame(memoryview(bytearray(b"\xa5" * 7 + frame + b"\xa5" * 7)), faithful)
    view.parse(7, len(frame))
    return view


def source_of(frame: bytes) -> bytes:
    return frame[26:30] if frame[12:14] == b"\x08\0" else frame[22:38]


@settings(max_examples=600)
@given(frame=frames() | noise)
@example(frame=b"")
def test_what_passes_is_the_guests_own(frame: bytes) -> None:
    bound = binding()
    view = look(frame)
    found = admit(view, bound, Everything(), NOW)
    DropReason(found)
    if found:
        return
    assert frame[6:12] == MAC
    assert frame[12:14] in (b"\x08\0", b"\x08\6", b"\x86\xdd")
    if frame[12:14] == b"\x08\6":
        assert frame[22:28] == MAC
        assert frame[28:32] == OWN4 or (frame[28:32] == bytes(4) and frame[20:22] == b"\0\1")
        return
    source = source_of(frame)
    if any(source):
        assert bound.holds(source, NOW)
        assert source in (OWN4, LINK, OWN6) or source.startswith(DELEGATED[:8])
    else:
        assert_may_be_nobody(view, bound)


def assert_may_be_nobody(view: Frame, bound: Binding) -> None:
    """From the unspecified address: DHCP to all, group reports, DAD for an address of its own, a wish for routers."""
    ip, buf = view.ip, view.buf
    kind = buf[ip.payload_at]
    if ip.version == 4:
        to_all = bytes(buf[ip.destination_at : ip.destination_at + 4]) == b"\xff" * 4
        assert (ip.protocol == 17 and view.destination_port == 67 and to_all) or ip.protocol == 2
    elif kind == 135:
        assert bound.holds(bytes(buf[ip.payload_at + 8 : ip.payload_at + 24]), NOW)
    else:
        assert kind in (131, 132, 133, 143)


@settings(max_examples=300)
@given(frame=frames() | noise)
def test_nothing_passes_for_who_has_nothing(frame: bytes) -> None:
    """No lease, nothing assigned: IPv4 is DHCP, group reports and ARP probes, whatever the bytes."""
    view = look(frame)
    if admit(view, Binding(MAC, [GATEWAY4]), Everything(), NOW) == 0 and view.kind != 6:
        assert view.address == 0


@settings(max_examples=300)
@given(frame=frames() | noise)
def test_faithful_never_raises_and_holds_to_its_table(frame: bytes) -> None:
    bound = binding()
    view = look(frame, faithful=True)
    found = admit_faithful(view, bound, None, NOW)
    DropReason(found)
    DropReason(admit_faithful_to_guest(view))
    if found == 0:
        assert frame[6:12] == MAC
        own = frame[28:32] == OWN4 if frame[12:14] == b"\x08\6" else frame[26:30] == OWN4
        hole = frame[12:14] == b"\x08\0" and frame[23] == 17 and frame[30:34] == b"\xff" * 4
        assert own or hole


@settings(max_examples=300)
@given(frame=frames() | noise)
def test_parsed_elsewhere_or_here_is_the_same(frame: bytes) -> None:
    arena, ip = memoryview(bytearray(b"\xa5" * 7 + frame + b"\xa5" * 7)), IpView()
    is_ip = len(frame) >= 14 and frame[12:14] in (b"\x08\0", b"\x86\xdd")
    if is_ip and (ip.parse(arena, 21, 7 + len(frame)) or ip.version != (4 if frame[12] == 8 else 6)):
        return
    view = Frame(arena, ip=ip)
    view.adopt(7, 7 + len(frame))
    assert admit(view, binding(), None, NOW) == admit(look(frame), binding(), None, NOW)


@settings(max_examples=300)
@given(frame=frames() | noise)
def test_what_follows_a_frame_in_memory_does_not_matter(frame: bytes) -> None:
    answers: set[tuple[Any, ...]] = set()
    for filling in (b"\0", b"\xff", MAC):
        arena = memoryview(bytearray(filling * 9 + frame + filling * 9))
        for faithful, predicate in ((False, admit), (True, admit_faithful)):
            view = Frame(arena, faithful)
            view.parse(9 * len(filling), len(frame))
            answers.add((faithful, predicate(view, binding(), Everything(), NOW), view.topic))
    assert len(answers) == 2


@pytest.mark.parametrize("faithful", [False, True])
@settings(max_examples=200)
@given(script=st.lists(st.tuples(st.booleans(), frames() | noise), max_size=12))
def test_snooping_never_raises_and_stays_small(faithful: bool, script: list[tuple[bool, bytes]]) -> None:
    bound = binding()
    snoop = Snoop(bound, faithful)
    for turn, (outwards, frame) in enumerate(script):
        view = look(frame, faithful)
        if outwards:
            DropReason(snoop.from_guest(view, float(turn)))
        else:
            before = bound.revision
            admit_to_guest(view, bound, Everything())
            change = snoop.to_guest(view, float(turn))
            assert (bound.revision != before) == (change != 0)
    assert len(snoop._awaited._open) <= 8
    assert len(snoop._identities._known) <= 4
