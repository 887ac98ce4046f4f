"""api.waiting: no signal comes between a path and whoever takes it away."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.guests import PATIENCE
from support.signalled import signalled


@pytest.mark.parametrize(("verb", "guests"), [("vm", 1), ("switch", 2)])
def test_no_path_is_left(verb: str, guests: int, tmp_path: Path) -> None:
    paths = [f"--socket={tmp_path}/guest{number}" for number in range(guests)]
    command = signalled(verb, *paths, "--control", f"{tmp_path}/control")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
