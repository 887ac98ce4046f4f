"""`bucatini link --control PATH ls|add|rm [RULE...]`: who may begin what on the segment of a running `switch`."""

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

__all__ = ["main"]

_USAGE = """\
bucatini link [--control PATH] ls [--json]
       bucatini link [--control PATH] add|rm A:B[:PROTO[:PORTS]]... [--json]"""

_DESCRIPTION = f"""\
List, add and remove link rules of a running 'bucatini switch', which was started with --control PATH. A change is made
as a whole or not at all. When a rule goes, what it let begin and no other rule does ends at once; everything else goes
on. PATH may also stand in the environment variable {CONTROL_VARIABLE}.
"""

_EPILOG = """\
A:B[:PROTO[:PORTS]] is that of --link: guest A may begin conversations with guest B, and B may answer. A rule is removed
as it was added, whole.

examples:
  bucatini link --control /run/user/1000/switch.sock add web:db:tcp:5432 web:db:icmp
  bucatini link --control /run/user/1000/switch.sock rm web:db:icmp
  bucatini link --control /run/user/1000/switch.sock ls
"""

_METHODS = {"add": "link.add", "rm": "link.remove"}
_COLUMNS = ("from", "to", "protocol", "ports", "rule")


def main(words: Sequence[str]) -> int:
    """Do what `words` say: 0, or 1 when the engine cannot. Raises ConfigError for words that mean nothing."""
    return control.run(control.make_parser("link", _USAGE, _DESCRIPTION, _EPILOG), _WORDS, words)


def _parse(verb: str, words: Sequence[str]) -> control.Parsed:
    """`--json` may stand behind rules too."""
    usage = "[--json]" if verb == "ls" else "A:B[:PROTO[:PORTS]]... [--json]"
    parser = control.make_word_parser(f"link {verb}", usage, _DESCRIPTION, _EPILOG)
    given: list[str] = []
    rules: list[str] = []
    rest = list(words)
    while rest:
        head, rest = options.split_command(parser, rest)
        given += head
        rules += rest[:1]
        rest = rest[1:]
    parsed = options.parse(parser, given)
    return None if parsed is None else (parsed[0], rules)


def _list(path: str, arguments: argparse.Namespace, rest: list[str]) -> None:
    from bucatini.engine.control.client import ask

    control.refuse_words("ls", rest)
    rules = ask(path, "link.list", {})
    if arguments.json:
        print_text(json.dumps(rules, indent=1) + "\n")
    else:
        print_text(control.table([_COLUMNS, *map(_row, rules)]) if rules else "nobody may begin anything\n")


def _row(rule: dict[str, Any]) -> tuple[str, ...]:
    ports = ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in rule["ports"])
    return rule["source"], rule["target"], rule["protocol"], ports or "all", rule["rule"]


def _change(verb: str, path: str, arguments: argparse.Namespace, rules: list[str]) -> None:
    from bucatini.engine.control.client import ask

    if not rules:
        raise ConfigError(f"{verb}: no rule is named; see 'bucatini link {verb} --help'")
    answer = ask(path, _METHODS[verb], {"rules": rules})
    if arguments.json:
        print_text(json.dumps(answer, indent=1) + "\n")
    for note in () if arguments.json else answer["notes"]:
        print_error("bucatini link", str(note))


_WORDS = {
    "ls": control.Word(partial(_parse, "ls"), _list),
    **{verb: control.Word(partial(_parse, verb), partial(_change, verb)) for verb in _METHODS},
}
