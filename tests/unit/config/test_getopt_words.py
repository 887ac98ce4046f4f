"""getopt_long's grammar: bundles, values, abbreviations, and where options end."""

from __future__ import annotations

import getopt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.config.getopt_words import Getopt, Given, Option, UsageError, option_lines

OPTIONS = (
    Option("debug", "d", help="more"),
    Option("dns", "D", "ADDR", "server"),
    Option("dns-host", "", "ADDR"),
    Option("quiet", "q"),
    Option("no-tcp"),
    Option("no-udp"),
)


def read(*words: str, permute: bool = False) -> tuple[list[tuple[str, str]], list[str]]:
    line = Getopt(OPTIONS, words, permute=permute)
    return [(option.name, option.value) for option in line], line.rest


@pytest.mark.parametrize(
    ("words", "given", "rest"),
    [
        ("", [], ""),
        ("-d", [("debug", "")], ""),
        ("-dq", [("debug", ""), ("quiet", "")], ""),
        ("-dDx", [("debug", ""), ("dns", "x")], ""),
        ("-dD x", [("debug", ""), ("dns", "x")], ""),
        ("-D=x", [("dns", "=x")], ""),
        ("-D -d", [("dns", "-d")], ""),
        ("-D -- x", [("dns", "--")], "x"),
        ("--dns x", [("dns", "x")], ""),
        ("--dns=x", [("dns", "x")], ""),
        ("--dns=x=y", [("dns", "x=y")], ""),
        ("--dns=", [("dns", "")], ""),
        ("--dns-h x", [("dns-host", "x")], ""),
        ("--deb", [("debug", "")], ""),
        ("--no-t", [("no-tcp", "")], ""),
        ("-d x -q", [("debug", "")], "x -q"),
        ("-d -- -q", [("debug", "")], "-q"),
        ("-d - -q", [("debug", "")], "- -q"),
        ("-d x -- -q", [("debug", "")], "x -- -q"),
    ],
)
def test_options_end_at_the_first_other_word(words: str, given: list[tuple[str, str]], rest: str) -> None:
    assert read(*words.split()) == (given, rest.split())


@pytest.mark.parametrize(
    ("words", "given", "rest"),
    [
        ("x -d y", [("debug", "")], "x y"),
        ("x -D y z", [("dns", "y")], "x z"),
        ("x -d -- -q -- y", [("debug", "")], "x -q -- y"),
        ("- -d", [("debug", "")], "-"),
    ],
)
def test_permuted_options_stand_anywhere(words: str, given: list[tuple[str, str]], rest: str) -> None:
    assert read(*words.split(), permute=True) == (given, rest.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--bogus", "unknown option '--bogus'"),
        ("--bogus=1", "unknown option '--bogus'"),
        ("--=1", "unknown option '--'"),
        ("-z", "unknown option '-z'"),
        ("-dz", "unknown option '-z'"),
        ("--no", "option '--no' is ambiguous: --no-tcp --no-udp"),
        ("--d", "option '--d' is ambiguous: --debug --dns --dns-host"),
        ("--dns", "option --dns needs a value: ADDR"),
        ("-dD", "option -D needs a value: ADDR"),
        ("--debug=1", "option --debug takes no value, not '1'"),
        ("--debug=", "option --debug takes no value, not ''"),
    ],
)
def test_what_is_no_command_line(words: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(*words.split())
    assert str(caught.value) == message


def test_words_are_read_as_they_are_asked_for() -> None:
    assert next(iter(Getopt(OPTIONS, ["-d", "--bogus"]))) == Given("debug")


WORD = st.sampled_from(
    [
        "-d",
        "-q",
        "-D",
        "-dq",
        "-Dx",
        "--dns",
        "--dns=x",
        "--dns-host=y",
        "--debug",
        "--quiet",
        "--",
        "-",
        "x",
        "--no-tcp",
    ]
)


@given(st.lists(WORD, max_size=8), st.booleans())
def test_as_the_standard_library_reads_it(words: list[str], permute: bool) -> None:
    """`getopt` of Python is the same grammar in another implementation."""
    reference = getopt.gnu_getopt if permute else getopt.getopt
    letters = "".join(option.short + ":" * bool(option.value) for option in OPTIONS)
    names = [option.long + "=" * bool(option.value) for option in OPTIONS]
    long_of = {f"-{option.short}": option.long for option in OPTIONS}
    try:
        options, rest = reference(words, letters, names)
    except getopt.GetoptError:
        with pytest.raises(UsageError):
            read(*words, permute=permute)
        return
    expected = [(long_of.get(name, name.removeprefix("--")), value) for name, value in options]
    assert read(*words, permute=permute) == (expected, rest)


@given(st.lists(st.text(max_size=12) | st.text("-dDnq=os", max_size=12)), st.booleans())
def test_any_words_are_read_or_refused(words: list[str], permute: bool) -> None:
    refusal = ""
    try:
        given, rest = read(*words, permute=permute)
        assert len(given) + len(rest) <= sum(max(1, len(word)) for word in words)
    except UsageError as error:
        refusal = str(error)
    assert refusal.isprintable()


def test_help_has_a_line_for_each_option_with_a_text() -> None:
    assert option_lines(OPTIONS[:3], column=20) == "  -d, --debug       more\n  -D, --dns ADDR    server\n"
    assert option_lines(OPTIONS[1:2], joint="=", column=12) == "  -D, --dns=ADDR\n            server\n"
