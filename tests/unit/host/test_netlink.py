"""host.netlink against the kernel, with iproute2 as the oracle, in namespaces of their own."""

from __future__ import annotations

import errno
import json
import socket
import subprocess

import pytest

from bucatini.base.address import pack, text
from bucatini.host.netlink import Netlink
from support.forked import in_new_network

pytestmark = pytest.mark.root


def ip(*words: str) -> list[dict[str, object]]:
    done = subprocess.run(["ip", "-j", *words], capture_output=True, text=True, check=True, timeout=10)
    found = json.loads(done.stdout or "[]")
    assert isinstance(found, list)
    return found


def shell(script: str) -> None:
    subprocess.run(["sh", "-ec", script], check=True, timeout=10)


VETH = "ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up;"


class TestReading:
    def test_kinds(self) -> None:
        def kinds() -> dict[str, str]:
            shell(VETH + "ip link add br0 type bridge; ip tuntap add t0 mode tap; ip tuntap add u0 mode tun")
            with Netlink() as netlink:
                found = {name: netlink.kind(socket.if_nametoindex(name)) for name in ("v0", "br0", "t0", "u0", "lo")}
                return found | {"none": netlink.kind(77)}

        assert in_new_network(kinds) == {"v0": "veth", "br0": "bridge", "t0": "tap", "u0": "tun", "lo": "", "none": ""}

    def test_links(self) -> None:
        def both() -> tuple[list[tuple[int, str, int]], list[tuple[object, ...]]]:
            shell(VETH + "ip link set v0 mtu 1400")
            with Netlink() as netlink:
                ours = [tuple(link) for link in netlink.links()]
            return ours, [(one["ifindex"], one["ifname"], one["mtu"]) for one in ip("link")]  # type: ignore[return-value]

        ours, theirs = in_new_network(both)
        assert sorted(ours) == sorted(theirs)
        assert len(ours) == 3

    def test_addresses(self) -> None:
        def ours() -> list[tuple[str, int, int, bool]]:
            shell(
                VETH + "ip addr add 192.0.2.1/24 dev v0; ip addr add 192.0.2.9 peer 192.0.2.10/32 dev v0;"
                "ip addr add 2001:db8::1/64 dev v0 nodad; ip addr add 2001:db8::2/64 dev v0 nodad preferred_lft 0"
            )
            with Netlink() as netlink:
                return [
                    (text(one.address), one.prefix_length, one.scope, one.deprecated) for one in netlink.addresses()
                ]

        found = in_new_network(ours)
        assert ("192.0.2.1", 24, 0, False) in found
        assert ("192.0.2.9", 32, 0, False) in found  # ours, not the peer's
        assert ("2001:db8::1", 64, 0, False) in found
        assert ("2001:db8::2", 64, 0, True) in found
        assert any(address.startswith("fe80::") and scope == 253 for address, _, scope, _ in found)

    def test_routes(self) -> None:
        def ours() -> list[tuple[str, int, str | None]]:
            shell(
                VETH + "ip addr add 192.0.2.1/24 dev v0; ip route add default via 192.0.2.254;"
                "ip route add 198.51.100.0/24 dev v0; ip route add blackhole 203.0.113.0/24;"
                "ip route add 10.0.0.0/8 via 192.0.2.3 table 99;"
                "ip route add 100.64.0.0/10 nexthop via 192.0.2.7 dev v0 nexthop via 192.0.2.8 dev v0"
            )
            with Netlink() as netlink:
                return [
                    (text(one.destination), one.prefix_length, text(one.gateway) if one.gateway else None)
                    for one in netlink.routes(socket.AF_INET)
                ]

        assert sorted(in_new_network(ours)) == [
            ("0.0.0.0", 0, "192.0.2.254"),
            ("100.64.0.0", 10, "192.0.2.7"),
            ("192.0.2.0", 24, None),
            ("198.51.100.0", 24, None),
        ]

    def test_more_than_one_datagram_of_answers(self) -> None:
        def count() -> int:
            routes = "".join(f"route add 10.{high}.{low}.0/24 dev v0\n" for high in range(8) for low in range(256))
            shell(VETH)
            subprocess.run(["ip", "-batch", "-"], input=routes, text=True, check=True, timeout=20)
            with Netlink() as netlink:
                return len(netlink.routes(socket.AF_INET))

        assert in_new_network(count) == 8 * 256

    def test_empty_namespace(self) -> None:
        def everything() -> tuple[int, int, int, int]:
            with Netlink() as netlink:
                return (
                    len(netlink.links()),
                    len(netlink.addresses()),
                    len(netlink.routes(socket.AF_INET)),
                    len(netlink.routes(socket.AF_INET6)),
                )

        assert in_new_network(everything) == (1, 0, 0, 0)


class TestChanging:
    def test_link(self) -> None:
        def change() -> dict[str, object]:
            shell("ip link add v0 type veth peer name v1")
            with Netlink() as netlink:
                index = socket.if_nametoindex("v0")
                netlink.set_link(index, mac=bytes.fromhex("026d73000002"), mtu=1280, transmit_queue=77)
                netlink.set_link(index, up=True)
            return ip("link", "show", "v0")[0]

        link = in_new_network(change)
        assert (link["address"], link["mtu"], link["txqlen"]) == ("02:6d:73:00:00:02", 1280, 77)
        assert "UP" in str(link["flags"])

    def test_addresses_and_routes(self) -> None:
        def change() -> tuple[list[dict[str, object]], list[dict[str, object]], list[dict[str, object]]]:
            shell(VETH)
            index = socket.if_nametoindex("v0")
            with Netlink() as netlink:
                netlink.add_address(index, pack("192.0.2.1"), 24)
                netlink.add_address(index, pack("2001:db8::1"), 64)
                netlink.add_route(index, pack("203.0.113.1"), 32, None)
                netlink.add_route(index, pack("0.0.0.0"), 0, pack("203.0.113.1"))
                netlink.add_route(index, pack("::"), 0, pack("fe80::1"))
            return ip("addr", "show", "dev", "v0"), ip("-4", "route"), ip("-6", "route")

        addresses, routes4, routes6 = in_new_network(change)
        info = addresses[0]["addr_info"]
        assert isinstance(info, list)
        assert {(one["local"], one["prefixlen"], one.get("nodad")) for one in info if one["scope"] == "global"} == {
            ("192.0.2.1", 24, None),
            ("2001:db8::1", 64, True),
        }
        assert {(one["dst"], one.get("gateway"), one.get("scope")) for one in routes4} == {
            ("default", "203.0.113.1", None),
            ("192.0.2.0/24", None, "link"),
            ("203.0.113.1", None, "link"),
        }
        assert ("default", "fe80::1") in {(one["dst"], one.get("gateway")) for one in routes6}

    def test_deleting(self) -> None:
        def change() -> tuple[list[dict[str, object]], list[dict[str, object]], list[int | None]]:
            shell(VETH)
            index = socket.if_nametoindex("v0")
            items = [(pack("192.0.2.1"), 24), (pack("192.0.2.2"), 32), (pack("2001:db8::1"), 64)]
            routes = [
                (pack("203.0.113.0"), 24, None),
                (bytes(4), 0, pack("192.0.2.9")),
                (bytes(16), 0, pack("fe80::1")),
            ]
            missing: list[int | None] = []
            with Netlink() as netlink:
                for address in items:
                    netlink.add_address(index, *address)
                for route in routes:
                    netlink.add_route(index, *route)
                for _ in range(2):
                    for change in (
                        lambda: netlink.delete_route(index, *routes[0]),
                        lambda: netlink.delete_route(index, *routes[1]),
                        lambda: netlink.delete_route(index, *routes[2]),
                        lambda: netlink.delete_address(index, *items[1]),
                        lambda: netlink.delete_address(index, *items[2]),
                    ):
                        try:
                            change()
                        except OSError as error:
                            missing.append(error.errno)
            shown = ip("addr", "show", "dev", "v0")[0]["addr_info"]
            return shown, ip("-4", "route") + ip("-6", "route"), missing  # type: ignore[return-value]

        addresses, routes, missing = in_new_network(change)
        assert [one["local"] for one in addresses if one["scope"] == "global"] == ["192.0.2.1"]
        assert {one["dst"] for one in routes} == {"192.0.2.0/24", "fe80::/64"}
        assert missing == [errno.ESRCH] * 3 + [errno.EADDRNOTAVAIL] * 2

    def test_route_of_the_kernel_is_not_taken_for_ours(self) -> None:
        def change() -> list[dict[str, object]]:
            shell(VETH + "ip addr add 192.0.2.1/24 dev v0")
            with Netlink() as netlink, pytest.raises(ProcessLookupError):
                netlink.delete_route(socket.if_nametoindex("v0"), pack("192.0.2.0"), 24, None)
            return ip("-4", "route")

        assert [one["dst"] for one in in_new_network(change)] == ["192.0.2.0/24"]

    @pytest.mark.parametrize("twice", [False, True])
    def test_refusal_is_an_errno_and_the_next_request_works(self, twice: bool) -> None:
        def refused() -> list[int | None]:
            shell(VETH + "ip addr add 192.0.2.1/24 dev v0")
            errors: list[int | None] = []
            with Netlink() as netlink:
                for _ in range(1 + twice):
                    try:
                        netlink.add_address(socket.if_nametoindex("v0"), pack("192.0.2.1"), 24)
                    except OSError as error:
                        errors.append(error.errno)
                assert len(netlink.links()) == 3
            return errors

        assert in_new_network(refused) == [errno.EEXIST] * (1 + twice)

    def test_unknown_interface(self) -> None:
        def refused() -> int | None:
            with Netlink() as netlink:
                try:
                    netlink.set_link(4711, up=True)
                except OSError as error:
                    return error.errno
            return None

        assert in_new_network(refused) == errno.ENODEV
