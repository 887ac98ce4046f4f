"""The group pasta/dhcp: unmodified DHCP clients in the namespace get the host's addresses and gateways.

Upstream uses dhclient only; udhcpc and dhcpcd are there because they read other options and probe addresses by ARP.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.fakehost import HOST4, HOST6, RESOLVER4, RESOLVER6, WORLD4, FakeHost
from support.guests import eventually
from support.pasta_engine import LINK, Holder, PastaEngine, Place, Running
from support.pasta_peers import Client, Link

pytestmark = pytest.mark.root

DEBIAN_FAILS: dict[str, str] = {}


@pytest.fixture
def link(holder: Holder) -> Link:
    return Link(holder.net, LINK)


@pytest.fixture
def client(link: Link, tmp_path: Path) -> Client:
    return Client(link, tmp_path)


def up(link: Link) -> None:
    """The link is up and has its link-local address and its router."""
    link.net.run("ip", "link", "set", link.name, "up")
    eventually(lambda: link.gateway(6))


def test_dhclient_ipv4(attached: Running, link: Link, client: Client, host: FakeHost) -> None:
    said = client.dhclient(4)
    assert link.addresses(4) == [f"{HOST4}/24"], said
    assert link.gateway(4) == Link(host.net, "up0").gateway(4) == WORLD4
    assert link.mtu == 65520


def test_dhclient_ipv6(attached: Running, link: Link, client: Client, host: FakeHost) -> None:
    up(link)
    said = client.dhclient(6)
    assert f"{HOST6}/128" in link.addresses(6), said
    assert link.gateway(6) == Link(host.net, "up0").gateway(6)


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
def test_name_servers(
    engine: PastaEngine, place: Place, holder: Holder, link: Link, client: Client, family: int
) -> None:
    """The host's, when asked for."""
    place.host.set_resolvers(RESOLVER4, RESOLVER6)
    with engine.start(place, ["--dhcp-dns", "--dhcp-search"], [str(holder.pid)]):
        up(link)
        client.dhclient(family)
    assert client.name_servers == [RESOLVER4 if family == 4 else RESOLVER6]


def test_no_name_servers(attached: Running, client: Client) -> None:
    """Not told unless asked for."""
    client.dhclient(4)
    assert client.name_servers == []


def test_options(engine: PastaEngine, place: Place, holder: Holder, link: Link, client: Client) -> None:
    """An address, mask, gateway and MTU of the caller's choice."""
    options = ["-a", "10.0.2.100", "-n", "24", "-g", "10.0.2.2", "-m", "1400"]
    with engine.start(place, options, [str(holder.pid)]):
        lease = client.udhcpc()
        assert link.addresses(4) == ["10.0.2.100/24"]
        assert link.gateway(4) == "10.0.2.2"
        assert link.mtu == 1400
    assert (lease["mask"], lease["router"], lease["mtu"]) == ("24", "10.0.2.2", "1400")


def test_udhcpc(engine: PastaEngine, place: Place, holder: Holder, link: Link, client: Client) -> None:
    place.host.set_resolvers(RESOLVER4)
    with engine.start(place, ["--dhcp-dns", "--dhcp-search", "-S", "lan.example"], [str(holder.pid)]):
        lease = client.udhcpc()
    assert (lease["ip"], lease["mask"], lease["router"]) == (HOST4, "24", WORLD4)
    assert (lease["dns"], lease["search"], lease["mtu"]) == (RESOLVER4, "lan.example", "65520")
    assert lease["lease"] == str(0xFFFFFFFF)


def test_gateway_outside(engine: PastaEngine, place: Place, holder: Holder, link: Link, client: Client) -> None:
    """Of the subnet: classless routes lead to it."""
    with engine.start(place, ["-a", "10.0.2.100", "-n", "32", "-g", "192.168.5.1"], [str(holder.pid)]):
        client.dhclient(4)
        assert link.addresses(4) == ["10.0.2.100/32"]
        assert link.routes(4) == ["192.168.5.1", "default 192.168.5.1"]


def test_dhcpcd_ipv4(attached: Running, link: Link, client: Client) -> None:
    """It probes the address, which nobody may claim."""
    said = client.dhcpcd(4)
    assert f"leased {HOST4}" in said
    assert link.addresses(4) == [f"{HOST4}/24"], said
    assert link.gateway(4) == WORLD4


def test_dhcpcd_ipv6(attached: Running, link: Link, client: Client) -> None:
    """As the advertised router asks for."""
    said = client.dhcpcd(6)
    assert f"{HOST6}/128" in link.addresses(6), said
