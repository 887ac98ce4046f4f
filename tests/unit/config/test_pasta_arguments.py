"""Command lines of pasta: the configuration each makes, or the error it is."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import pack
from bucatini.base.errors import ConfigError
from bucatini.config.getopt_words import Answer, Option, UsageError
from bucatini.config.network import NetworkOptions
from bucatini.config.pasta import PastaConfig, Target
from bucatini.config.pasta_arguments import parse_pasta
from bucatini.config.pasta_options import COMMON, PASST_ONLY, PORTS

NOTHING = NetworkOptions(mtu=65520, mac=bytes.fromhex("9a559a559a55"), default_ports="auto")
"""The network of a command line without options."""


def read(line: str) -> PastaConfig:
    config = parse_pasta(shlex.split(line))
    assert isinstance(config, PastaConfig)
    return config


def network(line: str) -> dict[str, object]:
    """What differs from the defaults."""
    made = read(line).network
    return {
        field: getattr(made, field)
        for field in made.__struct_fields__
        if getattr(made, field) != getattr(NOTHING, field)
    }


def refused(line: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_pasta(shlex.split(line))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def packed(*addresses: str) -> tuple[bytes, ...]:
    return tuple(map(pack, addresses))


def test_nothing_given() -> None:
    assert read("") == PastaConfig(target=Target("shell"), network=NOTHING, foreground=True)


class TestTarget:
    @pytest.mark.parametrize(
        ("line", "target"),
        [
            ("", Target("shell")),
            ("-f", Target("shell")),
            ("sh", Target("command", ("sh",))),
            ("sh -c 'exit 3'", Target("command", ("sh", "-c", "exit 3"))),
            ("-d ip -4 a", Target("command", ("ip", "-4", "a"))),
            ("-- -x", Target("command", ("-x",))),
            ("1234", Target("pid", pid=1234)),
            ("2147483647", Target("pid", pid=2147483647)),
            ("1234 x", Target("command", ("1234", "x"))),
            ("12x", Target("command", ("12x",))),
            ("--netns /proc/1/ns/net", Target("netns", netns="/proc/1/ns/net")),
            ("--netns box", Target("netns", netns="/run/netns/box")),
            ("--netns ./box", Target("netns", netns="./box")),
            ("--netns a --netns b", Target("netns", netns="/run/netns/b")),
        ],
    )
    def test_is(self, line: str, target: Target) -> None:
        assert read(line).target == target

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("0", "PID '0': must be a number from 1 to 2147483647"),
            ("2147483648", "PID '2147483648'"),
            ("-- -5", "PID '-5'"),
            ("+5", "PID '+5'"),
            ("''", "'': must be a PID or the name of a command"),
            ("--netns box 1234", "--netns 'box': excludes a PID or command, given: '1234'"),
            ("--netns box true", "--netns 'box': excludes"),
            ("--netns ''", "--netns '': must be a path"),
            ("--netns ..", "--netns '..': must be a name below /run/netns"),
            ("--userns ''", "--userns '': must be a path"),
        ],
    )
    def test_is_not(self, line: str, message: str) -> None:
        assert refused(line).startswith(message)

    @pytest.mark.parametrize(
        ("line", "userns", "only"),
        [
            ("1234", None, False),
            ("--netns-only 1234", None, True),
            ("--userns u 1234", "u", False),
            ("--netns n", None, True),
            ("--netns n --userns u", "u", False),
            ("--netns-only --netns n --userns u", "u", False),
            ("--userns u --netns-only --netns n", None, True),
            ("true", None, False),
            ("--netns-only true", None, True),
        ],
    )
    def test_user_namespace(self, line: str, userns: str | None, only: bool) -> None:
        config = read(line)
        assert (config.userns, config.netns_only) == (userns, only)

    def test_runs_in_the_foreground_with_a_command(self) -> None:
        assert read("").foreground
        assert read("true").foreground
        assert not read("1234").foreground
        assert not read("--netns n").foreground
        assert read("-f 1234").foreground


class TestProcess:
    def test_every_setting(self) -> None:
        config = read("-d -l L --log-size 50000 --runas 7:8 -p C -P I --no-netns-quit --host-lo-to-ns-lo 5")
        assert config == PastaConfig(
            target=Target("pid", pid=5),
            network=NOTHING,
            netns_quit=False,
            debug=True,
            log_file="L",
            log_size=50000,
            runas="7:8",
            pcap="C",
            pid_file="I",
            host_lo_to_ns_lo=True,
            notes=("--host-lo-to-ns-lo: deprecated",),
        )

    def test_the_last_one_wins(self) -> None:
        config = read("-l a -l b -p a -p b -P a -P b --log-size 40960 --log-size 1000000 -I a -I b 5")
        assert (config.log_file, config.pcap, config.pid_file, config.log_size) == ("b", "b", "b", 1000000)
        assert config.network.guest_interface == "b"

    @pytest.mark.parametrize(
        ("line", "debug", "trace", "quiet"),
        [
            ("", False, False, False),
            ("-d", True, False, False),
            ("--trace", True, True, False),
            ("-q", False, False, True),
            ("-dq", False, False, True),
            ("-qd", True, False, False),
            ("--trace -q -d", True, False, False),
            ("--trace -d", True, True, False),
            ("-q --trace", True, True, False),
        ],
    )
    def test_verbosity(self, line: str, debug: bool, trace: bool, quiet: bool) -> None:
        config = read(line)
        assert (config.debug, config.trace, config.quiet) == (debug, trace, quiet)

    def test_what_has_no_effect_is_noted(self) -> None:
        assert read("-e 5").notes == ("--stderr: deprecated, without effect",)
        assert read("-e 5").network == read("5").network

    @pytest.mark.parametrize("runas", ["0", "1000", "1000:1000", "nobody", "nobody:nogroup", "a-b_c", "4294967294"])
    def test_users(self, runas: str) -> None:
        assert read(f"--runas {runas}").runas == runas

    @pytest.mark.parametrize("runas", ["", ":", "a:", ":b", "a:b:c", "4294967295", "99999999999"])
    def test_no_users(self, runas: str) -> None:
        assert refused(f"--runas '{runas}'") == f"--runas '{runas}': must be UID, UID:GID, or names in their place"


class TestNetwork:
    @pytest.mark.parametrize(
        ("line", "made"),
        [
            ("-4", {"ipv6": False}),
            ("-6", {"ipv4": False}),
            ("-4 -6", {"ipv4": False}),
            ("-64", {"ipv6": False}),
            ("-m 0", {"mtu": 0}),
            ("-m 1500 -m 68", {"mtu": 68}),
            ("-m 65535", {"mtu": 65521}),
            ("-a 10.0.0.1", {"addresses": packed("10.0.0.1")}),
            ("-a fd00::1 -a 10.0.0.1 -a 10.0.0.2", {"addresses": packed("10.0.0.2", "fd00::1")}),
            ("-n 24", {"prefix_length": 24}),
            ("-n 255.255.0.0", {"prefix_length": 16}),
            ("-n 0", {}),
            ("-M 02:00:00:00:00:01", {"mac": bytes.fromhex("020000000001")}),
            ("-g 10.0.0.1 -g fe80::2", {"gateways": packed("10.0.0.1", "fe80::2")}),
            ("-i eth0", {"interface": "eth0"}),
            ("-o 127.0.0.1", {"outbound": packed("127.0.0.1")}),
            ("-o 10.0.0.1 -o ::", {"outbound": packed("10.0.0.1")}),
            ("-o 10.0.0.1 -o 0.0.0.0", {}),
            ("--outbound-if4 a --outbound-if6 b", {"outbound_interface4": "a", "outbound_interface6": "b"}),
            ("-D 10.0.0.1 -D ::1", {"dns": packed("10.0.0.1", "::1")}),
            ("-D none", {"dns": ()}),
            ("-D 10.0.0.1 -D none", {"dns": ()}),
            ("-D none -D 10.0.0.1", {"dns": packed("10.0.0.1")}),
            ("-D none --dns-forward 10.0.0.3 --dns-host 10.0.0.4", {"dns": ()}),
            ("-D 1.1.1.1 -D 2.2.2.2 -D 3.3.3.3 -D 4.4.4.4", {"dns": packed("1.1.1.1", "2.2.2.2", "3.3.3.3")}),
            (
                "--dns-forward 10.0.0.3 --dns-forward fd00::3 --dns-host 127.0.0.53",
                {"dns_forward": packed("10.0.0.3", "fd00::3"), "dns_host": packed("127.0.0.53")},
            ),
            ("-S a.example -S b.example", {"search": ("a.example", "b.example")}),
            ("-S 'a.example b.example'", {"search": ("a.example", "b.example")}),
            ("-S none", {"search": ()}),
            ("-S a -S none", {"search": ()}),
            ("-S none.", {"search": ("none.",)}),
            ("--dhcp-dns --dhcp-search", {"dhcp_dns": True, "dhcp_search": True}),
            ("--no-tcp --no-udp --no-icmp", {"tcp": False, "udp": False, "icmp": False}),
            ("--no-dhcp --no-dhcpv6", {"dhcp": False, "dhcpv6": False}),
            ("--no-ndp --no-ra", {"ndp": False, "router_advertisements": False}),
            ("--freebind --no-splice", {"freebind": True, "splice": False}),
            ("--map-host-loopback 10.0.0.9", {"map_host_loopback": packed("10.0.0.9")}),
            ("--map-host-loopback none", {"map_host_loopback": (), "map_gateway": False}),
            ("--no-map-gw", {"map_gateway": False}),
            (
                "--no-map-gw --map-host-loopback fd00::9",
                {"map_gateway": False, "map_host_loopback": packed("fd00::9")},
            ),
            ("--map-guest-addr 169.254.1.2", {"map_guest_address": packed("169.254.1.2")}),
            ("--map-guest-addr 169.254.1.2 --map-guest-addr none", {}),
            ("-I tap0 --ns-mac-addr 02:00:00:00:00:02", {"guest_interface": "tap0", "guest_mac": b"\2\0\0\0\0\2"}),
            ("--config-net", {"config_net": True, "router_advertisements": False}),
            (
                "--config-net --no-copy-routes --no-copy-addrs",
                {
                    "config_net": True,
                    "router_advertisements": False,
                    "copy_routes": False,
                    "copy_addresses": False,
                },
            ),
            ("-t 80 -t 8080:80 -u none", {"tcp_in": ("80", "8080:80"), "udp_in": ("none",)}),
            ("-T auto -U ~25", {"tcp_out": ("auto",), "udp_out": ("~25",)}),
            (
                "--no-tcp -t none -T none -u 53",
                {"tcp": False, "tcp_in": ("none",), "tcp_out": ("none",), "udp_in": ("53",)},
            ),
        ],
    )
    def test_is(self, line: str, made: dict[str, object]) -> None:
        assert network(line) == made

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("-m 67", ["--mtu '67'", "68 to 65535", "0"]),
            ("-m 65536", ["--mtu '65536'"]),
            ("-m x", ["--mtu 'x'"]),
            ("-m ''", ["--mtu ''"]),
            ("-m 67 -m 1500", ["--mtu '67'"]),
            ("-a x", ["--address 'x'", "IPv4 or IPv6 address"]),
            ("-a 10.0.0.1/24", ["--address '10.0.0.1/24'"]),
            ("-a ::", ["--address '::'", "unspecified"]),
            ("-a 127.0.0.1", ["loopback"]),
            ("-a ff02::1", ["multicast"]),
            ("-a 255.255.255.255", ["broadcast"]),
            ("-a ::ffff:1.2.3.4", ["IPv4 in IPv6"]),
            ("-n 33", ["--netmask '33'", "0 to 32"]),
            ("-n 255.0.255.0", ["--netmask '255.0.255.0'"]),
            ("-M 1:2:3:4:5:6", ["--mac-addr '1:2:3:4:5:6'", "two-digit"]),
            ("-g ::1", ["--gateway '::1'", "loopback"]),
            ("-i ''", ["--interface ''"]),
            ("-o ::1", ["--outbound '::1'", "loopback"]),
            ("-o 224.0.0.1", ["--outbound '224.0.0.1'", "multicast"]),
            ("--outbound-if4 aaaaaaaaaaaaaaaa", ["--outbound-if4", "1 to 15"]),
            ("-D x", ["--dns 'x'"]),
            ("--dns-forward 127.0.0.1", ["--dns-forward '127.0.0.1'", "loopback"]),
            ("--dns-host 0.0.0.0", ["--dns-host '0.0.0.0'", "unspecified"]),
            ("-S a -S b -S c -S d -S e -S f -S g", ["--search 'g'", "6"]),
            ("-S ''", ["--search ''"]),
            ("-S a..b", ["'a..b' is no domain name"]),
            (f"-S {'a' * 64}", ["no domain name"]),
            ("--map-host-loopback 127.0.0.1", ["--map-host-loopback '127.0.0.1'", "loopback"]),
            ("--map-guest-addr ff02::1", ["--map-guest-addr 'ff02::1'", "multicast"]),
            ("-I a/b", ["--ns-ifname 'a/b'"]),
            ("--ns-mac-addr 01:00:00:00:00:01", ["--ns-mac-addr", "group"]),
            ("--no-copy-routes", ["--no-copy-routes", "needs --config-net"]),
            ("--no-copy-addrs", ["--no-copy-addrs", "needs --config-net"]),
            ("-t 80 --no-tcp", ["--tcp-ports '80'", "--no-tcp"]),
            ("--no-tcp -T auto", ["--tcp-ns 'auto'", "--no-tcp"]),
            ("--no-udp -u 53", ["--udp-ports '53'", "--no-udp"]),
            ("--no-udp -U 53", ["--udp-ns '53'", "--no-udp"]),
            ("-t x", ["--tcp-ports 'x'", "accepted: none, auto or"]),
            ("-t all", ["--tcp-ports 'all'", "not available"]),
            ("-t 127.0.0.1/all", ["--tcp-ports '127.0.0.1/all'", "not available"]),
            ("-u 0", ["--udp-ports '0'", "1 to 65535"]),
            ("-t none -t 22", ["--tcp-ports '22'", "conflicts with 'none'"]),
            ("-U 53 -U auto", ["--udp-ns 'auto'", "conflicts with '53'"]),
            ("-T 127.0.0.1/22", ["--tcp-ns '127.0.0.1/22'"]),
            ("--log-size 40959", ["--log-size '40959'", "40960"]),
            ("-l ''", ["--log-file ''"]),
            ("-s x", ["--socket", "passt"]),
            ("--socket-path x", ["--socket-path", "passt"]),
            ("-1", ["-1, --one-off", "passt"]),
            ("--vhost-user", ["--vhost-user", "passt"]),
            ("--print-capabilities", ["--print-capabilities", "passt"]),
            ("--no-dhcp-dns", ["--no-dhcp-dns", "passt"]),
            ("--no-dhcp-search", ["--no-dhcp-search", "passt"]),
            ("-F 3", ["-F, --fd", "passt"]),
        ],
    )
    def test_is_refused(self, line: str, words: list[str]) -> None:
        message = refused(line)
        for word in words:
            assert word in message

    def test_notes(self) -> None:
        assert read("-m 65535").notes == ("--mtu 65535: the interface carries at most 65521 bytes, which is used",)
        assert read("-D 1.1.1.1 -D 2.2.2.2 -D 3.3.3.3 -D 4.4.4.4").notes == (
            "--dns 4.4.4.4: left out, a guest is told 3 servers per family",
        )
        assert read("--config-net --no-copy-routes").notes == ("--no-copy-routes: deprecated; --gateway does the same",)
        assert read("-t 80:81 -t 80:82").notes == (
            "--tcp-ports '80:82': maps again what was mapped before, and replaces it: port 80",
        )
        assert read("--config-net -t 80 -u 80").notes == ()


class TestGrammar:
    @pytest.mark.parametrize("line", ["--bogus", "-z", "--no-", "--mtu", "-m", "--map-gw", "--config-net=1"])
    def test_no_command_line(self, line: str) -> None:
        with pytest.raises(UsageError):
            parse_pasta(line.split())

    @pytest.mark.parametrize(
        ("short", "long"),
        [("--config", "--config-net"), ("--tcp-p 80", "-t 80"), ("--vers", "--version"), ("--netns-o", "--netns-only")],
    )
    def test_abbreviations(self, short: str, long: str) -> None:
        assert parse_pasta(short.split()) == parse_pasta(long.split())

    @pytest.mark.parametrize("line", ["-h", "--help", "-d --help", "--help --bogus", "-hz"])
    def test_help(self, line: str) -> None:
        answer = parse_pasta(line.split())
        assert isinstance(answer, Answer)
        assert answer.text.startswith("usage: pasta ")
        assert answer.text.endswith("\n")

    def test_version(self) -> None:
        answer = parse_pasta(["--version"])
        assert isinstance(answer, Answer)
        assert answer.text.startswith("pasta ")
        assert answer.text.count("\n") == 1

    def test_options_of_the_command_are_its_own(self) -> None:
        assert read("-t none ls --help -z").target.command == ("ls", "--help", "-z")


class TestCallers:
    """Command lines that other programs make."""

    def test_podman(self) -> None:
        config = read(
            "--config-net -t 127.0.0.1/8080-8080:80-80 -u 5353-5353:53-53 --dns-forward 169.254.1.1 -T none -U none "
            "--no-map-gw --map-guest-addr 169.254.1.2 --quiet --netns /run/user/1000/netns/netns-x"
        )
        assert config.target == Target("netns", netns="/run/user/1000/netns/netns-x")
        assert (config.netns_only, config.foreground, config.quiet, config.notes) == (True, False, True, ())
        assert config.network == NetworkOptions(
            mtu=65520,
            mac=NOTHING.mac,
            default_ports="auto",
            config_net=True,
            router_advertisements=False,
            tcp_in=("127.0.0.1/8080-8080:80-80",),
            udp_in=("5353-5353:53-53",),
            tcp_out=("none",),
            udp_out=("none",),
            dns_forward=packed("169.254.1.1"),
            map_gateway=False,
            map_guest_address=packed("169.254.1.2"),
        )

    @pytest.mark.parametrize("address", ["169.254.0.1", "169.254.1.1"])
    def test_podman_without_ports(self, address: str) -> None:
        line = f"--config-net --dns-forward {address} -t none -u none -T none -U none --no-map-gw --quiet --netns /n"
        assert read(line).network.dns_forward == packed(address)
        assert read(line).network.tcp_in == ("none",)

    def test_podman_with_options_of_the_user(self) -> None:
        config = read("--config-net --pcap demo.pcap -T 5213-5214 -U 5213-5214 -t none -u none --quiet --netns /n")
        assert config.pcap == "demo.pcap"
        assert (config.network.tcp_out, config.network.udp_out) == (("5213-5214",), ("5213-5214",))

    @pytest.mark.parametrize(
        ("target", "expected", "userns"),
        [
            ("4711", Target("pid", pid=4711), None),
            (
                "--userns=/proc/4711/ns/user --netns=/proc/4711/ns/net",
                Target("netns", netns="/proc/4711/ns/net"),
                "/proc/4711/ns/user",
            ),
        ],
    )
    def test_rootlesskit(self, target: str, expected: Target, userns: str | None) -> None:
        config = read(
            "--stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 "
            f"--dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=auto --udp-ports=none {target}"
        )
        assert (config.target, config.userns, config.netns_only) == (expected, userns, False)
        made = config.network
        assert (made.addresses, made.prefix_length, made.gateways) == (packed("10.0.2.100"), 24, packed("10.0.2.2"))
        assert (made.guest_interface, made.mtu, made.config_net, made.ipv6) == ("tap0", 65520, True, False)
        assert (made.tcp_in, made.udp_in, made.tcp_out) == (("auto",), ("none",), ())
        assert config.notes == ("--stderr: deprecated, without effect",)


_TABLE = (*COMMON, *PORTS, *PASST_ONLY)
_NAMES = [f"--{option.long}" for option in _TABLE] + [f"-{option.short}" for option in _TABLE if option.short]
_VALUES = ["none", "auto", "0", "1500", "80", "10.0.0.1", "fd00::1", "eth0", "/n", "9a:55:9a:55:9a:55", "a b", "", "-"]
_WORDS = st.sampled_from(_NAMES) | st.sampled_from(_VALUES) | st.text(max_size=12) | st.text("-0adnt:=.", max_size=8)


def outcome(words: list[str]) -> str:
    """What is said about words that make no configuration."""
    try:
        made = parse_pasta(words)
    except ConfigError as error:
        return str(error)
    assert isinstance(made, PastaConfig | Answer)
    return ""


@given(st.lists(_WORDS, max_size=10))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    assert outcome(words).isprintable()


@given(st.sampled_from([option for option in _TABLE if option.value]), st.text(max_size=20))
def test_any_value_is_read_or_refused_by_name(option: Option, value: str) -> None:
    said = outcome([f"--{option.long}", value])
    assert not said or f"--{option.long}" in said
