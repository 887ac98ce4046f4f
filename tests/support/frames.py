"""Frames of a guest made with scapy, a stack around a recording `out`, and an oracle for frames towards the guest.

`Bench` puts `Packet`, `Ingress`, `Gateway` and `FlowTable` together as the engine does, with a recorder for the sink:
no socket, no clock. `check_to_guest` says whether a frame is one that a guest's kernel takes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from scapy.contrib.igmpv3 import IGMPv3
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6MLQuery2, ICMPv6ND_NA, ICMPv6ND_RA, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet as Layer
from scapy.packet import Raw

from bucatini.base.address import pack
from bucatini.base.events import FlowRefused
from bucatini.base.reasons import Counters
from bucatini.base.verdict import Request, Verdict
from bucatini.flows.table import FlowTable
from bucatini.forward.translate import Translation
from bucatini.native import Arena, checksum
from bucatini.stack.addresses import GuestAddresses
from bucatini.stack.classify import Packet
from bucatini.stack.gateway import Gateway
from bucatini.stack.ingress import Ingress
from bucatini.stack.settings import StackSettings
from bucatini.wire.checksum import internet, partial, pseudo_header

GUEST_MAC, GATEWAY_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"
GUEST4, GATEWAY4 = "172.16.0.2", "172.16.0.1"
GUEST6, GATEWAY6 = "fd00::2", "fd00::1"
PEER4, PEER6 = "198.51.100.7", "2001:db8:f::7"
VNET = bytes(12)
NEEDS_CSUM, DATA_VALID = 1, 2


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def settings(**changed: Any) -> StackSettings:
    """Settings of the example network; an address of the guest that is None switches its family off."""
    found = (changed.get("gateway_ipv4", pack(GATEWAY4)), changed.get("gateway_ipv6", pack(GATEWAY6)))
    gateways = tuple(each for each in found if each is not None)
    values: dict[str, Any] = {
        "guest_mac": mac(GUEST_MAC),
        "gateway_mac": mac(GATEWAY_MAC),
        "guest_ipv4": pack(GUEST4),
        "guest_ipv6": pack(GUEST6),
        "gateway_ipv4": pack(GATEWAY4),
        "gateway_ipv6": pack(GATEWAY6),
        "mtu": 1500,
        "tso4": True,
        "tso6": True,
        "ipv4": changed.get("guest_ipv4", GUEST4) is not None,
        "ipv6": changed.get("guest_ipv6", GUEST6) is not None,
        "translation": Translation(host_loopback=gateways, ours=gateways),
        "resolvers": gateways,
        "echoes": gateways,
    }
    return StackSettings(**{**values, **changed})


def ether(packet: Layer, **fields: Any) -> bytes:
    """The Ethernet frame of the guest that carries `packet`."""
    return bytes(Ether(**{"src": GUEST_MAC, "dst": GATEWAY_MAC, **fields}) / packet)


def ip(version: int, **fields: Any) -> Layer:
    """An IP header from the guest to the peer."""
    if version == 4:
        return IP(**{"src": GUEST4, "dst": PEER4, **fields})
    return IPv6(**{"src": GUEST6, "dst": PEER6, **fields})


def vnet(flags: int = 0, gso: int = 0, headers: int = 0, size: int = 0, start: int = 0, offset: int = 0) -> bytes:
    return struct.pack("<BBHHHHH", flags, gso, headers, size, start, offset, 0)


class Recorder:
    """An `out` that writes down: `calls` in order, `frames` towards the guest."""

    def __init__(self, arena: Any, gateway: Gateway, table: FlowTable) -> None:
        self.arena = arena
        self.gateway = gateway
        self.table = table
        self.calls: list[tuple[Any, ...]] = []
        self.frames: list[bytes] = []
        self.refusals: list[FlowRefused] = []
        self.open_error = 0

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] == name]

    def transmit_frame(self, frame: bytes) -> None:
        self.frames.append(frame)

    def transmit_error(self, frame: bytes | None) -> None:
        if frame is not None:
            self.frames.append(frame)

    def refused(self, event: FlowRefused) -> None:
        self.refusals.append(event)

    def place_packet(self, packet: bytes, version: int) -> tuple[int, int]:
        frame = self.gateway.frame_header(version, 12) + packet
        at = self.arena.size - 70_000
        self.arena.view[at : at + len(frame)] = frame
        return at, len(frame)

    def close(self, flow: Any, how: str) -> None:
        self.calls.append(("close", flow, how))
        flow.move(10)
        self.table.remove(flow)

    def open_datagram(self, flow: Any) -> int:
        self.calls.append(("open_datagram", flow))
        return self.open_error

    def send_datagram(self, flow: Any, at: int, length: int, cut: int) -> int:
        self.calls.append(("send_datagram", flow, bytes(self.arena.view[at : at + length]), cut))
        return 0

    def send_echo(self, flow: Any, sequence: int, at: int, end: int) -> int:
        self.calls.append(("send_echo", flow, sequence, bytes(self.arena.view[at:end])))
        return 0

    def resolve(self, message: bytes, guest: Any, gateway: Any) -> None:
        self.calls.append(("resolve", message, guest, gateway))

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append((name, *arguments))
            return 0

        return call


class Bench:
    """The stack of one guest. `allow` is a rule: by default everything is allowed, by rule "test"."""

    def __init__(self, allow: Callable[[Request], Verdict] | None = None, limit: int = 100, **changed: Any) -> None:
        self.settings = settings(**changed)
        self.arena = Arena(1 << 18)
        self.counters = Counters()
        self.gateway = Gateway(self.settings, self.counters)
        self.table = FlowTable(limit)
        self.out = Recorder(self.arena, self.gateway, self.table)
        self.asked: list[Request] = []
        self._allow = allow or (lambda request: Verdict(True, "test"))
        self.packet = Packet(
            self.arena.view,
            self.settings.gateway_mac,
            checksum,
            self.settings.ipv4,
            self.settings.ipv6,
        )
        self.addresses = GuestAddresses(self.settings.guest_ipv4, self.settings.guest_ipv6)
        self.ingress = Ingress(
            self.packet,
            self.table,
            self.settings,
            self.gateway,
            self._decide,
            lambda key: 1000,
            self.out,
            self.addresses,
        )

    def _decide(self, request: Request) -> Verdict:
        self.asked.append(request)
        return self._allow(request)

    def place(self, frame: bytes, header: bytes = VNET, at: int = 0) -> tuple[int, int]:
        self.arena.view[at : at + len(header) + len(frame)] = header + frame
        return at, len(header) + len(frame)

    def parse(self, frame: bytes, header: bytes = VNET, at: int = 0) -> int:
        return self.packet.parse(*self.place(frame, header, at))

    def feed(self, frame: bytes, header: bytes = VNET, now: float = 0.0) -> int:
        return self.ingress.frame(*self.place(frame, header), now)

    @property
    def answers(self) -> list[Layer]:
        """Frames sent to the guest, each looked at by `check_to_guest` first."""
        return [check_to_guest(VNET + frame) for frame in self.out.frames]


def check_to_guest(frame: bytes, mtu: int = 65575) -> Layer:
    """Assert that `frame`, virtio-net header first, is right in every length and checksum; scapy's view of it."""
    flags, gso, headers, size, start, offset, buffers = struct.unpack_from("<BBHHHHH", frame)
    assert buffers == 0
    body = frame[12:]
    parsed = Ether(body)
    assert parsed.src == GATEWAY_MAC
    if ARP in parsed:
        return parsed
    if body[0] & 1:
        return check_query(parsed)
    if ICMPv6ND_NA not in parsed:  # who asks to find an address gets the answer where it says that it is
        assert parsed.dst == GUEST_MAC
    version = 4 if IP in parsed else 6
    network = parsed[IP] if version == 4 else parsed[IPv6]
    at = 14 + (network.ihl * 4 if version == 4 else 40)
    if version == 4:
        assert network.version == 4
        assert network.len == len(body) - 14
        assert internet(body[14:at]) == 0
        source, destination, protocol = body[26:30], body[30:34], network.proto
    else:
        assert network.version == 6
        assert network.plen == len(body) - 54
        source, destination, protocol = body[22:38], body[38:54], network.nh
    assert protocol in (1, 6, 17, 58)
    transport = body[at:]
    if protocol == 17:
        assert parsed[UDP].len == len(transport)
    if protocol == 6:
        assert 20 <= transport[12] >> 4 << 2 <= len(transport)
    pseudo = 0 if protocol == 1 else pseudo_header(source, destination, protocol, len(transport))
    if flags & NEEDS_CSUM:
        assert flags == NEEDS_CSUM
        assert (start, offset) == (at, 16 if protocol == 6 else 6)
        assert int.from_bytes(transport[offset : offset + 2], "big") % 0xFFFF == pseudo % 0xFFFF
    else:
        assert (flags, gso, headers, size, start, offset) == (0, 0, 0, 0, 0, 0)
        assert partial(transport, pseudo) % 0xFFFF == 0
        if protocol == 17:
            assert parsed[UDP].chksum != 0
    if gso:
        assert gso == {(4, 6): 1, (6, 6): 4}.get((version, protocol), 5)
        payload = len(transport) - (transport[12] >> 4 << 2 if protocol == 6 else 8)
        assert headers == len(body) - payload
        assert 0 < size < payload
        assert size + headers - 14 <= mtu
    else:
        assert size == 0
        assert len(body) - 14 <= mtu
    return parsed


def check_query(parsed: Layer) -> Layer:
    """What the gateway says to all unasked: membership queries and router advertisements, and datagrams of groups."""
    kinds = (IGMPv3, ICMPv6MLQuery2, ICMPv6ND_RA, UDP)
    assert any(kind in parsed for kind in kinds) or parsed.dst == "ff:ff:ff:ff:ff:ff", parsed.summary()
    return parsed


def is_said_to_all(frame: bytes) -> bool:
    """Whether a frame to the guest, virtio-net header first, has a group's MAC address."""
    return bool(frame[12] & 1)


def payload_of(parsed: Layer) -> bytes:
    return bytes(parsed[Raw].load) if Raw in parsed else b""
