"""host.attach on the real kernel: who may join which namespace, what is set up there, what is left, refusals."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from bucatini.base.errors import HostError
from bucatini.host.attach import AttachSettings, attach, netns_paths
from support.forked import in_child
from support.guests import ORDINARY, PATIENCE, Launcher, eventually, interpreter, readable_sources

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun"),
]

IDENTITY = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]
OWN_USER = ["--user", "--map-root-user", "--net"]


@pytest.fixture(scope="module")
def sources() -> Iterator[Path]:
    with readable_sources() as folder:
        yield folder


class Engine:
    """A running driver that is attached, or the reason it is not."""

    def __init__(self, launcher: Launcher, words: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=launcher.environment,
            cwd="/tmp",
            text=True,
        )

    def line(self) -> str:
        """The next line it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def order(self, word: str) -> str:
        """Say something; what it answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.line()

    def end(self) -> tuple[int, str]:
        """Close its stdin; status and what it said on stderr."""
        _, said = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, said


@contextmanager
def attached(launcher: Launcher, target: str, *keys: str, ends: bool = True) -> Iterator[Engine]:
    """A driver attached to `target` that says it is ready."""
    engine = Engine(launcher, launcher.words([f"attach={target}", *keys], []))
    try:
        lines = []
        while (line := engine.line()) not in ("ready", ""):
            lines.append(line)
        assert line == "ready", engine.end()
        yield engine
        if ends:
            assert engine.end() == (0, "")
    finally:
        engine.process.kill()
        engine.process.communicate()


def refused(launcher: Launcher, target: str, *keys: str) -> str:
    """What a driver says that cannot attach: one line, at once."""
    status, said = Engine(launcher, launcher.words([f"attach={target}", *keys], [])).end()
    assert status == 2
    assert said.count("\n") == 1
    return said


@contextmanager
def sleeper(*flags: str, user: str = "root") -> Iterator[int]:
    """A process in namespaces of its own."""
    identity = IDENTITY if user == "ordinary" else []
    words = [*identity, "unshare", *flags, "sh", "-c", "echo up; exec sleep 1000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process.pid
        finally:
            process.kill()


def ip(pid: int, *words: str) -> str:
    """What ip(8) says inside, blanks squeezed."""
    done = subprocess.run(
        ["nsenter", f"--target={pid}", "--net", "ip", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return re.sub(r" +", " ", done.stdout)


def network(pid: int) -> str:
    return "".join(ip(pid, *words.split()) for words in ("-o addr", "route", "-6 route", "link show eth0"))


def expect_configured(pid: int) -> None:
    # Without duplicate address detection too, the kernel leaves it to a work queue to call an address valid.
    lines = eventually(lambda: found if "tentative" not in (found := network(pid)) else "")
    for expected in (
        "lo inet 127.0.0.1/8",
        "eth0 inet 172.16.0.2/30",
        "eth0 inet6 fd42:6d73:62::2/64",
        "eth0 inet6 fe80::6d:73ff:fe00:2/64",
        "default via 172.16.0.1 dev eth0",
        "default via fd42:6d73:62::1 dev eth0",
        "mtu 1500",
        "qlen 10000",
        "link/ether 02:6d:73:00:00:02",
    ):
        assert expected in lines


def reachable_interpreter() -> str:
    """A Python whose path an ordinary user may walk by themselves; setpriv(1) still has root's rights when it does."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        version = f"exec {candidate} -c 'import sys, ctypes; sys.exit(sys.version_info < (3, 11))'"
        if subprocess.run([*IDENTITY, "sh", "-c", version], capture_output=True, cwd="/", check=False).returncode == 0:
            return candidate
    pytest.skip("no Python 3.11 in a folder that an ordinary user may enter")


class TestWhoMay:
    @pytest.mark.parametrize(
        ("owner", "flags"),
        [("root", ["--net"]), ("root", OWN_USER), ("ordinary", OWN_USER)],
        ids=["plain", "own user namespace", "somebody's user namespace"],
    )
    def test_root_may_always(self, sources: Path, owner: str, flags: list[str]) -> None:
        launcher = Launcher("root", sources)
        with sleeper(*flags, user=owner) as pid:
            with attached(launcher, str(pid), "sockets=tcp4:64") as engine:
                expect_configured(pid)
                assert engine.process.poll() is None
            assert "eth0" not in ip(pid, "link")
        assert launcher.gone()

    def test_root_needs_no_user_namespace(self, sources: Path) -> None:
        with sleeper(*OWN_USER, user="ordinary") as pid, attached(Launcher("root", sources), f"/proc/{pid}/ns/net"):
            expect_configured(pid)

    def test_ordinary_user_may_where_they_made_the_user_namespace(self, sources: Path) -> None:
        interpreter("ordinary")
        launcher = Launcher("ordinary", sources)
        with sleeper(*OWN_USER, user="ordinary") as pid:
            with attached(launcher, str(pid), "sockets=udp6:1"):
                expect_configured(pid)
            assert "eth0" not in ip(pid, "link")
            paths = (f"/proc/{pid}/ns/net", f"userns=/proc/{pid}/ns/user")
            with attached(launcher, *paths):
                expect_configured(pid)
        assert launcher.gone()

    @pytest.mark.parametrize("joins", ["by process", "by path"])
    def test_root_of_a_user_namespace_may_inside(self, sources: Path, joins: str) -> None:
        """As Podman's helper: already in the user namespace the network namespace belongs to."""
        python = reachable_interpreter()
        launcher = Launcher("ordinary", sources)
        target = {"by process": "attach=$!", "by path": "attach=/proc/$!/ns/net"}[joins]
        inside = (
            "unshare --net sleep 1000 & trap 'kill $!' EXIT; me=$(readlink /proc/self/ns/net);"
            'while [ "$(readlink /proc/$!/ns/net)" = "$me" ]; do sleep 0.01; done; echo $!;'
            f'"$@" {target} --'
        )
        words = launcher.words(["sockets=tcp4:2"], [])
        driver = words.index(str(sources / "launch_guest.py"))
        wrapped = [*words[: driver - 1], "unshare", "--user", "--map-root-user", "sh", "-c", inside, "sh", python]
        engine = Engine(launcher, [*wrapped, *words[driver:-1]])
        try:
            pid = int(engine.line())
            assert engine.line() == "2 ('172.16.0.2', 80) False False", engine.end()
            assert engine.line() == "ready"
            expect_configured(pid)
            assert engine.end() == (0, "")
        finally:
            engine.process.kill()
        assert launcher.gone()

    def test_somebody_with_capabilities_may(self, sources: Path, tmp_path: Path) -> None:
        """As an engine that root started and that became nobody: CAP_SYS_ADMIN and CAP_NET_ADMIN are kept."""
        interpreter("ordinary")
        launcher = Launcher("ordinary", sources)
        kept = ["--inh-caps=+sys_admin,+net_admin", "--ambient-caps=+sys_admin,+net_admin"]
        name = f"bucatini-{uuid.uuid4().hex[:8]}"
        subprocess.run(["ip", "netns", "add", name], check=True, timeout=PATIENCE)
        try:
            words = launcher.words([f"attach={name}"], [])
            place = words.index("-ec") + 1
            words[place] = words[place].replace("--clear-groups", f"--clear-groups {' '.join(kept)}")
            engine = Engine(launcher, words)
            assert engine.line() == "ready", engine.end()
            done = subprocess.run(
                ["ip", "-n", name, "-o", "addr"], capture_output=True, text=True, check=True, timeout=PATIENCE
            )
            assert "172.16.0.2/30" in done.stdout
            assert "tentative" not in done.stdout
            assert engine.end() == (0, "")
        finally:
            subprocess.run(["ip", "netns", "delete", name], check=False, timeout=PATIENCE)


class TestNetwork:
    def test_may_be_left_alone(self, sources: Path) -> None:
        """As DHCP and SLAAC need it: the interface is there, and nothing else."""
        with sleeper("--net") as pid:
            before = self.settings(pid)
            with attached(Launcher("root", sources), str(pid), "configure=0", "mtu=1400", "ipv4=0"):
                link = json.loads(ip(pid, "-j", "link", "show", "eth0"))[0]
                assert (link["address"], link["mtu"], "UP" in link["flags"]) == ("02:6d:73:00:00:02", 1500, False)
                assert "UP" in json.loads(ip(pid, "-j", "link", "show", "lo"))[0]["flags"]
                assert "eth0" not in ip(pid, "-o", "addr")
                assert self.settings(pid, "eth0") == self.settings(pid, "default")
                ip(pid, "link", "set", "eth0", "up")
                eventually(lambda: "fe80::" in ip(pid, "-o", "-6", "addr"))
            assert self.settings(pid) == before

    def test_namespace_keeps_its_settings(self, sources: Path) -> None:
        with sleeper("--net") as pid:
            before = self.settings(pid)
            with attached(Launcher("root", sources), str(pid)):
                assert self.settings(pid) == before
                assert self.settings(pid, "eth0") == {
                    "accept_dad": "0",
                    "accept_ra": "0",
                    "router_solicitations": "0",
                    "disable_ipv6": "0",
                }

    def test_router_advertisements_may_be_heeded(self, sources: Path) -> None:
        with sleeper("--net") as pid, attached(Launcher("root", sources), str(pid), "accept_ra=1"):
            expect_configured(pid)
            found, default = self.settings(pid, "eth0"), self.settings(pid, "default")
            for name in ("accept_ra", "router_solicitations"):
                assert found[name] == default[name]
            assert found["accept_dad"] == "0"

    @staticmethod
    def settings(pid: int, of: str = "all") -> dict[str, str]:
        """sysctls inside, whose files show those of the reader's namespace."""
        names = ("accept_dad", "accept_ra", "router_solicitations", "disable_ipv6")
        script = "".join(f"cat /proc/sys/net/ipv6/conf/{of}/{name};" for name in names)
        words = ["nsenter", f"--target={pid}", "--net", "sh", "-c", f"{script} cat /proc/sys/net/ipv4/ping_group_range"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=PATIENCE)
        values = done.stdout.splitlines()
        return dict(zip((*names, "ping") if of == "all" else names, values, strict=False))

    def test_mac_of_the_kernels_choice_is_known(self, sources: Path) -> None:
        launcher = Launcher("root", sources)
        with sleeper("--net") as pid:
            engine = Engine(launcher, launcher.words([f"attach={pid}", "mac=random"], []))
            said = engine.line()
            assert engine.line() == "ready"
            assert json.loads(ip(pid, "-j", "link", "show", "eth0"))[0]["address"] == said
            assert said != "02:6d:73:00:00:02"
            assert engine.end()[0] == 0


class TestChange:
    def test_replaces_what_is_not_in_the_new_set(self, sources: Path) -> None:
        with sleeper("--net") as pid, attached(Launcher("root", sources), str(pid)) as engine:
            ip(pid, "addr", "add", "192.0.2.77/32", "dev", "eth0")
            kept = "eth0 inet6 fd42:6d73:62::2/64"
            before = ip(pid, "-o", "addr")
            assert kept in before
            assert engine.order("change") == "done"
            lines = network(pid)
            for expected in (
                "eth0 inet 172.16.0.9/24",
                "eth0 inet 192.0.2.77/32",
                kept,
                "eth0 inet6 2001:db8::9/64",
                "default via 172.16.0.253 dev eth0",
                "10.0.0.0/8 via 172.16.0.254 dev eth0",
                "default via 2001:db8::1 dev eth0",
            ):
                assert expected in lines
            for gone in ("172.16.0.2/30", "via 172.16.0.1 ", "via fd42:6d73:62::1 "):
                assert gone not in lines
            assert "tentative" not in lines

    def test_twice_is_once(self, sources: Path) -> None:
        with sleeper("--net") as pid, attached(Launcher("root", sources), str(pid)) as engine:
            assert engine.order("change") == "done"
            once = network(pid)
            assert engine.order("change") == "done"
            assert network(pid) == once

    def test_impossible_part_is_told_and_the_rest_done(self, sources: Path) -> None:
        with sleeper("--net") as pid, attached(Launcher("root", sources), str(pid)) as engine:
            said = engine.order("impossible")
            assert said == "cannot set the route 10.0.0.0/8 via 11.0.0.1 on eth0: Network is unreachable"
            assert "default via 172.16.0.253 dev eth0" in network(pid)
            assert engine.order("change") == "done"

    def test_nothing_happens_to_a_guest_that_configures_itself(self, sources: Path) -> None:
        with sleeper("--net") as pid, attached(Launcher("root", sources), str(pid), "configure=0") as engine:
            before = network(pid)
            assert engine.order("change") == "done"
            assert network(pid) == before

    def test_of_an_interface_that_was_renamed_is_told(self, sources: Path) -> None:
        with sleeper("--net") as pid, attached(Launcher("root", sources), str(pid)) as engine:
            ip(pid, "link", "set", "eth0", "down")
            ip(pid, "link", "set", "eth0", "name", "other0")
            assert engine.order("change") == "cannot change eth0: there is no interface of this name any more"


class TestEnds:
    def test_engine_killed(self, sources: Path) -> None:
        launcher = Launcher("root", sources)
        with sleeper("--net") as pid:
            with attached(launcher, str(pid), ends=False) as engine:
                engine.process.kill()
                engine.process.communicate()
                eventually(lambda: "eth0" not in ip(pid, "link"))
            assert launcher.gone()

    def test_agent_is_deaf_to_signals_and_its_end_is_seen(self) -> None:
        def ends() -> tuple[bool, bool, bool, list[str]]:
            with sleeper("--net") as pid:
                netns, userns = netns_paths(str(pid))
                guest = attach(AttachSettings(netns, userns, interface="eth0"))
                tap = guest.tap()
                os.kill(guest.agent_id, signal.SIGTERM)
                deaf = not select.select([guest.agent_ended], [], [], 0.1)[0]
                os.kill(guest.agent_id, signal.SIGKILL)
                seen = bool(select.select([guest.agent_ended], [], [], PATIENCE)[0])
                stays = "eth0" in ip(pid, "link")
                failures = []
                for use in (lambda: guest.factory.create("tcp4", 1), lambda: guest.reconfigure((), (), ())):
                    try:
                        use()
                    except HostError as error:
                        failures.append(str(error))
                guest.close()
                os.close(tap.descriptor)
                return deaf, seen, stays, failures

        deaf, seen, stays, failures = in_child(ends)
        assert (deaf, seen, stays) == (True, True, True)
        assert failures == [
            "cannot ask for sockets in the guest: Broken pipe",
            "cannot change the guest's network: Broken pipe",
        ]

    def test_closing_leaves_no_descriptor_and_no_child(self) -> None:
        def left() -> tuple[set[str], bool]:
            with sleeper("--net") as pid:
                before = set(os.listdir("/proc/self/fd"))
                guest = attach(AttachSettings(f"/proc/{pid}/ns/net", None, addresses=((bytes([10, 0, 0, 1]), 8),)))
                tap = guest.tap()
                guest.reconfigure((), (), ())
                guest.close()
                guest.close()
                os.close(tap.descriptor)
                after = set(os.listdir("/proc/self/fd"))
                try:
                    os.kill(guest.agent_id, 0)
                except ProcessLookupError:
                    return after - before, True
                return after - before, False

        assert in_child(left) == (set(), True)

    def test_closing_before_the_tap_came(self) -> None:
        def left() -> str:
            with sleeper("--net") as pid:
                guest = attach(AttachSettings(f"/proc/{pid}/ns/net", None))
                guest.close()
                return ip(pid, "link")

        assert "tap0" not in in_child(left)


class TestRefusals:
    @pytest.fixture
    def root(self, sources: Path) -> Launcher:
        return Launcher("root", sources)

    @pytest.fixture
    def ordinary(self, sources: Path) -> Launcher:
        interpreter("ordinary")
        return Launcher("ordinary", sources)

    def test_no_such_process(self, root: Launcher) -> None:
        assert refused(root, "4194305") == "bucatini: there is no process 4194305\n"

    def test_no_such_name(self, root: Launcher) -> None:
        name = "bucatini-no-such-name"
        assert refused(root, name) == f"bucatini: there is no network namespace /run/netns/{name}\n"

    @pytest.mark.parametrize("path", ["/etc/passwd", "/dev/null", "/proc/self/ns/user", "/"])
    def test_no_network_namespace(self, root: Launcher, path: str) -> None:
        assert refused(root, path) == f"bucatini: {path} is not a network namespace\n"

    def test_pipe_does_not_block(self, root: Launcher, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert refused(root, f"{tmp_path}/pipe") == f"bucatini: {tmp_path}/pipe is not a network namespace\n"

    def test_no_user_namespace(self, root: Launcher) -> None:
        with sleeper("--net") as pid:
            said = refused(root, str(pid), f"userns=/proc/{pid}/ns/net")
            assert said == f"bucatini: /proc/{pid}/ns/net is not a user namespace\n"

    def test_user_namespace_left_out(self, ordinary: Launcher) -> None:
        with sleeper(*OWN_USER, user="ordinary") as pid:
            path = f"/proc/{pid}/ns/net"
            assert refused(ordinary, path) == (
                f"bucatini: cannot join the network namespace {path}: Operation not permitted:"
                " name the user namespace it belongs to with --userns, or be root\n"
            )

    def test_another_user_namespace(self, ordinary: Launcher) -> None:
        with sleeper(*OWN_USER, user="ordinary") as pid, sleeper(*OWN_USER, user="ordinary") as other:
            said = refused(ordinary, str(pid), f"userns=/proc/{other}/ns/user")
            assert f"does it belong to the user namespace /proc/{other}/ns/user? Name its own with --userns" in said

    def test_process_of_somebody_else(self, ordinary: Launcher) -> None:
        with sleeper("--net") as pid:
            assert refused(ordinary, str(pid)) == (
                f"bucatini: cannot open /proc/{pid}/ns/net: Permission denied: process {pid} is somebody else's,"
                " or has more rights than we; be its user or root\n"
            )

    @pytest.mark.parametrize("name", ["lo", "eth7"])
    def test_interface_exists(self, root: Launcher, name: str) -> None:
        with sleeper("--net") as pid:
            ip(pid, "link", "add", "eth7", "type", "veth", "peer", "name", "eth8")
            said = refused(root, str(pid), f"interface={name}")
            assert said == f"bucatini: there is an interface '{name}' already: choose another name\n"

    @pytest.mark.parametrize("name", ["", "sixteen-bytes-xx", "tap%d", "a/b"])
    def test_no_name_for_an_interface(self, root: Launcher, name: str) -> None:
        with sleeper("--net") as pid:
            said = refused(root, str(pid), f"interface={name}")
            assert said.endswith(f"Invalid argument: is {name!r} a name for an interface?\n")
