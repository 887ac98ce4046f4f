"""Frames of one guest on the link of another, whatever the two links can do."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from bucatini.host.tap import Offloads
from bucatini.wire.checksum import internet, partial, pseudo_header
from support.frames import GATEWAY_MAC, mac, vnet
from support.segment_bench import MACS, A, B, Bench, address4, address6

ALL, CHECKSUM, NONE = Offloads(), Offloads.from_names("checksum"), Offloads.from_names()
TCP4, TCP6, UDP_L4, ECN = 1, 4, 5, 0x80
PAYLOAD = bytes(range(256)) * 20
SIZE = 1000


def bench(to: Offloads = ALL, header: int = 12, mtu: int = 1500) -> Bench:
    made = Bench(offloads=(ALL, to, ALL), header=header, mtu=mtu)
    made.allow("a", "b")
    return made


def packet(version: int, transport: Any, direct: bool = True) -> Any:
    ip = IP(src=address4(A), dst=address4(B)) if version == 4 else IPv6(src=address6(A), dst=address6(B))
    return Ether(src=MACS[A], dst=MACS[B] if direct else GATEWAY_MAC) / ip / transport


def begun(frame: Any) -> bytes:
    """The frame as a guest leaves it to the link: the checksum is the sum of the pseudo-header."""
    whole = bytearray(bytes(frame))
    start = 34 if IP in frame else 54
    protocol = 6 if TCP in frame else 17
    addresses = whole[26:34] if IP in frame else whole[22:54]
    half = len(addresses) // 2
    total = pseudo_header(bytes(addresses[:half]), bytes(addresses[half:]), protocol, len(whole) - start)
    at = start + (16 if protocol == 6 else 6)
    whole[at : at + 2] = total.to_bytes(2, "big")
    return bytes(whole)


def undone(frame: Any, kind: int = 0, size: int = 0) -> bytes:
    """The virtio-net header of such a frame."""
    start = 34 if IP in frame else 54
    field = 16 if TCP in frame else 6
    return vnet(flags=1, gso=kind, headers=start + (20 if TCP in frame else 8), size=size, start=start, offset=field)


def pieces(made: Bench, offloads: Offloads) -> list[bytes]:
    """Ethernet frames to the second guest, each looked at: complete, or begun as its link may have them."""
    found = []
    for frame in made.raw(B):
        flags, gso, _, _, start, offset = struct.unpack_from("<BBHHHH", frame)
        body = frame[12:]
        four = body[12:14] == b"\x08\x00"
        at = 34 if four else 54
        if four:
            assert internet(body[14:34]) == 0
            assert int.from_bytes(body[16:18], "big") == len(body) - 14
        else:
            assert int.from_bytes(body[18:20], "big") == len(body) - 54
        source, destination = (body[26:30], body[30:34]) if four else (body[22:38], body[38:54])
        protocol = body[23] if four else body[20]
        pseudo = pseudo_header(source, destination, protocol, len(body) - at)
        if flags:
            assert offloads.checksum
            assert (flags, start) == (1, at)
            assert int.from_bytes(body[at + offset : at + offset + 2], "big") % 0xFFFF == pseudo % 0xFFFF
        else:
            assert gso == 0
            assert partial(body[at:], pseudo) % 0xFFFF == 0
        found.append(body)
    return found


@pytest.mark.parametrize("offloads", [ALL, CHECKSUM, NONE])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("transport", [TCP(sport=1, dport=2, flags="S"), UDP(sport=1, dport=2) / b"odd"])
def test_a_checksum_that_was_left_to_the_link(offloads: Offloads, version: int, transport: Any) -> None:
    with bench(offloads) as made:
        frame = packet(version, transport)
        made.send(A, begun(frame), header=undone(frame))
        made.send(A, frame)
        for body in pieces(made, offloads):
            assert body[:12] == mac(MACS[B]) + mac(MACS[A])
            assert len(body) == len(bytes(frame))
        assert made.drops(A) == {}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("offloads", [ALL, NONE])
def test_a_link_that_strips_the_header(version: int, offloads: Offloads) -> None:
    with bench(offloads, header=0) as made:
        made.send(A, begun(packet(version, TCP(sport=1, dport=2, flags="S"))))
        assert len(pieces(made, offloads)) == 1


@pytest.mark.parametrize("version", [4, 6])
def test_a_superframe_goes_whole_where_it_may(version: int) -> None:
    with bench(ALL) as made:
        frame = packet(version, TCP(sport=1, dport=2, flags="PA") / PAYLOAD)
        kind = TCP4 if version == 4 else TCP6
        made.send(A, begun(frame), header=undone(frame, kind, SIZE))
        (sent,) = made.raw(B)
        headers = len(bytes(frame)) - len(PAYLOAD)
        assert struct.unpack_from("<BBHHHH", sent) == (1, kind, headers, SIZE, headers - 20, 16)
        assert sent[-len(PAYLOAD) :] == PAYLOAD


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("offloads", [CHECKSUM, NONE])
def test_a_superframe_is_cut_where_it_must(version: int, offloads: Offloads) -> None:
    with bench(offloads) as made:
        frame = packet(version, TCP(sport=1, dport=2, seq=0xFFFFFF00, flags="FPAC") / PAYLOAD)
        made.send(A, begun(frame), header=undone(frame, (TCP4 if version == 4 else TCP6) | ECN, SIZE))
        found = [Ether(body) for body in pieces(made, offloads)]
        assert b"".join(bytes(each[TCP].payload) for each in found) == PAYLOAD
        assert [each[TCP].seq for each in found] == [
            (0xFFFFFF00 + at) & 0xFFFFFFFF for at in range(0, len(PAYLOAD), SIZE)
        ]
        assert [str(each[TCP].flags) for each in found] == ["AC", *["A"] * (len(found) - 2), "FPA"]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("offloads", [ALL, CHECKSUM, NONE])
def test_a_train_of_datagrams(version: int, offloads: Offloads) -> None:
    with bench(offloads) as made:
        frame = packet(version, UDP(sport=1, dport=2) / PAYLOAD)
        made.send(A, begun(frame), header=undone(frame, UDP_L4, SIZE))
        found = [Ether(body) for body in pieces(made, offloads)]
        assert b"".join(bytes(each[UDP].payload) for each in found) == PAYLOAD
        assert len(found) == (1 if offloads is ALL else -(-len(PAYLOAD) // SIZE))
        assert [each[UDP].len for each in found] == [8 + len(each[UDP].payload) for each in found]


@pytest.mark.parametrize(
    ("kind", "size"),
    [(TCP4, 0), (TCP4, 1), (TCP4, 255), (TCP4, 1461), (TCP6, 1000), (UDP_L4, 1000), (3, 1000), (77, 9)],
)
def test_superframes_that_cannot_be(kind: int, size: int) -> None:
    """Of one byte each, larger than the link, or of another kind than the packet."""
    with bench(NONE) as made:
        frame = packet(4, TCP(sport=1, dport=2, flags="A") / PAYLOAD)
        made.send(A, begun(frame), header=undone(frame, kind, size))
        assert made.raw(B) == []
        assert made.drops(A) == {"offload": 1}


@pytest.mark.parametrize("transport", [TCP(sport=1, dport=2), UDP(sport=1, dport=2), ICMP()])
def test_what_is_larger_than_the_link(transport: Any) -> None:
    with bench() as made:
        made.send(A, packet(4, transport / PAYLOAD))
        assert made.raw(B) == []
        assert made.drops(A) == {"exceeds-mtu": 1}


def test_bytes_behind_a_datagram_are_not_handed_on() -> None:
    with bench() as made:
        made.send(A, packet(4, UDP(sport=1, dport=2, len=10) / b"two and more"))
        assert made.raw(B) == []


def test_fragments_go_as_they_are() -> None:
    with bench() as made:
        whole = IP(src=address4(A), dst=address4(B), id=7) / UDP(sport=1, dport=2) / Raw(PAYLOAD[:2000])
        parts = [Ether(src=MACS[A], dst=MACS[B]) / part for part in fragment(whole, 1000)]
        made.send(A, *parts)
        assert [frame[12:] for frame in made.raw(B)] == [bytes(part) for part in parts]


def test_by_the_gateway() -> None:
    with bench() as made:
        made.send(A, packet(4, ICMP(), direct=False))
        (heard,) = made.heard(B)
        assert (heard.src, heard.dst) == (GATEWAY_MAC, MACS[B])
        assert heard[IP].ttl == 64
