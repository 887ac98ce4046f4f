"""Command lines of slirp4netns: the configuration each makes, or the error it is."""

from __future__ import annotations

import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import pack
from bucatini.base.errors import ConfigError
from bucatini.config.getopt_words import Answer, UsageError
from bucatini.config.network import NetworkOptions
from bucatini.config.slirp import SlirpConfig
from bucatini.config.slirp_arguments import parse_slirp


def packed(*addresses: str) -> tuple[bytes, ...]:
    return tuple(map(pack, addresses))


DEFAULT = NetworkOptions(
    ipv6=False,
    mtu=1500,
    addresses=packed("10.0.2.100"),
    prefix_length=24,
    gateways=packed("10.0.2.2"),
    mac=bytes.fromhex("52550a000202"),
    copy_routes=False,
    copy_addresses=False,
    guest_interface="tap0",
    dns=packed("10.0.2.3"),
    dns_forward=packed("10.0.2.3"),
    search=(),
    dhcp_dns=True,
    map_host_loopback=packed("10.0.2.2"),
    splice=False,
)


def read(line: str) -> SlirpConfig:
    config = parse_slirp(shlex.split(line))
    assert isinstance(config, SlirpConfig)
    return config


def network(options: str) -> dict[str, object]:
    """What differs from the defaults."""
    made = read(f"{options} 5 tap0").network
    return {
        field: getattr(made, field)
        for field in made.__struct_fields__
        if getattr(made, field) != getattr(DEFAULT, field)
    }


def refused(line: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_slirp(shlex.split(line))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_but_the_target() -> None:
    assert read("5 tap0") == SlirpConfig(pid=5, tap="tap0", network=DEFAULT)


def test_every_setting_of_the_process() -> None:
    line = "-c -e 4 -r 3 -a /s --netns-type=path --userns-path=/u --enable-sandbox --enable-seccomp /n tap1"
    config = read(line)
    assert config.network.config_net
    assert config == SlirpConfig(
        netns="/n",
        tap="tap1",
        network=config.network,
        configure=True,
        exit_fd=4,
        ready_fd=3,
        api_socket="/s",
        userns_path="/u",
        enable_sandbox=True,
        enable_seccomp=True,
        notes=(
            "--enable-sandbox: accepted without effect, no mount namespace is made",
            "--enable-seccomp: accepted without effect, system calls are not filtered",
        ),
    )


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ("-c", {"config_net": True, "router_advertisements": False}),
        ("--mtu=65520", {"mtu": 65520}),
        ("-m 9000 -m 68", {"mtu": 68}),
        ("-m65521", {"mtu": 65521}),
        (
            "-6",
            {
                "ipv6": True,
                "addresses": packed("10.0.2.100", "fd00::100"),
                "gateways": packed("10.0.2.2", "fd00::2"),
                "dns": packed("10.0.2.3", "fd00::3"),
                "dns_forward": packed("10.0.2.3", "fd00::3"),
                "map_host_loopback": packed("10.0.2.2", "fd00::2"),
            },
        ),
        (
            "--cidr 192.168.128.0/17",
            {
                "addresses": packed("192.168.128.100"),
                "prefix_length": 17,
                "gateways": packed("192.168.128.2"),
                "mac": bytes.fromhex("5255c0a88002"),
                "dns": packed("192.168.128.3"),
                "dns_forward": packed("192.168.128.3"),
                "map_host_loopback": packed("192.168.128.2"),
            },
        ),
        ("--disable-host-loopback", {"map_host_loopback": (), "map_gateway": False}),
        ("--disable-dns", {"dns": (), "dns_forward": ()}),
        ("--outbound-addr=10.2.2.10", {"outbound": packed("10.2.2.10")}),
        ("--outbound-addr=eth0", {"outbound_interface4": "eth0"}),
        ("--outbound-addr6=fe80::10", {"outbound": packed("fe80::10")}),
        ("--outbound-addr6=eth0", {"outbound_interface6": "eth0"}),
        (
            "--outbound-addr6=fe80::10 --outbound-addr=10.2.2.10",
            {"outbound": packed("10.2.2.10", "fe80::10")},
        ),
        (
            "-c --macaddress=02:00:00:00:00:07",
            {"config_net": True, "router_advertisements": False, "guest_mac": b"\2\0\0\0\0\7"},
        ),
        ("--target-type=netns --netns-type=pid", {}),
    ],
)
def test_network(options: str, made: dict[str, object]) -> None:
    assert network(options) == made


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x tap0", ["PID 'x'", "number from 1"]),
        ("0 tap0", ["PID '0'"]),
        ("--netns-type=path '' tap0", ["PATH ''"]),
        ("--netns-type=foo 5 tap0", ["--netns-type 'foo'", "pid or path"]),
        ("5 a/b", ["TAPNAME 'a/b'"]),
        ("5 aaaaaaaaaaaaaaaa", ["TAPNAME", "1 to 15"]),
        ("-m 65522 5 tap0", ["--mtu '65522'", "68 to 65521"]),
        ("-m 0 5 tap0", ["--mtu '0'"]),
        ("-m x 5 tap0", ["--mtu 'x'"]),
        ("-e x 5 tap0", ["--exit-fd 'x'"]),
        ("-r -3 5 tap0", ["--ready-fd '-3'"]),
        ("--macaddress=02:00:00:00:00:07 5 tap0", ["--macaddress '02:00:00:00:00:07'", "--configure"]),
        ("-c --macaddress=xx 5 tap0", ["--macaddress 'xx'"]),
        ("--outbound-addr=fe80::1 5 tap0", ["--outbound-addr 'fe80::1'", "IPv4"]),
        ("--outbound-addr=1.2.3 5 tap0", ["--outbound-addr '1.2.3'", "IPv4"]),
        ("--outbound-addr=224.0.0.1 5 tap0", ["--outbound-addr '224.0.0.1'"]),
        ("--outbound-addr6=10.0.0.1 5 tap0", ["--outbound-addr6 '10.0.0.1'", "IPv6"]),
        ("--outbound-addr= 5 tap0", ["--outbound-addr ''"]),
        ("--target-type=bess -a /s /tmp/b", ["--target-type 'bess'", "not supported"]),
        ("--target-type=foo 5 tap0", ["--target-type 'foo'", "must be netns"]),
        ("--userns-path= 5 tap0", ["--userns-path ''"]),
        (f"-a /{'x' * 107} 5 tap0", ["--api-socket", "at most 107 bytes, it has 108"]),
    ],
)
def test_refused(line: str, words: list[str]) -> None:
    message = refused(line)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("cidr", "phrase"),
    [
        ("24", "invalid CIDR"),
        ("foo", "invalid CIDR"),
        ("10.0.2.0", "invalid CIDR"),
        ("10.0.2.0/", "invalid CIDR"),
        ("10.0.2.0/24x", "invalid CIDR"),
        ("fd00::/64", "invalid CIDR"),
        ("fd00::/24", "invalid CIDR"),
        ("10.0.2.0/26", "prefix length needs to be 1-25"),
        ("10.0.2.0/0", "prefix length needs to be 1-25"),
        ("10.0.2.100/24", "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24"),
        ("10.0.2.0/16", "CIDR needs to be a network address like 10.0.0.0/16, not like 10.0.2.0/16"),
    ],
)
def test_cidr_errors_hold_the_words_that_scripts_look_for(cidr: str, phrase: str) -> None:
    message = refused(f"--cidr {cidr} 5 tap0")
    assert phrase in message
    assert f"--cidr '{cidr}'" in message


@given(st.integers(1, 25), st.integers(0, (1 << 32) - 1))
def test_every_network_holds_its_three_addresses(length: int, address: int) -> None:
    network = address >> 32 - length << 32 - length
    first = network.to_bytes(4, "big")
    made = read(f"--cidr {'.'.join(map(str, first))}/{length} 5 tap0").network
    numbers = [int.from_bytes(each, "big") for each in (made.gateways[0], made.dns_forward[0], made.addresses[0])]
    assert numbers == [network + 2, network + 3, network + 100]
    assert all(number >> 32 - length == network >> 32 - length for number in numbers)


@pytest.mark.parametrize("line", ["", "5", "-c", "--bogus 5 tap0", "--enable-s 5 tap0", "-m", "--help=3", "-1 tap0"])
def test_no_command_line(line: str) -> None:
    with pytest.raises(UsageError):
        parse_slirp(line.split())


def test_options_stand_anywhere() -> None:
    assert read("5 -c tap0 -m 9000") == read("-c -m 9000 5 tap0")
    assert read("-c -- 5 tap0") == read("-c 5 tap0")


def test_more_words_are_noted() -> None:
    assert read("5 tap0 x y").notes == ("'x': ignored, too many arguments",)


class TestCallers:
    def test_rootlesskit(self) -> None:
        config = read("--mtu 65520 -r 3 --disable-host-loopback --api-socket /s/.s4nn.sock --enable-ipv6 4711 tap0")
        assert (config.pid, config.tap, config.ready_fd, config.api_socket) == (4711, "tap0", 3, "/s/.s4nn.sock")
        assert (config.configure, config.network.ipv6, config.network.map_host_loopback) == (False, True, ())

    def test_podman(self) -> None:
        config = read(
            "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -r 3 -e 4 "
            "--netns-type=path /run/user/1000/netns/x tap0"
        )
        assert (config.netns, config.configure, config.exit_fd) == ("/run/user/1000/netns/x", True, 4)

    def test_features_are_looked_up_in_the_help(self) -> None:
        answer = parse_slirp(["--help"])
        assert isinstance(answer, Answer)
        names = (
            "configure exit-fd ready-fd mtu enable-ipv6 api-socket cidr disable-host-loopback netns-type userns-path"
        )
        more = "enable-sandbox enable-seccomp outbound-addr outbound-addr6 disable-dns macaddress target-type"
        for name in f"{names} {more} help version".split():
            assert re.search(rf"(^|\W)--{name}(\W|$)", answer.text), name
        assert max(map(len, answer.text.splitlines())) <= 110

    def test_version(self) -> None:
        answer = parse_slirp(["-v"])
        assert isinstance(answer, Answer)
        assert re.match(r"slirp4netns version \d+\.\d+\.\d+\n", answer.text)


_WORDS = st.sampled_from(
    "-c -e -r -m -6 -a --cidr --mtu=1500 --netns-type=path --outbound-addr -- 3 5 tap0 10.0.2.0/24 /n".split()
)


@given(st.lists(_WORDS | st.text(max_size=12) | st.text("-0acmr:/=.", max_size=8), max_size=10))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    said = ""
    try:
        assert isinstance(parse_slirp(words), SlirpConfig | Answer)
    except ConfigError as error:
        said = str(error)
    assert said.isprintable()
