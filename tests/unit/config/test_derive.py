"""config.derive: the networks that hosts and options make."""

from __future__ import annotations

from typing import Any

import pytest

from bucatini.base.address import Endpoint, link_local_of, pack, text
from bucatini.config.addressing import derive
from bucatini.config.derive import LOCAL, Network, complete, host_plan, slot_plan
from bucatini.config.network import NetworkOptions
from bucatini.host.mirror import HostFamily, HostNetwork
from bucatini.host.resolvers import Resolver, ResolverConfig
from bucatini.host.settings import Route

HOST4 = HostFamily(
    "eth9", 7, 1400, ((pack("198.51.100.2"), 24), (pack("198.51.100.3"), 24)), pack("198.51.100.1"),
    (Route(pack("10.0.0.0"), 8, pack("198.51.100.7")),),
)  # fmt: skip
HOST6 = HostFamily("eth9", 7, 1400, ((pack("2001:db8::2"), 64),), pack("fe80::1"), (), pack("fe80::2"))
HOST = HostNetwork(HOST4, HOST6)


def asking(*servers: str, search: tuple[str, ...] = ()) -> ResolverConfig:
    return ResolverConfig(tuple(Resolver(Endpoint(pack(each), 53)) for each in servers), search=search)


def mirrored(host: HostNetwork = HOST, resolvers: ResolverConfig | None = None, **options: Any) -> Network:
    """As the pasta command has it."""
    chosen = NetworkOptions(**options)
    return complete(chosen, host_plan(host), resolvers or asking("203.0.113.53"), default_mtu=65520, own_dns=False)


def shown(addresses: Any) -> list[str]:
    return [text(each) for each in addresses]


def test_a_mirror_of_the_host() -> None:
    network = mirrored(resolvers=asking("203.0.113.53", "2001:db8::53", search=("example.org",)))
    assert network.addresses == (*HOST4.addresses, *HOST6.addresses)
    assert shown(network.gateways) == ["198.51.100.1", "fe80::1"]
    assert network.routes == HOST4.routes
    assert (network.mtu, network.announced_mtu, network.interface) == (65520, 65520, "eth9")
    assert shown(network.dns) == ["203.0.113.53", "2001:db8::53"]
    assert network.search == ("example.org",)
    assert network.translation.outbound(6, pack("198.51.100.1"), 80) == Endpoint(pack("127.0.0.1"), 80)
    assert network.translation.outbound(6, pack("fe80::1"), 80) == Endpoint(pack("::1"), 80)
    assert network.translation.outbound(17, pack("203.0.113.53"), 53) is None
    assert network.outbound.scope == 7


def test_local_mode() -> None:
    network = mirrored(HostNetwork())
    assert [(text(address), length) for address, length in network.addresses] == [("169.254.2.1", 16)]
    assert shown(network.gateways) == ["169.254.2.2", "fe80::1"]
    assert (network.interface, network.link_local) == ("tap0", pack("fe80::1"))
    assert LOCAL.ipv6 is not None


def test_one_family_of_the_host_is_one_of_the_guest() -> None:
    network = mirrored(HostNetwork(HOST4))
    assert network.ipv6 is None
    assert mirrored(ipv6=False).ipv6 is None


def test_an_address_replaces_all_of_its_family() -> None:
    network = mirrored(addresses=(pack("198.51.100.77"), pack("2001:db8:7::7")))
    assert network.addresses == ((pack("198.51.100.77"), 24), (pack("2001:db8:7::7"), 64))


@pytest.mark.parametrize(
    ("address", "length"), [("10.1.1.1", 8), ("172.16.1.1", 16), ("192.168.1.1", 24), ("198.51.100.200", 24)]
)
def test_prefix_length_by_class_or_by_the_address_replaced(address: str, length: int) -> None:
    assert mirrored(addresses=(pack(address),)).addresses[0] == (pack(address), length)
    assert mirrored(addresses=(pack(address),), prefix_length=30).addresses[0] == (pack(address), 30)


def test_a_gateway_replaces_the_routes_of_its_family() -> None:
    network = mirrored(gateways=(pack("198.51.100.254"),))
    assert shown(network.gateways) == ["198.51.100.254", "fe80::1"]
    assert network.routes == ()


def test_without_copies() -> None:
    network = mirrored(copy_addresses=False, copy_routes=False)
    assert network.addresses == (HOST4.addresses[0], HOST6.addresses[0])
    assert network.routes == ()


def test_a_loopback_resolver_is_reached_by_the_loopback_mapping() -> None:
    network = mirrored(resolvers=asking("127.0.0.53"))
    assert shown(network.dns) == ["198.51.100.1"]
    assert network.translation.outbound(17, pack("198.51.100.1"), 53) == Endpoint(pack("127.0.0.53"), 53)
    assert network.translation.outbound(6, pack("198.51.100.1"), 80) == Endpoint(pack("127.0.0.1"), 80)


def test_a_loopback_resolver_without_mapping_is_not_told() -> None:
    network = mirrored(resolvers=asking("127.0.0.53"), map_gateway=False)
    assert network.dns == ()
    assert network.translation.outbound(17, pack("198.51.100.1"), 53) is None


def test_dns_forward() -> None:
    network = mirrored(dns_forward=(pack("169.254.0.1"),), map_gateway=False)
    assert network.translation.outbound(17, pack("169.254.0.1"), 53) == Endpoint(pack("203.0.113.53"), 53)
    assert network.translation.outbound(6, pack("198.51.100.1"), 80) is None
    chosen = mirrored(dns_forward=(pack("169.254.0.1"),), dns_host=(pack("127.0.0.1"),))
    assert chosen.translation.outbound(6, pack("169.254.0.1"), 853) == Endpoint(pack("127.0.0.1"), 853)


def test_dns_forward_of_a_family_the_host_has_no_resolver_of() -> None:
    network = mirrored(dns_forward=(pack("fd00::53"),))
    assert network.translation.outbound(17, pack("fd00::53"), 53) == Endpoint(pack("203.0.113.53"), 53)


def test_explicit_mappings() -> None:
    network = mirrored(
        map_host_loopback=(pack("192.0.2.1"),), map_guest_address=(pack("192.0.2.2"), pack("2001:db8:9a55::2"))
    )
    out = network.translation.outbound
    assert out(6, pack("192.0.2.1"), 1) == Endpoint(pack("127.0.0.1"), 1)
    assert out(6, pack("198.51.100.1"), 1) is None
    assert out(6, pack("fe80::1"), 1) == Endpoint(pack("::1"), 1)
    assert out(6, pack("192.0.2.2"), 1) == Endpoint(pack("198.51.100.2"), 1)
    assert out(6, pack("2001:db8:9a55::2"), 1) == Endpoint(pack("2001:db8::2"), 1)
    assert set(network.hosts) == {
        pack("192.0.2.1"), pack("fe80::1"), pack("192.0.2.2"), pack("2001:db8:9a55::2"),
    }  # fmt: skip
    assert mirrored(map_host_loopback=()).translation.host_loopback == ()


def test_mtu_zero_announces_nothing() -> None:
    network = mirrored(mtu=0)
    assert (network.mtu, network.announced_mtu) == (65520, None)
    assert mirrored(mtu=1280).announced_mtu == 1280


def test_servers_and_domains_given() -> None:
    network = mirrored(dns=(pack("192.0.2.53"),), search=("a.example",))
    assert (shown(network.dns), network.search) == (["192.0.2.53"], ("a.example",))
    assert mirrored(dns=(), search=()).dns == ()


def slot(**options: Any) -> Network:
    plan = slot_plan(derive(3))
    return complete(NetworkOptions(**options), plan, asking("127.0.0.53"), default_mtu=1500, own_dns=True)


def test_slot() -> None:
    network = slot()
    assert [(text(address), length) for address, length in network.addresses] == [
        ("172.16.0.14", 30), ("fd42:6d73:62:3::2", 64),
    ]  # fmt: skip
    assert shown(network.resolvers) == shown(network.dns) == ["172.16.0.13", "fd42:6d73:62:3::1"]
    assert network.translation.dns == ()
    assert network.link_local == pack("fe80::6d:73ff:fe00:301")


def test_our_name_service_elsewhere() -> None:
    network = slot(dns_forward=(pack("10.0.2.3"),), dns_host=(pack("192.0.2.53"),))
    assert (shown(network.resolvers), shown(network.dns)) == (["10.0.2.3"], ["10.0.2.3"])
    assert shown(network.upstream) == ["192.0.2.53"]
    guests = {"172.16.0.14", "fd42:6d73:62:3::2"}
    gateways = {"172.16.0.13", "fd42:6d73:62:3::1", text(network.link_local)}
    assert set(shown(network.own)) == {"10.0.2.3"} | guests | gateways


def test_modified_eui64() -> None:
    assert text(link_local_of(bytes.fromhex("52540012ab01"))) == "fe80::5054:ff:fe12:ab01"
