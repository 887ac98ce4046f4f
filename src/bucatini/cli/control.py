"""What the verbs have in common that speak to a running engine: `bucatini VERB [--control PATH] WORD ...`.

Exit statuses: 0; 2 for words that mean nothing or that the engine refuses; 1 when the engine cannot, or does not talk
to us.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from bucatini.base.errors import ConfigError, HostError, PeerError
from bucatini.cli import options
from bucatini.cli.printing import print_error, printable

__all__ = ["CONTROL_VARIABLE", "FAILED", "Parsed", "Word", "make_parser", "make_word_parser", "refuse_words",
           "run", "table"]  # fmt: skip

CONTROL_VARIABLE = "BUCATINI_CONTROL"
FAILED = 1

Parsed = tuple[argparse.Namespace, list[str]] | None
"""Options and the words behind them; None: help was printed."""


class Word(NamedTuple):
    """What may be said behind a verb's own options, such as `ls`."""

    parse: Callable[[Sequence[str]], Parsed]
    """Reads what is behind it. Raises ConfigError."""
    ask: Callable[[str, argparse.Namespace, list[str]], None]
    """Does it, with the engine whose control socket is at a path. Raises ConfigError, HostError and PeerError."""


def run(parser: argparse.ArgumentParser, accepted: Mapping[str, Word], words: Sequence[str]) -> int:
    """Do what `words` say: 0, or 1 when the engine cannot. Raises ConfigError for words that mean nothing."""
    parsed = options.parse(parser, words)
    if parsed is None:
        return 0
    arguments, rest = parsed
    *others, last = accepted
    if not rest:
        raise ConfigError(f"say {', '.join(others)} or {last}")
    word = accepted.get(rest[0])
    if word is None:
        raise ConfigError(f"{rest[0]!r} is not one of {', '.join(accepted)}")
    parsed = word.parse(rest[1:])
    if parsed is None:
        return 0
    path = arguments.control or os.environ.get(CONTROL_VARIABLE)
    if not path:
        raise ConfigError(f"--control PATH is missing, and {CONTROL_VARIABLE} is not set")
    try:
        word.ask(path, *parsed)
    except (HostError, PeerError) as error:
        print_error(parser.prog, str(error))
        return FAILED
    return 0


def make_parser(verb: str, usage: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """The options before the word."""
    parser = options.make_parser(verb, usage, description, epilog)
    parser.add_argument("--control", metavar="PATH", help="control socket of the engine")
    parser.add_argument("-h", "--help", action="help", help="show this help")
    return parser


def make_word_parser(verb: str, usage: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """Those behind it; `verb` is both words."""
    parser = options.make_parser(verb, f"bucatini {verb} {usage}", description, epilog)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-h", "--help", action="help", help="show this help")
    return parser


def refuse_words(word: str, rest: Sequence[str]) -> None:
    """Raise ConfigError for words behind the options of one that takes none."""
    if rest:
        raise ConfigError(f"{word}: {rest[0]!r} means nothing here")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lines of columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        printable("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()) + "\n"
        for row in rows
    )
