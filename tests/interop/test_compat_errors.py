"""The installed commands as other programs start them: help, version, and one clear line with status 1 for the rest."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from bucatini.cli import compat

NOWHERE = "/nonexistent/folder/x"
STAY = "--runas 0:0 " if os.geteuid() == 0 else ""
"""Options with which pasta started as root neither becomes somebody else nor says so."""


class Commands:
    """`bucatini compat install` done once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        compat.install(str(folder), compat.NAMES)

    def __call__(
        self, *words: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / words[0], *words[1:]],
            env=os.environ if environment is None else environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    for module in compat.NAMES.values():
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no {module}")
    return Commands(tmp_path_factory.mktemp("compat"))


@pytest.fixture(params=list(compat.NAMES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def check_line(done: subprocess.CompletedProcess[str], name: str, *words: str) -> None:
    """Status 1, nothing on stdout, one line on stderr that begins with the command and says these words."""
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"{name}: ")
    for word in words:
        assert word in done.stderr


class TestAnswers:
    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_help(self, commands: Commands, name: str, option: str) -> None:
        done = commands(name, option)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: {name} ")

    @pytest.mark.parametrize("getopt_name", ["passt", "pasta", "slirp4netns"])
    def test_abbreviated_where_getopt_is_the_grammar(self, commands: Commands, getopt_name: str) -> None:
        done = commands(getopt_name, "--hel")
        assert (done.returncode, done.stderr) == (0, "")

    def test_help_into_a_pipe_that_closes(self, commands: Commands, name: str) -> None:
        done = subprocess.run(
            ["sh", "-c", '"$0" --help | true', commands.folder / name], capture_output=True, timeout=30, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")

    def test_version(self, commands: Commands, name: str) -> None:
        done = commands(name, "--version")
        assert (done.returncode, done.stderr) == (0, "")
        assert re.match(rf"{name} .*\d+\.\d+", done.stdout)

    @pytest.mark.parametrize(
        "option",
        "netns-type enable-ipv6 cidr disable-host-loopback api-socket enable-sandbox enable-seccomp mtu".split(),
    )
    def test_what_rootlesskit_and_podman_look_for(self, commands: Commands, option: str) -> None:
        assert f"--{option}" in commands("slirp4netns", "--help").stdout


class TestStart:
    """Whoever starts a command, it runs this package."""

    def test_in_a_hostile_environment(self, commands: Commands, name: str, tmp_path: Path) -> None:
        for module in ("bucatini", "msgspec", "socket", "os"):
            (tmp_path / f"{module}.py").write_text("raise SystemExit('the wrong module')\n")
        environment = {
            "PYTHONPATH": str(tmp_path),
            "PYTHONHOME": NOWHERE,
            "PYTHONSTARTUP": str(tmp_path / "os.py"),
            "PYTHONWARNINGS": "error",
            "LC_ALL": "C",
        }
        done = commands(name, "--version", environment=environment, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")

    def test_in_no_environment(self, commands: Commands, name: str) -> None:
        assert commands(name, "--version", environment={}, cwd=Path("/")).returncode == 0

    def test_by_way_of_path_and_of_a_link(self, commands: Commands, name: str, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(commands.folder / name)
        assert (
            subprocess.run([tmp_path / "link", "--version"], capture_output=True, timeout=30, check=False).returncode
            == 0
        )
        found = subprocess.run(
            ["sh", "-c", f"{name} --version"],
            env={"PATH": f"{commands.folder}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (found.returncode, "bucatini" in found.stdout) == (0, True)

    @pytest.mark.parametrize("value", ["1", "0"])
    def test_the_form_can_be_chosen(self, commands: Commands, tmp_path: Path, value: str) -> None:
        head, call = (commands.folder / "pasta").read_text().split("from bucatini.cli.pasta", 1)
        assert call == " import main\nsys.exit(main())\n"
        script = tmp_path / "form"
        script.write_text(head + "import bucatini\nfrom bucatini._build import form\nprint(form())\n")
        script.chmod(0o755)
        done = subprocess.run(
            [script], env={"BUCATINI_PURE": value}, capture_output=True, text=True, timeout=30, check=True
        )
        assert (done.stdout == "pure: BUCATINI_PURE is set\n") == (value == "1")

    def test_with_standard_streams_closed(self, commands: Commands, name: str) -> None:
        done = subprocess.run(
            ["sh", "-c", 'exec "$0" --version <&- >&- 2>&-', commands.folder / name],
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0


class TestPasta:
    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("-m 67", ["--mtu '67'", "68 to 65535"]),
            ("-a 127.0.0.1", ["--address '127.0.0.1'"]),
            ("-n 33", ["--netmask '33'"]),
            ("-M xx", ["--mac-addr 'xx'"]),
            ("-t 80 --no-tcp", ["--tcp-ports '80'"]),
            ("-t all", ["'all'"]),
            ("-t none -t 22", ["--tcp-ports"]),
            ("-t x", ["'x'"]),
            ("-T 127.0.0.1/22", ["'127.0.0.1/22'"]),
            ("--netns box 1", ["--netns 'box'"]),
            ("--netns box true", ["--netns 'box'"]),
            ("-1", ["--one-off"]),
            ("-F 3", ["--fd"]),
            ("--no-copy-routes", ["--config-net"]),
            ("--log-size 1", ["--log-size '1'", "40960"]),
            (f"-l {NOWHERE}", [NOWHERE]),
            (f"-P {NOWHERE}", [NOWHERE]),
            ("--runas no-such-user", ["no-such-user"]),
            (f"{STAY}-i no-such-if", ["no-such-if"]),
            ("-- -5", ["PID '-5'"]),
        ],
    )
    @pytest.mark.parametrize("how", ["", "-f "])
    def test_one_line(self, commands: Commands, line: str, words: list[str], how: str) -> None:
        target = "" if "netns" in line or "--" in line.split() else " true"
        check_line(commands("pasta", *f"{how}{line}{target}".split()), "pasta", *words)

    @pytest.mark.parametrize("target", ["--netns no-such-name", f"--netns {NOWHERE}", "2147483647"])
    @pytest.mark.parametrize("how", ["", "-f "])
    def test_a_namespace_that_is_none(self, commands: Commands, target: str, how: str) -> None:
        check_line(commands("pasta", *f"{how}{STAY}{target}".split()), "pasta")

    @pytest.mark.parametrize("line", ["--bogus", "-z", "--no-", "-m", "--map-gw", "-f=1"])
    def test_usage(self, commands: Commands, line: str) -> None:
        done = commands("pasta", line)
        assert (done.returncode, done.stdout) == (1, "")
        first, *usage = done.stderr.splitlines()
        assert first.startswith("pasta: ")
        assert usage[0].startswith("usage: pasta ")

    def test_nothing_is_written_on_a_mistake(self, commands: Commands, tmp_path: Path) -> None:
        line = f"-P {tmp_path}/pid -p {tmp_path}/pcap -l {tmp_path}/log -m x true"
        assert commands("pasta", *line.split()).returncode == 1
        assert list(tmp_path.iterdir()) == []


class TestSlirp:
    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("x tap0", ["PID 'x'"]),
            ("-m 65522 1 tap0", ["--mtu '65522'"]),
            ("--cidr 24 1 tap0", ["invalid CIDR"]),
            ("--cidr 10.0.2.100/24 1 tap0", ["CIDR needs to be a network address like 10.0.2.0/24"]),
            ("--cidr 10.0.2.0/26 1 tap0", ["prefix length needs to be 1-25"]),
            ("--macaddress=02:00:00:00:00:01 1 tap0", ["--configure"]),
            ("--target-type=bess /tmp/x", ["bess", "not supported"]),
            ("2147483647 tap0", []),
            (f"--netns-type=path {NOWHERE} tap0", [NOWHERE]),
        ],
    )
    def test_one_line(self, commands: Commands, line: str, words: list[str]) -> None:
        check_line(commands("slirp4netns", *line.split()), "slirp4netns", *words)

    @pytest.mark.parametrize("line", ["", "1", "--bogus 1 tap0", "--enable-s 1 tap0", "-m"])
    def test_usage(self, commands: Commands, line: str) -> None:
        done = commands("slirp4netns", *line.split())
        assert (done.returncode, done.stdout) == (1, "")
        first, *usage = done.stderr.splitlines()
        assert first.startswith("slirp4netns: ")
        assert usage[0].startswith("usage: slirp4netns ")


def test_the_verb_of_bucatini(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "bucatini", "compat"]
    done = subprocess.run([*run, "install", tmp_path], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*run, "install", tmp_path, "x"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
