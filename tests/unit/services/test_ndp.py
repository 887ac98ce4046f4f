"""Neighbour solicitations: an answer for everything but the guest's own addresses, none for its address detection."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether

from bucatini.base.address import pack
from bucatini.services.ndp import NdpSettings, answer_ndp

GUEST_MAC = "02:00:00:00:00:01"
OUR_MAC = "9a:55:9a:55:9a:55"
GUEST = "2001:db8::2"
SETTINGS = NdpSettings(bytes.fromhex("9a559a559a55"), frozenset({pack(GUEST), pack("fe80::2")}))


def solicit(target: str, source: str = GUEST, destination: str = "ff02::1:ff00:1", **fields: int) -> Ether:
    hop_limit = fields.pop("hlim", 255)
    ns = ICMPv6ND_NS(tgt=target, **fields)
    packet = Ether(dst="33:33:ff:00:00:01", src=GUEST_MAC) / IPv6(src=source, dst=destination, hlim=hop_limit) / ns
    return packet if source == "::" else packet / ICMPv6NDOptSrcLLAddr(lladdr=GUEST_MAC)


@pytest.mark.parametrize("target", ["fe80::1", "2001:db8::1", "2001:db8:ffff::77"])
@pytest.mark.parametrize("source", [GUEST, "fe80::2", "2001:db8::99"])
def test_every_address_but_the_guests_own_is_ours(target: str, source: str) -> None:
    frame = answer_ndp(bytes(solicit(target, source)), SETTINGS)
    assert frame is not None
    reply = Ether(frame)
    assert (reply.dst, reply.src) == (GUEST_MAC, OUR_MAC)
    assert (reply[IPv6].src, reply[IPv6].dst, reply[IPv6].hlim) == (target, source, 255)
    advertisement = reply[ICMPv6ND_NA]
    assert (advertisement.tgt, advertisement.R, advertisement.S, advertisement.O) == (target, 1, 1, 1)
    assert reply[ICMPv6NDOptDstLLAddr].lladdr == OUR_MAC
    said = advertisement.cksum
    del advertisement.cksum
    assert Ether(bytes(reply))[ICMPv6ND_NA].cksum == said


def test_without_a_link_layer_option_the_frame_says_where_to() -> None:
    frame = solicit("fe80::1", destination="fe80::1")
    frame[ICMPv6ND_NS].remove_payload()
    reply = answer_ndp(bytes(frame), SETTINGS)
    assert reply is not None
    assert Ether(reply).dst == GUEST_MAC


def test_padding_makes_no_difference() -> None:
    assert answer_ndp(bytes(solicit("fe80::1")) + bytes(4), SETTINGS) is not None


def damaged(frame: Ether) -> bytes:
    data = bytearray(bytes(frame))
    data[-1] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(bytes(solicit(GUEST, "::")), id="duplicate address detection of the guest's own address"),
        pytest.param(bytes(solicit("2001:db8::55", "::")), id="duplicate address detection of any address"),
        pytest.param(bytes(solicit(GUEST, "fe80::2")), id="the guest's own address"),
        pytest.param(bytes(solicit("fe80::77", "fe80::77")), id="target and source equal"),
        pytest.param(bytes(solicit("::")), id="unspecified target"),
        pytest.param(bytes(solicit("ff02::1")), id="multicast target"),
        pytest.param(bytes(solicit("fe80::1", "ff02::1")), id="multicast source"),
        pytest.param(bytes(solicit("fe80::1", hlim=254)), id="came through a router"),
        pytest.param(bytes(solicit("fe80::1", code=1)), id="code"),
        pytest.param(damaged(solicit("fe80::1")), id="checksum"),
        pytest.param(
            bytes(Ether(src=GUEST_MAC) / IPv6(src="fe80::2", dst="ff02::2", hlim=255) / ICMPv6ND_RS()), id="router"
        ),
        pytest.param(bytes(solicit("fe80::1"))[:60], id="cut"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_no_answer(frame: bytes) -> None:
    assert answer_ndp(frame, SETTINGS) is None
