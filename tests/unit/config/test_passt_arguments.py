"""Command lines of passt: the configuration each makes, or the error it is. What pasta reads too is compared to it."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import pack
from bucatini.base.errors import ConfigError
from bucatini.config.getopt_words import Answer, Option, UsageError
from bucatini.config.network import NetworkOptions
from bucatini.config.passt import PasstConfig
from bucatini.config.passt_arguments import parse_passt
from bucatini.config.passt_options import COMMON, GUEST_PORTS, NAMESPACE_PORTS, PASST_ONLY, PASTA_ONLY
from bucatini.config.passt_process import ProcessOptions
from bucatini.config.pasta import PastaConfig
from bucatini.config.pasta_arguments import parse_pasta

NOTHING = NetworkOptions(mtu=65520, mac=bytes.fromhex("9a559a559a55"), dhcp_dns=True, dhcp_search=True, splice=False)
"""The network of a command line without options."""
OWN = {"dhcp_dns", "dhcp_search", "splice", "default_ports"}
"""Fields that passt fills differently from pasta."""


def read(line: str) -> PasstConfig:
    config = parse_passt(shlex.split(line))
    assert isinstance(config, PasstConfig)
    return config


def refused(line: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_passt(shlex.split(line))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def packed(*addresses: str) -> tuple[bytes, ...]:
    return tuple(map(pack, addresses))


def test_nothing_given() -> None:
    assert read("") == PasstConfig(network=NOTHING)


class TestLink:
    @pytest.mark.parametrize(
        ("line", "path", "descriptor", "one_off"),
        [
            ("-s /run/x", "/run/x", None, False),
            ("--socket x", "x", None, False),
            ("--socket-path /run/x", "/run/x", None, False),
            ("-s a --socket-path b", "b", None, False),
            ("--socket-path a -s b", "b", None, False),
            (f"-s {'a' * 107}", "a" * 107, None, False),
            ("-1", None, None, True),
            ("-1 -s x", "x", None, True),
            ("-F 3", None, 3, True),
            ("--fd 2147483647", None, 2147483647, True),
            ("-F 3 -F 4", None, 4, True),
            ("-s x -F 3", None, 3, True),
            ("-F 3 -s x", "x", None, False),
            ("-F 3 --socket-path x -1", "x", None, True),
        ],
    )
    def test_the_later_one_wins(self, line: str, path: str | None, descriptor: int | None, one_off: bool) -> None:
        config = read(line)
        assert (config.socket, config.fd, config.one_off) == (path, descriptor, one_off)
        assert not config.vhost_user

    def test_vhost_user(self) -> None:
        assert read("--vhost-user -s x") == PasstConfig(network=NOTHING, socket="x", vhost_user=True)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("-F 2", "--fd '2': must be a number from 3 to 2147483647"),
            ("-F 2 -F 3", "--fd '2'"),
            ("-F x", "--fd 'x'"),
            ("-F -1", "--fd '-1'"),
            ("-F 2147483648", "--fd '2147483648'"),
            ("-s ''", "--socket '': must be a path"),
            ("--socket-path ''", "--socket-path '': must be a path"),
            ("--vhost-user -F 3", "--fd 3: excluded by --vhost-user, which listens at --socket"),
            (f"-s {'a' * 108}", f"--socket '{'a' * 108}': must be a path of at most 107 bytes, it has 108"),
        ],
    )
    def test_is_refused(self, line: str, message: str) -> None:
        assert refused(line).startswith(message)


class TestOwn:
    def test_what_is_announced(self) -> None:
        assert read("--no-dhcp-dns").network.dhcp_dns is False
        assert read("--no-dhcp-dns").network.dhcp_search is True
        assert read("--no-dhcp-search").network.dhcp_search is False

    @pytest.mark.parametrize("option", [*PASTA_ONLY, *NAMESPACE_PORTS], ids=lambda option: option.long)
    def test_options_of_pasta_are_refused_by_name(self, option: Option) -> None:
        ways = [f"--{option.long}"] + [f"-{option.short}"] * bool(option.short)
        for way in ways:
            message = refused(f"{way} {'1' if option.value else ''}")
            assert message == f"{option}: this option is pasta's; passt has no namespace"

    @pytest.mark.parametrize("line", ["x", "1234", "-- -f", "-f x -q", "''"])
    def test_other_words_are_refused(self, line: str) -> None:
        assert refused(line).endswith(": passt takes options only")

    @pytest.mark.parametrize(
        "spec",
        ["none", "all", "22", "22-80:32-90,~25", "127.0.0.1/22", "%eth0/22", "10.0.0.1%eth0/80", "~22", "[::1]/1"],
    )
    @pytest.mark.parametrize("option", ["-t", "-u"])
    def test_ports(self, option: str, spec: str) -> None:
        network = read(f"{option} {spec}").network
        assert (network.tcp_in, network.udp_in) == (((spec,), ()) if option == "-t" else ((), (spec,)))
        assert network.default_ports == "none"

    @pytest.mark.parametrize("spec", ["10.0.0.1/all", "%eth0/all", "10.0.0.1%eth0/all", "fd00::1/all"])
    def test_all_ports_of_an_address(self, spec: str) -> None:
        """What libvirt makes of a `portForward` without ranges."""
        assert read(f"--tcp-ports {spec}").network.tcp_in == (spec,)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("-t auto", ["--tcp-ports 'auto'", "not available", "accepted: none, all or"]),
            ("-u auto", ["--udp-ports 'auto'"]),
            ("-t 0", ["--tcp-ports '0'", "1 to 65535"]),
            ("-t none -t 22", ["--tcp-ports '22'", "conflicts with 'none'"]),
            ("-t all -t 22", ["--tcp-ports '22'", "conflicts with 'all'"]),
            ("-t 22 --no-tcp", ["--tcp-ports '22'", "--no-tcp"]),
            ("-u all --no-udp", ["--udp-ports 'all'", "--no-udp"]),
        ],
    )
    def test_ports_that_cannot_be(self, line: str, words: list[str]) -> None:
        message = refused(line)
        for word in words:
            assert word in message


class TestCommon:
    """passt reads what both take as pasta does, and says the same about it."""

    @pytest.mark.parametrize(
        "line",
        [
            "-4",
            "-4 -6",
            "-m 0",
            "-m 65535",
            "-a fd00::1 -a 10.0.0.1 -a 10.0.0.2 -n 255.255.0.0",
            "-M 02:00:00:00:00:01 -i eth0",
            "-g 10.0.0.1 -g fe80::2",
            "-o 10.0.0.1 -o :: --outbound-if4 a --outbound-if6 b",
            "-D 1.1.1.1 -D 2.2.2.2 -D 3.3.3.3 -D 4.4.4.4 -D ::1",
            "-D none --dns-forward 10.0.0.3",
            "--dns-forward 10.0.0.3 --dns-host 127.0.0.53",
            "-S 'a.example b.example' -S c.example",
            "-S none",
            "--no-tcp --no-udp --no-icmp --no-dhcp --no-dhcpv6 --no-ndp --no-ra",
            "--freebind --map-host-loopback 10.0.0.9 --no-map-gw --map-guest-addr 169.254.1.2",
            "--map-host-loopback none",
            "-t 80:81 -t 80:82 -u 53",
            "-d -f -l L --log-size 50000 --runas 7:8 -p C -P I",
            "-e -q",
            "--trace -q -d",
        ],
    )
    def test_is_read(self, line: str) -> None:
        ours, theirs = read(line), parse_pasta([*shlex.split(line), "5"])
        assert isinstance(theirs, PastaConfig)
        for field in ProcessOptions.__struct_fields__:
            assert getattr(ours, field) == getattr(theirs, field), field
        for field in set(NetworkOptions.__struct_fields__) - OWN:
            assert getattr(ours.network, field) == getattr(theirs.network, field), field

    @pytest.mark.parametrize(
        "line",
        [
            "-m 67",
            "-a 127.0.0.1",
            "-n 33",
            "-M xx",
            "-g ::1",
            "-i ''",
            "-o ::1",
            "-D x",
            "--dns-forward 127.0.0.1",
            "-S a..b",
            "--map-guest-addr ff02::1",
            "-t x:y",
            "--log-size 1",
            "--runas :",
            "-P ''",
        ],
    )
    def test_is_refused(self, line: str) -> None:
        with pytest.raises(ConfigError) as theirs:
            parse_pasta(shlex.split(line))
        # What ports are accepted differs.
        assert refused(line).split("; accepted:")[0] == str(theirs.value).split("; accepted:")[0]


class TestGrammar:
    @pytest.mark.parametrize("line", ["--bogus", "-z", "--no-", "-m", "-s", "--fd", "--one-off=1", "-f=1"])
    def test_no_command_line(self, line: str) -> None:
        with pytest.raises(UsageError):
            parse_passt(line.split())

    @pytest.mark.parametrize(
        ("short", "long"),
        [
            ("--one", "--one-off"),
            ("--vhost", "--vhost-user"),
            ("--tcp-p 80", "-t 80"),
            ("-1fs x", "--one-off --foreground --socket x"),
            ("-sx", "--socket=x"),
        ],
    )
    def test_abbreviations(self, short: str, long: str) -> None:
        assert parse_passt(short.split()) == parse_passt(long.split())

    @pytest.mark.parametrize("line", ["-h", "--help", "-d --help", "--help --bogus", "word --help", "-hz"])
    def test_help(self, line: str) -> None:
        answer = parse_passt(line.split())
        assert isinstance(answer, Answer)
        assert answer.text.startswith("usage: passt ")
        assert answer.text.endswith("\n")

    def test_version(self) -> None:
        answer = parse_passt(["--version"])
        assert isinstance(answer, Answer)
        assert answer.text.startswith("passt ")
        assert answer.text.count("\n") == 1

    @pytest.mark.parametrize("line", ["--print-capabilities", "--print-cap --bogus", "-f --print-capabilities word"])
    def test_capabilities(self, line: str) -> None:
        answer = parse_passt(line.split())
        assert isinstance(answer, Answer)
        assert json.loads(answer.text) == {"type": "net"}


class TestCallers:
    """Command lines that other programs make."""

    def test_libvirt(self) -> None:
        config = read(
            "--one-off --socket /run/user/1000/libvirt/qemu/run/passt/1-vm-net0.socket --mac-addr 52:54:00:12:34:56 "
            "--pid /run/user/1000/libvirt/qemu/run/passt/1-vm-net0-passt.pid --mtu 1500 --interface eth0 "
            "--log-file /tmp/passt.log --address 172.17.2.4 --netmask 24 --address 2001:db8:ac10:fd01::1:10 "
            "--tcp-ports 2022:22 --udp-ports 1.2.3.4%eth0/5000-5020:6000-6020,~5005 --tcp-ports 10.0.0.1/all"
        )
        assert config == PasstConfig(
            network=NetworkOptions(
                mtu=1500,
                mac=bytes.fromhex("525400123456"),
                interface="eth0",
                addresses=packed("172.17.2.4", "2001:db8:ac10:fd01::1:10"),
                prefix_length=24,
                dhcp_dns=True,
                dhcp_search=True,
                splice=False,
                tcp_in=("2022:22", "10.0.0.1/all"),
                udp_in=("1.2.3.4%eth0/5000-5020:6000-6020,~5005",),
            ),
            socket="/run/user/1000/libvirt/qemu/run/passt/1-vm-net0.socket",
            one_off=True,
            log_file="/tmp/passt.log",
            pid_file="/run/user/1000/libvirt/qemu/run/passt/1-vm-net0-passt.pid",
        )

    def test_libvirt_for_vhost_user(self) -> None:
        config = read("--one-off --vhost-user --socket /s --pid /p --mac-addr 52:54:00:12:34:56 --udp-ports all")
        assert (config.vhost_user, config.one_off, config.network.udp_in) == (True, True, ("all",))

    def test_the_suite_of_passt(self) -> None:
        config = read("-f -s /tmp/s -P /tmp/passt.pid -t 10001,10021 -u 10001,10021 --trace -p /tmp/c -l /tmp/l")
        assert (config.foreground, config.trace, config.pcap, config.log_file) == (True, True, "/tmp/c", "/tmp/l")


_TABLE = (*COMMON, *GUEST_PORTS, *PASST_ONLY, *PASTA_ONLY, *NAMESPACE_PORTS)
_NAMES = [f"--{option.long}" for option in _TABLE] + [f"-{option.short}" for option in _TABLE if option.short]
_VALUES = ["none", "all", "0", "3", "1500", "80", "10.0.0.1", "fd00::1", "eth0", "/n", "9a:55:9a:55:9a:55", "a b", ""]
_WORDS = st.sampled_from(_NAMES) | st.sampled_from(_VALUES) | st.text(max_size=12) | st.text("-01sFt:=.", max_size=8)


def outcome(words: list[str]) -> str:
    """What is said about words that make no configuration."""
    try:
        made = parse_passt(words)
    except ConfigError as error:
        return str(error)
    assert isinstance(made, PasstConfig | Answer)
    return ""


@given(st.lists(_WORDS, max_size=10))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    assert outcome(words).isprintable()
