"""The grammar of getopt_long(3) over a table of options, for the commands that stand in for others.

POSIX utility conventions (short options in bundles, a value in the same word or the next) and GNU's additions: long
options by any unambiguous beginning, `--option=value`, `--`. Words are read as they are asked for, so an option that
ends the program (`--help`) works in front of a mistake, as it does with getopt.

Does not: know what an option means, or print. `argparse` has another grammar: bundles with values, options after the
first word, abbreviations and its own texts differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bucatini.base.errors import ConfigError

__all__ = ["Answer", "Getopt", "Given", "Option", "UsageError", "option_lines"]


class UsageError(ConfigError):
    """The words are no command line at all: unknown option, value missing. Callers print the usage behind it."""


class Answer(NamedTuple):
    """What a command line asked to be told in place of being run."""

    text: str


class Option(NamedTuple):
    """One option. Its long name is its identity; synonyms are options of their own."""

    long: str
    """Without the dashes."""
    short: str = ""
    value: str = ""
    """What the help calls its value; empty: it takes none."""
    help: str = ""
    """One line each; empty: not shown."""

    def __str__(self) -> str:
        return f"-{self.short}, --{self.long}" if self.short else f"--{self.long}"


class Given(NamedTuple):
    """One occurrence of an option."""

    name: str
    """Its long name, also where it was written short or abbreviated."""
    value: str = ""


class Getopt:
    """Options of one command line. Iterate once; then `rest` holds the other words.

    `permute`: options count wherever they stand before `--`, and other words are collected; without, the first word
    that is no option ends them, so that a command keeps its own. Iterating raises UsageError.
    """

    __slots__ = ("_by_letter", "_by_name", "_permute", "_words", "rest")

    def __init__(self, options: Iterable[Option], words: Sequence[str], *, permute: bool = False) -> None:
        known = tuple(options)
        self._by_name = {option.long: option for option in known}
        self._by_letter = {option.short: option for option in known if option.short}
        self._words = words
        self._permute = permute
        self.rest: list[str] = []

    def __iter__(self) -> Iterator[Given]:
        waiting = iter(self._words)
        for word in waiting:
            if word == "--":
                break
            if word.startswith("--"):
                yield self._long(word[2:], waiting)
            elif word.startswith("-") and word != "-":
                yield from self._bundle(word[1:], waiting)
            else:
                self.rest.append(word)
                if not self._permute:
                    break
        self.rest.extend(waiting)

    def _long(self, written: str, waiting: Iterator[str]) -> Given:
        name, equals, value = written.partition("=")
        option = self._find(name)
        if not option.value:
            if equals:
                raise UsageError(f"option --{option.long} takes no value, not {value!r}")
            return Given(option.long)
        return Given(option.long, value if equals else _next(f"--{option.long}", option, waiting))

    def _find(self, name: str) -> Option:
        exact = self._by_name.get(name)
        if exact is not None:
            return exact
        candidates = [option for long, option in self._by_name.items() if name and long.startswith(name)]
        if not candidates:
            raise UsageError(f"unknown option {'--' + name!r}")
        if len(candidates) > 1:
            names = " ".join(f"--{option.long}" for option in candidates)
            raise UsageError(f"option '--{name}' is ambiguous: {names}")
        return candidates[0]

    def _bundle(self, letters: str, waiting: Iterator[str]) -> Iterator[Given]:
        for position, letter in enumerate(letters, start=1):
            option = self._by_letter.get(letter)
            if option is None:
                raise UsageError(f"unknown option {'-' + letter!r}")
            if option.value:
                yield Given(option.long, letters[position:] or _next(f"-{letter}", option, waiting))
                return
            yield Given(option.long)


def _next(written: str, option: Option, waiting: Iterator[str]) -> str:
    """The following word, whatever it looks like, as getopt takes it."""
    for word in waiting:
        return word
    raise UsageError(f"option {written} needs a value: {option.value}")


def option_lines(options: Iterable[Option], *, joint: str = " ", column: int = 28) -> str:
    """The options with a help text, a line each and their values behind `joint`; texts begin at `column`."""
    lines = []
    for option in options:
        if option.help:
            head = f"  -{option.short}, " if option.short else "      "
            head += f"--{option.long}" + (joint + option.value if option.value else "")
            first, *others = option.help.splitlines()
            lines.append(f"{head:<{column - 1}} {first}" if len(head) < column else f"{head}\n{'':<{column}}{first}")
            lines.extend(f"{'':<{column}}{other}" for other in others)
    return "\n".join(lines) + "\n"
