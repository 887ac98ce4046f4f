"""UDP and ping between a guest and the world through the whole program: sizes, ports, errors, fragments, bursts."""

from __future__ import annotations

import errno
import os
import random
import select
import shutil
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    fragment6,
)
from scapy.packet import Raw

from support.fakehost import (
    BLACK_HOLE4,
    GATEWAY4,
    GATEWAY6,
    GATEWAY_FRAME,
    GUEST4,
    GUEST6,
    HOST4,
    HOST6,
    PUBLIC4,
    PUBLIC6,
    RESOLVER4,
    RESOLVER6,
    UNREACHABLE4,
    UNREACHABLE6,
    FakeHost,
    Guest,
    SharedGuest,
    family_of,
)
from support.guests import eventually

pytestmark = pytest.mark.root

SO_RCVBUFFORCE, SOL_UDP, UDP_SEGMENT = 33, 17, 103
BOTH = pytest.mark.parametrize("address", [PUBLIC4, PUBLIC6], ids=["v4", "v6"])
OWN = {4: (GUEST4, HOST4), 6: (GUEST6, HOST6)}


@pytest.fixture(scope="module")
def guests(host: FakeHost) -> Iterator[SharedGuest]:
    with SharedGuest(host) as shared:
        yield shared


@pytest.fixture
def guest(guests: SharedGuest) -> Iterator[Guest]:
    with guests.checked() as guest:
        yield guest


def wildcard(address: str) -> str:
    return "::" if ":" in address else "0.0.0.0"


def server(host: FakeHost, address: str) -> socket.socket:
    """A UDP socket of the world with room for a burst."""
    sock = host.world.bound(address)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    return sock


class TestDatagrams:
    @BOTH
    def test_every_size_both_ways(self, host: FakeHost, guest: Guest, address: str) -> None:
        """Also above the MTU, which the guest's kernel and the host's cut and put together."""
        most = 65507 if "." in address else 65527
        with server(host, address) as far, guest.net.bound(wildcard(address)) as near:
            near.connect(far.getsockname()[:2])
            for size in (1, 0, 1472, 1473, 0, 9000, 60000, most - 100):
                payload = random.Random(size).randbytes(size)
                near.send(payload)
                got, peer = far.recvfrom(70000)
                assert got == payload, size
                far.sendto(payload[::-1], peer)
                assert near.recv(70000) == payload[::-1], size

    @BOTH
    def test_source_port_is_kept(self, host: FakeHost, guest: Guest, address: str) -> None:
        with server(host, address) as far, guest.net.bound(wildcard(address), 34567) as near:
            near.sendto(b"?", far.getsockname()[:2])
            assert far.recvfrom(10)[1][1] == 34567

    def test_source_port_that_the_host_uses_is_replaced(self, host: FakeHost, guest: Guest) -> None:
        with host.net.bound("0.0.0.0", 34568), server(host, PUBLIC4) as far, guest.net.bound("0.0.0.0", 34568) as near:
            near.sendto(b"?", far.getsockname())
            payload, peer = far.recvfrom(10)
            assert payload == b"?"
            assert peer[1] != 34568
            far.sendto(b"!", peer)
            assert near.recvfrom(10) == (b"!", far.getsockname())

    @BOTH
    def test_only_the_peer_is_heard(self, host: FakeHost, guest: Guest, address: str) -> None:
        other = RESOLVER4 if "." in address else RESOLVER6
        with (
            server(host, address) as far,
            server(host, address) as same_address,
            server(host, other) as elsewhere,
            guest.net.bound(wildcard(address)) as near,
        ):
            near.sendto(b"?", far.getsockname()[:2])
            _, peer = far.recvfrom(10)
            for stranger in (same_address, elsewhere):
                stranger.sendto(b"wrong", peer)
            far.sendto(b"right", peer)
            payload, source = near.recvfrom(10)
            assert (payload, source[:2]) == (b"right", far.getsockname()[:2])
            near.settimeout(0.1)
            with pytest.raises(TimeoutError):
                near.recv(10)

    @BOTH
    def test_many_peers_from_one_port(self, host: FakeHost, guest: Guest, address: str) -> None:
        with guest.net.bound(wildcard(address)) as near:
            servers = [server(host, address) for _ in range(50)]
            try:
                for number, far in enumerate(servers):
                    near.sendto(str(number).encode(), far.getsockname()[:2])
                for number, far in enumerate(servers):
                    payload, peer = far.recvfrom(10)
                    assert payload == str(number).encode()
                    assert peer[1] == near.getsockname()[1]
                    far.sendto(payload, peer)
                answers = {near.recvfrom(10) for _ in servers}
                assert {(payload, peer[1]) for payload, peer in answers} == {
                    (str(number).encode(), far.getsockname()[1]) for number, far in enumerate(servers)
                }
            finally:
                for far in servers:
                    far.close()

    @BOTH
    def test_burst_of_10000_arrives_whole_and_in_order(self, host: FakeHost, guest: Guest, address: str) -> None:
        """The guest waits for its own device, and the engine loses nothing that the receiver has room for."""
        with server(host, address) as far, guest.net.bound(wildcard(address)) as near:
            near.connect(far.getsockname()[:2])
            near.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
            # The guest's kernel lets a datagram overtake those that it keeps until it knows the gateway's address.
            near.send(b"?")
            assert far.recv(10) == b"?"
            for number in range(10_000):
                near.send(struct.pack("!I", number) + bytes(96))
            got = drain(far, 10_000)
            assert got == list(range(10_000))

    @BOTH
    def test_bursts_towards_the_guest(self, host: FakeHost, guest: Guest, address: str) -> None:
        with server(host, address) as far, guest.net.bound(wildcard(address)) as near:
            near.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
            near.connect(far.getsockname()[:2])
            near.send(b"?")
            peer = far.recvfrom(10)[1]
            got: list[int] = []
            for start in range(0, 2000, 100):  # a host socket's default buffer holds some 200 of these
                for number in range(start, start + 100):
                    far.sendto(struct.pack("!I", number) + bytes(96), peer)
                got += drain(near, 100)
            assert got == list(range(2000))

    @BOTH
    def test_trains_are_cut_like_a_kernel_does(self, host: FakeHost, guest: Guest, address: str) -> None:
        with server(host, address) as far, guest.net.bound(wildcard(address)) as near:
            near.connect(far.getsockname()[:2])
            near.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
            payload = random.Random(3).randbytes(40 * 1000 + 123)
            near.send(payload)
            parts = [far.recv(70000) for _ in range(41)]
            assert [len(part) for part in parts] == [1000] * 40 + [123]
            assert b"".join(parts) == payload

    @BOTH
    def test_trains_from_the_world(self, host: FakeHost, guest: Guest, address: str) -> None:
        with server(host, address) as far, guest.net.bound(wildcard(address)) as near:
            near.connect(far.getsockname()[:2])
            near.send(b"?")
            far.connect(far.recvfrom(10)[1])
            far.setsockopt(SOL_UDP, UDP_SEGMENT, 1200)
            payload = random.Random(4).randbytes(30 * 1200 + 7)
            far.send(payload)
            parts = [near.recv(70000) for _ in range(31)]
            assert [len(part) for part in parts] == [1200] * 30 + [7]
            assert b"".join(parts) == payload


def drain(sock: socket.socket, count: int) -> list[int]:
    """Numbers of up to `count` datagrams, until nothing comes for a while."""
    got = []
    sock.settimeout(3)
    try:
        while len(got) < count:
            got.append(struct.unpack_from("!I", sock.recv(2000))[0])
    except TimeoutError:
        pass
    return got


def hear_errors(sock: socket.socket) -> None:
    """IP_RECVERR or IPV6_RECVERR: every ICMP error, with the datagram it is about."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, 25, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, 11, 1)


class TestErrors:
    @BOTH
    def test_closed_port_is_refused(self, guest: Guest, address: str) -> None:
        with guest.net.new_socket(family_of(address), socket.SOCK_DGRAM) as near:
            near.connect((address, 9))
            for _ in range(3):
                near.send(b"?")
                with pytest.raises(ConnectionRefusedError):
                    near.recv(10)

    @pytest.mark.parametrize("address", [UNREACHABLE4, UNREACHABLE6])
    def test_no_route_is_unreachable(self, guest: Guest, address: str) -> None:
        with guest.net.new_socket(family_of(address), socket.SOCK_DGRAM) as near:
            hear_errors(near)  # this kind reaches only who asks for it, ip(7)
            near.connect((address, 9))
            near.send(b"?")
            with pytest.raises(OSError, match=r"unreachable|No route") as caught:
                near.recv(10)
            assert caught.value.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH)

    @BOTH
    def test_error_quotes_the_guests_own_datagram(self, guest: Guest, address: str) -> None:
        """An unconnected socket with IP_RECVERR learns which of its datagrams it was."""
        six = ":" in address
        with guest.net.bound(wildcard(address)) as near:
            hear_errors(near)
            near.sendto(b"which", (address, 9))
            eventually(lambda: select.select([near], [], [], 0)[0])
            payload, ancillary, _, name = near.recvmsg(100, 500, socket.MSG_ERRQUEUE)
            assert payload == b"which"
            assert name[:2] == (address, 9)
            assert struct.unpack_from("=IBBB", ancillary[0][2]) == (
                (errno.ECONNREFUSED, 3, 1, 4) if six else (errno.ECONNREFUSED, 2, 3, 3)
            )

    def test_conversation_goes_on_after_an_error(self, host: FakeHost, guest: Guest) -> None:
        with guest.net.bound("0.0.0.0") as near:
            near.connect((PUBLIC4, 7777))
            near.send(b"?")
            with pytest.raises(ConnectionRefusedError):
                near.recv(10)
            with host.world.bound(PUBLIC4, 7777) as far:
                near.send(b"again")
                payload, peer = far.recvfrom(10)
                assert payload == b"again"
                far.sendto(b"!", peer)
                assert near.recv(10) == b"!"

    def test_path_mtu_below_the_links(self, host: FakeHost, guest: Guest) -> None:
        """The host's route allows 1400: a datagram that may not be cut is answered with the size that fits."""
        host.net.ip("route add 93.184.215.0/24 via 198.51.100.1 mtu lock 1400")
        try:
            with guest.net.bound("0.0.0.0") as near, server(host, PUBLIC4) as far:
                near.connect(far.getsockname())
                near.send(bytes(1450))
                assert len(far.recv(2000)) == 1450, "the host cuts what the guest allows to be cut"
                near.send(bytes(1000))
                assert len(far.recv(2000)) == 1000
        finally:
            host.net.ip("route del 93.184.215.0/24")

    def test_port_zero_in_a_raw_frame(self, host: FakeHost, guest: Guest) -> None:
        with guest.raw() as link, server(host, PUBLIC4) as far, guest.net.bound("0.0.0.0") as near:
            for ports in ((0, 53), (53, 0), (0, 0)):
                link.send(
                    bytes(GATEWAY_FRAME / IP(src=GUEST4, dst=PUBLIC4) / UDP(sport=ports[0], dport=ports[1]) / b"x")
                )
            near.sendto(b"alive", far.getsockname())
            assert far.recv(10) == b"alive"

    @pytest.mark.parametrize("target", ["255.255.255.255", "224.0.0.251", "ff02::fb", "172.16.0.3", "240.0.0.1"])
    def test_broadcast_and_multicast_go_nowhere(self, host: FakeHost, guest: Guest, target: str) -> None:
        with host.net.bound("::" if ":" in target else "0.0.0.0", 5353) as near_host, guest.raw() as link:
            near_host.settimeout(0.1)
            ip = IPv6(src=GUEST6, dst=target) if ":" in target else IP(src=GUEST4, dst=target)
            link.send(bytes(GATEWAY_FRAME / ip / UDP(sport=5353, dport=5353) / b"x"))
            with pytest.raises(TimeoutError):
                near_host.recv(10)


class TestRawFrames:
    """What no socket of the guest would send."""

    def test_fragments_in_any_order(self, host: FakeHost, guest: Guest) -> None:
        payload = random.Random(5).randbytes(5000)
        for six, address in ((False, PUBLIC4), (True, PUBLIC6)):
            with server(host, address) as far, guest.raw() as link:
                udp = UDP(sport=4321, dport=far.getsockname()[1]) / payload
                if six:
                    whole = IPv6(src=GUEST6, dst=address) / IPv6ExtHdrFragment(id=77) / udp
                    pieces = [bytes(piece) for piece in fragment6(IPv6(bytes(whole)), 1300)]
                else:
                    pieces = [bytes(piece) for piece in fragment(IP(src=GUEST4, dst=address, id=77) / udp, 1200)]
                assert len(pieces) > 3
                random.Random(6).shuffle(pieces)
                for piece in pieces:
                    link.send(bytes(GATEWAY_FRAME)[:12] + (b"\x86\xdd" if six else b"\x08\0") + piece)
                assert far.recv(70000) == payload

    @pytest.mark.parametrize(
        "headers",
        [
            pytest.param(IPv6ExtHdrDestOpt(), id="destination-options"),
            pytest.param(IPv6ExtHdrHopByHop(), id="hop-by-hop"),
            pytest.param(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(), id="both"),
        ],
    )
    def test_ipv6_extension_headers_are_stepped_over(self, host: FakeHost, guest: Guest, headers: Raw) -> None:
        with server(host, PUBLIC6) as far, guest.raw() as link:
            udp = UDP(sport=4322, dport=far.getsockname()[1]) / b"behind"
            link.send(bytes(GATEWAY_FRAME / IPv6(src=GUEST6, dst=PUBLIC6) / headers / udp))
            assert far.recv(100) == b"behind"

    def test_ipv4_options_are_stepped_over(self, host: FakeHost) -> None:
        """Where the isolation filter does not refuse them."""
        unguarded = host.guest("--policy", "open", "--no-guard")
        with server(host, PUBLIC4) as far, unguarded as guest, guest.raw() as link:
            udp = UDP(sport=4323, dport=far.getsockname()[1]) / b"behind"
            link.send(bytes(GATEWAY_FRAME / IP(src=GUEST4, dst=PUBLIC4, options=b"\x01\x01\x01\x00") / udp))
            assert far.recv(100) == b"behind"

    def test_wrong_checksum_is_dropped(self, host: FakeHost, guest: Guest) -> None:
        with server(host, PUBLIC4) as far, server(host, PUBLIC6) as far6, guest.raw() as link:
            for ip, sock in ((IP(src=GUEST4, dst=PUBLIC4), far), (IPv6(src=GUEST6, dst=PUBLIC6), far6)):
                port = sock.getsockname()[1]
                link.send(bytes(GATEWAY_FRAME / ip / UDP(sport=4324, dport=port, chksum=0x1234) / b"bad"))
                link.send(bytes(GATEWAY_FRAME / ip / UDP(sport=4324, dport=port) / b"good"))
                assert sock.recv(100) == b"good"

    def test_checksum_zero_means_none_in_ipv4_only(self, host: FakeHost, guest: Guest) -> None:
        with server(host, PUBLIC4) as far, server(host, PUBLIC6) as far6, guest.raw() as link:
            frames = [
                GATEWAY_FRAME
                / IP(src=GUEST4, dst=PUBLIC4)
                / UDP(sport=4325, dport=far.getsockname()[1], chksum=0)
                / b"ok",
                GATEWAY_FRAME
                / IPv6(src=GUEST6, dst=PUBLIC6)
                / UDP(sport=4325, dport=far6.getsockname()[1], chksum=0)
                / b"no",
                GATEWAY_FRAME / IPv6(src=GUEST6, dst=PUBLIC6) / UDP(sport=4325, dport=far6.getsockname()[1]) / b"ok",
            ]
            for frame in frames:
                link.send(bytes(frame))
            assert far.recv(10) == b"ok"
            assert far6.recv(10) == b"ok"

    def test_zero_sum_is_sent_as_ones(self, host: FakeHost, guest: Guest) -> None:
        """RFC 768, RFC 8200 8.1: a UDP checksum that comes out as zero is sent as all ones; seen by a raw reader."""
        with server(host, PUBLIC6) as far, guest.net.bound("::", 4326) as near, guest.raw() as link:
            near.sendto(b"?", far.getsockname()[:2])
            peer = far.recvfrom(10)[1]
            port = far.getsockname()[1]
            bare = IPv6(src=PUBLIC6, dst=GUEST6) / UDP(sport=port, dport=4326) / b"\0\0"
            payload = IPv6(bytes(bare))[UDP].chksum.to_bytes(2, "big")
            far.sendto(payload, peer)
            assert near.recv(10) == payload
            answer = link.next(lambda frame: UDP in frame and frame[UDP].dport == 4326)
            assert answer[UDP].chksum != 0

    def test_frame_padding_is_no_payload(self, host: FakeHost, guest: Guest) -> None:
        for ip, address in ((IP(src=GUEST4, dst=PUBLIC4), PUBLIC4), (IPv6(src=GUEST6, dst=PUBLIC6), PUBLIC6)):
            with server(host, address) as far, guest.raw() as link:
                frame = GATEWAY_FRAME / ip / UDP(sport=4327, dport=far.getsockname()[1]) / b"x"
                link.send(bytes(frame) + bytes(40))
                assert far.recv(100) == b"x"

    def test_time_to_live_towards_the_guest(self, host: FakeHost, guest: Guest) -> None:
        with server(host, PUBLIC4) as far, guest.net.bound("0.0.0.0", 4328) as near, guest.raw() as link:
            near.sendto(b"?", far.getsockname())
            far.sendto(b"!", far.recvfrom(10)[1])
            answer = link.next(lambda frame: UDP in frame and frame[UDP].dport == 4328)
            assert answer[IP].ttl == 64
            assert near.recv(10) == b"!"

    @pytest.mark.parametrize("length", [0, 7, 9, 65535])
    def test_lying_udp_length(self, host: FakeHost, guest: Guest, length: int) -> None:
        with server(host, PUBLIC4) as far, guest.raw() as link:
            port = far.getsockname()[1]
            link.send(
                bytes(GATEWAY_FRAME / IP(src=GUEST4, dst=PUBLIC4) / UDP(sport=4329, dport=port, len=length, chksum=0))
            )
            link.send(bytes(GATEWAY_FRAME / IP(src=GUEST4, dst=PUBLIC4) / UDP(sport=4329, dport=port) / b"next"))
            assert far.recv(10) == b"next"

    def test_garbage_does_not_end_the_engine(self, host: FakeHost, guest: Guest) -> None:
        dice = random.Random(7)
        with guest.raw() as link:
            for _ in range(2000):
                kind = dice.choice([b"\x08\0", b"\x86\xdd", b"\x08\x06", b"\x81\0", b"\0\x20"])
                start = dice.choice([b"", b"\x45\0", b"\x60\0\0\0", b"\x4f\0"])
                link.send(bytes(GATEWAY_FRAME)[:12] + kind + start + dice.randbytes(dice.randrange(200)))
        with server(host, PUBLIC4) as far, guest.net.bound("0.0.0.0") as near:
            near.sendto(b"alive", far.getsockname())
            assert far.recv(10) == b"alive"


needs_ping = pytest.mark.skipif(shutil.which("ping") is None, reason="ping is not installed")


@needs_ping
class TestPing:
    @BOTH
    @pytest.mark.parametrize("size", [0, 56, 1472, 20000])
    def test_world(self, guest: Guest, address: str, size: int) -> None:
        done = guest.net.run("ping", "-c2", "-i0.01", "-W5", f"-s{size}", address, check=False)
        assert " 0% packet loss" in done.stdout, done
        assert f"{size + 8} bytes from {address}" in done.stdout

    @pytest.mark.parametrize("gateway", [GATEWAY4, GATEWAY6])
    def test_gateway(self, guest: Guest, gateway: str) -> None:
        done = guest.net.run("ping", "-c1", "-W5", "-s20000", gateway, check=False)
        assert " 0% packet loss" in done.stdout

    @pytest.mark.parametrize("address", [UNREACHABLE4, UNREACHABLE6])
    def test_unreachable_is_said(self, guest: Guest, address: str) -> None:
        before = time.monotonic()
        done = guest.net.run("ping", "-c1", "-W5", address, check=False)
        assert done.returncode == 1
        assert "nreachable" in done.stdout
        assert time.monotonic() - before < 3

    def test_silence_stays_silence(self, guest: Guest) -> None:
        done = guest.net.run("ping", "-c1", "-W0.3", BLACK_HOLE4, check=False)
        assert done.returncode == 1
        assert "100% packet loss" in done.stdout
        assert "errors" not in done.stdout

    @BOTH
    def test_many_identifiers_and_sequences(self, guest: Guest, address: str) -> None:
        six = ":" in address
        with guest.raw() as link:
            wanted = set()
            for identifier in (1, 2, 65535):
                for sequence in (0, 1, 40000, 65535):
                    echo = struct.pack("!BBHHH", 128 if six else 8, 0, 0, identifier, sequence) + b"abc"
                    if six:
                        packet = IPv6(src=GUEST6, dst=address, nh=58) / Raw(checked6(echo, address))
                    else:
                        packet = IP(src=GUEST4, dst=address) / ICMP(id=identifier, seq=sequence) / b"abc"
                    link.send(bytes(GATEWAY_FRAME / packet))
                    wanted.add((identifier, sequence))
            layer = ICMPv6EchoReply if six else ICMP
            while wanted:
                answer = link.next(lambda frame: layer in frame and ICMPv6DestUnreach not in frame)[layer]
                wanted.remove((answer.id, answer.seq))
                assert bytes(answer).endswith(b"abc")

    def test_a_host_that_forbids_ping_sockets(self, host: FakeHost) -> None:
        """The guest hears an error instead of silence, and the rest works."""
        try:
            host.net.run("sh", "-c", "echo 1 0 > /proc/sys/net/ipv4/ping_group_range")
            with host.guest(user="ordinary") as guest, server(host, PUBLIC4) as far:
                done = guest.net.run("ping", "-c1", "-W5", PUBLIC4, check=False)
                assert done.returncode == 1
                assert "+1 errors" in done.stdout
                with guest.net.bound("0.0.0.0") as near:
                    near.sendto(b"alive", far.getsockname())
                    assert far.recv(10) == b"alive"
        finally:
            host.net.run("sh", "-c", "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range")


def checked6(message: bytes, address: str) -> bytes:
    """`message` with its ICMPv6 checksum."""
    pseudo = socket.inet_pton(socket.AF_INET6, GUEST6) + socket.inet_pton(socket.AF_INET6, address)
    data = pseudo + struct.pack("!II", len(message), 58) + message
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return message[:2] + (~total & 0xFFFF).to_bytes(2, "big") + message[4:]


def test_datagrams_do_not_leak_sockets(host: FakeHost) -> None:
    """Conversations cost a descriptor each while they last; a thousand are no trouble, and end with the engine."""
    with host.guest() as guest, server(host, PUBLIC4) as far:
        for _ in range(1000):
            with guest.net.bound("0.0.0.0") as near:
                near.sendto(b"x", far.getsockname())
                assert far.recv(10) == b"x"
        assert len(os.listdir(f"/proc/{guest.engine.pid}/fd")) < 1200
