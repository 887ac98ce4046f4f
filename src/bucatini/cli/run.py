"""`bucatini run [OPTIONS] [--] [COMMAND [ARG...]]`: a command on a network of its own.

Options end at the first word that is none, so the command keeps its own. What an option means is decided in
`config/` and below; this module knows only which options there are. Everything the engine needs is imported after
the options were read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from bucatini.base.errors import ConfigError
from bucatini.cli.printing import print_text

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

__all__ = ["main", "make_parser", "split_command"]

_USAGE = "bucatini run [OPTIONS] [--] [COMMAND [ARG...]]"

_DESCRIPTION = """\
Run COMMAND (default: your shell) in a network namespace of its own, as root or as an ordinary user.
It sees a complete IPv4 and IPv6 network on eth0; each of its connections is decided by a policy, made by
an ordinary socket of this host, counted, and explained when it is refused. Its exit status is ours.
"""

_EPILOG = """\
TARGET is an address, a CIDR such as 10.0.0.0/8, or a group: public private loopback link-local metadata
multicast host. The longest prefix wins; deny wins a tie. 'host' is this machine's loopback, which the command
reaches under the name host.bucatini.internal.

exit status:
  that of COMMAND; 128+N if it died of signal N; 127 if it was not found, 126 if it could not be started;
  2 if the options or this host do not allow the run

examples:
  bucatini run                                          a shell on its own network
  bucatini run -- curl https://example.org/             public destinations only (the default policy)
  bucatini run --allow host -- curl http://host.bucatini.internal:8000/
  bucatini run --policy none --allow 192.0.2.10 --summary -- ./agent
  bucatini run -p 8080:80 -- python3 -m http.server 80  reachable on port 8080 of this host
  bucatini run --pcap out.pcapng --events out.jsonl -- make test
"""


class _Parser(argparse.ArgumentParser):
    """argparse that raises ConfigError in place of printing a usage and leaving."""

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Help on stdout, also into a pipe that is closed early."""
        print_text(self.format_help())

    def error(self, message: str) -> NoReturn:
        """Raise `message` in our words."""
        raise ConfigError(f"{message.removeprefix('argument ')}; see 'bucatini run --help'")


def main(words: Sequence[str]) -> int:
    """Run what `words` ask for and return the exit status. Raises ConfigError and HostError before the command runs."""
    parser = make_parser()
    options, command = split_command(parser, words)
    try:
        arguments, extra = parser.parse_known_args(options)
    except SystemExit:  # --help has been printed
        return 0
    if extra:
        raise ConfigError(_unknown_option(parser, extra[0]))
    from bucatini.config.arguments import run_config

    config = run_config(arguments, command or [os.environ.get("SHELL") or "/bin/sh"])
    from bucatini import api

    return api.run(config)


def make_parser() -> argparse.ArgumentParser:
    """The options of `run`. All values stay text; `config.arguments` reads them."""
    parser = _Parser(
        prog="bucatini run",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    _add_network(parser.add_argument_group("network"))
    _add_policy(parser.add_argument_group("policy"))
    _add_reports(parser.add_argument_group("reports"))
    return parser


def split_command(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options and command: the command starts after `--` or at the first word that is neither option nor value."""
    valued = {option for action in _actions(parser) if action.nargs != 0 for option in action.option_strings}
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            return list(words[:position]), list(words[position + 1 :])
        if not word.startswith("-") or word == "-":
            break
        position += 2 if _wants_next(word, valued) else 1
    return list(words[:position]), list(words[position:])


def _wants_next(word: str, valued: set[str]) -> bool:
    """Whether the value of option `word` is the word after it, and not part of it as in `--mtu=9000` and `-p80:80`."""
    if word.startswith("--"):
        return word in valued
    for index, letter in enumerate(word[1:], start=1):
        if f"-{letter}" in valued:
            return index == len(word) - 1
    return False


def _add_network(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--slot", metavar="N", help="derive MAC and IP addresses from N, 0 to 65535 (default 0)")
    add("--mirror-host", action="store_true", help="use the addresses, routes and MTU of this host instead")
    add("-4", dest="ipv4_only", action="store_true", help="IPv4 only (default: IPv4 and IPv6)")
    add("-6", dest="ipv6_only", action="store_true", help="IPv6 only")
    add("--mtu", metavar="N", help="largest IP packet in bytes, 68 (1280 with IPv6) to 65521 (default 1500)")
    add(
        "-p",
        "--publish",
        metavar="SPEC",
        action="append",
        default=[],
        help="[ADDR:]HOST:GUEST[/tcp|/udp], ports or ranges: who connects to port HOST of this host reaches port GUEST "
        "of the command, which sees the real client; repeatable",
    )


def _add_policy(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--policy",
        metavar="NAME",
        help="public: public destinations and DNS (default); open: everything, this host included; none: nothing",
    )
    add("--allow", metavar="TARGET", action="append", default=[], help="also allow TARGET; repeatable")
    add("--deny", metavar="TARGET", action="append", default=[], help="refuse TARGET; repeatable")


def _add_reports(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--pcap", metavar="FILE", help="write a pcapng capture of all frames, with verdicts and drop reasons")
    add("--events", metavar="FILE", help="append a JSON line for each flow opened, refused or closed")
    add("--summary", action="store_true", help="print a table of flows at the end")
    add("-v", "--verbose", action="store_true", help="print a line for each flow")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    add("-h", "--help", action="help", help="show this help")


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions  # noqa: SLF001  argparse has no public way to ask


def _unknown_option(parser: argparse.ArgumentParser, written: str) -> str:
    import difflib

    name = written.partition("=")[0]
    known = [option for action in _actions(parser) for option in action.option_strings]
    close = difflib.get_close_matches(name, known, n=1) if name.startswith("--") else []
    hint = f"did you mean {close[0]}?" if close else "see 'bucatini run --help'"
    return f"unknown option {name}; {hint}"
