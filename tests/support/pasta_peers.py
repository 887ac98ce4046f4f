"""What the tests of `pasta` run at both ends: socat, DHCP clients as the distribution has them, questions to iproute2.

Clients run as root inside the guest's network namespace and in a private mount and PID namespace: their leases and
PID files are in memory or in the test's folder, what they leave in the background ends with them, and the name servers
they are told never reach the machine's /etc/resolv.conf.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
import pytest

from support.fakehost import Namespace
from support.guests import PATIENCE, eventually

TRANSFER_LIMIT = 20.0
"""Seconds for one transfer, or for a client to get its lease."""
NAMED = "192.0.2.53"
"""The address of every name, if `name_server` is not told another."""
STATES = {"tcp": "0A", "udp": "07"}
"""LISTEN, and a bound socket, in /proc/net."""


def bound_ports(process_id: int, protocol: str) -> set[int]:
    """Ports that are listened on (TCP), or bound and not connected (UDP), in this process's network namespace."""
    found = set()
    for table in (protocol, protocol + "6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process_id}/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == STATES[protocol]:
                    found.add(int(words[1].rpartition(":")[2], 16))
    return found


@contextmanager
def socat_server(
    net: Namespace, address: str, protocol: str, port: int, target: Path
) -> Iterator[subprocess.Popen[str]]:
    """`socat -u ADDRESS OPEN:TARGET` that is ready; the caller waits for its end."""
    with net.entered():
        server = subprocess.Popen(
            ["socat", "-u", address, f"OPEN:{target},create,trunc"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        eventually(lambda: port in bound_ports(server.pid, protocol) or server.poll() is not None)
        yield server
    finally:
        server.kill()
        server.communicate(timeout=PATIENCE)


def transfer(
    server: tuple[Namespace, str], client: tuple[Namespace, str], protocol: str, port: int, source: Path, target: Path
) -> None:
    """Send a file from socat to socat and compare. Either end is where it runs and its socat address."""
    with socat_server(*server, protocol, port, target) as process:
        done = client[0].run("socat", "-u", f"OPEN:{source}", client[1], check=False, timeout=TRANSFER_LIMIT)
        assert done.returncode == 0, done.stderr
        try:
            status = process.wait(TRANSFER_LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{target.stat().st_size} of {source.stat().st_size} bytes, and no end") from None
        assert status == 0
    assert target.stat().st_size == source.stat().st_size
    assert digest(target) == digest(source)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Link:
    """What iproute2 says about one interface of a namespace."""

    def __init__(self, net: Namespace, name: str) -> None:
        self.net, self.name = net, name

    def _ask(self, *words: str) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = json.loads(self.net.run("ip", "-json", *words).stdout or "[]")
        return answer

    @property
    def mtu(self) -> int:
        """Bytes."""
        return int(self._ask("link", "show", "dev", self.name)[0]["mtu"])

    @property
    def mac(self) -> str:
        return str(self._ask("link", "show", "dev", self.name)[0]["address"])

    @property
    def up(self) -> bool:
        return "UP" in self._ask("link", "show", "dev", self.name)[0]["flags"]

    def addresses(self, family: int, **wanted: object) -> list[str]:
        """Global ones as `ADDRESS/LENGTH`, only with these properties (`dynamic=True`)."""
        shown = self._ask(f"-{family}", "address", "show", "dev", self.name, "scope", "global")
        return [
            f"{entry['local']}/{entry['prefixlen']}"
            for link in shown
            for entry in link.get("addr_info", [])
            if "local" in entry and all(entry.get(key) == value for key, value in wanted.items())
        ]

    def routes(self, family: int) -> list[str]:
        """Destination and gateway of every route of the main table but those of link-local and multicast."""
        shown = self._ask(f"-{family}", "route", "show", "dev", self.name)
        return sorted(
            f"{route['dst']} {route.get('gateway', '')}".strip() for route in shown if route["dst"] != "fe80::/64"
        )

    def gateway(self, family: int) -> str:
        """Of the default route, or empty."""
        shown = self._ask(f"-{family}", "route", "show", "default", "dev", self.name)
        return str(shown[0].get("gateway", "")) if shown else ""


def quick_links(net: Namespace) -> None:
    """Links made from now on do not wait: neither for duplicate address detection nor to ask for routers."""
    with net.entered():
        settings = Path("/proc/sys/net/ipv6/conf/default")
        (settings / "accept_dad").write_text("0")
        (settings / "router_solicitation_delay").write_text("0")


class Client:
    """DHCP clients on one interface. `name_servers` is what the last one was told."""

    def __init__(self, link: Link, scratch: Path) -> None:
        self.link, self.scratch = link, scratch
        self._told = scratch / "name-servers"

    @property
    def name_servers(self) -> list[str]:
        return self._told.read_text().split() if self._told.exists() else []

    def _run(self, program: str, script: str, limit: float = TRANSFER_LIMIT) -> str:
        if shutil.which(program, path=os.defpath + ":/usr/sbin:/sbin") is None:
            pytest.skip(f"no {program}")
        done = self.link.net.run(
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", script), check=False, timeout=limit
        )
        assert done.returncode == 0, f"status {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def dhclient(self, family: int) -> str:
        """ISC's with Debian's script, whose own way to leave /etc/resolv.conf alone is a hook. Its messages."""
        for name in ("leases", "enter", "exit"):
            (self.scratch / name).mkdir(exist_ok=True)
        told = "$new_domain_name_servers" if family == 4 else "$new_dhcp6_name_servers"
        (self.scratch / "enter" / "told").write_text(
            f'make_resolv_conf() {{ echo "${{{told[1:]}:-}}" >{self._told}; }}\n'
        )
        return self._run(
            "dhclient",
            f"mount --bind {self.scratch}/leases /var/lib/dhcp\n"
            f"mount --bind {self.scratch}/enter /etc/dhcp/dhclient-enter-hooks.d\n"
            f"cp /etc/dhcp/dhclient-exit-hooks.d/rfc3442-classless-routes {self.scratch}/exit\n"
            f"mount --bind {self.scratch}/exit /etc/dhcp/dhclient-exit-hooks.d\n"
            f"dhclient -{family} -1 -v --no-pid {self.link.name}",
        )

    def udhcpc(self) -> dict[str, str]:
        """Busybox's; the variables that its script got with the lease."""
        script = self.scratch / "udhcpc-script"
        script.write_text(
            '#!/bin/sh\ntest "$1" != deconfig || ip link set "$interface" up\ntest "$1" = bound || exit 0\n'
            f"env >{self.scratch}/lease\n"
            'ip address add "$ip/$mask" dev "$interface"\n'
            'test -z "$mtu" || ip link set "$interface" mtu "$mtu"\n'
            'for via in $router; do ip route add default via "$via" dev "$interface"; done\n'
        )
        script.chmod(0o755)
        self._run(
            "udhcpc",
            f"udhcpc --foreground --now --quit --interface {self.link.name} --script {script} "
            "-O mtu -O search -O staticroutes",
        )
        lines = (self.scratch / "lease").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def dhcpcd(self, family: int) -> str:
        """Marples', with its ARP probes; its messages."""
        return self._run(
            "dhcpcd",
            "mount -t tmpfs none /run\nmount -t tmpfs none /var/lib/dhcpcd\n"
            f"dhcpcd --oneshot --nobackground --nohook resolv.conf -{family} {self.link.name}",
        )

    def rdisc6(self) -> str:
        """What a router advertisement says, as rdisc6 prints it."""
        return self._run("rdisc6", f"rdisc6 --single --retry 3 {self.link.name}")


@contextmanager
def name_server(net: Namespace, address: str, named: str = NAMED) -> Iterator[None]:
    """Answers each question with the IPv4 address `named`, by UDP and TCP."""

    def answer(question: bytes) -> bytes:
        asked = dns.message.from_wire(question)
        made = dns.message.make_response(asked)
        made.answer.append(dns.rrset.from_text(asked.question[0].name, 60, "IN", "A", named))
        return made.to_wire()

    def datagrams(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                question, peer = sock.recvfrom(4096)
                if not question:
                    return
                sock.sendto(answer(question), peer)

    def streams(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer:
                    size = int.from_bytes(peer.recv(2, socket.MSG_WAITALL), "big")
                    made = answer(peer.recv(size, socket.MSG_WAITALL))
                    peer.sendall(len(made).to_bytes(2, "big") + made)

    with net.bound(address, 53) as sock, net.listen(address, 53) as listener:
        sock.settimeout(None)
        listener.settimeout(None)
        threads = [threading.Thread(target=datagrams, args=(sock,)), threading.Thread(target=streams, args=(listener,))]
        for thread in threads:
            thread.daemon = True
            thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(PATIENCE)
