"""A guest that mirrors the host: when the host's addresses, routes and name servers change, the guest's follow."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.attached import Attached, attached
from support.fakehost import HOST4, HOST6, PUBLIC4, PUBLIC6, RESOLVER4, WORLD4, FakeHost, Namespace
from support.guests import PATIENCE, eventually

pytestmark = pytest.mark.root

NEW_HOST4, NEW_WORLD4 = "203.0.113.130", "203.0.113.129"
NEW_HOST6, NEW_WORLD6 = "2001:db8:78::2", "2001:db8:78::1"
NEW_RESOLVER4 = "8.8.4.4"

DUMP = """#!/bin/sh
# What a DHCP client was given, as it tells its script.
{
  echo "reason=$reason address=$new_ip_address routers=$new_routers servers=$new_domain_name_servers"
  echo "mtu=$new_interface_mtu"
} >> {place}
case $reason in
  BOUND|RENEW|REBIND|REBOOT)
    ip -4 addr flush dev $interface
    ip addr add $new_ip_address/24 dev $interface
    ip route replace default via $new_routers dev $interface onlink ;;
esac
"""


@pytest.fixture
def moving() -> Iterator[FakeHost]:
    """A host of the test's own."""
    made = FakeHost()
    try:
        yield made
    finally:
        made.close()


def move(host: FakeHost) -> None:
    """Another network on the same link: addresses, routers and name server are new, the old ones are gone."""
    host.world.ip(f"addr add {NEW_WORLD4}/25 dev up1\naddr add {NEW_WORLD6}/64 dev up1 nodad")
    host.net.ip(
        f"addr add {NEW_HOST4}/25 dev up0\naddr add {NEW_HOST6}/64 dev up0 nodad\n"
        f"route replace default via {NEW_WORLD4} dev up0\nroute replace default via {NEW_WORLD6} dev up0\n"
        f"addr del {HOST4}/24 dev up0\naddr del {HOST6}/64 dev up0"
    )
    host.set_resolvers(NEW_RESOLVER4)


def reaches(host: FakeHost, served: Attached, address: str) -> str:
    """The address that a new connection of the guest comes from."""
    with host.world.listen(address) as server, served.net.connect(*server.getsockname()[:2], timeout=3):
        peer, whence = server.accept()
        peer.close()
        return str(whence[0])


def test_a_configured_namespace(moving: FakeHost) -> None:
    with attached(moving, "root", "--mirror-host") as served:
        assert reaches(moving, served, PUBLIC4) == HOST4
        move(moving)

        def followed() -> bool:
            shown = served.net.run("ip", "-brief", "address", "show", "eth0").stdout
            return NEW_HOST4 in shown and NEW_HOST6 in shown and HOST4 not in shown and HOST6 not in shown

        assert eventually(followed)
        routes = served.net.run("ip", "route").stdout + served.net.run("ip", "-6", "route").stdout
        assert f"default via {NEW_WORLD4}" in routes
        assert f"default via {NEW_WORLD6}" in routes
        assert WORLD4 not in routes
        assert reaches(moving, served, PUBLIC4) == NEW_HOST4
        assert reaches(moving, served, PUBLIC6) == NEW_HOST6


def test_a_published_port_of_a_configured_namespace(moving: FakeHost) -> None:
    with attached(moving, "root", "--mirror-host", "-p", "8080:80", "--no-splice") as served:
        move(moving)
        eventually(lambda: NEW_HOST4 in served.net.run("ip", "-brief", "address", "show", "eth0").stdout)
        with served.net.listen(NEW_HOST4, 80) as server, moving.world.connect(NEW_HOST4, 8080) as client:
            peer, _ = server.accept()
            with peer:
                client.sendall(b"in")
                assert peer.recv(10) == b"in"


def test_new_leases(moving: FakeHost, tmp_path: Path) -> None:
    """An unmodified dhclient gets the host's new network when it asks again, and refusal for the old one."""
    place, script = tmp_path / "told", tmp_path / "script"
    script.write_text(DUMP.replace("{place}", str(place)))
    script.chmod(0o755)
    with attached(moving, "root", "--mirror-host", "--no-config-net", "--dns", RESOLVER4) as served:
        served.net.ip("link set eth0 up")
        leases = tmp_path / "leases"
        assert f"address={HOST4} routers={WORLD4}" in ask(served.net, script, leases, place)
        move(moving)
        wanted = f"address={NEW_HOST4} routers={NEW_WORLD4}"
        assert eventually(lambda: wanted in ask(served.net, script, leases, place))
        assert reaches(moving, served, PUBLIC4) == NEW_HOST4


def ask(net: Namespace, script: Path, leases: Path, place: Path) -> str:
    """One run of dhclient until it has an address, with what it remembers in `leases`; what it was given."""
    place.write_text("")
    leases.touch()
    words = ["dhclient", "-4", "-d", "-1", "-sf", str(script), "-lf", str(leases), "-pf", "/dev/null", "eth0"]
    with net.entered():
        client = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: re.search(r" address=[0-9].*\nmtu=", place.read_text()) or client.poll() is not None)
    finally:
        client.terminate()
        client.wait(PATIENCE)
    return place.read_text()


def test_slaac(moving: FakeHost) -> None:
    """The kernel of the guest makes an address of the new prefix, and stops using the old one."""
    with attached(moving, "root", "--mirror-host", "--no-config-net") as served:
        served.net.run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0")
        served.net.ip("link set eth0 up")

        def shown() -> str:
            return served.net.run("ip", "-6", "address", "show", "dev", "eth0").stdout

        assert eventually(lambda: HOST6.rpartition("::")[0] in shown())
        move(moving)
        assert eventually(lambda: NEW_HOST6.rpartition("::")[0] in shown() and "deprecated" in shown())
        assert reaches(moving, served, PUBLIC6) == NEW_HOST6


def test_names_of_a_command_that_mirrors_the_host(moving: FakeHost) -> None:
    """Its resolv.conf and hosts files stay what they were, and go on to hold."""
    with moving.guest("--mirror-host", "--allow", "host") as guest, moving.net.listen("127.0.0.1", 8000) as server:
        move(moving)
        eventually(lambda: NEW_HOST4 in guest.net.run("ip", "-brief", "address", "show", "eth0").stdout)
        eventually(lambda: "default" in guest.net.run("ip", "route").stdout)  # it is set behind the address
        with guest.net.bound("0.0.0.0", timeout=3) as asker:
            asker.sendto(b"\x12\x34\1\0\0\1\0\0\0\0\0\0\4host\x08bucatini\x08internal\0\0\1\0\1", (WORLD4, 53))
            answer = asker.recv(600)
            assert answer[:2] == b"\x12\x34"
            assert answer[3] & 15 == 0
        with guest.net.connect(WORLD4, 8000, timeout=3) as client, server.accept()[0] as peer:
            client.sendall(b"x")
            assert peer.recv(10) == b"x"


def test_a_family_that_is_gone(moving: FakeHost) -> None:
    """The guest is told that the router is one no more, and tries IPv4 from then on."""
    with attached(moving, "root", "--mirror-host", "--no-config-net") as served:
        served.net.run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0")
        served.net.ip("link set eth0 up")
        assert eventually(lambda: "default" in served.net.run("ip", "-6", "route").stdout)
        moving.net.ip(f"addr del {HOST6}/64 dev up0")
        assert eventually(lambda: "default" not in served.net.run("ip", "-6", "route").stdout)
