"""stack.settings: what follows from the addresses and the MTU."""

from __future__ import annotations

from bucatini.base.address import pack
from support.frames import GATEWAY4, GATEWAY6, GUEST4, GUEST6, settings


def test_families_that_are_on() -> None:
    both = settings()
    assert both.guests == (pack(GUEST4), pack(GUEST6))
    assert both.gateways == (pack(GATEWAY4), pack(GATEWAY6))
    four = settings(guest_ipv6=None, gateway_ipv6=None)
    assert (four.guests, four.gateways) == ((pack(GUEST4),), (pack(GATEWAY4),))
    assert settings(guest_ipv4=None, gateway_ipv4=None).gateways == (pack(GATEWAY6),)


def test_segment_sizes() -> None:
    assert settings(mtu=1500).mss(4) == 1460
    assert settings(mtu=1500).mss(16) == 1440
    assert settings(mtu=65520).mss(4) == 65480
