"""How softnet names itself to sudo. The rest is tests/interop/test_softnet_command.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bucatini.api.softnet_sudo import own_command


def test_an_executable_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "softnet"
    script.write_text("")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert own_command("softnet") == own_command(str(script)) == [str(script)]


@pytest.mark.parametrize("started_as", ["-c", "softnet.py", ""])
def test_what_is_no_executable_is_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started_as: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "softnet.py").write_text("")
    assert own_command(started_as) == [sys.executable, "-m", "bucatini.cli.softnet"]
