"""The words of `bucatini switch`, and the configuration they make."""

from __future__ import annotations

import pytest

from bucatini.base.address import pack
from bucatini.base.errors import ConfigError
from bucatini.cli import options
from bucatini.cli.main import main
from bucatini.cli.switch import make_parser
from bucatini.config.arguments import switch_config
from bucatini.config.switch import LinkRule, SwitchConfig
from bucatini.config.vm import LinkSpec


def configured(words: str) -> SwitchConfig:
    parsed = options.parse(make_parser(), words.split())
    assert parsed is not None
    arguments, rest = parsed
    assert rest == []
    return switch_config(arguments)


def test_what_belongs_to_a_link() -> None:
    made = configured(
        "--socket a -p 8080:80 --name web --fd 3 --mac 02:00:00:00:00:0a -t 22 --dgram b,c --link web:guest2:tcp:80"
    )
    web, second, third = made.guests
    assert (web.name, web.publish, web.mac, web.link) == ("web", ("8080:80",), None, LinkSpec("socket", "a"))
    assert (second.name, second.tcp_in, second.mac) == ("guest2", ("22",), bytes.fromhex("02000000000a"))
    assert (third.name, third.link) == ("guest3", LinkSpec("dgram", "b,c"))
    assert made.rules == (LinkRule("web", "guest2", "tcp", ((80, 80),)),)


def test_the_segment() -> None:
    made = configured("--fd 3 --network 10.1.0.0/16 --guest-length 30 --lease-file x --lease-time 60 --one-off")
    assert (made.segment, made.guest_length, made.lease_file) == ((pack("10.1.0.0"), 16), 30, "x")
    assert (made.network.lease, made.one_off, made.guard) == (60, True, True)
    assert configured("--fd 3 --fd 4 --control x").control == "x"
    plain = configured("--fd 3")
    assert (plain.segment, plain.guest_length, plain.lease_file, plain.network.lease) == (None, None, None, 600)


@pytest.mark.parametrize(
    "words",
    ["--mirror-host", "--interface eth0", "--no-guard", "--address 10.0.0.2", "--gateway 10.0.0.1",
     "--prefix-length 24", "--map-guest-addr 10.0.0.3", "--ifname x"],
)  # fmt: skip
def test_what_a_segment_decides_is_no_option(words: str) -> None:
    with pytest.raises(ConfigError, match="unknown option --[a-z-]+; it is one of run, "):
        configured(f"--fd 3 {words}")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--name web --fd 3", "--name 'web': belongs behind the LINK"),
        ("--fd 3 --guest-length 31", "--guest-length '31': must be a number from 1 to 30"),
        ("--fd 3 --link x", "--link 'x': must be A:B"),
        ("--fd 3 more", "unexpected argument 'more'"),
        ("--fd 3 --control -", "--control '-': must be"),
        ("", "no link given"),
    ],
)
def test_one_line_and_status_2(capsys: pytest.CaptureFixture[str], words: str, complaint: str) -> None:
    assert main(["switch", *words.split()]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.startswith("bucatini switch: ")
    assert said.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["switch", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--link A:B[:PROTO[:PORTS]]" in said
    assert "--control PATH" in said
    assert main(["--help"]) == 0
    assert "switch" in capsys.readouterr().out
