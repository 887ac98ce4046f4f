"""`bucatini attach`: a network for namespaces that others made, and its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import pytest

from support.attached import attached, named
from support.fakehost import GATEWAY4, GUEST4, GUEST6, HOST4, PUBLIC4, PUBLIC6, FakeHost, read_all
from support.guests import PATIENCE, eventually

pytestmark = pytest.mark.root


def test_a_complete_network(host: FakeHost, user: str) -> None:
    with attached(host, user) as served:
        shown = served.net.run("ip", "-brief", "address", "show", "eth0").stdout
        assert f"{GUEST4}/30" in shown
        assert f"{GUEST6}/64" in shown
        for address in (PUBLIC4, PUBLIC6):
            with host.world.listen(address) as server, served.net.connect(*server.getsockname()[:2]) as client:
                peer, _ = server.accept()
                with peer:
                    client.sendall(b"through")
                    assert peer.recv(10) == b"through"
        assert served.net.run("ping", "-c1", "-W2", GATEWAY4).returncode == 0


def test_policy_holds(host: FakeHost) -> None:
    with attached(host, "root", "--policy", "none") as served, host.world.listen(PUBLIC4) as server:
        with pytest.raises(ConnectionRefusedError):
            served.net.connect(*server.getsockname()[:2]).close()


def test_ends_with_its_namespace(host: FakeHost, user: str) -> None:
    with attached(host, user) as served:
        served.holder.kill()
        served.holder.wait(PATIENCE)
        assert served.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_with_a_signal_and_takes_the_interface_along(host: FakeHost, number: signal.Signals) -> None:
    with attached(host, "root") as served:
        served.engine.send_signal(number)
        assert served.wait() == 0
        assert "eth0" not in served.net.run("ip", "link").stdout


def test_by_path(host: FakeHost) -> None:
    with named(host, "box") as path:
        runner = host.runner()
        engine, errors = runner.begin(["attach", "-v", "--netns", str(path)])
        try:
            assert eventually(lambda: " has " in read_all(errors) or engine.poll() is not None)
            assert engine.poll() is None, read_all(errors)
            subprocess.run(["umount", str(path)], check=True)
            os.unlink(path)
            assert engine.wait(PATIENCE) == 0
        finally:
            engine.kill()
            engine.wait(PATIENCE)
            for stream in (engine.stdin, engine.stdout, errors):
                stream.close()  # type: ignore[union-attr]
            runner.kill_all()


def test_published_ports_of_every_grammar(host: FakeHost, user: str) -> None:
    with attached(host, user, "-p", "8101:80", "-t", "8102:80", "-T", "8103:8104", "--no-splice") as served:
        with served.net.listen("0.0.0.0", 80) as server:
            for port in (8101, 8102):
                with host.net.connect(HOST4, port) as client:
                    peer, _ = server.accept()
                    with peer:
                        client.sendall(b"in")
                        assert peer.recv(10) == b"in"
        with host.net.listen("127.0.0.1", 8104) as server, served.net.connect("127.0.0.1", 8103) as client:
            peer, _ = server.accept()
            with peer:
                client.sendall(b"out")
                assert peer.recv(10) == b"out"


def test_the_host_is_mirrored(host: FakeHost, user: str) -> None:
    with attached(host, user, "--mirror-host", "--ifname", "up0") as served:
        assert HOST4 in served.net.run("ip", "-brief", "address", "show", "up0").stdout


def test_loopback_of_the_host_where_it_is_mapped(host: FakeHost) -> None:
    options = ("--allow", "host", "--map-host-loopback", "192.0.2.77")
    with attached(host, "root", *options) as served, host.net.listen("127.0.0.1") as server:
        with served.net.connect("192.0.2.77", server.getsockname()[1]) as client:
            peer, whence = server.accept()
            with peer:
                assert whence[0] == "127.0.0.1"
                client.sendall(b"x")
                assert peer.recv(10) == b"x"
        with pytest.raises(OSError, match="refused"):
            served.net.connect(GATEWAY4, server.getsockname()[1]).close()


def test_outbound_source(host: FakeHost) -> None:
    host.net.ip("addr add 198.51.100.9/32 dev lo")
    try:
        with attached(host, "root", "--outbound", "198.51.100.9") as served:
            host.world.ip(f"route add 198.51.100.9 via {HOST4}")
            with host.world.listen(PUBLIC4) as server, served.net.connect(*server.getsockname()[:2]):
                peer, whence = server.accept()
                peer.close()
                assert whence[0] == "198.51.100.9"
            with host.world.bound(PUBLIC4) as far, served.net.new_socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
                near.bind(("", 4321))
                near.sendto(b"x", far.getsockname())
                assert far.recvfrom(10)[1] == ("198.51.100.9", 4321)
    finally:
        host.net.ip("addr del 198.51.100.9/32 dev lo")


def test_unconfigured_for_dhcp(host: FakeHost) -> None:
    with attached(host, "root", "--no-config-net") as served:
        shown = served.net.run("ip", "-brief", "address", "show", "eth0").stdout
        assert "DOWN" in shown
        assert GUEST4 not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either the PID of a process or --netns"),
        (["1x"], "PID '1x': must be a number from 1 to 2147483647"),
        (["2147483647"], "no process 2147483647"),
        (["--netns", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--netns", "nosuch"], "/run/netns/nosuch"),
        (["--netns", "/etc/passwd"], "/etc/passwd"),
        (["--netns", "/proc/self/ns/net"], "is the network namespace we are in ourselves"),
        (["12", "--ifname", "x"], "--ifname: options go before the pid"),
        (["--interface", "up0", "12"], "--interface 'up0': is what --mirror-host mirrors"),
        (["--netns", "x", "12"], "--netns 'x': excluded by the PID 12"),
        (["--userns", "/x", "--netns-only", "12"], "--userns '/x': excluded by --netns-only"),
        (["--address", "127.0.0.300", "12"], "--address '127.0.0.300': must be an IPv4 or IPv6 address"),
        (["--ifname", "a/b", "12"], "--ifname 'a/b': must be the name of an interface"),
        (["-t", "80-70", "12"], "-t '80-70'"),
        (["-T", "1.2.3.4/80", "12"], "-T '1.2.3.4/80'"),
    ],
)
def test_one_line_and_status_2(host: FakeHost, words: list[str], message: str) -> None:
    runner = host.runner()
    done = runner.complete(["attach", *words])
    runner.gone()
    assert done.status == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message.lower() in done.stderr.lower()
