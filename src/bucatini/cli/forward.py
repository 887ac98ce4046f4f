"""`bucatini forward --control PATH ls|add|rm [SPEC...]`: the forwarded ports of a running engine."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

from bucatini.base.errors import ConfigError, HostError, PeerError
from bucatini.cli import options
from bucatini.cli.printing import print_error, print_text, printable

__all__ = ["CONTROL_VARIABLE", "main", "make_change_parser", "make_parser"]

CONTROL_VARIABLE = "BUCATINI_CONTROL"

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
FAILED = 1

_Change = tuple[str, str, str]
"""Protocol, direction, spec."""


def main(words: Sequence[str]) -> int:
    """Do what `words` say: 0, or 1 when the engine cannot. Raises ConfigError for words that mean nothing."""
    parsed = options.parse(make_parser(), words)
    if parsed is None:
        return 0
    arguments, rest = parsed
    verb, rest = (rest[0], rest[1:]) if rest else ("", [])
    if verb != "ls" and verb not in _CHANGES:
        raise ConfigError(f"{verb!r} is not one of ls, add, rm" if verb else "say ls, add or rm")
    if verb == "ls":
        parsed = options.parse(_make_list_parser(), rest)
    else:
        parsed = options.parse(make_change_parser(verb), _grouped(rest))
    if parsed is None:
        return 0
    path = arguments.control or os.environ.get(CONTROL_VARIABLE)
    if not path:
        raise ConfigError(f"--control PATH is missing, and {CONTROL_VARIABLE} is not set")
    try:
        return _list(path, *parsed) if verb == "ls" else _change(path, verb, *parsed)
    except (HostError, PeerError) as error:
        print_error("bucatini forward", str(error))
        return FAILED


def make_parser() -> argparse.ArgumentParser:
    """The options before `ls`, `add` or `rm`."""
    parser = options.make_parser("forward", _USAGE, _DESCRIPTION, _EPILOG)
    parser.add_argument("--control", metavar="PATH", help="control socket of the engine")
    parser.add_argument("-h", "--help", action="help", help="show this help")
    return parser


def _make_list_parser() -> argparse.ArgumentParser:
    parser = options.make_parser("forward ls", "bucatini forward ls [--json]", "List what is forwarded.", "")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-h", "--help", action="help", help="show this help")
    return parser


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


def _list(path: str, arguments: argparse.Namespace, rest: list[str]) -> int:
    from bucatini.engine.control.client import ask

    if rest:
        raise ConfigError(f"ls: {rest[0]!r} means nothing here")
    forwards = ask(path, "forward.list", {})
    if arguments.json:
        print_text(json.dumps(forwards, indent=1) + "\n")
    else:
        print_text(_table([_row(forward) for forward in forwards]))
    return 0


def _row(forward: dict[str, Any]) -> tuple[str, ...]:
    address = forward["address"] or "*"
    place = f"[{address}]" if ":" in address else address
    device = f"%{forward['device']}" if forward["device"] else ""
    inward = forward["direction"] == "in"
    near = f"{place}{device}:{forward['port']}" if inward else f"guest's loopback:{forward['port']}"
    far = f"guest:{forward['target']}" if inward else f"host's loopback:{forward['target']}"
    return (forward["direction"], forward["protocol"], near, far, "auto" if forward["automatic"] else "")


def _table(rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return "nothing is forwarded\n"
    lines = [_COLUMNS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "".join(
        printable("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()) + "\n"
        for line in lines
    )


def _change(path: str, verb: str, arguments: argparse.Namespace, rest: list[str]) -> int:
    from bucatini.engine.control.client import ask

    changes: list[_Change] = [*arguments.changes, *(("tcp", "in", spec) for spec in rest)]
    if not changes:
        raise ConfigError(f"{verb}: no port is named; see 'bucatini forward {verb} --help'")
    for protocol, direction, spec in changes:
        params = {"protocol": protocol, "direction": direction, "spec": spec}
        for note in ask(path, _CHANGES[verb], params).get("notes", ()):
            print_error("bucatini forward", str(note))
    return 0
