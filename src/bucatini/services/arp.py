"""Proxy ARP: every IPv4 address but the guest's own is at our MAC. RFC 826, RFC 1027, RFC 5227.

The guest may have any netmask, so whatever it believes to be on its link must resolve. Two requests stay unanswered
because an answer would tell the guest that its own address is taken: a request for that address, and an announcement
(sender and target equal). A probe, whose sender address is 0.0.0.0, is answered for any other address, since that one
is indeed in use: by us.

`ask_arp` is the other way round, for a guest whose MAC address is not known yet. Does not learn anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from bucatini.wire.arp import REPLY, REQUEST, ArpRepr, emit_arp, parse_arp
from bucatini.wire.ethernet import BROADCAST, ETHERTYPE_ARP, HEADER_LENGTH

__all__ = ["ArpSettings", "answer_arp", "ask_arp"]


@dataclass(frozen=True, slots=True)
class ArpSettings:
    """Our MAC, and the guest's own packed IPv4 addresses."""

    mac: bytes
    guest_addresses: frozenset[bytes]


def answer_arp(frame: bytes | bytearray | memoryview, settings: ArpSettings) -> bytes | None:
    """The Ethernet frame with the reply to the ARP request in `frame`; None when it gets none. Any bytes are fine."""
    view = memoryview(bytearray(frame))
    request = parse_arp(view, HEADER_LENGTH, len(view))
    if request is None or request.operation != REQUEST:
        return None
    if request.target_address in settings.guest_addresses or request.target_address == request.sender_address:
        return None
    if request.sender_mac[0] & 1:  # a group address cannot be asked from nor answered to
        return None
    reply = ArpRepr(REPLY, settings.mac, request.target_address, request.sender_mac, request.sender_address)
    return request.sender_mac + settings.mac + ETHERTYPE_ARP.to_bytes(2, "big") + emit_arp(reply)


def ask_arp(mac: bytes, source: bytes, target: bytes) -> bytes:
    """The Ethernet frame that asks everybody who has `target`, from `source` at `mac`; packed IPv4 addresses."""
    request = ArpRepr(REQUEST, mac, source, bytes(6), target)
    return BROADCAST + mac + ETHERTYPE_ARP.to_bytes(2, "big") + emit_arp(request)
