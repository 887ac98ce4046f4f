"""host.bridge: what the kernel says of a port that was plugged, in a namespace of its own."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from bucatini.base.address import pack
from bucatini.base.errors import ConfigError
from bucatini.host.bridge import PortWatch, allow_forwarding, find_bridge, plug
from bucatini.host.tap import Offloads, open_tap
from support.forked import in_new_network

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun"),
]

MAC = bytes.fromhex("020000000007")


def ask(*words: str) -> Any:
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout or "[]")


def ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def with_bridge(look: Callable[[], Any]) -> Any:
    """What `look` answers where there is a bridge `br0` and, with a descriptor that stays open, a TAP `tap0`."""

    def inside() -> Any:
        ip("link add br0 type bridge", "addr add 10.0.0.1/24 dev br0", "link set br0 up")
        kept = open_tap("tap0", Offloads())
        answer = look()
        os.close(kept.descriptor)
        return answer

    return in_new_network(inside)


def test_finds_the_bridge_and_its_addresses() -> None:
    bridge = with_bridge(lambda: find_bridge("br0"))
    assert bridge.name == "br0"
    assert (pack("10.0.0.1"), 24) in bridge.addresses


def test_there_is_none() -> None:
    with pytest.raises(ConfigError, match="--bridge 'br9': must be the name of a bridge of this host; there is none"):
        find_bridge("br9")


@pytest.mark.parametrize("isolated", [True, False])
def test_port(isolated: bool) -> None:
    def look() -> Any:
        plug(find_bridge("br0"), "tap0", MAC, isolated=isolated)
        return ask("bridge", "-j", "-d", "link", "show", "dev", "tap0")[0], ask("ip", "-j", "addr", "show", "tap0")[0]

    port, link = with_bridge(look)
    assert port["master"] == "br0"
    assert "UP" in port["flags"]
    wanted = {"learning": False, "flood": False, "bcast_flood": True, "guard": True}
    assert {key: port[key] for key in wanted} == wanted
    assert (port["isolated"], port["mcast_flood"]) == (isolated, not isolated)
    assert link["addr_info"] == []
    assert link["address"].startswith("fe:")


def test_the_guest_is_where_we_say_and_nowhere_else() -> None:
    def look() -> Any:
        plug(find_bridge("br0"), "tap0", MAC, isolated=True)
        return ask("bridge", "-j", "fdb", "show", "br", "br0")

    entry = next(each for each in with_bridge(look) if each["mac"] == MAC.hex(":"))
    assert (entry["ifname"], entry["state"]) == ("tap0", "static")
    assert "sticky" in entry["flags"]


def test_the_address_of_the_bridge_does_not_follow_its_ports() -> None:
    def look() -> Any:
        before = ask("ip", "-j", "link", "show", "br0")[0]["address"]
        plug(find_bridge("br0"), "tap0", MAC, isolated=True)
        ip("link add v0 address 02:00:00:00:00:00 type veth peer name v1", "link set v0 master br0")
        return before, ask("ip", "-j", "link", "show", "br0")[0]["address"]

    before, after = with_bridge(look)
    assert before == after


def test_one_guest_of_a_mac() -> None:
    def look() -> str:
        plug(find_bridge("br0"), "tap0", MAC, isolated=True)
        second = open_tap("tap1", Offloads())
        with pytest.raises(ConfigError) as caught:
            plug(find_bridge("br0"), "tap1", MAC, isolated=True)
        plug(find_bridge("br0"), "tap1", bytes.fromhex("020000000008"), isolated=True)
        os.close(second.descriptor)
        return str(caught.value)

    assert with_bridge(look) == f"--mac {MAC.hex(':')}: br0 has another guest of this address"


def test_what_is_no_bridge() -> None:
    def look() -> str:
        ip("link add v0 type veth peer name v1")
        with pytest.raises(ConfigError) as caught:
            plug(find_bridge("v0"), "tap0", MAC, isolated=True)
        return str(caught.value)

    assert with_bridge(look) == "--bridge 'v0': must be the name of a bridge; this is another kind"


def test_forwarding() -> None:
    """Where the default route leads as well, and nowhere else."""

    def look() -> Any:
        ip(
            "link add v0 type veth peer name v1", "addr add 10.1.0.2/24 dev v0", "link set v0 up", "link set v1 up",
            "route add default via 10.1.0.1", "addr add fd00::1/64 dev br0 nodad",
        )  # fmt: skip
        notes = allow_forwarding(find_bridge("br0"))
        values = {}
        for name in ("br0", "v0", "v1", "tap0"):
            with open(f"/proc/sys/net/ipv4/conf/{name}/forwarding") as entry:
                values[name] = entry.read().strip()
        return notes, values

    notes, values = with_bridge(look)
    assert values == {"br0": "1", "v0": "1", "v1": "0", "tap0": "0"}
    assert notes == ["the host does not forward IPv6: net.ipv6.conf.all.forwarding is 0"]


def plugged(*changes: str) -> tuple[bool, str]:
    """Whether a watch on the port was woken by these changes, and what it says."""

    def look() -> tuple[bool, str]:
        bridge = find_bridge("br0")
        plug(bridge, "tap0", MAC, isolated=True)
        watch = PortWatch(bridge, "tap0")
        try:
            assert watch.lost() == ""
            ip(*changes)
            woken, _, _ = select.select([watch], [], [], 5)
            return bool(woken), watch.lost()
        finally:
            watch.close()
            watch.close()

    answer: tuple[bool, str] = with_bridge(look)
    return answer


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["link set tap0 nomaster"], "tap0 is no port of br0 any more"),
        (["link del br0"], "tap0 is no port of br0 any more"),
        (["link add br1 type bridge", "link set tap0 master br1"], "tap0 is no port of br0 any more"),
        (["link del tap0"], "the interface on the bridge is gone"),
        (["link set tap0 down", "link set tap0 up"], ""),
        (["link set tap0 down"], ""),
        (["link add other type bridge"] + ["link set other mtu 1300", "link set other mtu 1400"] * 500, ""),
    ],
)
def test_a_port_that_is_watched(changes: list[str], says: str) -> None:
    assert plugged(*changes) == (True, says)


def test_a_bridge_that_lost_all_its_ports_gets_an_address() -> None:
    def look() -> Any:
        ip("link add v0 type veth peer name v1", "link set v0 master br0 up", "link del v0")
        assert ask("ip", "-j", "link", "show", "br0")[0]["address"] == "00:00:00:00:00:00"
        plug(find_bridge("br0"), "tap0", MAC, isolated=True)
        return ask("ip", "-j", "link", "show", "br0")[0]["address"]

    assert with_bridge(look) not in ("00:00:00:00:00:00", MAC.hex(":"))
