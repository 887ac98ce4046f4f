"""The command passt as hypervisors and their managers start it: sockets, background, privileges, and a guest of frames.

The guest is a UNIX stream socket in the test's hands: each frame behind four bytes of length, as QEMU does it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6ND_RS, ICMPv6NDOptMTU, ICMPv6NDOptPrefixInfo, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from support.fakehost import HOST4, HOST6, PUBLIC4, RESOLVER4, WORLD4, FakeHost, Runner, read_all
from support.guests import ORDINARY, PATIENCE, Done, eventually
from support.pasta_engine import install_compat

pytestmark = pytest.mark.root

OURS = "9a:55:9a:55:9a:55"
GUEST = "52:54:00:12:34:56"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
PREFIX = struct.Struct("!I")
NOBODY = "65534"


HIDDEN = pytest.mark.skipif(
    Path(sys.prefix).is_relative_to("/tmp"), reason="the interpreter stands in /tmp, which the test hides"
)

class Vm:
    """A guest with one connection to the engine."""

    def __init__(self, connected: socket.socket, mac: str = GUEST) -> None:
        self.sock = connected
        self.mac = mac
        self.sock.settimeout(PATIENCE)

    @classmethod
    def at(cls, path: Path, mac: str = GUEST) -> Vm:
        """Connected to the socket at `path`, by a short name for it: test folders have long ones."""
        made = socket.socket(socket.AF_UNIX)
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            made.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        return cls(made, mac)

    def send(self, packet: Packet) -> None:
        frame = bytes(packet)
        self.sock.sendall(PREFIX.pack(len(frame)) + frame)

    def receive(self, wanted: Callable[[Packet], bool]) -> Packet:
        """The next frame that is wanted."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            packet = Ether(self._exactly(PREFIX.unpack(self._exactly(PREFIX.size))[0]))
            if wanted(packet):
                return packet
        raise TimeoutError

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def dhcp(self) -> dict[str, object]:
        """What a discovery is offered: `address`, and the options by scapy's names."""
        request = DHCP(options=[("message-type", "discover"), ("param_req_list", [1, 3, 6, 15, 26, 119]), "end"])
        chaddr = bytes.fromhex(self.mac.replace(":", ""))
        self.send(
            Ether(src=self.mac, dst=EVERYBODY)
            / IP(src="0.0.0.0", dst="255.255.255.255")
            / UDP(sport=68, dport=67)
            / BOOTP(chaddr=chaddr, xid=7)
            / request
        )
        offer = self.receive(lambda packet: DHCP in packet)
        assert offer.dst == self.mac
        options = dict(option[:2] for option in offer[DHCP].options if isinstance(option, tuple))
        return {"address": offer[BOOTP].yiaddr, "from": offer.src, **options}

    def left(self) -> bool:
        """Whether the engine closes the connection now, without a word."""
        return self.sock.recv(1) == b""

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Engine:
    """A running `passt`. `pid` is the number in its PID file."""

    def __init__(self, runner: Runner, words: Sequence[str], pid_file: Path, pass_fds: Sequence[int] = ()) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  `close` does
        self.pid_file = pid_file
        with runner.host.net.entered():
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                env=runner.environment,
                cwd=runner.host.folder,
                pass_fds=pass_fds,
            )
        try:
            self.pid = eventually(self._read_pid, or_else=lambda: f"no PID file: {self.said}")
        except BaseException:
            self.close()
            raise

    def _read_pid(self) -> int:
        text = self.pid_file.read_text() if self.pid_file.exists() else ""
        assert text.endswith("\n") or self.process.poll() is None, self.said
        return int(text) if text.endswith("\n") else 0

    @property
    def said(self) -> str:
        return read_all(self._errors)

    def status(self, number: int = 0) -> int:
        """The exit status, after a signal or without one."""
        if number:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._errors.close()


class Place:
    """Where engines of one user are started: a folder that everybody may write."""

    def __init__(self, host: FakeHost, user: str) -> None:
        self.host = host
        self.user = user
        self.runner = host.runner(user)
        self.program = str(install_compat(host) / "passt")
        self.folder = Path(tempfile.mkdtemp(prefix="p-", dir=host.folder))
        self.folder.chmod(0o777)
        self.socket = self.folder / "s"
        self.pid_file = self.folder / "pid"

    def words(self, *options: str, before: str = "") -> list[str]:
        return self.runner.wrapped([self.program, *options], before)

    def complete(self, *options: str) -> Done:
        """To the end of the starter and of both its streams."""
        return self.runner.complete_words(self.words(*options))

    @contextmanager
    def serving(
        self, *options: str, before: str = "", link: Sequence[str] = (), pass_fds: Sequence[int] = ()
    ) -> Iterator[Engine]:
        """In the foreground, ready, at `socket` unless another link is given."""
        words = ["-f", "-P", str(self.pid_file), *(link or ("-s", str(self.socket))), *options]
        engine = Engine(self.runner, self.words(*words, before=before), self.pid_file, pass_fds)
        try:
            yield engine
        finally:
            engine.close()
            self.pid_file.unlink()

    @contextmanager
    def background(self, *options: str) -> Iterator[int]:
        """The number of an engine in the background; it must be gone at the end, or is ended by SIGTERM."""
        done = self.complete("-P", str(self.pid_file), "-s", str(self.socket), *options)
        assert done.status == 0, done
        number = int(self.pid_file.read_text())
        watched = os.pidfd_open(number)
        try:
            yield number
            signal.pidfd_send_signal(watched, signal.SIGTERM)
            assert self.runner.gone()
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(watched, signal.SIGKILL)
            os.close(watched)


@pytest.fixture
def place(host: FakeHost, user: str) -> Iterator[Place]:
    made = Place(host, user)
    yield made
    made.runner.kill_all()


@pytest.fixture
def of_root(host: FakeHost) -> Iterator[Place]:
    made = Place(host, "root")
    yield made
    made.runner.kill_all()


@pytest.fixture
def ordinary(host: FakeHost) -> Iterator[Place]:
    made = Place(host, "ordinary")
    yield made
    made.runner.kill_all()


def check_line(done: Done, *words: str) -> None:
    """Status 1, and one line on stderr beside the warnings."""
    assert (done.status, done.stdout) == (1, ""), done
    lines = [line for line in done.stderr.splitlines() if not line.startswith("passt: warning: ")]
    assert len(lines) == 1, done
    assert lines[0].startswith("passt: ")
    for word in words:
        assert word in lines[0]


def is_sent_to(port: int) -> Callable[[Packet], bool]:
    return lambda packet: (TCP in packet or UDP in packet) and packet.dport == port


def identity(pid: int) -> tuple[str, int]:
    """User and effective capabilities of a process."""
    fields = dict(re.findall(r"^(\w+):\s+(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
    return fields["Uid"].split()[1], int(fields["CapEff"], 16)


class TestReady:
    """What whoever starts it may rely on."""

    def test_both_families(self, place: Place) -> None:
        """What the guest configures itself with over IPv6."""
        with place.serving(), Vm.at(place.socket) as vm:
            solicitation = IPv6(src="fe80::5054:ff:fe12:3456", dst="ff02::2", hlim=255) / ICMPv6ND_RS()
            vm.send(Ether(src=GUEST, dst="33:33:00:00:00:02") / solicitation)
            said = vm.receive(lambda packet: ICMPv6ND_RA in packet)
            assert said[ICMPv6NDOptPrefixInfo].prefix == HOST6.removesuffix("2")
            assert said[ICMPv6NDOptMTU].mtu == 65520

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=["term", "quit"])
    def test_foreground(self, place: Place, number: int) -> None:
        with place.serving() as engine:
            assert engine.pid == engine.process.pid
            with Vm.at(place.socket) as vm:
                lease = vm.dhcp()
            assert (lease["address"], lease["router"], lease["name_server"]) == (HOST4, WORLD4, RESOLVER4)
            assert (lease["subnet_mask"], lease["interface-mtu"]) == ("255.255.255.0", 65520)
            assert (lease["from"], lease["lease_time"]) == (OURS, 0xFFFFFFFF)
            assert engine.status(number) == 0
        assert not place.socket.exists()

    def test_background(self, place: Place) -> None:
        """The starter ends when a hypervisor may connect, and lets go of its caller's streams."""
        with place.background("-l", str(place.folder / "log")) as number:
            assert os.readlink(f"/proc/{number}/cwd") == "/"
            for stream in (0, 1, 2):
                assert os.readlink(f"/proc/{number}/fd/{stream}") == "/dev/null"
            with Vm.at(place.socket) as vm:
                assert vm.dhcp()["address"] == HOST4
        assert not place.socket.exists()
        assert place.pid_file.exists(), "whoever asked for it removes it"

    def test_what_qemu_is_told(self, ordinary: Place) -> None:
        with ordinary.serving() as engine:
            eventually(lambda: "host's loopback: " in engine.said)
            said = engine.said
        option = f"-netdev stream,id=s,server=off,addr.type=unix,addr.path={ordinary.socket}"
        assert option in said
        assert f"address: {HOST4}" in said

    def test_what_qemu_is_told_for_vhost_user(self, ordinary: Place) -> None:
        with ordinary.serving("--vhost-user", "-1") as engine:
            eventually(lambda: "host's loopback: " in engine.said)
            said = engine.said
            with Vm.at(ordinary.socket):
                assert engine.process.poll() is None
            assert engine.status() == 0, "one-off"
        assert f"-chardev socket,id=c,path={ordinary.socket}" in said
        assert "-object memory-backend-memfd,id=m,share=on" in said, "without it there is nothing to share"

    def test_a_comma_in_the_path(self, ordinary: Place) -> None:
        path = ordinary.folder / "a,b c"
        with ordinary.serving(link=["-s", str(path)]) as engine:
            eventually(lambda: f"addr.path='{ordinary.folder}/a,,b c'" in engine.said)

    def test_quiet(self, ordinary: Place) -> None:
        done = ordinary.complete("-q", "-1", "-s", str(ordinary.socket), "-P", str(ordinary.pid_file))
        assert (done.status, done.stdout, done.stderr) == (0, "", "")
        Vm.at(ordinary.socket).close()
        ordinary.runner.gone()

    def test_no_descriptor_of_the_caller_stays(self, ordinary: Place) -> None:
        """Who waits for the end of a pipe must not wait for the engine."""
        reading, writing = os.pipe()
        words = ordinary.words("-q", "-s", str(ordinary.socket), "-P", str(ordinary.pid_file))
        with ordinary.host.net.entered():
            done = subprocess.run(
                words, env=ordinary.runner.environment, pass_fds=[writing], cwd="/tmp", timeout=30, check=False
            )
        os.close(writing)
        assert done.returncode == 0
        with os.fdopen(reading, "rb") as pipe:
            assert pipe.read() == b""
        ordinary.runner.kill_all()

    def test_capabilities(self, place: Place) -> None:
        done = place.complete("--print-capabilities")
        assert (done.status, done.stderr) == (0, "")
        assert json.loads(done.stdout) == {"type": "net"}


class TestRoot:
    """What root starts goes on as somebody else."""

    def test_becomes_nobody_without_rights(self, of_root: Place) -> None:
        with of_root.serving() as engine:
            assert identity(engine.pid) == (NOBODY, 0)
            assert "started as root: going on as nobody" in engine.said
            with Vm.at(of_root.socket) as vm:
                assert vm.dhcp()["address"] == HOST4

    def test_becomes_who_it_is_told(self, of_root: Place) -> None:
        with of_root.serving("--runas", f"{ORDINARY}:{ORDINARY}") as engine:
            assert identity(engine.pid) == (str(ORDINARY), 0)
        with of_root.serving("--runas", "0:0") as engine:
            assert identity(engine.pid)[0] == "0"
            assert "started as root" not in engine.said

    def test_files_where_only_root_may_write(self, of_root: Place) -> None:
        of_root.folder.chmod(0o700)
        capture, log = of_root.folder / "capture", of_root.folder / "log"
        with of_root.serving("-p", str(capture), "-l", str(log)) as engine:
            assert identity(engine.pid)[0] == NOBODY
            with Vm.at(of_root.socket) as vm:
                vm.dhcp()
            assert engine.status(signal.SIGTERM) == 0
        assert capture.stat().st_size > 500
        assert "disconnected" in log.read_text()

    def test_low_ports(self, of_root: Place) -> None:
        with of_root.serving("-t", f"{HOST4}/80:8080"), Vm.at(of_root.socket) as vm:
            vm.dhcp()
            with of_root.host.world.new_socket() as client:
                client.setblocking(False)
                client.connect_ex((HOST4, 80))
                assert vm.receive(is_sent_to(8080))[IP].dst == HOST4

    def test_serves_by_what_it_can_read_then(self, of_root: Place) -> None:
        """The interpreter's own files may be out of reach; flows of all kinds must not need them."""
        with of_root.serving() as engine, Vm.at(of_root.socket) as vm, of_root.host.net.bound("127.0.0.1") as server:
            vm.dhcp()
            question = Ether(src=GUEST, dst=OURS) / IP(src=HOST4, dst=WORLD4)
            vm.send(question / UDP(sport=5000, dport=server.getsockname()[1]) / b"question")
            data, origin = server.recvfrom(100)
            server.sendto(b"answer", origin)
            answer = vm.receive(is_sent_to(5000))
            assert (data, bytes(answer[UDP].payload), answer[IP].src) == (b"question", b"answer", WORLD4)
            vm.send(question / TCP(sport=5001, dport=9, flags="S", seq=1))
            assert vm.receive(is_sent_to(5001))[TCP].flags == "RA"
            vm.send(Ether(src=GUEST, dst=OURS) / IP(src=HOST4, dst=PUBLIC4) / UDP(sport=5002, dport=9) / b"x")
            assert vm.receive(lambda packet: packet.haslayer("UDP in ICMP"))
            assert "Traceback" not in engine.said


class TestSocket:
    """Where it listens."""

    def test_a_path_in_use(self, place: Place) -> None:
        with place.serving() as engine, Vm.at(place.socket) as vm:
            vm.dhcp()
            for how in ([], ["-f"]):
                check_line(place.complete(*how, "-s", str(place.socket)), str(place.socket))
            assert vm.dhcp()["address"] == HOST4
            assert engine.process.poll() is None

    def test_a_stale_file_is_taken_over(self, place: Place) -> None:
        with place.serving() as engine:
            assert engine.status(signal.SIGKILL) == -signal.SIGKILL
        assert place.socket.is_socket()
        with place.serving(), Vm.at(place.socket) as vm:
            assert vm.dhcp()["address"] == HOST4

    def test_what_is_no_socket_stays(self, place: Place) -> None:
        place.socket.write_text("precious")
        check_line(place.complete("-s", str(place.socket)), str(place.socket))
        assert place.socket.read_text() == "precious"

    def test_a_folder_that_is_not_there(self, place: Place) -> None:
        path = place.folder / "nowhere" / "s"
        check_line(place.complete("-s", str(path)), str(path), "No such file")

    def test_a_relative_path(self, ordinary: Place) -> None:
        relative = ordinary.socket.relative_to(ordinary.host.folder)
        with ordinary.serving(link=["--socket-path", str(relative)]) as engine:
            with Vm.at(ordinary.socket) as vm:
                vm.dhcp()
            assert engine.status(signal.SIGTERM) == 0
        assert not ordinary.socket.exists()

    def test_a_relative_path_in_a_deep_folder(self, ordinary: Place) -> None:
        """What the kernel bounds is what was written."""
        deep = ordinary.folder / ("d" * 100)
        deep.mkdir(mode=0o777)
        deep.chmod(0o777)
        words = ordinary.words("-q", "-1", "-s", "s", "-P", str(ordinary.pid_file))
        with ordinary.host.net.entered():
            done = subprocess.run(words, env=ordinary.runner.environment, cwd=deep, timeout=30, check=False)
        assert done.returncode == 0
        Vm.at(deep / "s").close()
        ordinary.runner.gone()

    @HIDDEN
    def test_the_first_that_is_free(self, of_root: Place) -> None:
        """In a /tmp of the engines' own; our folder keeps its place in it."""
        folder = of_root.host.folder
        private = f"""
            mount -t tmpfs -o mode=1777 tmpfs /mnt
            mkdir /mnt/{folder.name}
            mount --rbind {folder} /mnt/{folder.name}
            mount --move /mnt /tmp
            : > /tmp/passt_2.socket
        """
        assert folder.parent == Path("/tmp")
        with of_root.serving(before=private, link=["-q"]) as first:
            seen = Path(f"/proc/{first.pid}/root/tmp")
            inside = ["nsenter", f"--target={first.pid}", "--mount", "--", of_root.program]
            with Vm.at(seen / "passt_1.socket") as vm:
                assert vm.dhcp()["address"] == HOST4
            other = of_root.folder / "other"
            second = Engine(of_root.runner, [*inside, "-f", "-q", "-P", str(other)], other)
            try:
                assert (seen / "passt_2.socket").read_text() == "", "a file that is no socket stays"
                assert (seen / "passt_3.socket").is_socket()
                assert not (seen / "passt_4.socket").exists()
                second.status(signal.SIGKILL)
            finally:
                second.close()
            done = of_root.runner.complete_words([*inside, "-q", "-1", "-P", str(other)])
            assert done.status == 0
            assert not (seen / "passt_4.socket").exists(), "the stale one is taken over"
            with Vm.at(seen / "passt_3.socket") as vm:
                assert vm.dhcp()["address"] == HOST4

    @HIDDEN
    def test_none_is_free(self, of_root: Place) -> None:
        private = "mount -t tmpfs tmpfs /tmp; for n in $(seq 64); do : > /tmp/passt_$n.socket; done"
        words = of_root.runner.wrapped(["sh", "-c", "exec $0 -q", "PROGRAM"], private)
        # The script stands in /tmp: its text is executed from elsewhere.
        program = of_root.folder / "passt"
        words[words.index("PROGRAM")] = "/mnt/passt"
        script = words.index("-ec") + 1
        words[script] = f"mount --bind {program.parent} /mnt\n" + words[script]
        program.write_bytes(Path(of_root.program).read_bytes())
        program.chmod(0o755)
        check_line(of_root.runner.complete_words(words), "/tmp/passt_1..64.socket", "--socket")


class TestGuests:
    """Who comes and goes at the socket."""

    def test_a_second_one_is_closed_at_once(self, place: Place) -> None:
        with place.serving("-d") as engine, Vm.at(place.socket) as first:
            first.dhcp()
            for _ in range(5):
                with Vm.at(place.socket) as second:
                    assert second.left()
            assert first.dhcp()["address"] == HOST4
            assert f"process {os.getpid()}" in engine.said

    def test_the_next_one_is_served(self, place: Place) -> None:
        with place.serving() as engine:
            for number, mac in enumerate((GUEST, "52:54:00:00:00:01"), start=1):
                with Vm.at(place.socket, mac) as vm:
                    assert vm.dhcp()["address"] == HOST4
                    vm.sock.sendall(PREFIX.pack(1000) + b"half a frame")
                eventually(lambda: engine.said.count("disconnected") == number)  # noqa: B023  called here

    def test_one_off(self, place: Place) -> None:
        with place.serving("--one-off") as engine:
            with Vm.at(place.socket) as vm:
                vm.dhcp()
                assert engine.process.poll() is None
            assert engine.status() == 0
        assert not place.socket.exists()

    def test_one_off_in_the_background(self, place: Place) -> None:
        with place.background("-1", "-q"):
            Vm.at(place.socket).close()
            assert place.runner.gone()
            os.kill(os.getpid(), 0)

    def test_an_open_socket(self, place: Place) -> None:
        near, far = socket.socketpair()
        with near, far:
            number = far.fileno()
            with place.serving(link=["--fd", str(number)], pass_fds=[number]) as engine:
                far.close()
                with Vm(near) as vm:
                    assert vm.dhcp()["address"] == HOST4
                    assert engine.process.poll() is None
                assert engine.status() == 0

    def test_a_descriptor_that_is_no_socket(self, place: Place) -> None:
        check_line(place.complete("--fd", "300"), "--fd 300")


class TestLibvirt:
    """The command line that libvirt makes: it gives us the guest's MAC address for ours."""

    def test_everything(self, place: Place) -> None:
        log = place.folder / "log"
        with place.background(
            *("--one-off", "--mac-addr", GUEST, "--mtu", "1400", "--interface", "up0", "--log-file", str(log)),
            *("--address", "172.17.2.4", "--netmask", "24", "--address", "2001:db8:ac10:fd01::1:10"),
            *("--tcp-ports", f"{HOST4}%up0/2022:22,~2023", "--udp-ports", "5000-5010:6000-6010"),
        ):
            with Vm.at(place.socket) as vm:
                lease = vm.dhcp()
                assert (lease["address"], lease["subnet_mask"]) == ("172.17.2.4", "255.255.255.0")
                assert (lease["interface-mtu"], lease["from"]) == (1400, GUEST)
                with place.host.world.new_socket() as client, place.host.world.bound(PUBLIC4) as peer:
                    client.setblocking(False)
                    client.connect_ex((HOST4, 2022))
                    syn = vm.receive(is_sent_to(22))
                    assert (syn[IP].dst, syn.dst) == ("172.17.2.4", GUEST)
                    vm.send(Ether(src=GUEST, dst=GUEST) / ARP(hwsrc=GUEST, psrc="172.17.2.4", pdst=WORLD4))
                    assert vm.receive(lambda packet: ARP in packet)[ARP].hwsrc == GUEST
                    vm.send(
                        Ether(src=GUEST, dst=GUEST)
                        / IP(src="172.17.2.4", dst=PUBLIC4)
                        / UDP(sport=5000, dport=peer.getsockname()[1])
                        / b"up"
                    )
                    data, origin = peer.recvfrom(10)
                    assert (data, origin[0]) == (b"up", HOST4)
            assert place.runner.gone(), "one-off"
        assert "connected, process" in log.read_text()

    @pytest.mark.parametrize("spec", ["all", f"{HOST4}/all", f"{HOST4}%up0/all"])
    def test_all_ports(self, ordinary: Place, spec: str) -> None:
        """But for those the host hands out by itself, which are most here: a limit of open files may be low."""
        handed_out = Path("/proc/sys/net/ipv4/ip_local_port_range")
        with ordinary.host.net.entered():
            before = handed_out.read_text()
            handed_out.write_text("2000 65535")
        try:
            with ordinary.serving("--tcp-ports", spec), Vm.at(ordinary.socket) as vm:
                vm.dhcp()
                with ordinary.host.world.new_socket() as client:
                    client.setblocking(False)
                    client.connect_ex((HOST4, 1234))
                    assert vm.receive(is_sent_to(1234))
        finally:
            with ordinary.host.net.entered():
                handed_out.write_text(before)


class TestMistakes:
    """One line and status 1, from the foreground as from the background."""

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("-t auto", ["--tcp-ports 'auto'", "none, all"]),
            ("-F 2", ["--fd '2'"]),
            ("-i no-such-if", ["no-such-if"]),
            ("-P /nowhere/pid", ["/nowhere/pid"]),
            ("-l /nowhere/log", ["/nowhere/log"]),
            ("-p /nowhere/capture", ["/nowhere/capture"]),
            ("--runas no-such-user", ["no-such-user"]),
            ("--config-net", ["--config-net", "pasta's"]),
            ("--netns x", ["--netns", "pasta's"]),
            ("sh", ["'sh'", "options only"]),
            (f"-t {HOST4}/4711 -o 192.0.2.99", ["192.0.2.99"]),
        ],
    )
    @pytest.mark.parametrize("how", ["", "-f"])
    def test_one_line(self, place: Place, line: str, words: list[str], how: str) -> None:
        check_line(place.complete("-s", str(place.socket), *how.split(), *line.split()), *words)
        assert not place.socket.exists()
        place.runner.gone()

    @pytest.mark.parametrize("how", ["", "-f"])
    def test_a_port_in_use(self, place: Place, how: str) -> None:
        with place.host.net.listen(HOST4) as taken:
            port = taken.getsockname()[1]
            check_line(place.complete("-s", str(place.socket), *how.split(), "-t", str(port)), str(port))
        assert not place.socket.exists()

    def test_usage(self, place: Place) -> None:
        done = place.complete("--bogus")
        assert (done.status, done.stdout) == (1, "")
        assert done.stderr.startswith("passt: unknown option '--bogus'\nusage: passt ")
