"""Proxy ARP: who gets an answer, who must not, and what a real ARP stack would read in it."""

from __future__ import annotations

import pytest
from scapy.layers.l2 import ARP, Ether

from bucatini.services.arp import ArpSettings, answer_arp

GUEST_MAC = "02:00:00:00:00:01"
SETTINGS = ArpSettings(bytes.fromhex("9a559a559a55"), frozenset({bytes([10, 0, 0, 2])}))


def ask(sender: str, target: str, **fields: object) -> bytes:
    arp = ARP(**{"op": 1, "hwsrc": GUEST_MAC, "psrc": sender, "hwdst": "00:00:00:00:00:00", "pdst": target, **fields})
    return bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=GUEST_MAC) / arp)


@pytest.mark.parametrize("target", ["10.0.0.1", "10.0.0.77", "203.0.113.9"])
@pytest.mark.parametrize("sender", ["10.0.0.2", "0.0.0.0", "10.0.0.50"])
def test_every_address_but_the_guests_own_is_ours(sender: str, target: str) -> None:
    frame = answer_arp(ask(sender, target), SETTINGS)
    assert frame is not None
    reply = Ether(frame)
    assert (reply.dst, reply.src, reply.type) == (GUEST_MAC, "9a:55:9a:55:9a:55", 0x0806)
    assert (reply[ARP].op, reply[ARP].hwsrc, reply[ARP].psrc) == (2, "9a:55:9a:55:9a:55", target)
    assert (reply[ARP].hwdst, reply[ARP].pdst) == (GUEST_MAC, sender)


def test_padding_makes_no_difference() -> None:
    assert answer_arp(ask("10.0.0.2", "10.0.0.1") + bytes(18), SETTINGS) is not None
    assert answer_arp(memoryview(ask("10.0.0.2", "10.0.0.1")), SETTINGS) is not None


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ask("0.0.0.0", "10.0.0.2"), id="duplicate address detection of the guest's own address"),
        pytest.param(ask("10.0.0.2", "10.0.0.2"), id="announcement"),
        pytest.param(ask("10.0.0.9", "10.0.0.9"), id="announcement of another address"),
        pytest.param(ask("10.0.0.9", "10.0.0.2"), id="request for the guest's own address"),
        pytest.param(ask("10.0.0.2", "10.0.0.1", op=2), id="reply"),
        pytest.param(ask("10.0.0.2", "10.0.0.1", op=3), id="reverse ARP"),
        pytest.param(ask("10.0.0.2", "10.0.0.1", hwtype=6), id="other hardware"),
        pytest.param(ask("10.0.0.2", "10.0.0.1", hwsrc="01:00:5e:00:00:01"), id="group sender"),
        pytest.param(ask("10.0.0.2", "10.0.0.1")[:-1], id="cut"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_no_answer(frame: bytes) -> None:
    assert answer_arp(frame, SETTINGS) is None
