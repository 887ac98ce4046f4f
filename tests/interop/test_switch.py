"""Several guests on one segment: who may reach whom, and what each of them sees of the others."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from support.fakehost import PUBLIC4, PUBLIC6, FakeHost, Namespace
from support.guests import PATIENCE, eventually
from support.switched import Switched, hears, reaches_tcp
from support.tap_guest import TapGuest

pytestmark = pytest.mark.root

MACS = {"web": "02:00:00:00:00:0a", "db": "02:00:00:00:00:0b", "lone": "02:00:00:00:00:0c"}
GATEWAY, GATEWAY_MAC = "172.16.0.1", "02:6d:73:00:00:01"
BROADCAST = "ff:ff:ff:ff:ff:ff"
OPEN, CLOSED = 7000, 7002
LINKS = ("--link", f"web:db:tcp:{OPEN},{OPEN + 1}", "--link", f"web:db:udp:{OPEN}", "--link", "web:db:icmp")


@pytest.fixture(scope="module")
def shared(host: FakeHost) -> Iterator[Switched]:
    with Switched(host, MACS, *LINKS, "-v", told=("web", "db")) as made:
        made.lease_all()
        yield made


@pytest.fixture
def switched(shared: Switched) -> Iterator[Switched]:
    yield shared
    assert shared.engine.poll() is None, shared.stderr


@contextlib.contextmanager
def serving(guest: TapGuest, port: int, address: str) -> Iterator[socket.socket]:
    with guest.net.listen(address, port) as listener:
        yield listener


def talk(near: TapGuest, far: TapGuest, address: str, port: int = OPEN) -> None:
    """A conversation over TCP, a megabyte each way."""
    data = bytes(range(256)) * 4096
    with far.net.listen(address, port) as listener, near.net.connect(address, port) as one:
        other, _ = listener.accept()
        with other:
            other.settimeout(PATIENCE)
            for sender, receiver in ((one, other), (other, one)):
                got = b""
                sender.settimeout(0)
                sent = 0
                while len(got) < len(data):
                    with contextlib.suppress(BlockingIOError):
                        sent += sender.send(data[sent:])
                    receiver.settimeout(0.01)
                    with contextlib.suppress(TimeoutError, BlockingIOError):
                        got += receiver.recv(1 << 20)
                assert got == data


def test_leases_come_from_one_pool(switched: Switched) -> None:
    addresses = {guest.address() for guest in switched.guests.values()}
    assert addresses == {"172.16.0.2", "172.16.0.3", "172.16.0.4"}
    assert len({guest.address("-6")[:19] for guest in switched.guests.values()}) == 3


@pytest.mark.parametrize("address", [PUBLIC4, PUBLIC6])
def test_all_reach_the_world(switched: Switched, address: str) -> None:
    for guest in switched.guests.values():
        with switched.host.world.listen(address) as listener:
            with guest.net.connect(address, listener.getsockname()[1]) as near, listener.accept()[0] as far:
                near.sendall(b"ask")
                assert far.recv(10) == b"ask"


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_a_link_leads_one_way(switched: Switched, family: str) -> None:
    web, db = switched["web"], switched["db"]
    there, back = db.address(family), web.address(family)
    talk(web, db, there)
    assert web.pings(there)
    with serving(db, CLOSED, there), serving(web, OPEN, back):
        assert reaches_tcp(web, there, CLOSED) == "refused"
        assert reaches_tcp(db, back, OPEN) == "refused"
        assert not db.pings(back, 0.3)
    with serving(db, OPEN + 1, there):
        assert reaches_tcp(web, there, OPEN + 1) == "open"


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_datagrams_and_their_errors(switched: Switched, family: str) -> None:
    web, db = switched["web"], switched["db"]
    there, back = db.address(family), web.address(family)
    with db.net.bound(there, OPEN) as far, web.net.bound(back) as near:
        near.sendto(b"ask", (there, OPEN))
        data, peer = far.recvfrom(100)
        assert (data, peer[:2]) == (b"ask", near.getsockname()[:2])
        far.sendto(b"answer", peer)
        assert near.recv(100) == b"answer"
        far.sendto(b"another", peer)
        assert near.recv(100) == b"another"
    with web.net.bound(back) as near:
        near.connect((there, OPEN))
        near.send(b"to nobody")
        with pytest.raises(ConnectionRefusedError):
            near.recv(100)


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_without_a_link_nobody_is_reached(switched: Switched, family: str) -> None:
    """By way of the gateway; what is refused is refused at once, whether somebody is there or not."""
    lone, web = switched["lone"], switched["web"]
    there = web.address(family)
    via = [GATEWAY] if family == "-4" else []
    for route in via:
        lone.net.ip(f"route add {there}/32 via {route} dev eth0\nroute add 172.16.0.200/32 via {route} dev eth0\n")
    nobody = "172.16.0.200" if family == "-4" else web.address("-6").rpartition(":")[0] + ":9999"
    with serving(web, OPEN, there), hears(web) as ears:
        ears.heard()
        assert reaches_tcp(lone, there, OPEN) == "refused"
        assert reaches_tcp(lone, nobody, OPEN) == "refused"
        assert not lone.pings(there, 0.3)
        with lone.net.bound(lone.address(family)) as near:
            near.connect((there, OPEN))
            near.send(b"in")
            with pytest.raises(OSError):
                near.recv(100)
        assert [frame for frame in ears.heard() if frame.src != GATEWAY_MAC] == []
    for route in via:
        lone.net.ip(f"route del {there}/32 via {route} dev eth0\nroute del 172.16.0.200/32 via {route} dev eth0\n")


def test_arp_is_silent_without_a_link(switched: Switched) -> None:
    lone, web, db = switched["lone"], switched["web"], switched["db"]
    for target in (web.address(), db.address(), "172.16.0.200"):
        assert not lone.pings(target, 0.2)
        assert MACS["web"] not in neighbours(lone, target)
        assert GATEWAY_MAC not in neighbours(lone, target)
    assert lone.pings(GATEWAY)
    web.net.run("ip", "neigh", "flush", "dev", "eth0")
    assert web.pings(db.address())
    assert MACS["db"] in neighbours(web, db.address()), "its own MAC address, not the gateway's"


def neighbours(guest: TapGuest, address: str) -> str:
    return guest.net.run("ip", "neigh", "show", address, "dev", "eth0").stdout


def forged(lone: TapGuest, victim: TapGuest) -> dict[str, Packet]:
    """Frames of `lone` that would reach `victim` on an ordinary switch."""
    own, there = lone.address(), victim.address()
    own6, there6 = lone.address("-6"), victim.address("-6")
    ours, theirs = lone.mac, victim.mac
    return {
        "to its MAC": Ether(src=ours, dst=theirs) / IP(src=own, dst=there) / ICMP(),
        "to its MAC, TCP": Ether(src=ours, dst=theirs) / IP(src=own, dst=there) / TCP(dport=OPEN, flags="S"),
        "to its MAC, an answer": Ether(src=ours, dst=theirs) / IP(src=own, dst=there) / TCP(dport=OPEN, flags="SA"),
        "to its MAC, IPv6": Ether(src=ours, dst=theirs) / IPv6(src=own6, dst=there6) / ICMPv6EchoRequest(),
        "to its MAC, link-local": (
            Ether(src=ours, dst=theirs) / IPv6(src=own6, dst="fe80::ff:fe00:a") / ICMPv6EchoRequest()
        ),
        "to its MAC, the world's address": Ether(src=ours, dst=theirs) / IP(src=own, dst=PUBLIC4) / ICMP(),
        "by the gateway": Ether(src=ours, dst=GATEWAY_MAC) / IP(src=own, dst=there) / UDP(dport=OPEN),
        "by the gateway, a fragment": Ether(src=ours, dst=GATEWAY_MAC) / IP(src=own, dst=there, frag=9) / b"rest",
        "by the gateway, an echo reply": Ether(src=ours, dst=GATEWAY_MAC) / IP(src=own, dst=there) / ICMP(type=0),
        "by the gateway, an error": (
            Ether(src=ours, dst=GATEWAY_MAC) / IP(src=own, dst=there) / ICMP(type=3, code=3)
            / IP(src=there, dst=own) / UDP(sport=OPEN)
        ),
        "to all": Ether(src=ours, dst=BROADCAST) / IP(src=own, dst=there) / UDP(dport=OPEN),
        "broadcast": Ether(src=ours, dst=BROADCAST) / IP(src=own, dst="255.255.255.255") / UDP(dport=OPEN),
        "broadcast of the network": Ether(src=ours, dst=BROADCAST) / IP(src=own, dst="172.16.0.255") / UDP(dport=OPEN),
        "multicast": Ether(src=ours, dst="01:00:5e:00:00:fb") / IP(src=own, dst="224.0.0.251") / UDP(dport=5353),
        "multicast, IPv6": Ether(src=ours, dst="33:33:00:00:00:01") / IPv6(src=own6, dst="ff02::1") / UDP(dport=OPEN),
        "gratuitous ARP": Ether(src=ours, dst=BROADCAST) / ARP(op=2, hwsrc=ours, psrc=own, pdst=own),
        "ARP to its MAC": Ether(src=ours, dst=theirs) / ARP(op=1, hwsrc=ours, psrc=own, pdst=there),
        "ARP, as if it had asked": (
            Ether(src=ours, dst=theirs) / ARP(op=2, hwsrc=ours, psrc=own, hwdst=theirs, pdst=there)
        ),
        "ARP for its address": Ether(src=ours, dst=theirs) / ARP(op=2, hwsrc=ours, psrc=there, hwdst=theirs, pdst=own),
        "solicitation": (
            Ether(src=ours, dst="33:33:ff:00:00:0a") / IPv6(src=own6, dst="ff02::1:ff00:a", hlim=255)
            / ICMPv6ND_NS(tgt=there6) / ICMPv6NDOptSrcLLAddr(lladdr=ours)
        ),
        "under its MAC": Ether(src=theirs, dst=GATEWAY_MAC) / IP(src=there, dst=PUBLIC4) / UDP(dport=OPEN),
        "under its address": Ether(src=ours, dst=GATEWAY_MAC) / IP(src=there, dst=PUBLIC4) / UDP(dport=OPEN),
        "under the gateway's MAC": Ether(src=GATEWAY_MAC, dst=theirs) / IP(src=GATEWAY, dst=there) / UDP(dport=OPEN),
    }  # fmt: skip


def test_a_guest_sees_nothing_of_others(switched: Switched) -> None:
    lone, web, db = switched["lone"], switched["web"], switched["db"]
    with hears(web) as ears, hears(lone) as mouth, hears(db) as witness:
        ears.heard()
        mouth.heard()
        for frame in forged(lone, web).values():
            mouth.send(bytes(frame))
        assert lone.pings(GATEWAY), "all before this was judged"
        assert web.pings(db.address())
        for others in (ears, witness):
            wrong = [frame for frame in others.heard() if lone.mac in (frame.src, frame.dst) or (
                IP in frame and lone.address() in (frame[IP].src, frame[IP].dst))]
            assert wrong == []
        allowed = (lone.mac, BROADCAST)
        own = [frame for frame in mouth.heard() if frame.dst not in allowed and not int(frame.dst[:2], 16) & 1]
        assert own == [], "what web and db say to each other"


def test_the_linked_guest_has_no_more_than_the_link(switched: Switched) -> None:
    """db may answer web, and begin nothing."""
    web, db = switched["web"], switched["db"]
    begins = ("to its MAC, an answer", "by the gateway", "by the gateway, a fragment", "by the gateway, an echo reply",
              "by the gateway, an error", "to its MAC", "to its MAC, TCP", "to its MAC, IPv6", "to its MAC, link-local",
              "to its MAC, the world's address", "to all", "gratuitous ARP", "ARP, as if it had asked",
              "ARP for its address", "under its MAC")  # fmt: skip
    frames = forged(db, web)
    with hears(web) as ears, hears(db) as mouth:
        ears.heard()
        for name in begins:
            mouth.send(bytes(frames[name]))
        assert db.pings(GATEWAY)
        assert [frame for frame in ears.heard() if frame.src != GATEWAY_MAC or IP in frame] == []


def test_a_mac_address_has_one_owner(host: FakeHost) -> None:
    """Also where nobody said which: the first who shows it."""
    macs = {"first": MACS["web"], "second": MACS["web"], "third": MACS["db"]}
    with Switched(host, macs, "--link", "first:second") as switched:
        first, second, third = (switched[name] for name in macs)
        assert first.client.udhcpc().bound() == "172.16.0.2"
        second.client.udhcpc()
        eventually(lambda: "second: MAC address" in switched.stderr, or_else=lambda: switched.stderr)
        assert third.client.udhcpc().bound() == "172.16.0.3"
        assert "bound" not in second.client.log()
        second.client.kill()
        assert first.pings(GATEWAY)
        assert not second.pings(GATEWAY, 0.3)
        # Under another one it is somebody, and stays that.
        second.net.ip("link set eth0 down\nlink set eth0 address 02:00:00:00:00:0d\nlink set eth0 up\n")
        assert second.client.udhcpc().bound() == "172.16.0.4"
        assert switched.stderr.count("is another guest's") == 1


def test_a_network_for_each_guest(host: FakeHost, tmp_path: Path) -> None:
    words = ("--guest-length", "30", "--network", "10.7.0.0/24", "--link", "web:db", "--lease-file")
    with Switched(host, MACS, *words, str(tmp_path / "leases"), "--allow", "host") as switched:
        switched.lease_all()
        addresses = [guest.address() for guest in switched.guests.values()]
        assert sorted(addresses) == ["10.7.0.10", "10.7.0.2", "10.7.0.6"]
        for guest in switched.guests.values():
            number = int(guest.address().rpartition(".")[2])
            assert f"10.7.0.{number - 1}" in guest.net.run("ip", "route", "show", "default").stdout
            assert guest.pings(f"10.7.0.{number - 1}"), "its gateway"
            assert guest.pings(PUBLIC4)
            with host.net.listen("127.0.0.1") as listener:
                assert reaches_tcp(guest, f"10.7.0.{number - 1}", listener.getsockname()[1]) == "open"
        web, db, lone = (switched[name] for name in MACS)
        talk(web, db, db.address(), 9000)
        assert not db.pings(web.address(), 0.3)
        assert not lone.pings(web.address(), 0.3)
        switched.stop()
        switched.start()
        assert web.pings(PUBLIC4), "it has its address without asking again"
        assert [guest.client.renew() for guest in switched.guests.values()] == addresses


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_links_of_different_kinds(host: FakeHost, family: str) -> None:
    """What one link leaves to the other, the other may not be able to do."""
    links = ("--link", "web:db", "--link", "db:web")
    with Switched(host, MACS, *links, pumped=("db",)) as switched:
        switched.lease_all()
        web, db = switched["web"], switched["db"]
        talk(web, db, db.address(family))
        talk(db, web, web.address(family))
        with db.net.bound(db.address(family), OPEN) as far, web.net.bound(web.address(family)) as near:
            for size in (1, 1400):
                near.sendto(bytes(size), (db.address(family), OPEN))
                assert len(far.recv(2000)) == size


# -- rules change


@pytest.fixture(scope="module")
def changing(host: FakeHost) -> Iterator[Switched]:
    """One that is told other rules; of all of them only ICMP stays."""
    path = str(host.folder / "switch.control")
    with Switched(host, MACS, "--link", "web:db:icmp", "--control", path, "-v") as made:
        made.lease_all()
        yield made
    assert not Path(path).exists()


def link(switched: Switched, *words: str, status: int = 0) -> str:
    """`bucatini link`, on the host; what it says."""
    runner = switched.host.runner("root")
    command = runner.program(["link", "--control", str(switched.host.folder / "switch.control"), *words])
    with switched.host.net.entered():
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=runner.environment, cwd="/tmp"
        )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def rules(switched: Switched) -> list[str]:
    return [each["rule"] for each in json.loads(link(switched, "ls", "--json"))]


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_a_rule_comes_and_goes(changing: Switched, family: str) -> None:
    web, db = changing["web"], changing["db"]
    there = db.address(family)
    with serving(db, OPEN, there) as listener:
        assert reaches_tcp(web, there, OPEN) == "refused"
        link(changing, "add", f"web:db:tcp:{OPEN}")
        with web.net.connect(there, OPEN) as near, listener.accept()[0] as far:
            far.settimeout(PATIENCE)
            near.sendall(b"a")
            assert far.recv(10) == b"a"
            assert rules(changing) == ["web:db:icmp", f"web:db:tcp:{OPEN}"]
            link(changing, "rm", f"web:db:tcp:{OPEN}")
            with hears(db) as ears:
                for end in (near, far):
                    end.sendall(b"b")
                    with pytest.raises(ConnectionResetError):
                        end.recv(10)
                assert not [frame for frame in ears.heard() if TCP in frame and frame.src == web.mac]
        assert reaches_tcp(web, there, OPEN) == "refused"
        assert web.pings(there), "its rule stays"


def test_changes_under_a_stream_lose_nothing(changing: Switched) -> None:
    """Twenty, while bytes flow: none comes behind a gap."""
    web, db = changing["web"], changing["db"]
    there, port = db.address(), OPEN + 2
    link(changing, "add", f"web:db:tcp:{port}", "lone:db:udp")
    sent, stop = hashlib.sha256(), threading.Event()
    with serving(db, port, there) as listener, web.net.connect(there, port) as near, listener.accept()[0] as far:
        far.settimeout(PATIENCE)

        def send() -> None:
            block = os.urandom(1 << 14)
            while not stop.is_set():
                near.sendall(block)
                sent.update(block)
                stop.wait(0.0005)
            near.shutdown(socket.SHUT_WR)

        got = hashlib.sha256()
        thread = threading.Thread(target=send)
        reader = threading.Thread(target=lambda: [got.update(part) for part in iter(lambda: far.recv(1 << 20), b"")])
        thread.start()
        reader.start()
        try:
            for number in range(10):
                link(changing, "add", f"web:db:tcp:{9000 + number}", "db:lone")
                link(changing, "rm", f"web:db:tcp:{9000 + number}", "db:lone")
        finally:
            stop.set()
            thread.join(PATIENCE)
            reader.join(PATIENCE)
        assert got.digest() == sent.digest()
        assert out_of_order(far) == 0
    link(changing, "rm", f"web:db:tcp:{port}", "lone:db:udp")


def out_of_order(sock: socket.socket) -> int:
    """Segments received behind a gap, in all: tcpi_rcv_ooopack of linux/tcp.h, Linux 5.4."""
    return int(struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 228), 224)[0])


def test_names_and_neighbours_follow_the_rules(changing: Switched) -> None:
    lone, db = changing["lone"], changing["db"]
    for _ in range(2):
        assert ask(lone, "db.internal") != db.address()
        assert not lone.pings(db.address(), 0.2)
        lone.net.run("ip", "neigh", "flush", "dev", "eth0")
        link(changing, "add", "lone:db:icmp")
        assert ask(lone, "db.internal") == db.address()
        assert lone.pings(db.address())
        link(changing, "rm", "lone:db:icmp")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("add", "web:nobody"), "link.add web:nobody: no guest is called 'nobody'; there are web, db, lone"),
        (("add", "web:db", "web"), "link.add 'web': must be A:B, A:B:PROTO or A:B:PROTO:PORTS"),
        (("rm", "web:db:tcp:0"), "link.remove 'web:db:tcp:0': port '0' must be a number from 1 to 65535, or a range"),
        (("rm", "web:db"), "link.remove web:db: no such rule is in force"),
    ],
)
def test_words_that_the_engine_refuses(changing: Switched, words: tuple[str, ...], complaint: str) -> None:
    assert link(changing, *words, status=2) == f"bucatini link: {complaint}\n"
    assert link(changing, "ls") == "from  to  protocol  ports  rule\nweb   db  icmp      all    web:db:icmp\n"


def test_names_and_published_ports(host: FakeHost) -> None:
    ports = {"db": ["-p", "127.0.0.1:8123:7000"]}
    with Switched(host, MACS, "--link", "web:db", of_guest=ports) as switched:
        switched.lease_all()
        web, db, lone = (switched[name] for name in MACS)
        assert ask(web, "db.internal") == db.address()
        assert ask(web, "db.internal", "AAAA") == "", "it has not shown any"
        assert db.pings("fd42:6d73:62:1::1")
        assert ask(web, "db.internal", "AAAA") == db.address("-6")
        for guest, name in ((lone, "db"), (db, "web"), (web, "nobody"), (web, "x.db")):
            assert ask(guest, f"{name}.internal") == "NXDOMAIN"
        with db.net.listen(db.address(), OPEN) as listener, host.net.connect("127.0.0.1", 8123):
            listener.accept()[0].close()


def ask(guest: TapGuest, name: str, kind: str = "A") -> str:
    """What the gateway's name service says: addresses, nothing, or that there is no such name."""
    code = (
        "import sys, dns.message, dns.query\n"
        "answer = dns.query.udp(dns.message.make_query(sys.argv[1], sys.argv[2]), '172.16.0.1', timeout=5)\n"
        "found = [str(item) for line in answer.answer for item in line]\n"
        "print(*found or ['NXDOMAIN'] * (answer.rcode() == 3))"
    )
    done = guest.net.run(sys.executable, "-c", code, name, kind, check=False)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "no link given"),
        (("--fd", "N", "--lease-file", "/proc/version"), "--lease-file: lease file /proc/version"),
        (("--fd", "N", "--link", "guest1:guest2"), "no guest is called 'guest2'"),
    ],
)
def test_what_cannot_be_is_one_line(host: FakeHost, words: tuple[str, ...], complaint: str) -> None:
    left, right = socket.socketpair()
    with left, right, host.net.entered():
        number = right.fileno()
        program = host.runner("root").program(["switch", *(str(number) if word == "N" else word for word in words)])
        done = subprocess.run(
            program, capture_output=True, text=True, pass_fds=(number,), timeout=20, check=False,
            env=host.runner("root").environment,
        )  # fmt: skip
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_on_an_ordinary_bridge_they_all_arrive() -> None:
    """That the frames above are ones that reach a guest, where nobody hinders them."""
    place = Namespace.create()
    lone, web = guests = [TapGuest(MACS[name]) for name in ("lone", "web")]
    try:
        place.ip("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n")
        for number, guest in enumerate(guests):
            guest.net.ip(
                "link del eth0\n"
                f"link add eth0 address {guest.mac} type veth peer name p{number} netns {place.path}\n"
                f"addr add 172.16.0.{number + 2}/24 dev eth0\naddr add fd42:6d73:62:{number}::2/64 dev eth0 nodad\n"
                "link set eth0 up\n"
            )
            place.ip(f"link set p{number} master br0 up\n")
        eventually(lambda: web.pings(lone.address(), 0.2))
        with hears(web) as ears, hears(lone) as mouth:
            for frame in forged(lone, web).values():
                ears.send(bytes(Ether(src=web.mac, dst=BROADCAST) / ARP()))  # the bridge learns where it is
                ears.heard()
                mouth.send(bytes(frame))
                inside = bytes(frame)[14:34]
                eventually(lambda inside=inside: any(bytes(each)[14:34] == inside for each in ears.heard()))
    finally:
        for guest in guests:
            guest.close()
        place.close()
