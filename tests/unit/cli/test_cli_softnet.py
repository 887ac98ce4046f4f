"""Exit statuses of the command softnet that need no guest."""

from __future__ import annotations

import pytest

from bucatini.cli.softnet import main

NEEDED = ["--vm-mac-address", "52:54:00:12:34:56"]
Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize("words", [["--help"], ["--version"], [*NEEDED, "--vm-fd=0", "--sudo-escalation-probing"]])
def test_answers(words: list[str], capsys: Output) -> None:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert bool(out) == (len(words) == 1)
    assert err == ""


@pytest.mark.parametrize("words", [[], ["--bogus"], [*NEEDED, "--vm-fd=0", "--allow=1.1.1.1"]])
def test_misuse(words: list[str], capsys: Output) -> None:
    """One line, and where help is."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 2)
    assert err.startswith("softnet: ")
