"""The columns of the group `filter`: what lies between a guest and a bridge, and how it is put there.

Each peer has a bridge of its own in the fake host, with a DHCP server (dnsmasq) that gives the guest its lease, and a
guest that is a network namespace. Without a filter the guest's interface is one end of a veth pair whose other end is a
port of the bridge. Else it is a TAP in the guest's namespace that a process reads: the filter, or `probe relay`, which
does nothing but read and write, so that the cost of judging can be told from that of passing through user space. With
datagrams the filter has one end of a pair of sockets, and `probe bare` carries frames between the other and the TAP.

The rules are about addresses and ports that no measurement uses: none ever decides, so every look-up goes to the end.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from benchmarks.lab import TAG, BenchError, Lab, Space
from benchmarks.peers import Bucatini, next_ports
from benchmarks.rows import (
    BRIDGED,
    FILTER_DATAGRAMS,
    FILTER_FAITHFUL,
    FILTER_PLAIN,
    FILTER_RELAY,
    FILTER_RULES,
    filter_column,
)
from benchmarks.session import ECHO_PORT, Session, find_holder

LINK = "eth0"
DESCRIPTOR = 9
"""Of the TAP in who serves it."""
QUEUE = 1 << 20
"""Bytes that a datagram socket may hold for its peer, as Tart has it."""
PREFIX = "10.77"
"""Of all the bridges' subnets."""
ONE_PER_FRAME, ANY_SIZE = 1, 65535
"""Segments of TCP that a sender's kernel puts into a frame at the most."""

LEASE_SCRIPT = """#!/bin/sh
[ "$1" != bound ] || ip addr replace "$ip/$mask" dev "$interface"
"""

_serial = itertools.count(1)


@dataclass
class BridgedSession(Session):
    """A guest on a bridge of its own; `bridge` goes with the session."""

    bridge: str = ""
    space: Space | None = None

    def set_segments(self, most: int) -> None:
        """How many segments of TCP each side's kernel may leave together in one frame."""
        assert self.space is not None
        for place, name in ((self.space, LINK), (self.host, self.bridge)):
            place.run(["ip", "link", "set", "dev", name, "gso_max_segs", str(most)], 5, root=True)

    def close(self) -> None:
        """End the engine and the guest, then the bridge."""
        super().close()
        with contextlib.suppress(BenchError):
            self.host.run(["ip", "link", "delete", self.bridge], 5, root=True)


class BridgedPeer:
    """A guest's interface that is the bridge's port."""

    name = FILTER_PLAIN
    title = "plain bridge"
    default_mtu: int | None = 1500
    kind = BRIDGED

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def missing(self) -> str | None:
        """Why this peer cannot take part, or None."""
        absent = [tool for tool in ("dnsmasq", "busybox") if shutil.which(tool, path=self.path) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    @property
    def path(self) -> str:
        """Where programs are looked for."""
        return self.lab.host.environment()["PATH"]

    def version(self) -> str:
        """What is measured, for the head of the table."""
        return f"Linux {os.uname().release}, a veth pair"

    def open(self, mtu: int | None) -> Session:
        """Make the bridge, the guest and what is between them; the guest takes a lease."""
        del mtu
        number = next(_serial)
        host, tag = self.lab.host, f"{self.name}-{os.getpid()}-{number}"
        gateway, log = f"{PREFIX}.{number}.1", self.lab.log(tag)
        session = BridgedSession(host, host, {4: gateway}, tag, *next_ports(), log, bridge=f"br{number}")
        try:
            self._make_bridge(session, number)
            self._make_guest(session, log)
            self.join(session, number, log)
            self._configure(session)
        except BaseException:
            session.close()
            raise
        return session

    def _make_bridge(self, session: BridgedSession, number: int) -> None:
        host, bridge, gateway = session.host, session.bridge, session.gateway[4]
        host.run(["ip", "link", "add", bridge, "type", "bridge"], 5, root=True)
        host.run(["ip", "addr", "add", f"{gateway}/24", "dev", bridge], 5, root=True)
        host.run(["ip", "addr", "add", f"fd77:{number}::1/64", "dev", bridge, "nodad"], 5, root=True)
        host.run(["ip", "link", "set", bridge, "up"], 5, root=True)
        argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--no-ping", "--user=root"]
        argv += ["--pid-file=", "--log-facility=-", "--dhcp-authoritative", "--bind-interfaces"]
        argv += [f"--interface={bridge}", "--except-interface=lo"]
        argv += [f"--dhcp-leasefile={self.lab.home / session.tag}.leases"]
        argv += [f"--dhcp-range={PREFIX}.{number}.10,{PREFIX}.{number}.99,255.255.255.0,12h"]
        session.helpers.append(host.start(argv, log=self.lab.log("dnsmasq"), root=True))

    def _make_guest(self, session: BridgedSession, log: Path) -> None:
        host = session.host
        holder = host.start(["unshare", "--net", self.lab.probe, "hold", session.tag], log=log, root=True)
        session.started.append(holder)
        session.holder = find_holder(session.tag, holder, log, host)
        session.guest = session.space = Space(session.holder, host.uid, host.gid, host.home)

    def join(self, session: BridgedSession, number: int, log: Path) -> None:
        """Have the guest's interface, and what is between it and the bridge."""
        del log
        port, other = f"port{number}", ["peer", "name", LINK, "netns", str(session.holder)]
        session.host.run(["ip", "link", "add", port, "type", "veth", *other], 5, root=True)
        session.host.run(["ip", "link", "set", port, "master", session.bridge, "up"], 5, root=True)

    def _configure(self, session: BridgedSession) -> None:
        """The guest's interface, a lease, and the host in reach."""
        guest = session.space
        assert guest is not None
        guest.run(["ip", "link", "set", "lo", "up"], 5, root=True)
        guest.run(["ip", "link", "set", LINK, "address", mac_of(session), "up"], 5, root=True)
        guest.widen_ports()
        script = self.lab.home / "lease"
        script.write_text(LEASE_SCRIPT)
        script.chmod(0o755)
        argv = ["busybox", "udhcpc", "-i", LINK, "-n", "-q", "-f", "-t", "20", "-T", "1", "-s", str(script)]
        try:
            guest.run(argv, 30, root=True)
            guest.run([self.lab.probe, "reach", session.gateway[4], str(ECHO_PORT), "10"], 20)
        except BenchError:
            if epitaph := session.epitaph():
                raise BenchError(epitaph) from None
            raise

    def open_range(self, ports: range) -> Session | None:
        """None: not measured with a bridge."""
        del ports
        return None

    def start_up(self, ports: range | None = None) -> float | None:
        """None: not measured with a bridge."""
        del ports
        return None


class Relay(BridgedPeer):
    """A process in C that hands frames on as they are."""

    name = FILTER_RELAY
    title = "relay in C"

    def version(self) -> str:
        """What is measured, for the head of the table."""
        return "`probe relay`: reads and writes one frame at a time between two TAPs, and looks at none"

    def command(self, session: BridgedSession, port: str) -> list[str]:
        """Who serves the guest's TAP at DESCRIPTOR, and makes `port`."""
        del session
        return [self.lab.probe, "relay", str(DESCRIPTOR), port]

    def join(self, session: BridgedSession, number: int, log: Path) -> None:
        """See there; the process makes both TAPs."""
        port = f"port{number}"
        argv = [self.lab.probe, "tap", str(session.holder), LINK, str(DESCRIPTOR), *self.command(session, port)]
        process = session.host.start(argv, log=log, root=True, env={TAG: session.tag})
        session.started.append(process)
        self.plug(session, port)

    def plug(self, session: BridgedSession, port: str) -> None:
        """Make `port` a port of the bridge, once it is there."""
        assert session.space is not None
        wait = f"until ip link show {port} && ip link set {port} master {session.bridge} up; do sleep 0.02; done"
        session.host.run(["sh", "-c", f"{wait} >/dev/null 2>&1"], 10, root=True)


class Filter(Relay):
    """`bucatini filter` with this many rules."""

    prefix = FILTER_RULES
    options: Sequence[str] = ()

    def __init__(self, lab: Lab, rules: int) -> None:
        super().__init__(lab)
        self.rules = rules
        self.name = filter_column(rules, self.prefix)
        self.title = f"bucatini filter, {self.name}"

    def missing(self) -> str | None:
        """Why this peer cannot take part, or None."""
        if shutil.which("nft", path=self.path) is None:
            return "not installed: nft"
        return super().missing() or Bucatini.problem

    def version(self) -> str:
        """The program's own answer, which says whether it is compiled."""
        return Bucatini(self.lab).version()

    def command(self, session: BridgedSession, port: str, link: int = DESCRIPTOR) -> list[str]:
        """As it would be started for a virtual machine; it becomes the ordinary user by itself."""
        words = [str(Bucatini.python), "-m", "bucatini", "filter", "-q", "--fd", str(link)]
        words += ["--mac", mac_of(session), "--bridge", session.bridge, "--host-tap", port]
        words += ["--user", str(session.host.uid), *self.options]
        return [*words, *itertools.chain.from_iterable(rules(self.rules))]

    def plug(self, session: BridgedSession, port: str) -> None:
        """The filter does it."""
        process = session.started[-1]
        wait = f"until ip link show {port} up | grep -q UP || ! kill -0 {process.pid}; do sleep 0.02; done"
        session.host.run(["sh", "-c", f"{wait} >/dev/null 2>&1"], 15, root=True)


class Faithful(Filter):
    """The same with the decisions of Softnet 0.19.0."""

    prefix = FILTER_FAITHFUL
    options = ("--faithful",)


class Datagrams(Filter):
    """The same over a pair of datagram sockets, as a hypervisor on this machine would have it: bare frames."""

    prefix = FILTER_DATAGRAMS

    def join(self, session: BridgedSession, number: int, log: Path) -> None:
        """See there. Who carries the frames is not part of the engine."""
        host, port = session.host, f"port{number}"
        assert session.space is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours, theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE)
                end.setblocking(False)
            near, far = ours.fileno(), theirs.fileno()
            argv = [self.lab.probe, "bare", str(far), LINK]
            session.helpers.append(session.space.start(argv, log=self.lab.log("bare"), root=True, pass_fds=[far]))
            argv = self.command(session, port, near)
            session.started.append(host.start(argv, log=log, root=True, env={TAG: session.tag}, pass_fds=[near]))
        self.plug(session, port)


def filter_peers(lab: Lab) -> list[BridgedPeer]:
    """All of them, in the order of the columns."""
    return [
        BridgedPeer(lab),
        Relay(lab),
        *(Filter(lab, count) for count in (0, 100, 10000)),
        Datagrams(lab, 100),
        *(Faithful(lab, count) for count in (0, 10000)),
    ]


def mac_of(session: BridgedSession) -> str:
    """The guest's MAC address."""
    return f"02:00:00:00:77:{int(session.bridge[2:]):02x}"


def rules(count: int) -> Iterator[tuple[str, str]]:
    """So many options with rules, the same each time: both families, both words, one in ten with ports. The first two
    of those with ports hold the hosts' addresses, and are about other ports; no other holds them.
    """
    chosen = random.Random(77)
    seen: set[str] = set()
    around = [f"{PREFIX}.0.0/16:9", "10.0.0.0/8:100-199"]
    while len(seen) < count:
        number = len(seen)
        target = around.pop() if number % 10 == 0 and around else _target(chosen, number)
        if target not in seen:
            seen.add(target)
            yield ("--allow", "--block")[number % 2], target


def _target(chosen: random.Random, number: int) -> str:
    network: IPv4Network | IPv6Network
    if number // 2 % 2:
        network = IPv6Network((0x2A << 120 | chosen.getrandbits(120), chosen.randint(24, 64)), strict=False)
    else:
        address = chosen.randint(16, 199) << 24 | chosen.getrandbits(24)
        network = IPv4Network((address, chosen.randint(16, 28)), strict=False)
    if number % 10:
        return str(network)
    first = chosen.randint(1, 60000)
    written = f"[{network}]" if network.version == 6 else str(network)
    return f"{written}:{first}-{first + chosen.randint(0, 999)}"
