"""`bucatini forward --control PATH ls|add|rm [SPEC...]`: the forwarded ports of a running engine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from bucatini.base.errors import ConfigError
from bucatini.cli import control, options
from bucatini.cli.control import CONTROL_VARIABLE
from bucatini.cli.printing import print_error, print_text

__all__ = ["main", "make_change_parser"]

_USAGE = """\
bucatini forward [--control PATH] ls [--json]
       bucatini forward [--control PATH] add|rm [-t|-u|-T|-U SPEC]... [SPEC...]"""

_DESCRIPTION = f"""\
List, add and remove forwarded ports of a running engine, which was started with --control PATH. Connections that exist
live on when their port is removed. PATH may also stand in the environment variable {CONTROL_VARIABLE}.
"""

_EPILOG = """\
SPEC is that of --tcp-ports and its like: PORTS[:PORTS],... with an ADDR%IF/ before it for -t and -u, ~PORTS to leave
some out, or auto to follow what is bound. Without an option before it, it is that of -t.

examples:
  bucatini forward --control /run/user/1000/box.sock add 8080:80 -u 5353
  bucatini forward --control /run/user/1000/box.sock add -t 127.0.0.1/9000-9010 -T 5432
  bucatini forward --control /run/user/1000/box.sock rm 8080:80
  bucatini forward --control /run/user/1000/box.sock ls
"""

_CHANGES = {"add": "forward.add", "rm": "forward.remove"}
_KINDS = (
    ("-t", "--tcp-ports", "tcp", "in", "TCP port of the host that leads to the guest; repeatable"),
    ("-u", "--udp-ports", "udp", "in", "the same for UDP"),
    ("-T", "--tcp-ns", "tcp", "out", "TCP port of the guest's loopback that leads to the host's; repeatable"),
    ("-U", "--udp-ns", "udp", "out", "the same for UDP"),
)
_COLUMNS = ("direction", "protocol", "listens", "leads to", "")

_Change = tuple[str, str, str]
"""Protocol, direction, spec."""


def main(words: Sequence[str]) -> int:
    """Do what `words` say: 0, or 1 when the engine cannot. Raises ConfigError for words that mean nothing."""
    return control.run(control.make_parser("forward", _USAGE, _DESCRIPTION, _EPILOG), _WORDS, words)


def make_change_parser(verb: str) -> argparse.ArgumentParser:
    """The options behind `add` and `rm`."""
    usage = f"bucatini forward {verb} [-t|-u|-T|-U SPEC]... [SPEC...]"
    parser = options.make_parser(f"forward {verb}", usage, _DESCRIPTION, _EPILOG)
    for short, name, protocol, direction, help_text in _KINDS:
        parser.add_argument(
            short, name, metavar="SPEC", action=_Append, kind=(protocol, direction), dest="changes", default=[],
            help=help_text,
        )  # fmt: skip
    parser.add_argument("-h", "--help", action="help", help="show this help")
    return parser


class _Append(argparse.Action):
    """Keeps the options in the order they were written."""

    def __init__(self, *, kind: tuple[str, str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.kind = kind

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), (*self.kind, values)])


def _grouped(words: Sequence[str]) -> list[str]:
    """Every bare SPEC with the `-t` it means, so that options may stand behind it."""
    parser = make_change_parser("add")
    grouped: list[str] = []
    rest = list(words)
    while rest:
        head, rest = options.split_command(parser, rest)
        grouped += head
        if rest:
            grouped += ["-t", rest.pop(0)]
    return grouped


def _parse_list(words: Sequence[str]) -> control.Parsed:
    return options.parse(control.make_word_parser("forward ls", "[--json]", "List what is forwarded."), words)


def _parse_change(verb: str, words: Sequence[str]) -> control.Parsed:
    return options.parse(make_change_parser(verb), _grouped(words))


def _list(path: str, arguments: argparse.Namespace, rest: list[str]) -> None:
    from bucatini.engine.control.client import ask

    control.refuse_words("ls", rest)
    forwards = ask(path, "forward.list", {})
    if arguments.json:
        print_text(json.dumps(forwards, indent=1) + "\n")
    else:
        print_text(_table([_row(forward) for forward in forwards]))


def _row(forward: dict[str, Any]) -> tuple[str, ...]:
    address = forward["address"] or "*"
    place = f"[{address}]" if ":" in address else address
    device = f"%{forward['device']}" if forward["device"] else ""
    inward = forward["direction"] == "in"
    near = f"{place}{device}:{forward['port']}" if inward else f"guest's loopback:{forward['port']}"
    far = f"guest:{forward['target']}" if inward else f"host's loopback:{forward['target']}"
    return (forward["direction"], forward["protocol"], near, far, "auto" if forward["automatic"] else "")


def _table(rows: list[tuple[str, ...]]) -> str:
    return control.table([_COLUMNS, *rows]) if rows else "nothing is forwarded\n"


def _change(verb: str, path: str, arguments: argparse.Namespace, rest: list[str]) -> None:
    from bucatini.engine.control.client import ask

    changes: list[_Change] = [*arguments.changes, *(("tcp", "in", spec) for spec in rest)]
    if not changes:
        raise ConfigError(f"{verb}: no port is named; see 'bucatini forward {verb} --help'")
    for protocol, direction, spec in changes:
        params = {"protocol": protocol, "direction": direction, "spec": spec}
        for note in ask(path, _CHANGES[verb], params).get("notes", ()):
            print_error("bucatini forward", str(note))


_WORDS = {
    "ls": control.Word(_parse_list, _list),
    **{verb: control.Word(partial(_parse_change, verb), partial(_change, verb)) for verb in _CHANGES},
}
