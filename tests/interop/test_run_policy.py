"""Policy on the wire: what is allowed gets there, what is refused is refused at once and in the protocol's own way."""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from support.fakehost import (
    DOCUMENTATION4,
    DOCUMENTATION6,
    GATEWAY4,
    GATEWAY6,
    GATEWAY_FRAME,
    GUEST4,
    GUEST6,
    METADATA4,
    METADATA6,
    PRIVATE4,
    PRIVATE6,
    PUBLIC4,
    PUBLIC6,
    FakeHost,
    Guest,
    family_of,
)
from support.guests import PATIENCE

pytestmark = pytest.mark.root

AT_ONCE = 1.0
"""Seconds. A refusal takes a millisecond; a hang takes minutes."""
PORT = 7000
NAT64_PUBLIC = "64:ff9b::5db8:d70e"
NAT64_PRIVATE = "64:ff9b::a09:909"
SIX_TO_FOUR_PRIVATE = "2002:a09:909::1"
TEREDO = "2001:0:a09:909::1"
MAPPED_PRIVATE = "::ffff:10.9.9.9"
EXTRA = (
    NAT64_PUBLIC,
    NAT64_PRIVATE,
    SIX_TO_FOUR_PRIVATE,
    TEREDO,
    "100.64.1.1",
    "192.168.7.7",
    "10.9.8.8",
    "93.184.216.1",
)


@pytest.fixture(scope="module")
def world(host: FakeHost) -> Iterator[FakeHost]:
    """A host whose world answers at all these addresses, and on its own loopback, by silent servers."""
    host.world.ip("".join(f"addr add {address} dev lo\n" for address in EXTRA))
    with contextlib.ExitStack() as stack:
        # Replies to 6to4, NAT64 and Teredo addresses need nothing: they are the world's own.
        for net in (host.world, host.net):
            for any_address in ("0.0.0.0", "::"):
                stack.enter_context(net.listen(any_address, PORT))
                stack.enter_context(net.bound(any_address, PORT))
        yield host


def tcp(guest: Guest, address: str) -> str:
    """What a connect says, in a bounded time."""
    with guest.net.new_socket(family_of(address), timeout=AT_ONCE) as sock:
        try:
            sock.connect((address, PORT))
        except TimeoutError:
            return "hangs"
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "allowed"


def udp(guest: Guest, address: str) -> str:
    """What a datagram gets; nothing back means that it was allowed, for the world's server is silent."""
    with guest.net.new_socket(family_of(address), socket.SOCK_DGRAM, timeout=0.15) as sock:
        try:
            sock.connect((address, PORT))
            sock.send(b"?")
            sock.recv(1)
        except TimeoutError:
            return "allowed"
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "answered"


def icmp(guest: Guest, address: str) -> str:
    """`allowed` when the echo comes back, or type/code of the ICMP error that came in its place."""
    six = family_of(address) == socket.AF_INET6
    kind = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    with guest.net.new_socket(family_of(address), socket.SOCK_RAW, kind, timeout=AT_ONCE) as sock:
        request = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 77, 1)
        if not six:
            request = struct.pack("!BBHHH", 8, 0, ~(0x0800 + 77 + 1) & 0xFFFF, 77, 1)
        sock.sendto(request, (address, 0))
        deadline = time.monotonic() + AT_ONCE
        while time.monotonic() < deadline:
            if not select.select([sock], [], [], deadline - time.monotonic())[0]:
                break
            message = sock.recv(2000)
            message = message if six else message[(message[0] & 15) * 4 :]
            if message[0] in ((129,) if six else (0,)) and message[4:6] == b"\0M":
                return "allowed"
            if message[0] in ((1,) if six else (3,)):
                return f"{message[0]}/{message[1]}"
        return "hangs"


def expected(verdict: str, address: str) -> tuple[str, str, str]:
    """What TCP, UDP and ICMP see: allowed or refused."""
    if verdict == "allowed":
        return ("allowed", "allowed", "allowed")
    if ":" in address:
        # ICMPv6 type 1 code 1; Linux says EACCES.
        return ("ECONNREFUSED", "EACCES", "1/1")
    # ICMP type 3 code 13; Linux says EHOSTUNREACH.
    return ("ECONNREFUSED", "EHOSTUNREACH", "3/13")


PRIVATE = (PRIVATE4, PRIVATE6, "100.64.1.1", "192.168.7.7", NAT64_PRIVATE)
A, R = "allowed", "refused"
BY_DEFAULT = {
    PUBLIC4: A, PUBLIC6: A, NAT64_PUBLIC: A, "93.184.216.1": A,
    PRIVATE4: R, PRIVATE6: R, "100.64.1.1": R, "192.168.7.7": R,
    METADATA4: R, METADATA6: R, DOCUMENTATION4: R, DOCUMENTATION6: R,
    NAT64_PRIVATE: R, SIX_TO_FOUR_PRIVATE: R, TEREDO: R,
    GATEWAY4: R, GATEWAY6: R,
}  # fmt: skip
NOTHING = dict.fromkeys(BY_DEFAULT, R)
TABLE = [
    pytest.param((), BY_DEFAULT, id="default"),
    pytest.param(("--policy", "public"), {PUBLIC4: A, PRIVATE6: R}, id="public"),
    pytest.param(("--policy", "none"), NOTHING, id="none"),
    pytest.param(("--policy", "open"), {**dict.fromkeys(BY_DEFAULT, A)}, id="open"),
    pytest.param(("--allow", "private"), {**BY_DEFAULT, **dict.fromkeys(PRIVATE, A)}, id="allow-private"),
    pytest.param(("--allow", "host"), {**BY_DEFAULT, GATEWAY4: A, GATEWAY6: A}, id="allow-host"),
    pytest.param(("--allow", "host.docker.internal"), {GATEWAY4: A, GATEWAY6: A, PRIVATE4: R}, id="allow-host-by-name"),
    pytest.param(("--allow", GATEWAY6), {GATEWAY4: R, GATEWAY6: A}, id="allow-gateway-6"),
    pytest.param(("--allow", "172.16.0.0/12"), {GATEWAY4: R, GATEWAY6: R}, id="wide-cidr-is-not-the-host"),
    pytest.param(("--policy", "open", "--deny", "host"), {GATEWAY4: R, GATEWAY6: R, PRIVATE4: A}, id="deny-host"),
    pytest.param(("--allow", "metadata"), {METADATA4: A, METADATA6: A, PRIVATE4: R}, id="allow-metadata"),
    pytest.param(("--allow", "link-local"), {METADATA4: R}, id="link-local-is-not-metadata"),
    pytest.param(
        ("--policy", "none", "--allow", "public"),
        {PUBLIC4: A, PUBLIC6: A, PRIVATE4: R, DOCUMENTATION4: R},
        id="allow-public",
    ),
    pytest.param(("--deny", "public"), {PUBLIC4: R, PUBLIC6: R, "93.184.216.1": R}, id="deny-public"),
    pytest.param(
        ("--allow", "10.0.0.0/8", "--deny", "10.9.0.0/16", "--allow", PRIVATE4),
        {PRIVATE4: A, "10.9.8.8": R, PRIVATE6: R},
        id="longest-prefix",
    ),
    pytest.param(("--allow", PRIVATE4, "--deny", PRIVATE4), {PRIVATE4: R}, id="deny-wins-a-tie"),
    pytest.param(
        ("--deny", "10.0.0.0/8", "--allow", "private"),
        {PRIVATE4: R, "192.168.7.7": A},
        id="deny-wins-a-tie-with-a-group",
    ),
    pytest.param(
        ("--deny", "10.9.9.9/32", "--policy", "open"),
        {NAT64_PRIVATE: R, SIX_TO_FOUR_PRIVATE: R, PRIVATE4: R, "10.9.8.8": A},
        id="embedded",
    ),
    pytest.param(("--policy", "none", "--allow", "64:ff9b::/96"), {NAT64_PUBLIC: R}, id="translator-alone"),
    pytest.param(
        ("--policy", "none", "--allow", "64:ff9b::/96", "--allow", PUBLIC4),
        {NAT64_PUBLIC: A, NAT64_PRIVATE: R, PUBLIC4: A},
        id="translator-and-target",
    ),
    pytest.param(("--policy", "none", "--allow", MAPPED_PRIVATE), {PRIVATE4: A, NAT64_PRIVATE: R}, id="mapped-rule"),
]


@pytest.mark.parametrize(("options", "rows"), TABLE)
def test_verdict_on_the_wire(world: FakeHost, options: tuple[str, ...], rows: dict[str, str]) -> None:
    with world.guest(*options) as guest:
        found = {address: (tcp(guest, address), udp(guest, address), icmp(guest, address)) for address in rows}
    wanted = {address: expected(verdict, address) for address, verdict in rows.items()}
    for gateway in (GATEWAY4, GATEWAY6):
        # Echo to the gateway is answered under every policy.
        if gateway in wanted:
            wanted[gateway] = (*wanted[gateway][:2], "allowed")
    assert found == wanted


def test_every_refusal_is_immediate(world: FakeHost) -> None:
    with world.guest("--policy", "none") as guest:
        tcp(guest, PUBLIC4)  # neighbour discovery of the link
        tcp(guest, PUBLIC6)
        for address in (PUBLIC4, PUBLIC6):
            for _ in range(20):
                before = time.monotonic()
                assert tcp(guest, address) == "ECONNREFUSED"
                assert time.monotonic() - before < 0.2


@pytest.mark.parametrize(("source", "target"), [(GUEST4, "127.0.0.1"), (GUEST4, "127.99.1.1"), (GUEST6, "::1")])
def test_loopback_on_the_link_does_not_reach_the_hosts(host: FakeHost, source: str, target: str) -> None:
    """A frame for a loopback address is a martian (RFC 1122 3.2.1.3): dropped and counted, even under `open`."""
    ip = IP(src=source, dst=target) if "." in target else IPv6(src=source, dst=target)
    wildcard = "0.0.0.0" if "." in target else "::"
    with host.net.listen(wildcard, 7002) as listener, host.net.bound(wildcard, 7002) as bound:
        with host.guest("--policy", "open", "--summary") as guest, guest.raw() as link:
            link.send(bytes(GATEWAY_FRAME / ip / TCP(sport=4000, dport=7002, flags="S", seq=1)))
            link.send(bytes(GATEWAY_FRAME / ip / UDP(sport=4001, dport=7002) / b"?"))
            # What comes after it by the right way is served: the frames before have been dealt with.
            with guest.net.connect(GATEWAY4 if "." in target else GATEWAY6, 7002), listener.accept()[0]:
                pass
            listener.settimeout(0)
            bound.settimeout(0)
            with pytest.raises(BlockingIOError):
                listener.accept()
            with pytest.raises(BlockingIOError):
                bound.recv(10)
    assert "destination" in guest.stderr, "the drops are counted"


def test_rules_are_named_in_events_and_said_once_at_the_end(world: FakeHost) -> None:
    log = world.folder / "policy-events"
    options = ("--events", str(log), "--deny", "93.184.216.0/24", "--allow", "192.168.0.0/16")
    destinations = (PUBLIC4, PRIVATE4, "93.184.216.1", "192.168.7.7", GATEWAY4, METADATA4, DOCUMENTATION6)
    with world.guest(*options) as guest:
        for address in destinations:
            tcp(guest, address)
            udp(guest, address)
        icmp(guest, PRIVATE4)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    judged = {
        (event["protocol"], event["peer"].rpartition(":")[0]): (event["event"], event["rule"], event.get("reason"))
        for event in events
        if event["event"] in ("flow-opened", "flow-refused") and event["protocol"] != "icmp"
    }
    wanted = {
        PUBLIC4: ("flow-opened", "policy public", None),
        PRIVATE4: ("flow-refused", "policy public: private is not public", "policy"),
        "93.184.216.1": ("flow-refused", "--deny 93.184.216.0/24", "policy"),
        "192.168.7.7": ("flow-opened", "--allow 192.168.0.0/16", None),
        GATEWAY4: ("flow-refused", "policy public: host is not public", "policy"),
        METADATA4: ("flow-refused", "policy public: metadata is not public", "policy"),
        f"[{DOCUMENTATION6}]": ("flow-refused", "policy public: documentation is not public", "policy"),
    }
    assert judged == {(protocol, address): row for address, row in wanted.items() for protocol in ("tcp", "udp")}
    echoes = [event for event in events if event["protocol"] == "icmp"]
    assert [(event["event"], event["peer"]) for event in echoes] == [("flow-refused", PRIVATE4)]
    assert guest.stderr.splitlines() == ["bucatini: 11 connections refused by policy; --summary or -v shows them"]


def test_refused_flow_leaves_no_socket_and_the_world_hears_nothing(world: FakeHost) -> None:
    with world.guest() as guest, world.world.listen(PRIVATE4, 7001) as listener:
        with pytest.raises(ConnectionRefusedError):
            guest.net.connect(PRIVATE4, 7001)
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
        with listener, guest.net.connect(PUBLIC4, PORT, timeout=PATIENCE):
            pass
