"""The command line as a process sees it: one line per error, exit statuses, and what start-up may import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bucatini import __version__
from bucatini.cli.main import main

HEAVY = (
    "asyncio",
    "bucatini.api",
    "bucatini.config",
    "dataclasses",
    "difflib",
    "dns",
    "importlib.metadata",
    "inspect",
    "msgspec",
    "pyroute2",
    "rich",
    "socket",
)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bucatini", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["version"], ["run", "--help"], ["run", "--frobnicate"]])
def test_start_up_imports_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "from bucatini.cli.main import main\n"
        f"main({words!r})\n"
        "print('MODULES', *(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    loaded = set(done.stdout.rpartition("MODULES")[2].split())
    assert "bucatini.cli.main" in loaded
    allowed = {"difflib"} if "--frobnicate" in words else set()
    assert loaded & set(HEAVY) - allowed == set()


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_names_every_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "  run " in shown.out
    assert "  version " in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["version"]])
def test_version_says_what_runs(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"bucatini {__version__}, ")
    assert first.split(", ")[1].startswith(("compiled", "pure: "))
    assert os.uname().release in second


def test_version_tells_the_interpreted_form() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bucatini", "--version"],
        env={**os.environ, "BUCATINI_PURE": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "pure: BUCATINI_PURE is set" in done.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "bucatini: no verb given; see 'bucatini --help'"),
        (["rnu", "true"], "bucatini: unknown verb 'rnu'; did you mean 'run'?"),
        (["sh", "-c", "true"], "bucatini: unknown verb 'sh'; did you mean 'bucatini run -- sh'?"),
        (["zzzzzz"], "bucatini: unknown verb 'zzzzzz'; see 'bucatini --help'"),
        (["--frob"], "bucatini: unknown option --frob; see 'bucatini --help'"),
        (["version", "now"], "bucatini version: unexpected argument 'now'"),
        (["run", "--summry"], "bucatini run: unknown option --summry; did you mean --summary?"),
        (["run", "--frobnicate=1", "true"], "bucatini run: unknown option --frobnicate; see 'bucatini run --help'"),
        (["run", "-x", "true"], "bucatini run: unknown option -x; see 'bucatini run --help'"),
        (["run", "--mtu"], "bucatini run: --mtu: expected one argument; see 'bucatini run --help'"),
        (["run", "--slot", "65536", "true"], "bucatini run: --slot '65536': must be a number from 0 to 65535"),
        (["run", "--sum", "true"], "bucatini run: unknown option --sum; did you mean --summary?"),
        (["run", "--mtu", "1\n500", "true"], r"bucatini run: --mtu '1\n500': must be a number from 68 to 65521"),
    ],
)
def test_an_error_is_one_line_and_status_2(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == line + "\n"


@pytest.mark.parametrize(
    "words",
    [
        ["-p", "8080:x"],
        ["-p", "99999:80"],
        ["-p", "80:80", "-p", "0.0.0.0:80:81"],
        ["--allow", "nonsense"],
        ["--deny", "10.0.0.0/33"],
        ["--policy", "closed"],
        ["--pcap", "-"],
    ],
)
def test_grammars_of_other_packages_speak_before_anything_starts(words: list[str]) -> None:
    done = run("run", *words, "--", "sh", "-c", "echo started")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("bucatini run: --")
    assert done.stderr.count("\n") == 1
    assert repr(words[-1]) in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_help_into_a_closed_pipe_is_quiet(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "bucatini", *words], stdout=stdout, stderr=subprocess.PIPE, timeout=30, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")
