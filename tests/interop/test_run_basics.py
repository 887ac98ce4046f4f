"""`bucatini run` in a fake host, as root and as an ordinary user: what the command finds, how it ends, what is left."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from support.fakehost import (
    GATEWAY4,
    GATEWAY6,
    GUEST4,
    GUEST6,
    HOST4,
    HOST6,
    PUBLIC4,
    PUBLIC6,
    WORLD4,
    WORLD6,
    FakeHost,
    Guest,
    Namespace,
    guest_python,
)
from support.guests import PATIENCE, eventually

pytestmark = pytest.mark.root

HOST_NAMES = (
    "host.bucatini.internal",
    "host.microsandbox.internal",
    "host.docker.internal",
    "host.containers.internal",
)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


class TestExitStatus:
    def test_is_the_commands(self, host: FakeHost, user: str) -> None:
        assert host.run("--", "sh", "-c", "exit 7", user=user).status == 7

    @pytest.mark.parametrize(
        ("script", "status"), [("true", 0), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
    )
    def test_of_signals_is_a_shells(self, host: FakeHost, script: str, status: int) -> None:
        assert host.run("sh", "-c", script).status == status

    def test_quiet_run_says_nothing(self, host: FakeHost, user: str) -> None:
        done = host.run("true", user=user)
        assert (done.status, done.stdout, done.stderr) == (0, "", "")


class TestNetwork:
    """What the command sees. One run looks at everything."""

    LOOK = (
        "ip -o addr show eth0; ip link show eth0; ip route; ip -6 route; "
        "cat /etc/resolv.conf /etc/hosts; hostname; getent hosts $(hostname)"
    )

    def test_addresses_of_slot_0(self, host: FakeHost, user: str) -> None:
        seen = host.run("--", "sh", "-c", self.LOOK, user=user).stdout
        assert f"inet {GUEST4}/30" in seen
        assert "inet6 fd42:6d73:62::2/64" in seen
        assert "link/ether 02:6d:73:00:00:02" in seen
        assert "mtu 1500" in seen
        assert f"default via {GATEWAY4} dev eth0" in seen
        assert f"default via {GATEWAY6} dev eth0" in seen
        assert f"nameserver {GATEWAY4}\nnameserver {GATEWAY6}\n" in seen
        for name in HOST_NAMES:
            assert any(line.startswith(GATEWAY4) and name in line.split() for line in seen.splitlines()), name
            assert any(line.startswith(GATEWAY6) and name in line.split() for line in seen.splitlines()), name
        name = f"bucatini-{socket.gethostname()}"[:64]
        assert f"\n{name}\n" in seen, "hostname"
        assert seen.splitlines()[-1].split()[0] in (GUEST4, GUEST6), "the guest finds itself under its name"

    def test_slot_and_mtu(self, host: FakeHost) -> None:
        seen = host.run("--slot", "4660", "--mtu", "9000", "sh", "-c", self.LOOK).stdout
        assert "inet 172.16.72.210/30" in seen
        assert "inet6 fd42:6d73:62:1234::2/64" in seen
        assert "link/ether 02:6d:73:12:34:02" in seen
        assert "mtu 9000" in seen
        assert "default via 172.16.72.209 " in seen

    def test_ipv4_only(self, host: FakeHost) -> None:
        seen = host.run("-4", "sh", "-c", self.LOOK).stdout
        assert GUEST4 in seen
        assert "inet6" not in seen
        assert "fd42" not in seen

    def test_ipv6_only(self, host: FakeHost) -> None:
        seen = host.run("-6", "sh", "-c", self.LOOK).stdout
        assert "fd42:6d73:62::2/64" in seen
        assert "inet " not in seen
        assert "172.16" not in seen

    @pytest.mark.parametrize(("option", "gone"), [("-4", PUBLIC6), ("-6", PUBLIC4)])
    def test_other_family_is_unreachable(self, host: FakeHost, option: str, gone: str) -> None:
        with host.guest(option) as guest, pytest.raises(OSError, match=r"unreachable|assign"):
            guest.net.connect(gone, 80)

    def test_mirror_host(self, host: FakeHost, user: str) -> None:
        with host.guest("--mirror-host", user=user) as guest:
            seen = guest.net.run("sh", "-c", "ip -o addr show eth0; ip route; ip -6 route").stdout
            assert f"inet {HOST4}/24" in seen
            assert f"inet6 {HOST6}/64" in seen
            assert f"default via {WORLD4} dev eth0" in seen
            assert f"default via {WORLD6} dev eth0" in seen
            for address in (PUBLIC4, PUBLIC6):
                assert talk(host, guest, address)[0] in (HOST4, HOST6)

    def test_no_dad_and_no_leftover_host_interfaces(self, host: FakeHost) -> None:
        with host.guest() as guest:
            names = guest.net.run("ls", "/proc/sys/net/ipv4/conf").stdout.split()
            assert sorted(names) == ["all", "default", "eth0", "lo"]
            assert "tentative" not in guest.net.run("ip", "addr").stdout


def talk(host: FakeHost, guest: Guest, address: str) -> tuple[str, int]:
    """A line each way between the guest and `address` in the world; who the world believes it spoke to."""
    with (
        host.world.listen(address) as listener,
        guest.net.connect(address, listener.getsockname()[1]) as near,
        listener.accept()[0] as far,
    ):
        near.sendall(b"ping")
        assert far.recv(100) == b"ping"
        far.sendall(b"pong")
        assert near.recv(100) == b"pong"
        name: tuple[str, int] = far.getpeername()
        return name[:2]


class TestStreams:
    def test_default_command_is_the_shell(self, host: FakeHost, user: str) -> None:
        done = host.run(user=user, stdin=b"ip -o addr show eth0 | grep -c 172.16.0.2; exit 5\n")
        assert (done.status, done.stdout) == (5, "1\n")

    def test_stdin_and_stdout_pass_through(self, host: FakeHost, user: str) -> None:
        sent = random.Random(1).randbytes(8 << 20)
        done = host.run("sha256sum", user=user, stdin=sent)
        assert done.stdout.split()[0] == hashlib.sha256(sent).hexdigest()

    def test_big_stdout(self, host: FakeHost) -> None:
        done = host.run("head", "-c", "16777216", "/dev/zero")
        assert (done.status, len(done.stdout), done.stderr) == (0, 16777216, "")

    def test_options_of_the_command_are_its_own(self, host: FakeHost) -> None:
        assert host.run("echo", "-n", "--policy", "x", "--").stdout == "--policy x --"

    def test_environment_and_folder_are_the_callers(self, host: FakeHost, user: str) -> None:
        assert host.run("sh", "-c", "echo $HOME $PWD", user=user).stdout == "/ /tmp\n"


class TestHostLoopback:
    @needs("curl")
    @pytest.mark.parametrize("options", [(), ("--policy", "none", "--allow", "2000::/3")])
    def test_is_refused_at_once(self, host: FakeHost, user: str, options: tuple[str, ...]) -> None:
        with host.net.listen("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
            url = f"http://host.bucatini.internal:{port}/"
            words = ("sh", "-c", f"curl -sS --max-time 20 -w '%{{time_total}}' {url}")
            done = host.run(*options, "--", *words, user=user)
            assert done.status == 7, "curl: failed to connect"
            assert float(done.stdout) < 2
            listener.settimeout(0)
            with pytest.raises(BlockingIOError):
                listener.accept()
            assert "refused" in done.stderr
            assert done.stderr.splitlines()[-1].startswith("bucatini: ")

    @needs("curl")
    @pytest.mark.parametrize("option", ["-4", "-6"])
    def test_is_open_with_allow_host(self, host: FakeHost, user: str, option: str) -> None:
        loopback = "127.0.0.1" if option == "-4" else "::1"
        with host.net.listen(loopback, 0) as listener:
            url = f"http://host.bucatini.internal:{listener.getsockname()[1]}/"
            runner = host.runner(user)
            process, errors = runner.begin(["run", "--allow", "host", "curl", option, "-sS", "--max-time", "20", url])
            with process, errors, listener.accept()[0] as sock:
                sock.settimeout(PATIENCE)
                assert sock.getpeername()[0] == loopback
                assert sock.recv(4096).startswith(b"GET / ")
                sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello from the host")
                sock.shutdown(socket.SHUT_WR)
                assert process.communicate(timeout=PATIENCE)[0] == b"hello from the host"
                assert process.returncode == 0
            runner.gone()

    def test_closed_port_of_the_host_is_refused(self, host: FakeHost) -> None:
        with host.guest("--allow", "host") as guest:
            for gateway in (GATEWAY4, GATEWAY6):
                with pytest.raises(ConnectionRefusedError):
                    guest.net.connect(gateway, 9)


@needs("ping")
@pytest.mark.parametrize("gateway", [GATEWAY4, GATEWAY6])
def test_ping_of_the_gateway(host: FakeHost, user: str, gateway: str) -> None:
    # Echo to the gateway is answered under every policy.
    done = host.run("--policy", "none", "ping", "-c1", "-W5", gateway, user=user)
    assert done.status == 0, done
    assert " 0% packet loss" in done.stdout


@pytest.mark.parametrize("address", [PUBLIC4, PUBLIC6])
def test_public_destinations_are_open_by_default(host: FakeHost, user: str, address: str) -> None:
    with host.guest(user=user) as guest:
        assert talk(host, guest, address)[0] in (HOST4, HOST6)
    assert guest.stderr == ""


class TestWhoDiesFirst:
    def test_sigterm_for_the_engine_ends_the_command(self, host: FakeHost, user: str) -> None:
        with host.guest("-p", "8181:80", user=user) as guest:
            guest.terminate(signal.SIGTERM)
            assert guest.engine.wait(PATIENCE) == 128 + signal.SIGTERM
            guest.runner.gone()
            assert nothing_left(host, guest)
            with host.net.listen("0.0.0.0", 8181):
                pass

    def test_command_that_survives_sigterm_is_killed_by_a_second(self, host: FakeHost) -> None:
        runner = host.runner()
        script = "trap 'echo survived' TERM; echo ready; while :; do sleep 0.02; done"
        process, errors = runner.begin(["run", "sh", "-c", script])
        with process, errors:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.terminate()
            assert process.stdout.readline() == b"survived\n"
            time.sleep(0.8)  # one that follows at once is taken for an echo of the first
            began = time.monotonic()
            process.terminate()
            assert process.wait(PATIENCE) == 128 + signal.SIGKILL
            assert time.monotonic() - began < 5, "without waiting for the patience of the first to end"
        runner.gone()

    def test_sigkill_for_the_engine_ends_the_network_only(self, host: FakeHost, user: str) -> None:
        with host.guest("-p", "8182:80", user=user) as guest:
            guest.engine.kill()
            assert guest.engine.wait(PATIENCE) == -signal.SIGKILL
            eventually(lambda: "eth0" not in guest.net.run("ip", "link").stdout)
            os.kill(guest.command, 0)
            with host.net.listen("0.0.0.0", 8182):
                pass
            assert guest.engine.stdin is not None
            guest.engine.stdin.close()  # the end of `cat`
            guest.runner.gone()
            assert nothing_left(host, guest)

    def test_command_killed(self, host: FakeHost, user: str) -> None:
        with host.guest(user=user) as guest:
            os.kill(guest.command, signal.SIGKILL)
            assert guest.engine.wait(PATIENCE) == 128 + signal.SIGKILL
            guest.runner.gone()
            assert nothing_left(host, guest)

    def test_connections_of_a_killed_engine_end(self, host: FakeHost) -> None:
        with (
            host.guest() as guest,
            host.world.listen(PUBLIC4) as listener,
            guest.net.connect(PUBLIC4, listener.getsockname()[1]),
            listener.accept()[0] as far,
        ):
            guest.engine.kill()
            far.settimeout(PATIENCE)
            try:
                assert far.recv(1) == b""
            except ConnectionResetError:
                pass
            guest.engine.wait(PATIENCE)
            assert guest.engine.stdin is not None
            guest.engine.stdin.close()


def nothing_left(host: FakeHost, guest: Guest) -> bool:
    """Whether no process is in the guest's network namespace any more, and no socket in the host's is open."""
    inode = os.fstat(guest.net.descriptor).st_ino
    eventually(lambda: inode not in namespaces_in_use(), or_else=lambda: "a process is left in the guest's namespace")
    listening = host.net.run("cat", "/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6").stdout
    states = [line.split()[3] for line in listening.splitlines() if not line.lstrip().startswith("sl")]
    assert not set(states) - {"06"}, "only TIME_WAIT may be left"
    return True


def namespaces_in_use() -> set[int]:
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(os.stat(link).st_ino)
        except OSError:
            continue
    return found


def test_mounts_and_files_of_the_machine_stay_as_they_were(host: FakeHost, user: str) -> None:
    def look() -> tuple[str, list[str]]:
        return Path("/proc/self/mountinfo").read_text(), sorted(os.listdir(host.folder))  # TMPDIR of the run

    before = look()
    with host.guest(user=user) as guest:
        assert look() == before
        guest.engine.kill()
        guest.engine.wait(PATIENCE)
    assert look() == before


def test_many_guests_at_once(host: FakeHost) -> None:
    """Same slot, same addresses: they do not meet."""
    runners = [host.runner() for _ in range(4)]
    begun = [runner.begin(["run", "ping", "-c1", "-W5", GATEWAY4]) for runner in runners]
    for (process, errors), runner in zip(begun, runners, strict=True):
        with process, errors:
            assert process.wait(3 * PATIENCE) == 0
        runner.gone()


def test_guest_inside_a_guest(host: FakeHost) -> None:
    """The engine's own host may be a guest's network: a run within a run reaches the world through both."""
    runner = host.runner()
    words = runner.program(["run", *guest_python(CONNECT, PUBLIC4)])
    with host.world.listen(PUBLIC4, 7) as listener:
        process, errors = runner.begin(["run", *words])
        with process, errors, listener.accept()[0] as sock:
            assert sock.recv(10) == b"deep"
            assert process.wait(PATIENCE) == 0
        runner.gone()


CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 7), 10).sendall(b'deep')"


def test_entering_leaves_the_thread_where_it_was() -> None:
    """The fixture itself: a test that leaks its namespace would talk to the wrong network."""
    before = os.readlink("/proc/thread-self/ns/net")
    with Namespace.create() as made, made.entered():
        assert os.readlink("/proc/thread-self/ns/net") != before
    assert os.readlink("/proc/thread-self/ns/net") == before
