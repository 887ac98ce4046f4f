"""The processes that judge the frames of `support.golden`, each from the first frame of its guest on.

No verdict is a matter of time. Behind every frame follows a sentinel that passes in all states and under all rules:
what has not come when the sentinel has, does not come.

`FilterWay` is `bucatini filter` between a pair of datagram sockets and a TAP on a bridge, in a namespace of its own.
The DHCP server is the test, which speaks as the bridge. A frame passes when the very bytes come out of the TAP.

`SoftnetWay` is the command softnet in a fake host that has so many private networks in use that the addresses left for
the guest are those of the table. A frame passes when a packet of its protocol to its destination reaches the world, or
when the gateway answers: an ARP request, a DHCP message, an echo.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import subprocess
import sys
import tempfile
import time
from typing import Self

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from bucatini.base.address import pack
from bucatini.wire.dhcp import NAK, REQUEST
from support.fakehost import ETH_P_ALL, HOST4, PACKET_OUTGOING, FakeHost, Namespace, read_all
from support.golden import (
    ALL,
    CHADDR,
    EVERYBODY,
    EXPIRED,
    EXPOSED_PORT,
    HOST_MAC,
    LEASED,
    MAC,
    NAKED,
    NONE,
    SECONDS,
    D,
    G,
    L,
    answer,
    arp,
    ether,
    ip,
    udp,
)
from support.guests import PATIENCE, eventually
from support.softnet_vm import Softnet

__all__ = ["EVERYTHING", "SENTINEL", "FilterWay", "SoftnetWay", "prepare"]

EVERYTHING = "0.0.0.0/0"
SENTINEL = "9.9.9.8"
"""An address of the world that answers echo requests."""
TAP = "tap0"
BRIDGE = "br0"
PORT = 67
REFUSAL = answer(NAK, yiaddr="0.0.0.0")


class FilterWay:
    """`bucatini filter` for a guest whose lease is in `state`. `wide`: all destinations are allowed from the start,
    which no later rule can bring about.
    """

    def __init__(self, host: FakeHost, state: str = NONE, *, faithful: bool, wide: bool = False) -> None:
        self.net = Namespace.create()
        self.net.ip(
            f"link add {BRIDGE} address {HOST_MAC} type bridge\naddr add {G}/24 dev {BRIDGE}\nlink set {BRIDGE} up\n"
            f"neigh add {L} lladdr {MAC} dev {BRIDGE} nud permanent\n"
        )
        self.guest, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._control, controlled = socket.socketpair()
        for sock in (self.guest, self._control):
            sock.settimeout(PATIENCE)
        options = ["--faithful"] * faithful + ["--allow", EVERYTHING] * wide
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        words = [
            "filter", "--fd", str(theirs.fileno()), "--mac", MAC, "--bridge", BRIDGE, "--host-tap", TAP,
            "--control-fd", str(controlled.fileno()), "--expose", EXPOSED_PORT[0], *options,
        ]  # fmt: skip
        with self.net.entered():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bucatini", *words],
                pass_fds=(theirs.fileno(), controlled.fileno()),
                stdin=subprocess.DEVNULL,
                stderr=self._errors,
                cwd="/tmp",
                env=host.runner("root").environment,
            )
        theirs.close()
        controlled.close()
        eventually(self._is_ready, or_else=lambda: self.said)
        self._port = self._packet_socket(TAP)
        self._bridge = self._packet_socket(BRIDGE)
        self._numbers = itertools.count(1)
        self._enter(state)

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self.said
        return " port of " in self.said

    def _packet_socket(self, interface: str) -> socket.socket:
        made = self.net.new_socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        made.bind((interface, ETH_P_ALL))
        return made

    @property
    def said(self) -> str:
        return read_all(self._errors)

    # -- the lease, by real messages

    def _enter(self, state: str) -> None:
        if state in (LEASED, NAKED):
            self.server_says(answer(lease=SECONDS, dns=pack(D)))
            assert self.passes(ip(L, "1.1.1.1"))
        if state == NAKED:
            self.server_says(REFUSAL)
            assert not self.passes(ip(L, "1.1.1.1"))
        if state == EXPIRED:
            self.server_says(answer(lease=(1).to_bytes(4, "big"), dns=pack(D)))
            eventually(lambda: not self.passes(ip(L, "1.1.1.1")))

    def server_says(self, frame: bytes) -> None:
        """The guest asks in transaction 7, and has heard this answer, if it may, when we return."""
        assert self.passes(udp("0.0.0.0", 68, ALL, PORT, kind=REQUEST))
        self._bridge.send(frame)
        self._heard(self._bridge)

    def give_lease(self) -> None:
        self.server_says(answer(lease=SECONDS))

    def take_lease(self) -> None:
        self.server_says(REFUSAL)

    # -- frames

    def set_rules(self, allow: str, block: str) -> int:
        """From now on; how many there are."""
        params = {name: list(filter(None, words.split(","))) for name, words in (("allow", allow), ("block", block))}
        request = {
            "jsonrpc": "2.0", "id": 1, "method": "softnet.policy.set",
            "params": {**params, "desiredRevision": str(next(self._numbers))},
        }  # fmt: skip
        self._control.sendall(json.dumps(request).encode() + b"\n")
        return int(json.loads(self._control.recv(1 << 16))["result"]["ruleCount"])

    def passes(self, frame: bytes) -> bool:
        """Whether it comes out on the bridge's side."""
        mark = b"sentinel %d" % next(self._numbers)
        self.guest.send(frame)
        self.guest.send(udp("0.0.0.0", 68, ALL, PORT) + mark)  # behind the datagram, where nobody looks
        found = False
        while True:
            seen, sender = self._port.recvfrom(70000)
            if sender[2] == PACKET_OUTGOING:
                continue
            if seen.endswith(mark):
                return found
            found = found or seen == frame

    def reaches_guest(self, frame: bytes) -> bool:
        """Whether the guest hears a frame that comes to it through its TAP."""
        self._port.send(frame)
        return frame in self._heard(self._port)

    def _heard(self, behind: socket.socket) -> list[bytes]:
        """What the guest hears until a sentinel that is sent the same way."""
        sentinel = ether(ARP(hwsrc=HOST_MAC, psrc=G), src=HOST_MAC, dst=EVERYBODY) + b"%d" % next(self._numbers)
        behind.send(sentinel)
        return list(iter(lambda: self.guest.recv(70000), sentinel))

    # -- the exposed port

    def exposed_port_leads_to(self) -> int:
        """The guest's port that hears of a connection to the host's."""
        with self.net.new_socket() as client:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect((G, EXPOSED_PORT[1]))
            while True:
                packet = Ether(self.guest.recv(70000))
                if TCP in packet and packet[TCP].flags == "S":
                    return int(packet[TCP].dport)

    def close(self) -> None:
        """Whatever became of it."""
        self._process.kill()
        self._process.wait(PATIENCE)
        for each in (self.guest, self._control, self._errors, self._port, self._bridge, self.net):
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def prepare(host: FakeHost) -> None:
    """The host has a part of every private network that softnet would take before the table's; the world has the
    sentinel's address.
    """
    host.world.ip(f"addr add {SENTINEL} dev lo\n")
    host.net.ip(
        "link add busy0 type bridge\naddr add 172.31.255.254/12 dev busy0 noprefixroute\n"
        "addr add 10.255.255.254/8 dev busy0 noprefixroute\n"
    )


class SoftnetWay(Softnet):
    """The command softnet for a guest that has asked for its address, or not, as `state` says."""

    def __init__(self, host: FakeHost, state: str = LEASED, *, wide: bool = False) -> None:
        options = ["--expose", EXPOSED_PORT[0], "--bootpd-lease-time", "1" if state == EXPIRED else "600"]
        options += ["--allow", f"{EVERYTHING},{SENTINEL}/32"] if wide else ["--allow", f"{SENTINEL}/32"]
        super().__init__(host, *options, control=None, mac=MAC)
        self._numbers = itertools.count(1)
        self._world = host.world.new_socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._world.bind(("up1", ETH_P_ALL))
        self._world.setblocking(False)
        self._gateway = self._resolve()
        self._enter(state)

    def _resolve(self) -> bytes:
        """The gateway's MAC address, which frames for the host are sent to here."""
        self.sock.sendall(arp(L))
        found = self.receive(lambda packet: ARP in packet and packet[ARP].op == 2)
        assert found is not None, self.said
        return bytes.fromhex(found.src.replace(":", ""))

    # -- the lease, by real messages

    def _enter(self, state: str) -> None:
        if state == NONE:
            return
        assert self._ask("discover")[BOOTP].yiaddr == L
        assert self._ask("request", ("requested_addr", L), ("server_id", G))[BOOTP].yiaddr == L
        if state == EXPIRED:
            time.sleep(1.1)  # nothing tells that it is over
        if state == NAKED:
            refused = self._ask("request", ("requested_addr", "192.168.0.77"))
            assert ("message-type", NAK) in refused[DHCP].options

    def _ask(self, kind: str, *options: tuple[str, str]) -> Packet:
        """What the gateway's DHCP server answers."""
        said = DHCP(options=[("message-type", kind), *options, "end"])
        message = BOOTP(chaddr=CHADDR, xid=next(self._numbers)) / said
        self.sock.sendall(ether(IP(src="0.0.0.0", dst=ALL) / UDP(sport=68, dport=67) / message, dst=EVERYBODY))
        found = self.receive(lambda packet: BOOTP in packet)
        assert found is not None, self.said
        return found

    # -- frames

    def set_rules(self, allow: str, block: str) -> None:
        """From now on."""
        said = self.ask(
            "softnet.policy.set",
            allow=[*filter(None, allow.split(",")), f"{SENTINEL}/32"],
            block=[*filter(None, block.split(","))],
            desiredRevision=str(next(self._numbers)),
        )
        assert "result" in said, said

    def passes(self, frame: bytes) -> bool:
        """Whether its packet reaches the world, or the gateway answers."""
        host = bytes.fromhex(HOST_MAC.replace(":", ""))
        self._seen()
        self.sock.sendall(self._gateway + frame[6:] if frame.startswith(host) else frame)
        if any(is_answer(Ether(each), frame) for each in self._heard()):
            return True
        return any(is_same(each, frame) for each in self._seen())

    def _heard(self) -> list[bytes]:
        """What the guest hears until the world has answered its echo request."""
        mark = b"sentinel %d" % next(self._numbers)
        self.sock.sendall(self._gateway + ether(IP(src=L, dst=SENTINEL) / ICMP(id=99) / Raw(mark))[6:])
        heard = []
        while not (frame := self.sock.recv(70000)).endswith(mark):
            heard.append(frame)
        return heard

    def _seen(self) -> list[bytes]:
        """What has reached the world since the last look."""
        seen = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, sender = self._world.recvfrom(70000)
                if sender[2] != PACKET_OUTGOING:
                    seen.append(frame)
        return seen

    def hears(self, frame: bytes) -> bool:
        """Whether a frame that the world puts on the host's network comes to the guest as it is."""
        self._world.send(frame)
        return frame in self._heard()

    # -- the exposed port

    def exposed_port_leads_to(self) -> int:
        """The guest's port that hears of a connection to the host's."""
        with self.host.world.new_socket() as client:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect((HOST4, EXPOSED_PORT[1]))
            found = self.receive(lambda packet: TCP in packet and packet[TCP].flags == "S")
            assert found is not None
            return int(found[TCP].dport)

    def close(self) -> None:
        self._world.close()
        super().close()


def is_same(seen: bytes, frame: bytes) -> bool:
    """Whether both are IP packets of one protocol to one destination."""
    if seen[12:14] != frame[12:14]:
        return False
    if frame[12:14] == b"\x08\0":
        return seen[30:34] == frame[30:34] and seen[23] == frame[23]
    return frame[12:14] == b"\x86\xdd" and seen[38:54] == frame[38:54] and seen[20] == frame[20]


def is_answer(heard: Packet, frame: bytes) -> bool:
    """Whether it says that what the frame asks of the gateway was done."""
    if ARP in heard:
        return bool(heard[ARP].op == 2)
    if BOOTP in heard:
        return frame[23:24] == b"\x11"
    return ICMP in heard and heard[ICMP].type == 0 and heard[IP].src == G
