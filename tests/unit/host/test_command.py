"""host.command: which file is executed; the rest is in tests/interop/test_guest_process.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from bucatini.host.command import _look_up


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.setenv("PATH", f"/no/such/folder:{first}:{second}")
    return first, second


def put(folder: Path, mode: int) -> str:
    path = folder / "tool"
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def test_first_executable_in_path(folders: tuple[Path, Path]) -> None:
    first, _ = [put(folder, 0o755) for folder in folders]
    assert _look_up("tool") == first


def test_later_one_when_the_first_cannot_be_executed(folders: tuple[Path, Path]) -> None:
    put(folders[0], 0o644)
    second = put(folders[1], 0o755)
    assert _look_up("tool") == second


def test_forbidden_one_when_there_is_no_other(folders: tuple[Path, Path]) -> None:
    forbidden = put(folders[1], 0o644)
    assert _look_up("tool") == forbidden


def test_folder_is_no_program(folders: tuple[Path, Path]) -> None:
    (folders[0] / "tool").mkdir()
    with pytest.raises(FileNotFoundError, match="command not found"):
        _look_up("tool")


@pytest.mark.parametrize("path", ["./tool", "/no/such/tool", "a/b"])
def test_path_is_taken_as_it_is(path: str) -> None:
    assert _look_up(path) == path


def test_nothing(folders: tuple[Path, Path]) -> None:
    with pytest.raises(FileNotFoundError, match="command not found"):
        _look_up("tool")


def test_empty_name_is_not_found() -> None:
    with pytest.raises(FileNotFoundError, match="command not found"):
        _look_up("")
