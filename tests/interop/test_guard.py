"""The isolation filter in front of a guest of `run`: what the guest says under another's name ends, and is told."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    IPv6,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from support.fakehost import GATEWAY4, GATEWAY6, GATEWAY_FRAME, GUEST4, GUEST6, PUBLIC4, PUBLIC6, FakeHost, Guest
from support.guests import eventually

pytestmark = pytest.mark.root

FOREIGN4, FOREIGN6, FOREIGN_MAC = "172.16.0.77", "fd42:6d73:99::7", "02:00:00:00:00:99"
SPORT = 4000
LINK_LOCAL = "fe80::77"
OWN_MAC = GATEWAY_FRAME.src



SPOOFED = {
    "another MAC": (Ether(dst=GATEWAY_FRAME.dst, src=FOREIGN_MAC) / IP(src=GUEST4, dst=PUBLIC4), "foreign-source-mac"),
    "another source": (GATEWAY_FRAME / IP(src=FOREIGN4, dst=PUBLIC4), "source-not-guest"),
    "the gateway's source": (GATEWAY_FRAME / IP(src=GATEWAY4, dst=PUBLIC4), "source-not-guest"),
    "another IPv6 source": (GATEWAY_FRAME / IPv6(src=FOREIGN6, dst=PUBLIC6), "source-not-guest"),
    "the gateway's IPv6 source": (GATEWAY_FRAME / IPv6(src=GATEWAY6, dst=PUBLIC6), "source-not-guest"),
    "record route": (GATEWAY_FRAME / IP(src=GUEST4, dst=PUBLIC4, options=b"\x07\x07\x04\0\0\0\0\0"), "option-refused"),
}
"""Datagrams that reach the world without the filter."""

LIES = {
    "ARP for the gateway": (
        Ether(dst="ff:ff:ff:ff:ff:ff", src=OWN_MAC) / ARP(op=2, hwsrc=OWN_MAC, psrc=GATEWAY4, pdst=GUEST4),
        "arp-spoof",
    ),
    "ARP under another MAC": (
        Ether(dst="ff:ff:ff:ff:ff:ff", src=OWN_MAC) / ARP(op=1, hwsrc=FOREIGN_MAC, psrc=GUEST4, pdst=GATEWAY4),
        "arp-spoof",
    ),
    "advertisement of the gateway": (
        GATEWAY_FRAME
        / IPv6(src=LINK_LOCAL, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=GATEWAY6, R=1, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=OWN_MAC),
        "nd-spoof",
    ),
    "router advertisement": (
        GATEWAY_FRAME / IPv6(src=LINK_LOCAL, dst="ff02::1", hlim=255) / ICMPv6ND_RA(),
        "rogue-ra",
    ),
    "redirect": (
        GATEWAY_FRAME / IPv6(src=LINK_LOCAL, dst=PUBLIC6, hlim=255) / ICMPv6ND_Redirect(tgt=LINK_LOCAL, dst=PUBLIC6),
        "rogue-redirect",
    ),
    "ICMP redirect": (
        GATEWAY_FRAME / IP(src=GUEST4, dst=PUBLIC4) / ICMP(type=5, gw=GUEST4) / bytes(28),
        "rogue-redirect",
    ),
    "DHCP offer": (
        Ether(dst="ff:ff:ff:ff:ff:ff", src=OWN_MAC)
        / IP(src=GUEST4, dst="255.255.255.255")
        / UDP(sport=67, dport=68)
        / BOOTP(op=2, yiaddr=FOREIGN4, chaddr=bytes(6))
        / DHCP(options=[("message-type", "offer"), "end"]),
        "rogue-dhcp",
    ),
    "DHCP for another": (
        Ether(dst="ff:ff:ff:ff:ff:ff", src=OWN_MAC)
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=bytes.fromhex("020000000099"))
        / DHCP(options=[("message-type", "discover"), "end"]),
        "dhcp-spoof",
    ),
    "VLAN": (
        Ether(dst=GATEWAY_FRAME.dst, src=OWN_MAC) / Dot1Q(vlan=7) / IP(src=GUEST4, dst=PUBLIC4) / UDP(),
        "vlan",
    ),
    "IPv4 source route": (
        GATEWAY_FRAME / IP(src=GUEST4, dst=PUBLIC4, options=b"\x83\x07\x04\x0a\0\0\x01\0") / UDP(),
        "source-route",
    ),
    "IPv6 routing header": (
        GATEWAY_FRAME / IPv6(src=GUEST6, dst=PUBLIC6) / IPv6ExtHdrRouting(addresses=[FOREIGN6], segleft=1) / UDP(),
        "source-route",
    ),
}


class Watched:
    """A guest whose events are read."""

    def __init__(self, guest: Guest, events: Path) -> None:
        self.guest, self.events = guest, events

    def drops(self, reason: str) -> int:
        """Frames told as dropped for `reason`."""
        lines = [json.loads(line) for line in self.events.read_text().split("\n")[:-1]]
        return sum(line["times"] for line in lines if line.get("reason") == reason and line["event"] == "frame-dropped")


@pytest.fixture
def watched(host: FakeHost, tmp_path: Path) -> Iterator[Watched]:
    events = tmp_path / "events.jsonl"
    with host.guest("--policy", "open", "--events", str(events)) as guest:
        yield Watched(guest, events)


def forged_frame(frame: Packet, far: socket.socket) -> bytes:
    return bytes(frame.copy() / UDP(sport=SPORT, dport=far.getsockname()[1]) / b"forged")


@pytest.mark.parametrize("name", SPOOFED)
def test_a_spoofed_datagram_ends_here(host: FakeHost, watched: Watched, name: str) -> None:
    frame, reason = SPOOFED[name]
    address, own = (PUBLIC6, IPv6(src=GUEST6, dst=PUBLIC6)) if IPv6 in frame else (PUBLIC4, IP(src=GUEST4, dst=PUBLIC4))
    with host.world.bound(address) as far, watched.guest.raw() as link:
        link.send(forged_frame(frame, far))
        link.send(bytes(GATEWAY_FRAME / own / UDP(sport=SPORT + 1, dport=far.getsockname()[1]) / b"honest"))
        assert far.recv(100) == b"honest"
    eventually(lambda: watched.drops(reason) == 1)


def test_without_the_filter_each_of_them_arrives(host: FakeHost) -> None:
    with host.guest("--policy", "open", "--no-guard") as guest, guest.raw() as link:
        for frame, _ in SPOOFED.values():
            with host.world.bound(PUBLIC6 if IPv6 in frame else PUBLIC4) as far:
                link.send(forged_frame(frame, far))
                assert far.recv(100) == b"forged"


@pytest.mark.parametrize("name", LIES)
def test_a_lie_about_the_link_is_told(watched: Watched, name: str) -> None:
    frame, reason = LIES[name]
    with watched.guest.raw() as link:
        link.send(bytes(frame))
        eventually(lambda: watched.drops(reason) == 1)


def test_fragments_of_a_spoofed_packet_are_not_put_together(host: FakeHost, watched: Watched) -> None:
    with host.world.bound(PUBLIC4) as far, watched.guest.raw() as link:
        port = far.getsockname()[1]
        for piece in fragment(IP(src=FOREIGN4, dst=PUBLIC4, id=7) / UDP(sport=SPORT, dport=port) / bytes(3000), 1000):
            link.send(bytes(GATEWAY_FRAME / piece))
        for piece in fragment(IP(src=GUEST4, dst=PUBLIC4, id=8) / UDP(sport=SPORT, dport=port) / bytes(2000), 1000):
            link.send(bytes(GATEWAY_FRAME / piece))
        assert len(far.recv(4000)) == 2000
    # The first is told at once, its like later.
    eventually(lambda: watched.drops("source-not-guest") == 1)


def test_a_flood_is_counted_and_hardly_told(host: FakeHost, watched: Watched) -> None:
    with host.world.bound(PUBLIC4) as far, watched.guest.raw() as link:
        frame = forged_frame(SPOOFED["another source"][0], far)
        for _ in range(2000):
            link.send(frame)
        link.send(bytes(GATEWAY_FRAME / IP(src=GUEST4, dst=PUBLIC4) / UDP(dport=far.getsockname()[1]) / b"honest"))
        assert far.recv(100) == b"honest"
    lines = watched.events.read_text().splitlines()
    assert sum('"frame-dropped"' in line for line in lines) == 1
