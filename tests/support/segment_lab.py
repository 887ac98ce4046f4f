"""Segments with a victim and an attacker on them: an ordinary bridge, the same with the attacker behind
`bucatini filter`, and `bucatini switch`.

On the bridge the host is the router of both families and runs dnsmasq, which gives IPv4 leases and advertises an IPv6
prefix. The victim is a port that nobody hinders: whatever the attacker's frames become on the bridge, the victim gets.
So the two bridges differ in how the attacker is plugged in, and in nothing else. On the switch the victim is a guest
that the attacker may reach (`--link`): it is never a missing permission that saves the victim, only the isolation.

Both listen to everything on their `eth0` (`Wire`), and so does the host on its bridge. `fence` is honest traffic to the
gateway and the victim; when it is answered, all that was sent before has arrived, or never will. `state` is what
victim and host believe about the segment; an attack that fails leaves it as it was.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6ND_RS, IPv6
from scapy.layers.l2 import ARP, Ether

from bucatini.base.address import link_local_of, text
from support.bridged import Guest
from support.fakehost import ETH_P_ALL, PACKET_OUTGOING, PUBLIC4, PUBLIC6, FakeHost, Namespace
from support.guests import PATIENCE, eventually
from support.switched import Switched
from support.tap_guest import DhcpClient

__all__ = ["BROADCAST", "FORGED", "PORT", "BridgeLab", "EngineLab", "FilterLab", "Lab", "Station", "SwitchLab"]

VICTIM_MAC, ATTACKER_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
LATE_MACS = ("02:00:00:00:00:1a", "02:00:00:00:00:1b", "02:00:00:00:00:1c", "02:00:00:00:00:1d")
BROADCAST = "ff:ff:ff:ff:ff:ff"
PORT = 7000
FORGED = b"forged"
"""What a datagram says that should not arrive."""
HOST4, HOST6, PREFIX6 = "10.55.0.1", "fd55::1", "fd55::"
ATTACKER4 = "10.55.0.200"
"""Beside its lease: an address that it keeps, whatever becomes of that."""
POOL = [f"10.55.0.{number}" for number in range(10, 50)]
CHUNK = 200
"""Frames of a flood between two fences: what the queue of a TAP holds, several times over."""
SOL_PACKET, PACKET_AUXDATA, SO_RCVBUFFORCE = 263, 8, 33
AUXDATA = struct.Struct("=IIIHHHH")
VLAN_VALID = 0x10


class Wire:
    """All frames of an interface, its VLAN tags put back; and a way to send any."""

    def __init__(self, net: Namespace, interface: str = "eth0") -> None:
        self._sock = net.new_socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self._sock.bind((interface, ETH_P_ALL))
        self._sock.setblocking(False)
        self._seen: list[list[bytes]] = [[], []]

    def send(self, frame: bytes) -> None:
        while True:
            with contextlib.suppress(BlockingIOError):
                self._sock.send(frame)
                return
            select.select([], [self._sock], [], PATIENCE)

    def take(self, *, outgoing: bool = False) -> list[bytes]:
        """What came since the last look, or else what left."""
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, extra, _, origin = self._sock.recvmsg(70000, 100)
                self._seen[origin[2] == PACKET_OUTGOING].append(_tagged(frame, extra))
        taken, self._seen[outgoing] = self._seen[outgoing], []
        return taken

    def wait(self, seconds: float) -> None:
        """Until there is something to take, at the longest."""
        select.select([self._sock], [], [], max(seconds, 0))

    def close(self) -> None:
        self._sock.close()


def _tagged(frame: bytes, extra: list[tuple[int, int, bytes]]) -> bytes:
    for _, _, data in extra:
        status, _, _, _, _, tag, kind = AUXDATA.unpack(data[: AUXDATA.size])
        if status & VLAN_VALID:
            return frame[:12] + struct.pack(">HH", kind, tag) + frame[12:]
    return frame


def link_local(mac: str) -> str:
    """The IPv6 address that this MAC address makes."""
    return text(link_local_of(bytes.fromhex(mac.replace(":", ""))))


class Station:
    """A guest: its namespace, whose `eth0` is the link, and its addresses."""

    def __init__(self, net: Namespace, mac: str) -> None:
        self.net, self.mac = net, mac
        self.ipv4 = self.ipv6 = ""
        self.link_local = link_local(mac)
        self.wire = Wire(net)

    def learn_addresses(self, ipv4: str = "") -> None:
        """Those it has now, of both families. `ipv4`: take this one as well, and speak from it."""
        self.ipv4 = ipv4 or eventually(lambda: self._global("-4"))
        if ipv4:
            self.net.ip(f"addr add {ipv4}/24 dev eth0\n")
        self.ipv6 = eventually(lambda: self._global("-6"))

    def _global(self, family: str) -> str:
        words = self.net.run("ip", family, "-br", "addr", "show", "eth0", "scope", "global").stdout.split()
        return words[2].partition("/")[0] if len(words) > 2 else ""

    def look(self, *words: str) -> list[dict[str, Any]]:
        """What `ip -json` says."""
        done = self.net.run("ip", "-json", *words, check=False)
        return list(json.loads(done.stdout or "[]"))

    def neighbours(self) -> dict[str, str]:
        """MAC addresses by IP address."""
        return {each["dst"]: each["lladdr"] for each in self.look("neigh", "show", "dev", "eth0") if "lladdr" in each}

    def flags(self, address: str) -> set[str]:
        """Of one of its IPv6 addresses: `tentative`, `dadfailed`."""
        for each in self.look("-6", "addr", "show", "dev", "eth0"):
            for one in each["addr_info"]:
                if one.get("local") == address:
                    return {name for name, value in one.items() if value is True}
        return set()

    def way(self, address: str) -> str:
        """The router it would send to."""
        return str((self.look("route", "get", address) or [{}])[0].get("gateway"))

    def routers(self) -> set[str]:
        """Those of the IPv6 default route."""
        return {str(each.get("gateway")) for each in self.look("-6", "route", "show", "default")}

    def pings(self, address: str, seconds: float = 3.0) -> bool:
        """Whether one echo request is answered."""
        words = ["ping", "-n", "-c", "1", "-W", str(seconds), address]
        return self.net.run(*words, check=False, timeout=seconds + PATIENCE).returncode == 0

    def sysctl(self, **values: int) -> None:
        """Settings of `eth0`: `ipv6_conf_NAME=...`, and of the same name for all interfaces."""
        for name, value in values.items():
            family, folder, key = name.split("_", 2)
            for interface in ("all", "eth0") if folder == "conf" else ("eth0",):
                with self.net.entered():
                    Path(f"/proc/sys/net/{family}/{folder}/{interface}/{key}").write_text(str(value))


class Lab:
    """A segment. `far4`, `far6` are where the attacker's datagrams to others than the victim go."""

    gateway4: str
    gateway_mac: str
    router6: str
    """The router's link-local address."""
    far4: str
    far6: str
    pool: Sequence[str]
    """Addresses that can be leased."""
    client: DhcpClient
    """The victim's, which sets what it gets."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.folder = host.folder
        self.victim: Station
        self.attacker: Station
        self.result = ""
        """What the victim came to by the attack, where that is over when the attack is."""
        self._sequence = 0
        self._listeners: list[socket.socket] = []
        self.sent: set[bytes] = set()
        """By the attacker since `begin`, but for what is honest."""
        self._arrived: set[str] = set()
        self._heard: set[bytes] = set()
        self.closing = contextlib.ExitStack()
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> None:
        """Make it all, and have it closed by `closing`."""
        raise NotImplementedError

    def _listen(self, *places: Namespace) -> None:
        for place in places:
            for address in ("0.0.0.0", "::"):
                self._listeners.append(self.closing.enter_context(place.bound(address, PORT, timeout=0)))

    def _prepare_victim(self) -> None:
        """A system that is as trusting as it can be told to be."""
        self.victim.sysctl(
            ipv4_conf_accept_source_route=1,
            ipv4_conf_accept_redirects=1,
            ipv4_neigh_locktime=0,
            ipv6_conf_accept_redirects=1,
            ipv6_conf_seg6_enabled=1,
            ipv6_conf_suppress_frag_ndisc=0,
            ipv6_conf_router_solicitation_delay=0,
            ipv6_neigh_retrans_time_ms=100,
        )

    # -- an attack

    def begin(self) -> None:
        """Nothing of before is on the way, everybody knows everybody."""
        self.victim.pings(self.gateway4)
        self.victim.pings(f"{self.router6}%eth0", 1.0)
        self.fence()
        self.arrived()
        self.heard()
        for wire in (self.attacker.wire, self.victim.wire):
            wire.take(outgoing=True)
        self.sent.clear()
        self._arrived.clear()
        self._heard.clear()
        self.result = ""

    def send(self, *frames: Any) -> list[bytes]:
        """Out of the attacker's interface, as they are."""
        made = [bytes(frame) for frame in frames]
        self.sent.update(made)
        for at in range(0, len(made), CHUNK):
            if at:
                self._ask_gateway()
            for frame in made[at : at + CHUNK]:
                self.attacker.wire.send(frame)
        return made

    def fence(self) -> None:
        """What was sent before has arrived, or never will."""
        self._ask_gateway()
        self._sequence += 1
        me, other = self.attacker, self.victim
        echo = Ether(src=me.mac, dst=other.mac) / IP(src=me.ipv4, dst=other.ipv4) / ICMP(id=77, seq=self._sequence)
        wanted = struct.pack(">HH", 77, self._sequence)
        self._ask(bytes(echo), lambda frame: frame[12:14] == b"\x08\0" and frame[34] == 0 and frame[38:42] == wanted)

    def _ask_gateway(self) -> None:
        me = self.attacker
        ask = Ether(src=me.mac, dst=BROADCAST) / ARP(op=1, hwsrc=me.mac, psrc=me.ipv4, pdst=self.gateway4)
        wanted = b"\x08\x06\0\1\x08\0\6\4\0\2", socket.inet_aton(self.gateway4)
        self._ask(bytes(ask), lambda frame: (frame[12:22], frame[28:32]) == wanted)

    def _ask(self, question: bytes, is_answer: Any) -> None:
        wire = self.attacker.wire
        wire.take()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            wire.send(question)
            again = min(time.monotonic() + 1.0, deadline)
            while time.monotonic() < again:
                wire.wait(again - time.monotonic())
                if any(map(is_answer, wire.take())):
                    return
        raise AssertionError("the attacker's honest frames are not answered")

    def arrived(self) -> set[str]:
        """Source addresses of forged datagrams that some listener got since `begin`."""
        for listener in self._listeners:
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, peer = listener.recvfrom(2000)
                    if data.startswith(FORGED):
                        self._arrived.add(peer[0])
        return self._arrived

    def heard(self) -> set[bytes]:
        """All frames that reached somebody else than the attacker since `begin`."""
        for wire in self._wires():
            self._heard.update(wire.take())
        return self._heard

    def _wires(self) -> Iterable[Wire]:
        return (self.victim.wire,)

    # -- what others believe

    def state(self) -> dict[str, Any]:
        """Of victim and host."""
        victim = self.victim
        return {
            "neighbours": self._but_the_attackers(victim.neighbours()),
            "addresses": {
                one["local"] for each in victim.look("addr", "show", "dev", "eth0") for one in each["addr_info"]
            },
            "routes": {
                (each["dst"], each.get("gateway"))
                for family in ("-4", "-6")
                for each in victim.look(family, "route", "show")
            },
            "ways": [victim.way(PUBLIC4), victim.way(PUBLIC6)],
        }

    def _but_the_attackers(self, neighbours: dict[str, str]) -> dict[str, str]:
        """Without what is true of the attacker, which may come and go."""
        return {address: mac for address, mac in neighbours.items() if address not in self._own_addresses()}

    def _own_addresses(self) -> set[str]:
        """The attacker's."""
        return {self.attacker.ipv4, self.attacker.ipv6, self.attacker.link_local}

    def believed_mac(self, station: Station) -> str:
        """Where the gateway sends what is for this guest's IPv4 address."""
        raise NotImplementedError

    def is_taken(self, station: Station) -> bool:
        """Whether the attacker gets, or sends, what is another's by its MAC address."""
        raise NotImplementedError

    def has_lease(self, station: Station) -> bool:
        """Whether the DHCP server still says so."""
        raise NotImplementedError

    def is_exhausted(self) -> bool:
        """Whether the DHCP server has nothing left for a newcomer."""
        raise NotImplementedError

    def _station(self, net: Namespace, mac: str) -> Station:
        made = Station(net, mac)
        self.closing.callback(made.wire.close)
        return made

    def close(self) -> None:
        """Idempotent."""
        self.closing.close()


class BridgeLab(Lab):
    """A bridge of the host's, and the attacker an ordinary port of it."""

    gateway4, far4, far6 = HOST4, HOST4, HOST6
    pool = POOL

    def _set_up(self) -> None:
        self.net = self.host.net
        self._leases = self.folder / "dnsmasq.leases"
        self._saved_leases = ""
        self.net.ip(
            f"link add br0 address 02:00:00:00:00:01 type bridge mcast_snooping 1\naddr add {HOST4}/24 dev br0\n"
            f"addr add {HOST6}/64 dev br0 nodad\nlink set br0 up\n"
        )
        with self.net.entered():
            for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/accept_source_route",
                         "ipv4/conf/br0/accept_source_route", "ipv6/conf/all/seg6_enabled",
                         "ipv6/conf/br0/seg6_enabled"):  # fmt: skip
                Path(f"/proc/sys/net/{name}").write_text("1")
            Path("/proc/sys/net/ipv4/neigh/br0/locktime").write_text("0")
        self.gateway_mac = "02:00:00:00:00:01"
        self.router6 = link_local(self.gateway_mac)
        self.closing.callback(self.net.ip, "link delete br0\n")
        self._server = self._serve()
        self.closing.callback(self._stop_server)
        self._host_wire = Wire(self.net, "br0")
        self.closing.callback(self._host_wire.close)
        self.victim = self._station(self._port("victim", VICTIM_MAC), VICTIM_MAC)
        self._prepare_victim()
        self.client = self._new_client(self.victim.net).udhcpc()
        self.attacker, self.port = self._plug_attacker()
        self.client.bound()
        self.client.kill()
        self.victim.learn_addresses()
        self._listen(self.victim.net, self.net)
        self._saved_leases = self._leases.read_text()

    def _serve(self) -> subprocess.Popen[bytes]:
        with self.net.entered():
            return subprocess.Popen(
                ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-ping",
                 "--user=root", "--pid-file=", "--port=0", "--bind-interfaces", "--interface=br0",
                 f"--dhcp-range={POOL[0]},{POOL[-1]},255.255.255.0,600s", "--dhcp-range=::,constructor:br0,ra-only",
                 "--enable-ra", "--dhcp-authoritative", "--dhcp-reply-delay=1", f"--dhcp-leasefile={self._leases}",
                 "--log-facility=-", "--quiet-dhcp", "--quiet-ra"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def _new_client(self, net: Namespace) -> DhcpClient:
        made = DhcpClient(net)
        self.closing.callback(made.close)
        return made

    def _port(self, name: str, mac: str) -> Namespace:
        """A guest that is a port of the bridge."""
        made = self.closing.enter_context(Namespace.create())
        self.net.ip(
            f"link add {name} type veth peer name eth0 address {mac} netns {made.path}\n"
            f"link set {name} master br0 up\n"
        )
        made.ip("link set eth0 up\n")
        return made

    def _plug_attacker(self) -> tuple[Station, str]:
        """The attacker, which has its lease, and its port of the bridge."""
        made = self._station(self._port("attacker", ATTACKER_MAC), ATTACKER_MAC)
        client = self._new_client(made.net).udhcpc()
        client.bound()
        client.kill()
        made.learn_addresses(ATTACKER4)
        return made, "attacker"

    def _wires(self) -> Iterable[Wire]:
        return self.victim.wire, self._host_wire

    def repair(self) -> None:
        """As if there had been no attack."""
        if self._leases.read_text() != self._saved_leases:
            self._stop_server()
            self._leases.write_text(self._saved_leases)
            self._server = self._serve()
        self.net.ip("link set br0 type bridge fdb_flush\nneigh flush dev br0\n")
        victim = self.victim
        victim.net.ip("neigh flush dev eth0\nroute flush cache\n")
        for words in ("-4 addr flush dev eth0", "-6 route flush proto ra", "-6 addr flush dev eth0 scope global",
                      "-6 route flush cache"):  # fmt: skip
            victim.net.run("ip", *words.split())
        victim.net.ip(f"addr add {victim.ipv4}/24 dev eth0\nroute add default via {HOST4}\n")
        solicit = Ether(src=victim.mac, dst="33:33:00:00:00:02") / IPv6(src=victim.link_local, dst="ff02::2", hlim=255)
        victim.wire.send(bytes(solicit / ICMPv6ND_RS()))
        eventually(lambda: victim.routers() == {self.router6})
        eventually(lambda: victim.look("-6", "addr", "show", "dev", "eth0", "to", victim.ipv6))

    def state(self) -> dict[str, Any]:
        """See `Lab`."""
        host = json.loads(self.net.run("ip", "-json", "neigh", "show", "dev", "br0").stdout)
        return {
            **super().state(),
            "host's neighbours": self._but_the_attackers(
                {each["dst"]: each["lladdr"] for each in host if "lladdr" in each}
            ),
            "ports": {mac: port for mac, port in self._stations().items() if mac != self.attacker.mac},
            "routers": self.net.run("bridge", "-d", "mdb", "show").stdout.partition("router ports")[2],
            "leases": {lease for lease in self._given() if lease[0] != self.attacker.mac},
        }

    def _own_addresses(self) -> set[str]:
        return super()._own_addresses() | {address for mac, address, *_ in self._given() if mac == self.attacker.mac}

    def _given(self) -> list[tuple[str, ...]]:
        """Leases: MAC address, IPv4 address, names."""
        lines = [line.split() for line in self._leases.read_text().splitlines()]
        return [tuple(words[1:]) for words in lines if len(words) == 5]

    def _stations(self) -> dict[str, str]:
        """The bridge's ports by the MAC addresses it has learned there."""
        entries = json.loads(self.net.run("bridge", "-json", "fdb", "show", "br", "br0").stdout)
        return {each["mac"]: each["ifname"] for each in entries if each.get("state") != "permanent"}

    def believed_mac(self, station: Station) -> str:
        """See `Lab`."""
        known = json.loads(self.net.run("ip", "-json", "neigh", "show", station.ipv4, "dev", "br0").stdout)
        return str(known[0].get("lladdr")) if known else ""

    def is_taken(self, station: Station) -> bool:
        """See `Lab`."""
        return self._stations().get(station.mac) == self.port

    def has_lease(self, station: Station) -> bool:
        """See `Lab`."""
        return (station.mac, station.ipv4) in [lease[:2] for lease in self._given()]

    def is_exhausted(self) -> bool:
        """See `Lab`."""
        return set(POOL) <= {lease[1] for lease in self._given()}

    def _stop_server(self) -> None:
        self._server.terminate()
        self._server.wait(PATIENCE)


class EngineLab(Lab):
    """With one of our engines in front of the attacker: what it said about each frame is in its capture."""

    def __init__(self, host: FakeHost) -> None:
        self.capture = host.folder / f"{type(self).__name__}.pcapng"
        self.counted: dict[str, int] = {}
        """Reasons why frames of the attacker were dropped so far."""
        self._read = 0
        self._judged: list[tuple[bytes, str]] = []
        super().__init__(host)

    def begin(self) -> None:
        """See `Lab`."""
        super().begin()
        self.judged()
        self._judged.clear()

    def judged(self) -> list[tuple[bytes, str]]:
        """Frames of guests since `begin`, each with the reason why it was dropped, or nothing."""
        with self.capture.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        at = 0
        while at + 8 <= len(data):
            kind, total = struct.unpack_from("<II", data, at)
            if at + total > len(data):
                break
            if kind == 6:
                self._note(data[at : at + total])
            at += total
        self._read += at
        return self._judged

    def _note(self, block: bytes) -> None:
        """An Enhanced Packet Block: the frame, then its options, a comment (1) and flags (2: from the guest)."""
        length = int.from_bytes(block[20:24], "little")
        at, options = 28 + (length + 3 & ~3), {}
        while at + 8 <= len(block):
            code, size = struct.unpack_from("<HH", block, at)
            options[code] = block[at + 4 : at + 4 + size]
            at += 4 + (size + 3 & ~3)
        if options.get(2, b"\0")[0] & 3 == 2:
            reason = options.get(1, b"").decode()
            self._judged.append((block[28 : 28 + length], reason))
            if reason:
                self.counted[reason] = self.counted.get(reason, 0) + 1

    def end(self) -> dict[str, int]:
        """End the engine well; how often it says it dropped something, and why."""
        said = self._end()
        self.judged()
        return {label: int(count) for count, label in re.findall(r"^ +(\d+)  ([a-z0-9-]+): ", said, re.MULTILINE)}

    def _end(self) -> str:
        raise NotImplementedError


class FilterLab(EngineLab, BridgeLab):
    """The bridge, and the attacker behind a filter whose rules let it reach everybody."""

    _guest: Guest

    def _plug_attacker(self) -> tuple[Station, str]:
        global6 = PREFIX6 + link_local(ATTACKER_MAC).removeprefix("fe80::")
        self._guest = Guest(self, ATTACKER_MAC, "br0")  # type: ignore[arg-type]
        self.closing.callback(self._guest.close)
        self._guest.start(
            ["--allow", "0.0.0.0/0", "--allow", "::/0", "--address", global6, "--address", ATTACKER4, "--pcap",
             str(self.capture), "--summary"]
        )
        self._guest.dhcp()
        self._guest.kill_client()
        made = self._station(self._guest.net, ATTACKER_MAC)
        made.learn_addresses(ATTACKER4)
        assert made.ipv6 == global6
        return made, self._guest.tap

    def _end(self) -> str:
        assert self._guest.end() == 0, self._guest.stderr
        assert "error of ours" not in self._guest.stderr, self._guest.stderr
        return self._guest.stderr


class SwitchLab(EngineLab):
    """`bucatini switch`, whose network is small; some guests come late, and ask for an address then."""

    gateway4, far4, far6 = HOST4, PUBLIC4, PUBLIC6
    pool = tuple(f"10.55.0.{number}" for number in range(2, 15))

    def _set_up(self) -> None:
        macs = {"victim": VICTIM_MAC, "attacker": ATTACKER_MAC, **{f"late{n}": mac for n, mac in enumerate(LATE_MACS)}}
        self._switch = Switched(
            self.host, macs, "--network", "10.55.0.0/28", "--policy", "open", "--link", "attacker:victim", "--pcap",
            str(self.capture), "--summary", told=("victim", "attacker"),
        )  # fmt: skip
        self.closing.enter_context(self._switch)
        self._late = [self._switch[f"late{number}"] for number in range(len(LATE_MACS))]
        guests = [self._switch[name] for name in ("victim", "attacker")]
        for guest in guests:
            guest.client.udhcpc()
        for guest in guests:
            guest.client.bound()
            guest.client.kill()
        self.client = guests[0].client
        self.victim, self.attacker = (self._station(guest.net, guest.mac) for guest in guests)
        self._prepare_victim()
        self.victim.learn_addresses()
        self.attacker.learn_addresses()
        (self.router6,) = eventually(self.victim.routers)
        self.victim.pings(self.gateway4)
        self.gateway_mac = self.victim.neighbours()[self.gateway4]
        self._listen(self.victim.net, self.host.world)

    def believed_mac(self, station: Station) -> str:
        """See `Lab`. The gateway has no table to look into: it is where the answers go."""
        return station.mac if station.pings(self.gateway4) else ""

    def is_taken(self, station: Station) -> bool:
        """See `Lab`."""
        stolen = [frame for frame in self.attacker.wire.take() if frame[:6].hex(":") == station.mac]
        return bool(stolen) or bool(self.arrived())

    def has_lease(self, station: Station) -> bool:
        """See `Lab`."""
        return station.pings(PUBLIC4)

    def is_exhausted(self) -> bool:
        """See `Lab`. One more guest asks."""
        guest = self._late.pop()
        return guest.client.udhcpc().bound() not in self.pool

    def _end(self) -> str:
        if self._switch.engine.poll() is None:
            self._switch.engine.send_signal(signal.SIGTERM)
        assert self._switch.engine.wait(PATIENCE) == 0, self._switch.stderr
        return self._switch.stderr
