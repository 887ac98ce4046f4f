"""Lines for people cannot harm the terminal."""

from __future__ import annotations

import pytest

from bucatini.cli.printing import print_error, print_text, printable


def test_control_characters_become_escapes() -> None:
    assert printable("a\x1b[31mb\r\n\udce9é") == "a\\x1b[31mb\\r\\n\\udce9é"


def test_errors_go_to_stderr_as_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("bucatini run", "two\nlines")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "bucatini run: two\\nlines\n")


def test_text_goes_to_stdout_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_text("one\ntwo\n")
    assert capsys.readouterr().out == "one\ntwo\n"
