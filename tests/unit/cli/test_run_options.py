"""Which words are options of `run`, which are the command, and the configuration they make."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.errors import ConfigError
from bucatini.cli.options import split_command
from bucatini.cli.run import main, make_parser
from bucatini.config import RunConfig
from bucatini.config.arguments import run_config


def configured(*words: str) -> RunConfig:
    parser = make_parser()
    options, command = split_command(parser, words)
    return run_config(parser.parse_args(options), command)


@pytest.mark.parametrize(
    ("words", "options", "command"),
    [
        ("ls -l --all", "", "ls -l --all"),
        ("-- ls -l", "", "ls -l"),
        ("-v ls -v", "-v", "ls -v"),
        ("--mtu 1400 ls", "--mtu 1400", "ls"),
        ("--mtu=1400 ls", "--mtu=1400", "ls"),
        ("-p 80:80 ls", "-p 80:80", "ls"),
        ("-p80:80 ls", "-p80:80", "ls"),
        ("-vp 80:80 ls", "-vp 80:80", "ls"),
        ("-4v ls", "-4v", "ls"),
        ("-v -- -- x", "-v", "-- x"),
        ("-v - x", "-v", "- x"),
        ("--allow -- ls", "--allow --", "ls"),
        ("sh -c -- x", "", "sh -c -- x"),
        ("", "", ""),
        ("-v", "-v", ""),
    ],
)
def test_where_the_command_starts(words: str, options: str, command: str) -> None:
    assert split_command(make_parser(), words.split()) == (options.split(), command.split())


@given(st.lists(st.text(), min_size=1), st.lists(st.sampled_from(["-v", "--summary", "-4"])))
def test_after_two_dashes_every_word_is_the_commands(command: list[str], options: list[str]) -> None:
    assert split_command(make_parser(), [*options, "--", *command]) == (options, command)


def test_every_option() -> None:
    words = (
        "--slot 7 --mirror-host -6 --mtu 9000 -p 8080:80 --publish [::1]:53:5353/udp --policy none "
        "--allow 192.0.2.0/24 --allow host --deny private --pcap p --events e --summary -v ls -l"
    )
    config = configured(*words.split())
    assert config.command == ("ls", "-l")
    assert (config.slot, config.mirror_host, config.network.mtu) == (7, True, 9000)
    assert (config.network.ipv4, config.network.ipv6) == (False, True)
    assert config.publish == ("8080:80", "[::1]:53:5353/udp")
    assert [str(forward) for forward in config.forwards()] == ["8080:80/tcp", "[::1]:53:5353/udp"]
    assert (config.policy.preset, config.policy.allow, config.policy.deny) == (
        "none",
        ("192.0.2.0/24", "host"),
        ("private",),
    )
    assert (config.observe.pcap, config.observe.events) == ("p", "e")
    assert (config.observe.summary, config.observe.verbose, config.observe.quiet) == (True, True, False)


def test_defaults_are_those_of_the_configuration() -> None:
    assert configured("true") == RunConfig(command=("true",))
    assert configured("-q", "true").observe.quiet


def test_two_parsers_do_not_share_lists() -> None:
    assert configured("--allow", "host", "true").policy.allow == ("host",)
    assert configured("true").policy.allow == ()


@pytest.mark.parametrize(
    "word", ["--mtu=", "--slot=+1", "--slot=1_0", "--slot= 1", "--slot=١", "--slot=99999999999999"]
)
def test_numbers_are_plain_digits(word: str) -> None:
    with pytest.raises(ConfigError, match="must be a number from"):
        configured(word, "true")


def test_help_fits_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["-v", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("--slot", "--mirror-host", "-4", "-6", "--mtu", "--publish", "--policy", "--allow", "--deny"):
        assert option in shown
    for option in ("--pcap", "--events", "--summary", "-v", "-q"):
        assert option in shown
    assert max(map(len, shown.splitlines())) <= 120
