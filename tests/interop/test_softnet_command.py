"""The command softnet as Tart starts it: a datagram socket as a standard stream, a guest with a real DHCP client, rules
and their change, exposed ports, signals, and who it is while it runs.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from support.fakehost import (
    GATEWAY4,
    GATEWAY6,
    GUEST4,
    HOST4,
    METADATA4,
    PRIVATE4,
    PRIVATE6,
    PUBLIC4,
    PUBLIC6,
    RESOLVER4,
    WORLD4,
    FakeHost,
)
from support.guests import ORDINARY, PATIENCE, eventually
from support.pasta_peers import name_server
from support.softnet_vm import MAC, Softnet, SoftnetGuest

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("softnet")]

EVERYBODY = "ff:ff:ff:ff:ff:ff"
NAMED = "192.0.2.53"
OPEN = [PUBLIC4, PUBLIC6]
CLOSED = [PRIVATE4, PRIVATE6, METADATA4, GATEWAY4, GATEWAY6]
NOBODY = "65534"


@pytest.fixture(scope="module")
def host() -> Iterator[FakeHost]:
    """A world that answers on port 80 of every address, and a service on the host's loopback."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(contextlib.closing(FakeHost()))
        for address in (PUBLIC4, PUBLIC6, PRIVATE4, PRIVATE6, METADATA4):
            stack.enter_context(made.world.listen(address, 80))
        for address in ("127.0.0.1", "::1"):
            stack.enter_context(made.net.listen(address, 80))
        stack.enter_context(name_server(made.world, RESOLVER4, NAMED))
        yield made


@pytest.fixture(scope="module")
def shared(host: FakeHost) -> Iterator[SoftnetGuest]:
    """A guest that has its lease, and Tart's descriptors: frames at 0, control at 1."""
    with SoftnetGuest(host, "--expose", "2222:22", control=1) as guest:
        guest.lease = guest.dhclient()
        yield guest


@pytest.fixture
def guest(shared: SoftnetGuest) -> Iterator[SoftnetGuest]:
    """The same, without rules at the end."""
    yield shared
    assert shared.alive(), shared.said
    set_policy(shared)


def set_policy(guest: SoftnetGuest, allow: list[str] | None = None, block: list[str] | None = None) -> None:
    answer = guest.ask(
        "softnet.policy.set", allow=allow or [], block=block or [], desiredRevision=str(time.monotonic_ns())
    )
    assert "result" in answer, answer


def reaches(guest: SoftnetGuest, address: str, port: int = 80) -> bool:
    try:
        guest.net.connect(address, port).close()
    except ConnectionRefusedError:
        return False
    return True


def arp(mac: str = MAC, address: str = GUEST4) -> Packet:
    return Ether(src=mac, dst=EVERYBODY) / ARP(hwsrc=mac, psrc=address, pdst=GATEWAY4)


def is_reply(packet: Packet) -> bool:
    return ARP in packet and packet[ARP].op == 2


def fields_of(softnet: Softnet) -> dict[str, str]:
    """Of proc_pid_status(5)."""
    lines = Path(f"/proc/{softnet.process.pid}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


class TestGuest:
    def test_lease(self, guest: SoftnetGuest) -> None:
        """dhclient's, from a server that is ours, over the datagram socket."""
        told = {name: guest.lease[f"new_{name}"] for name in (
            "ip_address", "subnet_mask", "routers", "domain_name_servers", "dhcp_server_identifier", "dhcp_lease_time",
            "interface_mtu",
        )}  # fmt: skip
        assert told == {
            "ip_address": GUEST4,
            "subnet_mask": "255.255.255.252",
            "routers": GATEWAY4,
            "domain_name_servers": GATEWAY4,
            "dhcp_server_identifier": GATEWAY4,
            "dhcp_lease_time": "600",
            "interface_mtu": "1500",
        }

    def test_defaults(self, guest: SoftnetGuest) -> None:
        assert {address: reaches(guest, address) for address in (*OPEN, *CLOSED)} == {
            **dict.fromkeys(OPEN, True),
            **dict.fromkeys(CLOSED, False),
        }

    def test_gateway(self, guest: SoftnetGuest) -> None:
        """It answers echoes, and questions about names by both protocols."""
        assert guest.net.run("ping", "-c1", "-W5", GATEWAY4).returncode == 0
        question = dns.message.make_query("example.com", "A")
        with guest.net.entered():
            for ask in (dns.query.udp, dns.query.tcp):
                found = ask(question, GATEWAY4, timeout=PATIENCE)
                assert [str(each) for each in found.answer[0]] == [NAMED]

    def test_exposed(self, host: FakeHost, guest: SoftnetGuest) -> None:
        """Reached from the world without a rule for the answers; and never over IPv6."""
        with guest.net.listen("0.0.0.0", 22) as server:
            for place, address in ((host.world, HOST4), (host.net, "127.0.0.1")):
                with place.connect(address, 2222) as peer:
                    inside, name = server.accept()
                    with inside:
                        peer.sendall(b"in")
                        assert inside.recv(2) == b"in"
                        inside.sendall(b"out")
                        assert peer.recv(3) == b"out"
                    assert name[0] == (WORLD4 if place is host.world else GATEWAY4)
        with pytest.raises(ConnectionRefusedError):
            host.net.connect("::1", 2222)

    def test_curl_after_a_change(self, host: FakeHost, guest: SoftnetGuest) -> None:
        words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5"]
        with host.world.listen(PRIVATE4, 8080) as server:
            assert guest.net.run(*words, f"http://{PRIVATE4}:8080/", check=False).returncode == 7, "refused"
            set_policy(guest, allow=["10.0.0.0/8:8080"])
            with guest.net.entered():
                curl = subprocess.Popen([*words, f"http://{PRIVATE4}:8080/"], stdout=subprocess.PIPE)
            peer, _ = server.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.0 204 fine\r\n\r\n")
            assert curl.communicate(timeout=PATIENCE)[0] == b"204"


class TestChange:
    def test_ends_what_it_refuses_and_nothing_else(self, host: FakeHost, guest: SoftnetGuest) -> None:
        with host.world.listen(PUBLIC4, 81) as server, host.world.listen(PRIVATE4, 81) as inner:
            set_policy(guest, allow=["10.0.0.0/8"])
            one, other = guest.net.connect(PUBLIC4, 81), guest.net.connect(PRIVATE4, 81)
            with one, other, server.accept()[0] as there, inner.accept()[0]:
                set_policy(guest, block=["10.0.0.0/8"])
                with pytest.raises(ConnectionResetError):
                    other.recv(1)
                one.sendall(b"on")
                assert there.recv(2) == b"on"
            assert not reaches(guest, PRIVATE4)

    def test_default_deny(self, guest: SoftnetGuest) -> None:
        set_policy(guest, allow=["@host"], block=["0.0.0.0/0"])
        assert [reaches(guest, each) for each in (PUBLIC4, PUBLIC6, GATEWAY4, GATEWAY6)] == [False, False, True, True]

    def test_in_rules(self, host: FakeHost, guest: SoftnetGuest) -> None:
        with guest.net.listen("0.0.0.0", 22):
            set_policy(guest, block=[f"in {WORLD4}"])
            with contextlib.suppress(ConnectionResetError), host.world.connect(HOST4, 2222) as refused:
                assert refused.recv(1) == b""
            with host.net.connect("127.0.0.1", 2222):
                set_policy(guest)

    def test_get(self, guest: SoftnetGuest) -> None:
        rules = {"allow": ["@host", "10.1.0.0/8"], "block": ["0.0.0.0/0"]}
        answer = guest.ask("softnet.policy.set", **rules, desiredRevision="a")
        assert answer["result"] == {
            "allow": ["10.0.0.0/8", "@host"],
            "block": ["0.0.0.0/0"],
            "desiredRevision": "a",
            "ruleCount": 4,
            "bridgeIsolation": True,
        }
        assert guest.ask("softnet.policy.get")["result"] == answer["result"]

    def test_errors(self, guest: SoftnetGuest) -> None:
        def code(method: str, **params: object) -> object:
            return guest.ask(method, **params)["error"]["code"]  # type: ignore[index]

        assert code("softnet.policy.put") == -32601
        assert code("softnet.policy.set", allow=[]) == -32602
        assert code("softnet.policy.set", allow=["0.0.0.0/0"], block=[], desiredRevision="b") == -32002


@pytest.fixture(scope="module")
def raw(host: FakeHost) -> Iterator[Softnet]:
    """A guest of frames."""
    with Softnet(host) as made:
        yield made


class TestIdentity:
    """Frames by hand on the guest's own socket."""

    def judged(self, raw: Softnet, *packets: Packet) -> list[Packet]:
        """What is answered to these, before the answer to an honest frame behind them."""
        for packet in packets:
            raw.send(packet)
        raw.send(Ether(src=MAC, dst="02:6d:73:00:00:01") / IP(src=GUEST4, dst=GATEWAY4) / ICMP(id=77))
        answers: list[Packet] = []

        def is_last(packet: Packet) -> bool:
            last = ICMP in packet and packet[ICMP].type == 0 and packet[ICMP].id == 77
            is_for_groups = int(packet.dst[:2], 16) & 1 or (ARP in packet and packet[ARP].op == 1)
            if not last and not is_for_groups:
                answers.append(packet)
            return bool(last)

        assert raw.receive(is_last) is not None
        return answers

    def test_own(self, raw: Softnet) -> None:
        assert [is_reply(packet) for packet in self.judged(raw, arp())] == [True]
        assert [is_reply(packet) for packet in self.judged(raw, arp(address="0.0.0.0"))] == [True]

    @pytest.mark.parametrize(
        "packet",
        [
            arp(mac="52:54:00:ab:cd:ee"),
            Ether(src=MAC, dst=EVERYBODY) / ARP(hwsrc="52:54:00:ab:cd:ee", psrc=GUEST4, pdst=GATEWAY4),
            arp(address=GATEWAY4),
            Ether(src=MAC, dst="02:6d:73:00:00:01") / IP(src="172.16.0.3", dst=PUBLIC4) / TCP(dport=80),
            Ether(src="52:54:00:ab:cd:ee", dst="02:6d:73:00:00:01") / IP(src=GUEST4, dst=PUBLIC4) / TCP(dport=80),
            Ether(src=MAC, dst=EVERYBODY) / IP(src=GUEST4, dst="255.255.255.255") / UDP(sport=67, dport=68) / b"rogue",
        ],
        ids=["mac", "arp-mac", "arp-gateway", "source", "ip-mac", "dhcp-server"],
    )
    def test_foreign(self, raw: Softnet, packet: Packet) -> None:
        assert self.judged(raw, packet) == []


class TestSockets:
    @pytest.mark.parametrize("number", [1, 2, None])
    def test_any_number(self, host: FakeHost, number: int | None) -> None:
        """And nothing but frames comes out of it, though there is something to be said."""
        with Softnet(host, "--expose", "0:1", number=number) as softnet:
            softnet.send(arp())
            frames = []
            assert softnet.receive(lambda packet: bool(frames.append(bytes(packet)) or is_reply(packet))) is not None
            assert not any(b"expose" in frame for frame in frames)
            assert softnet.signal() == 0
            assert ("left out" in softnet.said) == (number != 2)

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
    def test_other_kinds(self, host: FakeHost, kind: socket.SocketKind) -> None:
        """The end of the peer is an error."""
        with Softnet(host, kind=kind) as softnet:
            softnet.send(arp())
            assert softnet.receive(is_reply) is not None
            softnet.sock.close()
            assert softnet.process.wait(PATIENCE) == 1
            assert softnet.said.endswith("--vm-fd 0: the virtual machine's end of the socket is gone\n")

    def test_a_datagram_peer_that_goes_in_silence(self, host: FakeHost) -> None:
        """It has read all that was sent, and of its end the kernel says nothing."""
        with Softnet(host) as softnet:
            softnet.send(arp())
            assert softnet.receive(is_reply) is not None
            while softnet.receive(lambda _: True, seconds=0.05) is not None:
                pass
            softnet.sock.close()
            assert softnet.process.wait(PATIENCE) == 1

    def test_only_what_it_needs_is_open(self, host: FakeHost) -> None:
        """A pipe that its parent had open is not held; conversations and requests leave nothing behind."""
        reading, writing = os.pipe()
        with SoftnetGuest(host, control=None, more=[reading, writing]) as guest:
            os.close(reading)
            os.close(writing)
            guest.dhclient()
            assert reaches(guest, PUBLIC4)
            assert not any("pipe:" in each for each in guest.descriptors())
            eventually(lambda: self.settled(guest))
            before = len(guest.descriptors())
            for number in range(20):
                with guest.net.connect(PUBLIC4, 80) as flow:
                    flow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                set_policy(guest, block=[f"10.0.0.0/{number + 8}"])
            eventually(lambda: len(guest.descriptors()) <= before, or_else=lambda: str(guest.descriptors()))
            guest.control_socket.shutdown(socket.SHUT_RDWR)
            eventually(lambda: len(guest.descriptors()) < before)
            assert reaches(guest, PUBLIC4)
            assert guest.signal() == 0

    def settled(self, guest: SoftnetGuest) -> bool:
        """Whether the number of descriptors stays for a moment."""
        before = guest.descriptors()
        time.sleep(0.1)
        return guest.descriptors() == before

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--vm-fd", "55"], "--vm-fd 55: no such descriptor is open; the number of a connected socket"),
            (["--vm-fd", "0"], "--vm-fd 0: must be a connected socket"),
            (["--vm-fd", "0", "--control-fd", "1", "--user", "nobody-of-this-name"], "--user 'nobody-of-this-name'"),
            (["--vm-fd", "0", "--user", "0"], "cannot become user 0, group 0: only root can"),
        ],
    )
    def test_runtime_errors(self, host: FakeHost, words: list[str], says: str) -> None:
        runner = host.runner("ordinary")
        command = [sys.executable, "-m", "bucatini.cli.softnet", "--vm-mac-address", MAC, *words]
        done = runner.complete_words(runner.wrapped(command))
        assert done.status == 1, done
        assert done.stderr.startswith(f"softnet: {says}")
        assert done.stderr.count("\n") == 1


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signals(self, host: FakeHost, number: signal.Signals) -> None:
        with Softnet(host) as softnet:
            softnet.send(arp())
            assert softnet.receive(is_reply) is not None
            assert softnet.signal(number) == 0
            assert softnet.said == ""

    def test_interrupt_is_heard_where_it_was_ignored(self, host: FakeHost) -> None:
        """As a shell starts its background jobs."""
        with Softnet(host, before="trap '' INT") as softnet:
            softnet.send(arp())
            assert softnet.receive(is_reply) is not None
            assert softnet.signal(signal.SIGINT) == 0


class TestExpose:
    def test_one_busy_port_keeps_nothing_else(self, host: FakeHost) -> None:
        """It is tried again until it is free."""
        with host.net.listen("0.0.0.0", 4444) as taken, SoftnetGuest(host, "--expose", "4444:22,4445:22") as guest:
            guest.dhclient()
            with guest.net.listen("0.0.0.0", 22) as server:
                host.world.connect(HOST4, 4445).close()
                server.accept()[0].close()
                assert "port 4444 is in use on this host; tried again" in guest.said
                taken.close()
                eventually(lambda: "'0.0.0.0:4444:22/tcp': listens now" in guest.said)
                host.world.connect(HOST4, 4444).close()
                server.accept()[0].close()


class TestNetworks:
    def test_host_type(self, host: FakeHost) -> None:
        """Nothing but the gateway, whatever is allowed; and no names."""
        options = ["--vm-net-type", "host", "--allow", "0.0.0.0/0,@host", "--bootpd-lease-time", "1234"]
        with SoftnetGuest(host, *options) as guest:
            lease = guest.dhclient()
            assert lease["new_dhcp_lease_time"] == "1234"
            assert "new_domain_name_servers" not in lease
            assert [reaches(guest, each) for each in (PUBLIC4, PRIVATE4, GATEWAY4)] == [False, False, True]
            assert not reaches(guest, GATEWAY4, 53)

    def test_network_of_the_host_is_left_alone(self, host: FakeHost) -> None:
        """The guest's /30 is one that no interface of the host has a part of."""
        host.net.ip("link add busy0 type veth peer name busy1\naddr add 172.16.0.200/24 dev busy0")
        try:
            with Softnet(host) as softnet:
                asked = Ether(src=MAC, dst=EVERYBODY) / ARP(hwsrc=MAC, psrc="172.16.1.2", pdst="172.16.1.1")
                softnet.send(asked)
                assert softnet.receive(is_reply) is not None
        finally:
            host.net.ip("link del busy0")

    def test_rules_of_the_command_line(self, host: FakeHost) -> None:
        with SoftnetGuest(host, "--allow=10.0.0.0/8,@host:80", "--block", "0.0.0.0/0") as guest:
            guest.dhclient()
            assert [reaches(guest, each) for each in (PUBLIC4, PRIVATE4, GATEWAY4)] == [False, True, True]


class TestRoot:
    """Who it is while it serves."""

    def who(self, softnet: Softnet) -> tuple[list[str], list[str], list[str]]:
        """User, group and capabilities in effect, once it serves."""
        softnet.send(arp())
        assert softnet.receive(is_reply) is not None
        fields = fields_of(softnet)
        return fields["Uid"].split(), fields["Gid"].split(), fields["CapEff"].split()

    def test_root_becomes_nobody(self, host: FakeHost) -> None:
        with Softnet(host, user="root") as softnet:
            assert self.who(softnet) == ([NOBODY] * 4, [NOBODY] * 4, ["0" * 16])
            fields = fields_of(softnet)
            assert (fields["CapBnd"].strip(), fields["NoNewPrivs"].strip()) == ("0" * 16, "1")

    def test_user_and_group(self, host: FakeHost) -> None:
        with Softnet(host, "--user", "daemon", "--group", "1", user="root") as softnet:
            daemon = str(pwd.getpwnam("daemon").pw_uid)
            assert self.who(softnet)[:2] == ([daemon] * 4, ["1"] * 4)

    def test_root_on_request(self, host: FakeHost) -> None:
        with Softnet(host, "--user", "root", user="root") as softnet:
            assert self.who(softnet)[0] == ["0"] * 4

    def test_low_ports_also_later(self, host: FakeHost) -> None:
        with host.net.listen("0.0.0.0", 444) as taken:
            with Softnet(host, "--expose", "443:443,444:444", user="root") as softnet:
                assert self.who(softnet)[2] == [f"{1 << 10:016x}"]
                assert fields_of(softnet)["CapBnd"].split() == [f"{1 << 10:016x}"]
                host.world.connect(HOST4, 443).close()
                taken.close()
                eventually(lambda: "'0.0.0.0:444:444/tcp': listens now" in softnet.said)

    def test_an_ordinary_user_needs_nothing(self, host: FakeHost) -> None:
        with Softnet(host, "--user", str(ORDINARY), user="ordinary") as softnet:
            assert softnet.process.wait(PATIENCE) == 1, "it has no name, so it cannot be named"
        with Softnet(host, user="ordinary") as softnet:
            assert self.who(softnet)[0] == [str(ORDINARY)] * 4


BRIDGE4, LEASED4 = "192.168.77.1", "192.168.77.10"


@pytest.fixture(scope="module")
def bridge(host: FakeHost) -> Iterator[str]:
    """A bridge of the host, with a DHCP server that is dnsmasq."""
    host.net.ip(f"link add br0 type bridge\naddr add {BRIDGE4}/24 dev br0\nlink set br0 up")
    words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=br0"]
    words += ["--bind-interfaces", f"--dhcp-range={LEASED4},{LEASED4},600", "--dhcp-authoritative", "--no-ping"]
    words += [f"--dhcp-leasefile={host.folder}/leases", f"--pid-file={host.folder}/dnsmasq.pid"]
    with host.net.entered():
        server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield "br0"
    finally:
        server.terminate()
        server.wait(PATIENCE)
        host.net.ip("link del br0")


class TestBridge:
    """The faithful filter, and how it gets the privilege it needs."""

    def test_filter(self, host: FakeHost, bridge: str) -> None:
        """The lease is dnsmasq's; what is public is reached under the host's address, what is private is not."""
        with SoftnetGuest(host, "--bridge", bridge, control=1, user="root") as guest:
            lease = guest.dhclient()
            assert (lease["new_ip_address"], lease["new_routers"]) == (LEASED4, BRIDGE4)
            assert reaches(guest, PUBLIC4)
            with pytest.raises(TimeoutError):
                guest.net.connect(PRIVATE4, 80, timeout=0.3)
            set_policy(guest, allow=["10.0.0.0/8"])
            assert reaches(guest, PRIVATE4)
            fields = fields_of(guest)
            assert [fields[each].split() for each in ("Uid", "Gid")] == [[NOBODY] * 4] * 2
            assert (fields["CapBnd"].strip(), fields["NoNewPrivs"].strip()) == ("0" * 16, "1")
            assert guest.signal() == 0
            assert guest.said == ""

    def test_user_and_group(self, host: FakeHost, bridge: str) -> None:
        with Softnet(host, "--bridge", bridge, "--user", "daemon", "--group", "1", control=1, user="root") as softnet:
            assert softnet.ask("softnet.policy.get")["result"]
            daemon = str(pwd.getpwnam("daemon").pw_uid)
            assert [fields_of(softnet)[each].split() for each in ("Uid", "Gid")] == [[daemon] * 4, ["1"] * 4]

    def test_a_port_that_cannot_be_had_is_said(self, host: FakeHost, bridge: str) -> None:
        with host.net.listen("0.0.0.0", 2444):
            with Softnet(host, "--bridge", bridge, "--expose", "2444:22", user="root") as softnet:
                eventually(lambda: "--expose 2444:22: cannot have port 2444 of this host" in softnet.said)
                assert softnet.said.startswith("softnet: ")
                assert softnet.signal() == 0

    def sudo(self, host: FakeHost, grants: bool) -> Path:
        """A sudo that asks nobody: it runs a probe if it grants, and says how it was called for anything else."""
        folder = host.folder / f"sudo-{grants}"
        folder.mkdir(exist_ok=True)
        script = folder / "sudo"
        script.write_text(
            '#!/bin/sh\n[ "$1" != -n ] || { shift; ' + ('exec "$@"' if grants else "exit 1") + "; }\n"
            'printf "%s\\n" "$@" >&2\nstat -Lc %F /dev/fd/0 >&2\n'
        )
        script.chmod(0o755)
        return folder

    def unprivileged(
        self, host: FakeHost, *options: str, grants: bool, number: int | None = 0
    ) -> tuple[int, list[str]]:
        """Status and words of a softnet for a bridge whose root has no capabilities."""
        before = f"PATH={self.sudo(host, grants)}:$PATH; set -- setpriv --bounding-set -all -- \"$@\""
        with Softnet(host, "--bridge", "br0", *options, number=number, user="root", before=before) as softnet:
            return softnet.process.wait(PATIENCE), softnet.said.splitlines()

    def test_becomes_sudo(self, host: FakeHost) -> None:
        status, said = self.unprivileged(host, "--allow=@host", grants=True)
        own = [sys.executable, "-m", "bucatini.cli.softnet"]
        assert (status, said) == (0, [
            "--non-interactive", "--preserve-env=SENTRY_DSN,CIRRUS_SENTRY_TAGS", *own,
            "--vm-fd", "0", "--vm-mac-address", MAC, "--bridge", "br0", "--allow=@host",
            "--sudo-escalation-done", "--user", "root", "--group", "root", "socket",
        ])  # fmt: skip

    def test_an_option_is_not_given_twice(self, host: FakeHost) -> None:
        _, said = self.unprivileged(host, "--user=daemon", grants=True)
        assert said[-4:] == ["--sudo-escalation-done", "--group", "root", "socket"]

    @pytest.mark.parametrize(("options", "grants"), [([], False), (["--sudo-escalation-done"], True)])
    def test_refused(self, host: FakeHost, options: list[str], grants: bool) -> None:
        """By sudo; and a copy that sudo has started does not ask again."""
        refusal = "softnet: root is needed for --bridge, and sudo does not give it without a password"
        assert self.unprivileged(host, *options, grants=grants) == (1, [refusal])

    def test_descriptors_that_sudo_closes(self, host: FakeHost) -> None:
        status, said = self.unprivileged(host, grants=True, number=None)
        assert status == 1
        assert said[0].endswith("sudo, which --bridge needs, closes it; accepted: 0, 1 and 2")
