"""`bucatini rules --control PATH show|set ...`: the rules of a running `filter`, looked at and replaced."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

from bucatini.cli import control, options
from bucatini.cli.control import CONTROL_VARIABLE
from bucatini.cli.printing import print_text

__all__ = ["main"]

_USAGE = """\
bucatini rules [--control PATH] show [--json]
       bucatini rules [--control PATH] set [--allow RULE]... [--block RULE]... [--revision REV] [--json]"""

_DESCRIPTION = f"""\
Show the rules of a running 'bucatini filter', which was started with --control PATH, or put others in their place: all
of them, as a whole or not at all. Flows that they would not let begin end at once; everything else goes on. PATH may
also stand in the environment variable {CONTROL_VARIABLE}.
"""

_EPILOG = """\
RULE is that of 'bucatini filter': [in|out ]TARGET[:PORT|:A-B]. 'set' without any takes all rules away, which leaves
what a filter without rules permits. Whether --allow 0.0.0.0/0 is among them cannot change while the guest runs.

REV names the change, up to 256 bytes: the same with the same rules is a repetition, with others it is refused. Without
--revision a random one is made up, which differs from the running one.

examples:
  bucatini rules --control /run/box.sock show
  bucatini rules --control /run/box.sock set --allow 192.168.1.0/24 --block 192.168.1.7 --revision 12
  bucatini rules --control /run/box.sock set
"""


def main(words: Sequence[str]) -> int:
    """Do what `words` say: 0, or 1 when the engine cannot. Raises ConfigError for words that mean nothing."""
    return control.run(control.make_parser("rules", _USAGE, _DESCRIPTION, _EPILOG), _WORDS, words)


def _parse_show(words: Sequence[str]) -> control.Parsed:
    parser = control.make_word_parser("rules show", "[--json]", "Show the rules in force.")
    return options.parse(parser, words)


def _parse_set(words: Sequence[str]) -> control.Parsed:
    usage = "[--allow RULE]... [--block RULE]... [--revision REV] [--json]"
    parser = control.make_word_parser("rules set", usage, _DESCRIPTION, _EPILOG)
    add = parser.add_argument
    add("--allow", metavar="RULE", action="append", default=[], help="let the guest reach RULE; repeatable")
    add("--block", metavar="RULE", action="append", default=[], help="keep it from RULE; repeatable")
    add("--revision", metavar="REV", help="what the change is called (default: a random word)")
    return options.parse(parser, words)


def _show(path: str, arguments: argparse.Namespace, rest: list[str]) -> None:
    from bucatini.engine.control.client import ask

    control.refuse_words("show", rest)
    policy = ask(path, "softnet.policy.get", {})
    print_text(json.dumps(policy, indent=1) + "\n" if arguments.json else control.table(_rows(policy)))


def _set(path: str, arguments: argparse.Namespace, rest: list[str]) -> None:
    from bucatini.engine.control.client import ask

    control.refuse_words("set", rest)
    revision = os.urandom(8).hex() if arguments.revision is None else arguments.revision
    change = {"allow": arguments.allow, "block": arguments.block, "desiredRevision": revision}
    policy = ask(path, "softnet.policy.set", change)
    if arguments.json:
        print_text(json.dumps(policy, indent=1) + "\n")


def _rows(policy: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("revision", policy["desiredRevision"] or "(that of the command line)"),
        ("other guests", "isolated" if policy["bridgeIsolation"] else "not isolated"),
        *((kind, rule) for kind in ("allow", "block") for rule in policy[kind] or ["(nothing)"]),
    ]


_WORDS = {"show": control.Word(_parse_show, _show), "set": control.Word(_parse_set, _set)}
