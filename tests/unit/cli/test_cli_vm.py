"""The words of `bucatini vm`, the configuration they make, and the one line that says what is wrong with them."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest

from bucatini.api.vm import ACCEPTED
from bucatini.base.errors import ConfigError
from bucatini.cli import options
from bucatini.cli.main import main
from bucatini.cli.vm import make_parser
from bucatini.config.arguments import vm_config
from bucatini.config.vm import LinkSpec, VmConfig, VmGuest

PATIENCE = 20.0


def configured(*words: str) -> VmConfig:
    parsed = options.parse(make_parser(), words)
    assert parsed is not None
    arguments, rest = parsed
    assert rest == []
    return vm_config(arguments)


# -- words


@pytest.mark.parametrize("kind", ["socket", "vhost-user", "dgram", "seqpacket"])
def test_each_kind_of_link(kind: str) -> None:
    expected = (VmGuest(link=LinkSpec(kind, "a")),)  # type: ignore[arg-type]
    assert configured(f"--{kind}", "a").guests == expected
    assert configured(f"--{kind}=a").guests == expected


def test_links_by_number_and_by_name() -> None:
    assert configured("--fd", "3").guests[0].link == LinkSpec("fd", "3")
    assert configured("--tap", "tap0").guests[0].link == LinkSpec("tap", "tap0")


@pytest.mark.parametrize(("written", "seconds"), [("1", 1), ("3600", 3600), ("infinite", 0xFFFFFFFF)])
def test_the_lease_time(written: str, seconds: int) -> None:
    assert configured("--fd", "3").network.lease == 600
    assert configured("--fd", "3", "--lease-time", written).network.lease == seconds


@pytest.mark.parametrize("written", ["0", "-1", "soon", "4294967295", "1.5", ""])
def test_a_lease_time_that_cannot_be(written: str) -> None:
    with pytest.raises(ConfigError, match="--lease-time '.*': must be a number from 1 to 4294967294"):
        configured("--fd", "3", f"--lease-time={written}")


def test_guests_are_in_the_order_of_their_links() -> None:
    config = configured("--socket", "a", "--fd", "3", "--dgram", "b,c", "--socket", "d")
    assert [str(guest.link) for guest in config.guests] == ["--socket a", "--fd 3", "--dgram b,c", "--socket d"]


def test_ports_belong_to_the_link_before_them() -> None:
    words = "--socket a -p 8080:80 -t 22 --socket b -p 8081:80 -p 8082:81 -u 53 --socket c"
    first, second, third = configured(*words.split()).guests
    assert (first.publish, first.tcp_in, first.udp_in) == (("8080:80",), ("22",), ())
    assert (second.publish, second.tcp_in, second.udp_in) == (("8081:80", "8082:81"), (), ("53",))
    assert (third.publish, third.tcp_in, third.udp_in) == ((), (), ())


def test_ports_before_any_link_are_the_first_guests() -> None:
    words = "-p 8080:80 -t 22 --socket a -p 8081:81 --socket b -p 8082:82 -t 23"
    first, second = configured(*words.split()).guests
    assert (first.publish, first.tcp_in) == (("8080:80", "8081:81"), ("22",))
    assert (second.publish, second.tcp_in) == (("8082:82",), ("23",))


def test_other_options_are_everybodys_wherever_they_stand() -> None:
    config = configured(*"--socket a --mtu 1400 --socket b --slot 3 --one-off --deny private -v".split())
    assert [config.of_guest(number).network.mtu for number in range(2)] == [1400, 1400]
    assert [config.of_guest(number).slot for number in range(2)] == [3, 4]
    assert config.one_off
    assert config.policy.deny == ("private",)
    assert config.observe.verbose


def test_two_parses_do_not_share_anything() -> None:
    assert len(configured("--socket", "a", "-p", "1:1").guests) == 1
    assert configured("--socket", "b").guests == (VmGuest(link=LinkSpec("socket", "b")),)


@pytest.mark.parametrize(
    "words", ["--ifname x", "--no-config-net", "-T 80", "-U 53", "--tcp-ns 80", "--no-splice", "--netns x"]
)
def test_options_of_namespaces_are_none_here(words: str) -> None:
    with pytest.raises(ConfigError, match="unknown option"):
        configured("--socket", "a", *words.split())


# -- errors: one line, status 2, and nothing was opened


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "no link given; accepted: --socket, --vhost-user, --dgram, --seqpacket, --fd, --tap"),
        ("-p 80:80", "no link given; accepted: --socket, --vhost-user, --dgram, --seqpacket, --fd, --tap"),
        ("--socket", "--socket: expected one argument; see 'bucatini vm --help'"),
        ("--socket=", "--socket '': must be a path of 1 to 107 bytes"),
        ("--dgram a,", "--dgram 'a,': must be a path of 1 to 107 bytes"),
        ("--fd 2", "--fd '2': must be the number of a descriptor that is open, 3 or more"),
        ("--fd x", "--fd 'x': must be the number of a descriptor that is open, 3 or more"),
        ("--tap a/b", "--tap 'a/b': must be the name of an interface, 1 to 15 bytes"),
        ("--socket a --vhost-user a", "--vhost-user a: --socket a has it already; each guest needs a link of its own"),
        ("--socket a qemu", "unexpected argument 'qemu'; a virtual machine is started by its hypervisor"),
        ("--socket a -- qemu", "unexpected argument 'qemu'; a virtual machine is started by its hypervisor"),
        ("--sokcet a", "unknown option --sokcet; did you mean --socket?"),
        ("--socket a --bridge br0", "unknown option --bridge; it is one of filter"),
        ("--dgram a,a", "--dgram 'a,a': must be LOCAL or LOCAL,REMOTE, two paths"),
        ("--socket a --mac 02::1 --mac 02::2", "--mac '02::2': the guest of --socket a has '02::1'"),
        ("--socket a --search b --search c,d", "--search 'c,d': must be one domain name; the option may be repeated"),
        ("--socket a --search=", "--search '': must be one domain name; the option may be repeated"),
        ("--socket a --slot 65535 --socket b", "--slot 65535: at most 65534 for 2 guests"),
        ("--socket a -p 8080:x", "--publish '8080:x'"),
        ("--socket a --socket b -p 8080:x", "--publish '8080:x'"),
    ],
)
def test_an_error_is_one_line_and_status_2(
    words: str, line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)]
    try:
        assert main(["vm", *words.split()]) == 2
    finally:
        for number, handler in zip(
            (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT), handlers, strict=True
        ):
            signal.signal(number, handler)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"bucatini vm: {line}")
    assert shown.err.count("\n") == 1
    assert os.listdir() == []


def test_a_number_of_very_many_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vm", "--fd", "9" * 5000]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_names_every_link_and_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vm", "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for option in ("--socket PATH", "--vhost-user PATH", "--dgram LOCAL[,REMOTE]", "--seqpacket PATH", "--fd N"):
        assert option in shown.out
    assert "--one-off" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 120


# -- a process


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a socket's path."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


class Engine:
    """`bucatini vm` as a process of its own."""

    def __init__(self, folder: Path, *words: str, give: Sequence[int] = ()) -> None:
        command = [sys.executable, "-m", "bucatini", "vm", *words]
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=give
        )
        self.said = b""

    def line(self, word: str) -> str:
        """The next line on standard error that has `word` in it."""
        assert self.process.stderr is not None
        end = time.monotonic() + PATIENCE
        while True:
            line, newline, rest = self.said.partition(b"\n")
            if newline:
                self.said = rest
                if word in line.decode():
                    return line.decode()
                continue
            left = end - time.monotonic()
            ready = left > 0 and select.select([self.process.stderr], [], [], left)[0]
            part = os.read(self.process.stderr.fileno(), 4096) if ready else b""
            assert part, f"{word!r} was not said: {self.said!r}"
            self.said += part

    def finish(self, number: int = 0) -> tuple[int, str]:
        """Status and what is left on standard error, after a signal if one is given."""
        if number:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        assert out == b""
        return self.process.returncode, (self.said + err).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_is_ready_when_it_says_so_and_a_signal_ends_it(folder: Path, number: int) -> None:
    words = ("--socket", "a", "--vhost-user", "b", "--seqpacket", "c", "--dgram", "d")
    with Engine(folder, *words) as engine:
        lines = [engine.line("ready") for _ in range(4)]
        assert ["--socket a" in lines[0], "--vhost-user b" in lines[1], "--dgram d" in lines[3]] == [True] * 3
        assert "172.16.0.2" in lines[0]
        assert "172.16.0.14" in lines[3]
        assert sorted(os.listdir(folder)) == ["a", "b", "c", "d"]
        with socket.socket(socket.AF_UNIX) as guest:
            guest.connect(str(folder / "a"))
            assert engine.line("connected").startswith("bucatini: --socket a: connected, process ")
        engine.line("disconnected")
        assert engine.finish(number)[0] == 0
    assert os.listdir(folder) == []


def test_a_path_in_use_is_one_line_and_status_2_and_the_first_works_on(folder: Path) -> None:
    with Engine(folder, "--socket", "a", "--one-off") as first:
        first.line("ready")
        with Engine(folder, "--socket", "a") as second:
            status, said = second.finish()
        assert status == 2
        assert said == "bucatini vm: --socket: cannot listen on 'a': somebody listens there already\n"
        with socket.socket(socket.AF_UNIX) as guest:
            guest.connect(str(folder / "a"))
            first.line("connected")
        status, _ = first.finish()
        assert status == 0
    assert os.listdir(folder) == []


def test_what_a_killed_engine_left_is_taken_over(folder: Path) -> None:
    with Engine(folder, "--socket", "a", "--dgram", "d") as first:
        first.line("--dgram d")
    assert sorted(os.listdir(folder)) == ["a", "d"]
    with Engine(folder, "--socket", "a", "--dgram", "d") as second:
        second.line("--dgram d")
        assert second.finish(signal.SIGTERM)[0] == 0
    assert os.listdir(folder) == []


def test_a_link_that_fails_leaves_no_file_of_the_others(folder: Path) -> None:
    (folder / "b").write_text("precious")
    with Engine(folder, "--socket", "a", "--dgram", "c", "--socket", "b") as engine:
        status, said = engine.finish()
    assert status == 2
    assert said == "bucatini vm: --socket: cannot listen on 'b': a file that is no socket is in the way\n"
    assert os.listdir(folder) == ["b"]
    assert (folder / "b").read_text() == "precious"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_an_inherited_socket_is_served_until_it_ends(folder: Path, kind: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours:
        with Engine(folder, "--fd", str(theirs.fileno()), give=[theirs.fileno()]) as engine:
            theirs.close()
            engine.line("ready")
            ours.close()
            assert engine.finish()[0] == 0


@pytest.mark.parametrize("what", ["file", "pipe", "raw"])
def test_a_descriptor_that_is_no_link(folder: Path, what: str) -> None:
    made = [*os.pipe()] if what == "pipe" else [os.open(__file__, os.O_RDONLY)]
    if what == "raw":
        if os.geteuid():
            pytest.skip("needs root")
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
            made.append(os.dup(raw.fileno()))
    try:
        with Engine(folder, "--fd", str(made[-1]), give=[made[-1]]) as engine:
            status, said = engine.finish()
    finally:
        for each in made:
            os.close(each)
    assert status == 2
    assert said.startswith(f"bucatini vm: --fd {made[-1]}: ")
    assert said.count("\n") == 1


def test_a_descriptor_that_is_not_open(folder: Path) -> None:
    with Engine(folder, "--fd", "1000000") as engine:
        assert engine.finish() == (2, f"bucatini vm: --fd 1000000: no such descriptor is open; {ACCEPTED}\n")


def test_a_tap_that_is_not_there(folder: Path) -> None:
    with Engine(folder, "--tap", "nosuchtap0") as engine:
        status, said = engine.finish()
    assert status == 2
    assert said == "bucatini vm: --tap 'nosuchtap0': must be the name of an interface of this host\n"


def test_one_off_ends_with_the_last_of_them(folder: Path) -> None:
    with Engine(folder, "--socket", "a", "--socket", "b", "--one-off") as engine:
        engine.line("ready")
        engine.line("ready")
        for name in ("a", "b"):
            assert engine.process.poll() is None
            with socket.socket(socket.AF_UNIX) as guest:
                guest.connect(str(folder / name))
                engine.line("connected")
            engine.line("disconnected")
        assert engine.finish()[0] == 0


def test_a_port_in_use_is_an_error_before_anybody_can_connect(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Engine(folder, "--socket", "a", "--socket", "b", "-p", f"127.0.0.1:{port}:80") as engine:
            status, said = engine.finish()
    assert status == 2
    assert f"127.0.0.1:{port}:80" in said
    assert said.count("\n") == 1
    assert os.listdir(folder) == []
