"""A fake host with bridges of its own, DHCP servers that are not ours on them, and guests behind `bucatini filter`.

`br0` has dnsmasq, which gives leases of two minutes at least and announces itself as an IPv6 router, for addresses of
the guests' own making and of its giving; `br1` has busybox's udhcpd, whose leases are over in
seconds. A guest is a namespace whose `eth0` is a TAP: the engine inherits its descriptor, or, with `Pump`, one end of a
pair of datagram sockets. Its DHCP client is udhcpc, which writes down what happens to it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from bucatini.host.tap import Offloads, open_tap
from support.fakehost import FakeHost, Namespace, read_all
from support.guests import PATIENCE, eventually

HOST = {"br0": "10.55.0.1", "br1": "10.56.0.1"}
HOST6 = {"br0": "fd55::1", "br1": "fd56::1"}
LEASED6 = "fd55::1:"
"""How the addresses begin that dnsmasq leases."""
EMPTY = "br9"
"""A bridge without address."""
MAC = "02:00:00:00:00:07"
OTHER_MAC = "02:00:00:00:00:08"
NAME, NAME_ADDRESS = "world.test", "93.184.215.14"
SHORT_LEASE = 3
"""Seconds, on br1."""

CLIENT = """#!/bin/sh
case "$1" in
deconfig) ip -4 addr flush dev "$interface"; ip link set "$interface" up ;;
bound|renew)
    ip addr replace "$ip/$mask" dev "$interface"
    ip route replace default via "$router" dev "$interface" ;;
esac
echo "$1 $ip" >> "{log}"
"""

DHCLIENT_SCRIPT = """#!/bin/sh
case "$reason" in
BOUND6|RENEW6|REBIND6) ip -6 addr replace "$new_ip6_address/64" dev "$interface" nodad ;;
RELEASE6|EXPIRE6) ip -6 addr del "$old_ip6_address/64" dev "$interface" ;;
esac
exit 0
"""

UDHCPD = """start 10.56.0.10
end 10.56.0.99
interface br1
lease_file {folder}/udhcpd.leases
pidfile {folder}/udhcpd.pid
min_lease 1
auto_time 0
opt subnet 255.255.255.0
opt router 10.56.0.1
opt lease {lease}
"""


class BridgedHost:
    """`host` with both bridges and their servers."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.net = host.net
        self.folder = host.folder
        self._servers: list[subprocess.Popen[bytes]] = []
        for bridge, address in HOST.items():
            self.net.ip(
                f"link add {bridge} type bridge\naddr add {address}/24 dev {bridge}\n"
                f"addr add {HOST6[bridge]}/64 dev {bridge} nodad\nlink set {bridge} up\n"
            )
        self.net.ip(f"link add {EMPTY} type bridge\n")
        with self.net.entered():
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        self._serve(
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-ping",
            "--user=root", "--pid-file=", "--bind-interfaces", "--interface=br0", "--except-interface=lo",
            "--dhcp-range=10.55.0.10,10.55.0.99,255.255.255.0,120s",
            "--enable-ra", f"--dhcp-range={LEASED6}10,{LEASED6}99,slaac,64,120s", f"--address=/{NAME}/{NAME_ADDRESS}",
            f"--dhcp-leasefile={self.folder}/dnsmasq.leases", "--log-facility=-", "--dhcp-authoritative",
        )  # fmt: skip
        (self.folder / "udhcpd.leases").touch()
        configuration = self.folder / "udhcpd.conf"
        configuration.write_text(UDHCPD.format(folder=self.folder, lease=SHORT_LEASE))
        self._serve("busybox", "udhcpd", "-f", str(configuration))

    def _serve(self, *words: str) -> None:
        with self.net.entered():
            self._servers.append(
                subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )

    @contextmanager
    def guest(
        self, *options: str, mac: str = MAC, bridge: str = "br0", pumped: bool = False, dhcp: bool = True, **more: Any
    ) -> Iterator[Guest]:
        """A guest as long as the context lasts, by default with its lease. Its engine ends well."""
        made = Guest(self, mac, bridge)
        try:
            made.start(options, pumped, **more)
            if dhcp:
                made.dhcp()
            yield made
            assert made.end() == 0, made.stderr
        finally:
            made.close()

    def interfaces(self) -> set[str]:
        """Names of the host's interfaces, but for its bridges."""
        lines = self.net.run("ip", "-br", "link").stdout.splitlines()
        return {line.split()[0] for line in lines} - {"lo", *HOST, EMPTY}

    def tables(self) -> list[str]:
        return [line for line in self.net.run("nft", "list", "tables").stdout.splitlines() if "bucatini" in line]

    def close(self) -> None:
        for server in self._servers:
            server.terminate()
            server.wait(PATIENCE)


class Guest:
    """One guest, its engine, and its DHCP client."""

    def __init__(self, place: BridgedHost, mac: str, bridge: str) -> None:
        self.place, self.mac, self.bridge = place, mac, bridge
        self.net = Namespace.create()
        self.folder = Path(tempfile.mkdtemp(prefix="guest-", dir=place.folder))
        self._log = self.folder / "dhcp.log"
        self._log.touch()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        self._client: subprocess.Popen[bytes] | None = None
        self._pump: Pump | None = None
        self.engine: subprocess.Popen[bytes]

    def start(
        self, options: Sequence[str], pumped: bool = False, descriptors: Sequence[int] = (), before: Sequence[str] = ()
    ) -> None:
        """Begin to filter. `descriptors` are inherited too; `before` executes the command line behind it."""
        with self.net.entered():
            tap = open_tap("eth0", Offloads()).descriptor if not pumped else -1
            if pumped:
                self._pump = Pump("eth0")
                tap = self._pump.far.detach()
        self.net.ip(f"link set eth0 address {self.mac}\nlink set eth0 up\n")
        words = [*before, sys.executable, "-m", "bucatini", "filter", "--fd", str(tap), "--mac", self.mac]
        with self.place.net.entered():
            self.engine = subprocess.Popen(
                [*words, "--bridge", self.bridge, *options],
                pass_fds=(tap, *descriptors),
                stdin=subprocess.DEVNULL,
                stderr=self._errors,
                cwd="/tmp",
                env=self.place.host.runner("root").environment,
            )
        os.close(tap)
        eventually(self._is_ready, or_else=lambda: self.stderr)

    def _is_ready(self) -> bool:
        assert self.engine.poll() is None, self.stderr
        return "--fd" in self.stderr and " port of " in self.stderr

    @property
    def tap(self) -> str:
        """Name of the port."""
        return self.stderr.split(" port of ")[0].split("--fd")[1].split()[1]

    # -- DHCP

    def dhcp(self) -> str:
        """Get a lease, and keep the client; the address."""
        script = self.folder / "client"
        script.write_text(CLIENT.format(log=self._log))
        script.chmod(0o755)
        words = ["busybox", "udhcpc", "-f", "-i", "eth0", "-s", str(script), "-t", "20", "-T", "1", "-A", "1"]
        self.forget()
        with self.net.entered():
            self._client = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        return self.told("bound")

    def told(self, what: str) -> str:
        """Wait until udhcpc was told `what` since `forget`; the address."""
        said = eventually(lambda: self._said(what), or_else=lambda: f"{self._log.read_text()} {self.stderr}")
        return said[-1]

    def _said(self, what: str) -> list[str]:
        return [line.partition(" ")[2] for line in self._log.read_text().splitlines() if line.startswith(what + " ")]

    def forget(self) -> None:
        self._log.write_text("")

    def addresses6(self, begin: str) -> list[str]:
        """Addresses of eth0 that begin so and may be used."""
        words = self.net.run("ip", "-6", "-o", "addr", "show", "eth0", "-tentative").stdout.split()
        return [word.partition("/")[0] for word in words if word.startswith(begin)]

    def dhcp6(self, *options: str) -> None:
        """Get an IPv6 lease, once; `-r` gives it back."""
        once = [] if "-r" in options else ["-1"]
        files = ["-lf", f"{self.folder}/dhclient6.leases", "-pf", f"{self.folder}/dhclient6.pid"]
        script = ["-sf", str(self._dhclient_script())]
        self.net.run("dhclient", "-6", *once, *files, *script, *options, "eth0")

    def _dhclient_script(self) -> Path:
        script = self.folder / "dhclient-script"
        script.write_text(DHCLIENT_SCRIPT)
        script.chmod(0o755)
        return script

    def renew(self) -> str:
        """Ask for another term at once."""
        self.forget()
        self.client.send_signal(signal.SIGUSR1)
        return self.told("renew")

    def release(self) -> None:
        """Give the lease back. The client stays, and asks again with `renew`."""
        self.forget()
        self.client.send_signal(signal.SIGUSR2)
        self.told("deconfig")

    def kill_client(self) -> None:
        """The guest keeps the address, and asks for nothing any more."""
        self.client.kill()
        self.client.wait(PATIENCE)

    @property
    def client(self) -> subprocess.Popen[bytes]:
        assert self._client is not None
        return self._client

    @property
    def address(self) -> str:
        """The IPv4 address of eth0."""
        return self.net.run("ip", "-4", "-br", "addr", "show", "eth0").stdout.split()[2].partition("/")[0]

    # -- talking

    @property
    def host_link_local(self) -> str:
        """The bridge's link-local address, with the zone it has in the guest."""
        words = self.place.net.run("ip", "-6", "-br", "addr", "show", self.bridge, "scope", "link").stdout.split()
        return words[2].partition("/")[0] + "%eth0"

    def reaches(self, address: str, *, seconds: float = 3.0, source: str = "") -> bool:
        """Whether one echo request is answered."""
        return reaches(self.net, address, seconds, source)

    def talks_to(self, address: str, server: Namespace) -> str:
        """One TCP conversation with a listener in `server`; the address the guest had there."""
        with server.listen(address) as listener:
            with self.net.connect(address, listener.getsockname()[1]) as near:
                far, peer = listener.accept()
                with far:
                    far.settimeout(PATIENCE)
                    near.sendall(b"ask")
                    assert far.recv(10) == b"ask"
                    far.sendall(b"answer")
                    assert near.recv(10) == b"answer"
        return str(peer[0])

    # -- the end

    @property
    def stderr(self) -> str:
        return read_all(self._errors)

    def end(self, number: int = signal.SIGTERM) -> int:
        """End the engine; its exit status. Idempotent."""
        if self.engine.poll() is None:
            self.engine.send_signal(number)
        return self.engine.wait(PATIENCE)

    def unplug(self) -> None:
        """The guest's end of the pair of sockets is closed."""
        assert self._pump is not None
        self._pump.close()

    def child(self, name: str) -> int:
        """The engine's child that runs this program."""
        children = Path(f"/proc/{self.engine.pid}/task/{self.engine.pid}/children").read_text().split()
        return next(int(each) for each in children if Path(f"/proc/{each}/comm").read_text().strip() == name)

    def close(self) -> None:
        for process in (self._client, getattr(self, "engine", None)):
            if process is not None and process.poll() is None:
                process.kill()
            if process is not None:
                process.wait(PATIENCE)
        with contextlib.suppress(OSError):
            os.kill(int((self.folder / "dhclient6.pid").read_text()), signal.SIGKILL)
        if self._pump is not None:
            self._pump.close()
        self._errors.close()
        self.net.close()


class Neighbour:
    """A namespace that is a port of a bridge without any filter."""

    def __init__(self, place: BridgedHost, bridge: str, mac: str) -> None:
        self.net = Namespace.create()
        self._place = place
        self._name = f"n{self.net.descriptor}"
        place.net.ip(
            f"link add {self._name} type veth peer name eth0 address {mac} netns {self.net.path}\n"
            f"link set {self._name} master {bridge} up\n"
        )
        self.net.ip("link set eth0 up\n")

    def reaches(self, address: str, *, seconds: float = 3.0) -> bool:
        return reaches(self.net, address, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._place.net.ip(f"link delete {self._name}\n")
        self.net.close()


def reaches(net: Namespace, address: str, seconds: float, source: str = "") -> bool:
    """Whether one echo request from there is answered in time."""
    words = ["ping", "-n", "-c", "1", "-W", str(seconds), *(["-I", source] if source else []), address]
    return net.run(*words, check=False).returncode == 0


class Pump:
    """A TAP of the caller's namespace, and frames between it and one end of a pair of datagram sockets; `far` is the
    other."""

    def __init__(self, name: str) -> None:
        self._tap = open_tap(name, Offloads.from_mask(0)).descriptor
        self._near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for sock in (self._near, self.far):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._near.setblocking(False)
        self._stop, self._stopping = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self._tap, self._near, self._stop], [], [])
            if self._stop in ready:
                return
            with contextlib.suppress(OSError):
                if self._tap in ready:
                    self._near.send(os.read(self._tap, 70000)[12:])
                if self._near in ready:
                    os.write(self._tap, bytes(12) + self._near.recv(70000))

    def close(self) -> None:
        """Stop; the guest's end is gone."""
        if self._thread.is_alive():
            os.close(self._stopping)
            self._thread.join(PATIENCE)
            os.close(self._stop)
            self._near.close()
            os.close(self._tap)
