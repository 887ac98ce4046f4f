"""host.watch: changes made by iproute2 in a namespace of the test, and changes of a file."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bucatini.base.address import text
from bucatini.base.errors import HostError
from bucatini.host.watch import HostWatch, default_interface, host_addresses
from support.forked import in_new_network

VETH = (
    "ip link set lo up; ip link add v0 type veth peer name v1; ip link add w0 type veth peer name w1;"
    "for i in v0 v1 w0 w1; do ip link set $i up; done;"
    "ip addr add 192.0.2.2/24 dev v0; ip addr add 198.51.100.2/24 dev w0;"
    "ip addr add 2001:db8:1::2/64 dev v0 nodad; ip addr add 2001:db8:2::2/64 dev w0 nodad;"
    "ip route add default via 192.0.2.1; ip route add default via 2001:db8:1::1;"
)


def shell(script: str) -> None:
    subprocess.run(["sh", "-ec", script], check=True, timeout=10)


def quiet(watch: HostWatch) -> None:
    """Let what the set-up itself caused pass by (carrier changes come late)."""
    while select.select([watch], [], [], 0.3)[0]:
        watch.changed()


@pytest.mark.root
@pytest.mark.parametrize(
    "change",
    [
        "ip addr add 192.0.2.77/24 dev v0",
        "ip addr del 192.0.2.2/24 dev v0",
        "ip addr add 2001:db8:1::77/64 dev v0 nodad",
        "ip route replace default via 198.51.100.1",
        "ip route del default",
        "ip -6 route replace default via 2001:db8:2::1",
        "ip route add 203.0.113.0/24 via 192.0.2.1",
        "ip link set v0 mtu 1400",
        "ip link set w0 down",
    ],
)
def test_change_is_noticed_once(change: str, tmp_path: Path) -> None:
    def watch_it() -> tuple[bool, bool, bool, bool]:
        shell(VETH)
        with HostWatch(str(tmp_path / "none")) as watch:
            quiet(watch)
            idle = watch.changed()
            shell(change)
            readable = bool(select.select([watch], [], [], 5)[0])
            noticed = watch.changed()
            quiet(watch)
            return idle, readable, noticed, watch.changed()

    assert in_new_network(watch_it) == (False, True, True, False)


@pytest.mark.root
def test_overflow_is_a_change_and_watching_goes_on(tmp_path: Path) -> None:
    def flood() -> tuple[bool, bool, bool]:
        with HostWatch(str(tmp_path / "none")) as watch:
            watch._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            shell("ip link set lo up")
            batch = "".join(f"addr add 10.{n >> 8}.{n & 255}.1/32 dev lo\n" for n in range(500))
            subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True, timeout=10)
            first = watch.changed()
            while watch.changed():
                pass
            shell("ip addr add 10.200.0.1/32 dev lo")
            return first, bool(select.select([watch], [], [], 5)[0]), watch.changed()

    assert in_new_network(flood) == (True, True, True)


@pytest.mark.root
def test_default_interface_follows_the_route() -> None:
    def ask() -> list[tuple[int, int]]:
        def both() -> tuple[int, int]:
            return default_interface(socket.AF_INET), default_interface(socket.AF_INET6)

        found = [both()]
        shell(VETH)
        found.append(both())
        shell("ip route replace default via 198.51.100.1; ip -6 route replace default via 2001:db8:2::1")
        found.append(both())
        shell("ip -6 route del default; ip route replace default dev lo")
        found.append(both())
        names = dict(socket.if_nameindex())
        return [tuple(names.get(index, "") for index in pair) for pair in found]  # type: ignore[misc]

    assert in_new_network(ask) == [("", ""), ("v0", "v0"), ("w0", "w0"), ("", "")]


@pytest.mark.root
def test_host_addresses() -> None:
    def ask() -> list[set[str]]:
        shell(VETH)
        before = host_addresses()
        shell("ip link del v0")
        return [{text(one) for one in found} for found in (before, host_addresses())]

    before, after = in_new_network(ask)
    assert before >= {"127.0.0.1", "::1", "192.0.2.2", "198.51.100.2", "2001:db8:1::2", "2001:db8:2::2"}
    assert {"192.0.2.2", "2001:db8:1::2"} <= before - after
    assert "198.51.100.2" in after


def rewrite(path: Path) -> None:
    path.write_text("nameserver 192.0.2.22\n")


def replace(path: Path) -> None:
    other = path.with_name("new")
    other.write_text("nameserver 192.0.2.2\n")
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.replace(path)


def link_again(path: Path) -> None:
    other = path.with_name("other.conf")
    other.write_text("nameserver 192.0.2.1\n")
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize("change", [rewrite, replace, link_again])
def test_resolv_conf(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    with HostWatch(str(path)) as watch:
        watch._drain()  # the machine's own network may change while we look
        assert not watch._file_changed()
        change(path)
        assert watch.changed()
        assert not watch._file_changed()
        path.unlink()
        assert not watch._file_changed(), "the old list holds"
        path.write_text("nameserver 192.0.2.3\n")
        assert watch.changed()


def test_a_path_that_is_none_never_changes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("a\0b", str(tmp_path), str(tmp_path / "pipe")):
        with HostWatch(path) as watch:
            assert not watch._file_changed()


def test_closed_is_an_error_of_the_host() -> None:
    watch = HostWatch()
    watch.close()
    watch.close()
    assert watch.fileno() == -1
    with pytest.raises(HostError, match="cannot watch"):
        watch.changed()
