"""host.descriptors, in forked children."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bucatini.base.errors import ConfigError
from bucatini.host.descriptors import check_inherited, keep_only, silence_standard_streams
from support.forked import in_child


def test_only_the_kept_stay() -> None:
    """The child answers by its exit status: a pipe would be closed."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_RDONLY)
        for number in (39, 40, 41, 200, 300):
            os.dup2(null, number)
        before = {one for one in range(3) if is_open(one)}
        keep_only({0, 200, 40})
        os._exit({one for one in range(1024) if is_open(one)} != before | {40, 200})
    assert os.waitpid(child, 0)[1] == 0


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_streams_are_silenced() -> None:
    def streams() -> list[str]:
        silence_standard_streams()
        return [os.readlink(f"/proc/self/fd/{one}") for one in range(3)]

    assert in_child(streams) == [os.devnull] * 3


def test_what_is_inherited_is_looked_at() -> None:
    reading, writing = os.pipe()
    try:
        assert stat.S_ISFIFO(check_inherited("--fd", reading, "a pipe is accepted"))
    finally:
        os.close(reading)
        os.close(writing)
    assert check_inherited("--fd", None, "a pipe is accepted") == 0


@pytest.mark.parametrize("number", [1_000_000, -1, 1 << 40])
def test_a_number_of_nothing(number: int) -> None:
    with pytest.raises(ConfigError, match=f"^--fd {number}: no such descriptor is open; a pipe is accepted$"):
        check_inherited("--fd", number, "a pipe is accepted")


@pytest.mark.parametrize(
    "words",
    [
        "bucatini filter --socket n.sock --mac 02:00:00:00:00:07 --bridge none0 --control-fd {}",
        "bucatini filter --fd {} --mac 02:00:00:00:00:07 --bridge none0",
        "bucatini vm --socket n.sock --fd {}",
        "bucatini switch --tap none0 --fd {}",
        "bucatini.cli.softnet --vm-mac-address 02:00:00:00:00:07 --vm-fd {} --bridge none0",
        "bucatini.cli.softnet --vm-mac-address 02:00:00:00:00:07 --vm-fd 0 --bridge none0 --control-fd {}",
        "bucatini.cli.slirp4netns --ready-fd {} 1 tap0",
        "bucatini.cli.passt -f --fd {}",
    ],
)
def test_it_is_looked_at_first(words: str, tmp_path: Path) -> None:
    """Whatever number it is, and whatever else is wrong: none of ours has it yet."""
    for number in (3, 8):
        command = [sys.executable, "-m", *words.format(number).split()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode in (1, 2)
        assert f"fd {number}: no such descriptor is open; " in done.stderr
        assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
