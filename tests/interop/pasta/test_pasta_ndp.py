"""The group pasta/ndp: the kernel's own SLAAC in the namespace gets the host's network."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from support.fakehost import HOST6, FakeHost
from support.guests import eventually
from support.pasta_engine import LINK, Holder, PastaEngine, Place, Running
from support.pasta_peers import Client, Link

pytestmark = pytest.mark.root


def test_tap_is_there(attached: Running, holder: Holder) -> None:
    """With the name of the host's interface; nothing but `lo` is up before somebody asks for it."""
    assert not Link(holder.net, LINK).up
    assert Link(holder.net, "lo").up
    assert Link(holder.net, LINK).addresses(4) == []


def test_slaac(attached: Running, holder: Holder, host: FakeHost) -> None:
    """An address by router advertisement in the host's /64, and the host's router as the default one."""
    link = Link(holder.net, LINK)
    holder.net.run("ip", "link", "set", LINK, "up")
    address = eventually(lambda: link.addresses(6, dynamic=True))[0]
    assert ipaddress.ip_interface(address).network == ipaddress.ip_interface(f"{HOST6}/64").network
    assert link.gateway(6) == Link(host.net, "up0").gateway(6)


def test_rdisc6(engine: PastaEngine, place: Place, holder: Holder, tmp_path: Path) -> None:
    """A router advertisement as rdisc6 reads it, name servers and search list included when asked for."""
    place.host.set_resolvers("8.8.8.8", "2001:4860:4860::8888")
    options = ["--dhcp-dns", "--dhcp-search", "-D", "2001:4860:4860::8888", "-S", "lan.example"]
    with engine.start(place, options, [str(holder.pid)]):
        holder.net.run("ip", "link", "set", LINK, "up")
        eventually(lambda: Link(holder.net, LINK).addresses(6))
        said = Client(Link(holder.net, LINK), tmp_path).rdisc6()
    words = [" ".join(line.split()) for line in said.splitlines()]
    assert "Prefix : 2001:db8:77::/64" in words, said
    assert "On-link : Yes" in words
    assert "Autonomous address conf.: Yes" in words
    assert any(line.startswith("MTU : 65520 bytes") for line in words), said
    assert "Recursive DNS server : 2001:4860:4860::8888" in words
    assert "DNS search list : lan.example" in words
