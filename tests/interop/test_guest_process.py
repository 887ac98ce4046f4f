"""host.guest on the real kernel, as root and as an ordinary user: what the command sees, how it ends, what is left."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.guests import Done, Launcher, eventually, interpreter, parent, readable_sources

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun"),
]


@pytest.fixture(scope="module")
def sources() -> Iterator[Path]:
    with readable_sources() as folder:
        yield folder


@pytest.fixture(params=["root", "ordinary"])
def guest(request: pytest.FixtureRequest, sources: Path) -> Iterator[Launcher]:
    interpreter(request.param)
    launcher = Launcher(request.param, sources)
    yield launcher
    try:
        assert launcher.gone()
    finally:
        launcher.kill_all()


@pytest.fixture
def root_guest(sources: Path) -> Iterator[Launcher]:
    launcher = Launcher("root", sources)
    yield launcher
    try:
        assert launcher.gone()
    finally:
        launcher.kill_all()


class TestExitStatus:
    @pytest.mark.parametrize(
        ("command", "status"),
        [
            (("true",), 0),
            (("sh", "-c", "exit 7"), 7),
            (("sh", "-c", "exit 255"), 255),
            (("sh", "-c", "kill -TERM $$"), 128 + signal.SIGTERM),
            (("sh", "-c", "kill -KILL $$"), 128 + signal.SIGKILL),
        ],
    )
    def test_is_the_commands(self, guest: Launcher, command: tuple[str, ...], status: int) -> None:
        assert guest.run(*command).status == status

    @pytest.mark.parametrize(
        ("program", "status", "said"),
        [
            ("no-such-command", 127, "bucatini: no-such-command: command not found\n"),
            ("/no/such/command", 127, "bucatini: /no/such/command: No such file or directory\n"),
            ("/etc/passwd", 126, "bucatini: /etc/passwd: Permission denied\n"),
            ("/tmp", 126, "bucatini: /tmp: Permission denied\n"),
        ],
    )
    def test_of_what_cannot_be_executed_is_a_shells(
        self, guest: Launcher, program: str, status: int, said: str
    ) -> None:
        done = guest.run(program)
        assert (done.status, done.stderr) == (status, said)

    def test_survivors_end_with_the_command(self, guest: Launcher) -> None:
        assert guest.run("sh", "-c", "setsid sleep 1000 & exit 3").status == 3
        assert guest.gone()


class TestStreams:
    def test_pass_unchanged(self, guest: Launcher) -> None:
        content = os.urandom(1 << 20)
        done = guest.run("sha256sum", stdin=content)
        assert done.stdout.split()[0] == hashlib.sha256(content).hexdigest()

    def test_end_for_the_reader_when_the_command_closes_them(self, guest: Launcher) -> None:
        engine = guest.start("sh", "-c", "echo said; exec sleep 1000 >&- 2>&-", keys=())
        assert engine.stdout is not None
        assert engine.stdout.readline() == "said\n"
        # The engine itself still holds its standard output; the guest's other processes do not.
        command = guest.find("sleep 1000")
        pipe = engine.stdout.fileno()
        eventually(lambda: {pid for pid in guest.processes() if _holds_pipe(pid, pipe)} == {engine.pid})
        os.kill(command, signal.SIGKILL)
        assert engine.wait(10) == 128 + signal.SIGKILL
        engine.communicate()


def _holds_pipe(pid: int, our_end: int) -> bool:
    inode = os.fstat(our_end).st_ino
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False  # it has ended
    for entry in entries:
        try:
            if entry.stat().st_ino == inode:
                return True
        except OSError:
            continue
    return False


class TestNetwork:
    def test_is_configured_before_the_command(self, guest: Launcher) -> None:
        done = guest.run("sh", "-c", "ip -o addr; ip route; ip -6 route; ip link show eth0")
        lines = re.sub(r" +", " ", done.stdout)
        assert "lo inet 127.0.0.1/8" in lines
        assert "eth0 inet 172.16.0.2/30" in lines
        assert "eth0 inet6 fd42:6d73:62::2/64" in lines
        assert "eth0 inet6 fe80::6d:73ff:fe00:2/64" in lines
        assert "tentative" not in lines
        assert "default via 172.16.0.1 dev eth0" in lines
        assert "default via fd42:6d73:62::1 dev eth0" in lines
        assert "mtu 1500" in lines
        assert "qlen 10000" in lines
        assert "link/ether 02:6d:73:00:00:02" in lines
        assert done.stderr == ""

    @pytest.mark.parametrize(("off", "flag"), [("ipv4", "-4"), ("ipv6", "-6")])
    def test_leaves_a_family_out(self, guest: Launcher, off: str, flag: str) -> None:
        done = guest.run("ip", "-o", flag, "addr", keys=[f"{off}=0"])
        assert "lo" in done.stdout
        assert "eth0" not in done.stdout

    def test_mirrors_the_host(self, root_guest: Launcher) -> None:
        """The host is a namespace of ours: its gateway is outside the subnet, one route needs another."""
        host = (
            "ip link add v0 type veth peer name v1; ip link set v0 mtu 1400 up; ip link set v1 up;"
            "ip addr add 198.51.100.7/32 dev v0; ip route add 203.0.113.1 dev v0;"
            "ip route add default via 203.0.113.1; ip route add 192.0.2.0/24 via 203.0.113.1;"
            "ip addr add 2001:db8::7/64 dev v0 nodad; ip -6 route add default via fe80::1 dev v0"
        )
        words = root_guest.words(["mirror=1"], ["sh", "-c", "ip -o addr; ip route; ip -6 route; ip link show eth0"])
        done = subprocess.run(
            ["unshare", "--net", "sh", "-ec", f'{host}; exec "$@"', "sh", *words],
            env=root_guest.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        lines = re.sub(r" +", " ", done.stdout)
        assert done.returncode == 0, done.stderr
        assert "eth0 inet 198.51.100.7/32" in lines
        assert "eth0 inet6 2001:db8::7/64" in lines
        assert "203.0.113.1 dev eth0" in lines
        assert "default via 203.0.113.1 dev eth0" in lines
        assert "192.0.2.0/24 via 203.0.113.1 dev eth0" in lines
        assert "default via fe80::1 dev eth0" in lines
        assert lines.count("2001:db8::/64") == 1
        assert "mtu 1400" in lines

    def test_may_be_left_alone(self, guest: Launcher) -> None:
        """As DHCP and SLAAC need it: the interface is there, and nothing else."""
        names = ("accept_dad", "accept_ra", "router_solicitations", "disable_ipv6")
        show = "for name in {}; do cat /proc/sys/net/ipv6/conf/$1/$name; done".format(" ".join(names))
        script = f'show() {{ {show}; }}; [ "$(show eth0)" = "$(show default)" ] && echo same; ip -o addr; ip link'
        done = guest.run("sh", "-c", script, keys=["configure=0", "mtu=1400"])
        lines = re.sub(r" +", " ", done.stdout)
        assert lines.startswith("same\n"), done
        assert "lo inet 127.0.0.1/8" in lines
        assert "eth0 inet" not in lines
        assert re.search(r"eth0: <BROADCAST,MULTICAST> mtu 1500 .* state DOWN .* qlen 10000\n", lines)
        assert "link/ether 02:6d:73:00:00:02" in lines
        assert done.stderr == ""

    def test_heeds_router_advertisements_if_told(self, guest: Launcher) -> None:
        script = "cd /proc/sys/net/ipv6/conf; cat eth0/accept_ra eth0/router_solicitations eth0/accept_dad"
        assert guest.run("sh", "-c", script).stdout.split() == ["0", "0", "0"]
        assert guest.run("sh", "-c", script, keys=["accept_ra=1"]).stdout.split() == ["1", "-1", "0"]

    def test_mac_of_the_kernels_choice_is_known(self, guest: Launcher) -> None:
        done = guest.run("sh", "-c", "ip -br link show eth0", keys=["mac=random"])
        said, _, _, shown, _ = done.stdout.split(maxsplit=4)
        assert said == shown

    def test_changes_while_it_runs(self, guest: Launcher) -> None:
        engine = guest.start("sh", "-c", "ip -o addr; ip route; ip -6 route", keys=["hold=1"])
        assert engine.stdin is not None
        assert engine.stdout is not None
        assert engine.stdout.readline() == "ready\n"
        for word, answer in (
            ("change", "done"),
            ("impossible", "cannot set the route 10.0.0.0/8 via 11.0.0.1 on eth0"),
        ):
            engine.stdin.write(f"{word}\n")
            engine.stdin.flush()
            assert engine.stdout.readline().startswith(answer)
        lines = re.sub(r" +", " ", engine.communicate("\n", timeout=10)[0])
        assert engine.returncode == 0
        assert "eth0 inet 172.16.0.9/24" in lines
        assert "eth0 inet6 fd42:6d73:62::2/64" in lines
        assert "eth0 inet6 2001:db8::9/64" in lines
        assert "default via 172.16.0.253 dev eth0" in lines
        assert "default via 2001:db8::1 dev eth0" in lines
        assert "172.16.0.2/30" not in lines

    @pytest.mark.parametrize("kind", ["tcp4", "tcp6", "udp4", "udp6"])
    def test_has_sockets_of_the_engine(self, guest: Launcher, kind: str) -> None:
        """Bound to the guest's own address and a low port: they are in its namespace, and the engine rules there."""
        done = guest.run("true", keys=[f"sockets={kind}:64"])
        address = "172.16.0.2" if kind.endswith("4") else "fd42:6d73:62::2"
        assert done.stdout == f"64 ('{address}', 80) False False\n", done


class TestTap:
    def test_grants_what_the_kernel_knows(self, guest: Launcher) -> None:
        assert self.granted(guest) & 1

    @pytest.mark.parametrize(
        ("names", "mask"),
        [
            ("checksum", 0x01),
            ("checksum,tso4,tso6", 0x07),
            ("checksum,tso4", 0x03),
            ("checksum,uso4", 0x01),  # USO4 and USO6 come together or not at all
            ("tso4", 0x00),  # nothing without the checksum
        ],
    )
    def test_can_be_forced_lower(self, guest: Launcher, names: str, mask: int) -> None:
        assert self.granted(guest, f"offloads={names}") == mask

    @staticmethod
    def granted(guest: Launcher, *keys: str) -> int:
        done = guest.run("true", keys=["tap=1", *keys])
        assert done.status == 0, done
        return int(done.stdout, 16)


class TestSurroundings:
    def test_files_and_name_are_the_guests_own(self, guest: Launcher) -> None:
        done = guest.run("sh", "-c", "cat /etc/resolv.conf /etc/hosts; hostname; echo mine > /etc/resolv.conf; pwd")
        name = f"bucatini-{os.uname().nodename}"[:64]
        assert done.stdout == (
            f"nameserver 172.16.0.1\n127.0.0.1 localhost\n172.16.0.1 host.bucatini.internal\n{name}\n/tmp\n"
        )
        assert done.stderr == ""
        assert "mine" not in Path("/etc/resolv.conf").read_text()

    def test_name_of_the_command_may_be_another(self, guest: Launcher) -> None:
        """As a login shell's, whose own begins with a dash."""
        done = guest.run("sh", "-c", "tr '\\0' ' ' < /proc/$$/cmdline; echo $1", "zero", "one", keys=["argv0=-sh"])
        assert done.stdout.startswith("-sh -c tr "), done
        assert done.stdout.endswith("one\n")

    def test_netns_only_makes_no_user_namespace(self, guest: Launcher) -> None:
        done = guest.run("readlink", "/proc/self/ns/user", keys=["netns_only=1"])
        if guest.user == "root":
            assert done.stdout == os.readlink("/proc/self/ns/user") + "\n"
        else:
            assert done.status == 2
            assert done.stderr.startswith("bucatini: cannot make a network namespace: Operation not permitted")

    def test_host_keeps_its_mounts_and_interfaces(self, guest: Launcher) -> None:
        before = [Path(f"/proc/self/{name}").read_text() for name in ("mountinfo", "net/dev")]
        assert guest.run("sh", "-c", "mount -t tmpfs none /mnt; ip link add b0 type bridge").status == 0
        after = [Path(f"/proc/self/{name}").read_text() for name in ("mountinfo", "net/dev")]
        assert [_names(one) for one in after] == [_names(one) for one in before]

    def test_proc_shows_only_the_guest(self, guest: Launcher) -> None:
        done = guest.run("sh", "-c", "echo /proc/[0-9]*")
        assert done.stdout == "/proc/1 /proc/2\n"

    def test_descriptors_and_signals_are_clean(self, guest: Launcher) -> None:
        done = guest.run("sh", "-c", "ls /proc/self/fd | tr '\\n' ' '; grep -E 'Sig(Blk|Ign)' /proc/self/status")
        assert done.stdout == "0 1 2 3 SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"  # 3 is ls's own

    def test_descriptor_of_the_caller_does_not_leak(self, root_guest: Launcher) -> None:
        with open("/etc/passwd") as leak:
            words = root_guest.words((), ["ls", "/proc/self/fd"])
            done = subprocess.run(
                words,
                env=root_guest.environment,
                pass_fds=[leak.fileno()],
                capture_output=True,
                timeout=30,
                check=False,
            )
        assert done.stdout.split() == [b"0", b"1", b"2", b"3"]

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
    def test_closed_streams_are_empty_ones(self, root_guest: Launcher, tmp_path: Path, closed: str) -> None:
        words = root_guest.words((), ["sh", "-c", f"cat && echo done > {tmp_path}/done"])
        words = ["sh", "-c", f'exec "$@" {closed}', "sh", *words]
        done = subprocess.run(
            words, env=root_guest.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )
        assert done.returncode == 0
        assert (tmp_path / "done").read_text() == "done\n"

    def test_what_the_caller_ignores_stays_ignored(self, root_guest: Launcher) -> None:
        words = ["nohup", *root_guest.words((), ["sh", "-c", "kill -HUP $$; echo alive"])]
        done = subprocess.run(words, env=root_guest.environment, capture_output=True, timeout=30, check=False)
        assert done.stdout == b"alive\n"

    def test_ping_is_allowed(self, guest: Launcher) -> None:
        last = "0" if guest.user == "ordinary" else "2147483647"
        assert guest.run("cat", "/proc/sys/net/ipv4/ping_group_range").stdout.split() == ["0", last]

    def test_ordinary_user_is_root_inside_only(self, guest: Launcher) -> None:
        done = guest.run("sh", "-c", "id -u; cat /proc/self/uid_map")
        inside, outside = done.stdout.split()[0], done.stdout.split()[2]
        assert inside == "0"
        assert outside == ("54321" if guest.user == "ordinary" else "0")

    def test_init_cannot_be_traced_by_an_ordinary_users_command(self, guest: Launcher) -> None:
        done = guest.run("sh", "-c", "readlink /proc/1/exe || echo refused")
        assert ("refused" in done.stdout) == (guest.user == "ordinary")


def _names(table: str) -> list[str]:
    """Without counters and ids, which change by themselves."""
    return sorted(re.sub(r"[0-9:]+", " ", line) for line in table.splitlines())


class TestSignals:
    @pytest.mark.parametrize("name", ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2", "WINCH"])
    def test_reach_the_command(self, guest: Launcher, name: str) -> None:
        engine = guest.start("sh", "-c", f"trap 'exit 42' {name}; echo up; while :; do sleep 0.02; done")
        assert engine.stdout is not None
        assert engine.stdout.readline() == "up\n"
        engine.send_signal(getattr(signal, f"SIG{name}"))
        assert engine.wait(10) == 42
        engine.communicate()

    def test_reach_the_whole_group(self, guest: Launcher) -> None:
        engine = guest.start("sh", "-c", "sleep 1000; echo after")
        guest.find("sleep 1000")
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(10) == 128 + signal.SIGTERM
        assert engine.communicate()[0] == ""

    def test_second_sigterm_kills(self, guest: Launcher) -> None:
        engine = guest.start("sh", "-c", "trap : TERM; echo up; while :; do sleep 0.02; done")
        assert engine.stdout is not None
        assert engine.stdout.readline() == "up\n"
        engine.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            engine.wait(0.7)
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(5) == 128 + signal.SIGKILL
        engine.communicate()

    @pytest.mark.slow
    def test_patience_with_one_sigterm_ends_after_ten_seconds(self, root_guest: Launcher) -> None:
        engine = root_guest.start("sh", "-c", "trap : TERM; echo up; while :; do sleep 0.1; done")
        assert engine.stdout is not None
        assert engine.stdout.readline() == "up\n"
        engine.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            engine.wait(9)
        assert engine.wait(5) == 128 + signal.SIGKILL
        engine.communicate()

    def test_timeout_is_one_request(self, root_guest: Launcher) -> None:
        """timeout(1) signals its child and then the whole group: the command still gets its time."""
        script = "trap 'sleep 0.1; exit 42' TERM; while :; do sleep 0.02; done"
        words = ["timeout", "--preserve-status", "1", *root_guest.words((), ["sh", "-c", script])]
        done = subprocess.run(words, env=root_guest.environment, capture_output=True, timeout=30, check=False)
        assert done.returncode == 42


class TestDeaths:
    def test_engine_killed_command_lives_on_without_network(self, guest: Launcher) -> None:
        watch = "echo up; while grep -q eth0 /proc/net/dev; do sleep 0.02; done; read line; exec sleep 1000"
        engine = guest.start("sh", "-c", watch)
        assert engine.stdout is not None
        assert engine.stdin is not None
        assert engine.stdout.readline() == "up\n"
        engine.kill()
        engine.wait(10)
        engine.stdin.write("go on\n")
        engine.stdin.flush()
        command = guest.find("sleep 1000")  # it saw its interface go, and did not go itself
        left = eventually(lambda: found if len(found := guest.processes()) == 2 else None)
        assert command in left  # and init; the agent left with the engine
        os.kill(command, signal.SIGTERM)
        assert guest.gone()
        engine.communicate()

    def test_engine_killed_before_the_start_leaves_nothing(self, guest: Launcher) -> None:
        engine = guest.start("sleep", "1000", keys=["hold=1"])
        assert engine.stdout is not None
        assert engine.stdout.readline() == "ready\n"
        engine.kill()
        engine.wait(10)
        assert guest.gone()
        engine.communicate()

    def test_command_killed(self, guest: Launcher) -> None:
        engine = guest.start("sleep", "1000")
        os.kill(guest.find("sleep 1000"), signal.SIGKILL)
        assert engine.wait(10) == 128 + signal.SIGKILL
        engine.communicate()

    def test_init_killed(self, guest: Launcher) -> None:
        engine = guest.start("sleep", "1000")
        os.kill(parent(guest.find("sleep 1000")), signal.SIGKILL)
        assert engine.wait(10) == 128 + signal.SIGKILL
        engine.communicate()

    def test_agent_killed_ends_the_guest(self, guest: Launcher) -> None:
        engine = guest.start("sleep", "1000")
        agent = parent(parent(guest.find("sleep 1000")))
        assert agent != engine.pid
        os.kill(agent, signal.SIGKILL)
        assert engine.wait(10) == 2
        assert engine.communicate()[1] == "bucatini: the guest's agent ended before the command\n"

    def test_agent_is_deaf_to_a_signal_for_everybody(self, guest: Launcher) -> None:
        """As a service manager stops a service: every process gets SIGTERM. The command decides when it is over."""
        engine = guest.start("sh", "-c", "trap 'sleep 0.1; exit 9' TERM; echo up; while :; do sleep 0.02; done")
        assert engine.stdout is not None
        assert engine.stdout.readline() == "up\n"
        for pid, line in guest.processes().items():
            if not line.startswith("sleep"):
                os.kill(pid, signal.SIGTERM)
        assert engine.wait(10) == 9
        engine.communicate()


class TestRefusals:
    def refused(self, done: Done) -> str:
        """One line, status 2."""
        assert done.status == 2, done
        assert done.stderr.count("\n") == 1
        return done.stderr

    def test_no_tun_device(self, guest: Launcher) -> None:
        said = self.refused(guest.run("true", before="umount /dev/net/tun 2>/dev/null || :; mount -t tmpfs x /dev/net"))
        assert said.startswith("bucatini: cannot open /dev/net/tun: No such file or directory: load the module tun")

    def test_tun_device_not_for_us(self, sources: Path) -> None:
        interpreter("ordinary")
        done = Launcher("ordinary", sources).run(
            "true", before="mount -t tmpfs x /dev/net; touch /dev/net/tun; chmod 600 /dev/net/tun"
        )
        assert "cannot open /dev/net/tun: Permission denied: its mode must let you" in self.refused(done)

    def test_user_namespaces_used_up(self, sources: Path) -> None:
        """Inside a user namespace whose limit is 0, and whose root may not make a network namespace."""
        launcher = Launcher("root", sources)
        limit = "echo 0 > /proc/sys/user/max_user_namespaces"
        words = launcher.words((), ["true"])
        done = subprocess.run(
            [
                "unshare",
                "--user",
                "--map-root-user",
                "sh",
                "-ec",
                f'{limit}; exec setpriv --bounding-set=-all "$@"',
                "sh",
                *words,
            ],
            env=launcher.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        said = self.refused(Done(done.returncode, done.stdout, done.stderr))
        assert "cannot make a user namespace" in said
        assert "user.max_user_namespaces" in said

    def test_unknown_interface_name(self, guest: Launcher) -> None:
        said = self.refused(guest.run("true", keys=["interface=a/b"]))
        assert "is 'a/b' a name for an interface?" in said

    def test_mtu_the_kernel_refuses(self, guest: Launcher) -> None:
        said = self.refused(guest.run("true", keys=["mtu=70000"]))
        assert said == "bucatini: cannot set eth0 to MAC 02:6d:73:00:00:02, MTU 70000: Invalid argument\n"

    def test_root_without_privilege_takes_the_ordinary_way(self, root_guest: Launcher) -> None:
        words = root_guest.words((), ["cat", "/proc/self/uid_map"])
        done = subprocess.run(
            ["setpriv", "--bounding-set=-sys_admin", *words],
            env=root_guest.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stdout.split() == ["0", "0", "1"], done.stderr


def test_guests_processes_import_no_asyncio(sources: Path) -> None:
    """What is imported before the first fork delays the command and stays in the memory of three processes."""
    code = "import sys, bucatini.host.guest; print(*sys.modules)"
    environment = {"PYTHONPATH": str(sources), "PATH": os.defpath}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert {"asyncio", "dataclasses", "inspect", "pyroute2", "msgspec"}.isdisjoint(done.stdout.split())
