"""The log file with a bound: on a disk, on a tmpfs, and when there is no room."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucatini import __version__
from bucatini.base.errors import ConfigError
from bucatini.observe import log_file
from bucatini.observe.log_file import MAX_LINE, MIN_LIMIT, LogFile, check_limit

LINE = re.compile(r"\d+\.\d{4}: .*")


@pytest.fixture(params=["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """On a file system that collapses ranges, mostly, and on one that does not."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


def first_line(path: Path) -> str:
    return path.read_text().split("\n", 1)[0]


def assert_sorted(path: Path) -> None:
    rest = path.read_text().splitlines()[1:]
    assert all(LINE.fullmatch(line) for line in rest)
    stamps = "\n".join(line.split(":")[0] for line in rest)
    subprocess.run(["sort", "-c", "-n"], input=stamps, text=True, check=True, env={"LC_ALL": "C"})


def test_begins_with_who_writes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("of an earlier run\n" * 100)
    log = LogFile(str(path), name="pasta")
    assert re.fullmatch(rf"pasta {re.escape(__version__)}: /\S+ \({os.getpid()}\)\n", path.read_text())
    log.close()
    log.close()
    assert not log.active
    log.write("late")
    assert path.read_text().count("\n") == 1


def test_a_new_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "log"
    LogFile(str(path)).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_lines_carry_the_time_since_the_start(tmp_path: Path) -> None:
    path = tmp_path / "log"
    now = iter([7.0, 7.00015, 19.5])
    log = LogFile(str(path), clock=lambda: next(now))
    log.write("soon")
    log.write("later")
    log.close()
    assert path.read_text().splitlines()[1:] == ["0.0001: soon", "12.5000: later"]
    LogFile(str(path), clock=lambda: 10.0, start=4.0).write("told")
    assert path.read_text().splitlines()[1:] == ["6.0000: told"]


def test_lines_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(str(path), clock=lambda: 0.0)
    log.write("a\nb\r\x1b[31m\udc80 é")
    log.write("é" * MAX_LINE)
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)[1:]
    assert lines[0] == "0.0000: a\\nb\\r\\x1b[31m\\udc80 é\n".encode()
    assert MAX_LINE - 1 <= len(lines[1]) <= MAX_LINE
    assert lines[1].decode().endswith("é\n")


@pytest.mark.parametrize("limit", [MIN_LIMIT, 100 << 10, 1 << 20])
def test_size_stays_between_half_the_limit_and_the_limit(folder: Path, limit: int) -> None:
    path = folder / "log"
    log = LogFile(str(path), limit, clock=Clock())
    descriptor = log.fileno()
    full = False
    cuts = 0
    before = 0
    for number in range(3 * limit // 60):
        log.write(f"{number} " + "x" * (number * 37 % 120))
        size = path.stat().st_size
        assert size <= limit
        full = full or size > limit * 0.9
        assert not full or size > limit / 2
        cuts += size < before
        before = size
    assert cuts >= 3
    assert log.fileno() == descriptor
    log.close()
    assert re.fullmatch(rf"bucatini \S+: .* \({os.getpid()}\) - log truncated at \d+\.\d{{4}} *", first_line(path))
    assert_sorted(path)
    # Nothing but the oldest lines is missing, and none is damaged.
    numbers = [int(line.split()[1]) for line in path.read_text().splitlines()[1:]]
    assert numbers == list(range(numbers[0], 3 * limit // 60))
    assert b"\0" not in path.read_bytes()


def test_longest_lines_keep_the_bounds(folder: Path) -> None:
    path = folder / "log"
    log = LogFile(str(path), MIN_LIMIT)
    for number in range(40):
        log.write(f"{number:02}" + "y" * MAX_LINE)
        assert number < 5 or MIN_LIMIT / 2 <= path.stat().st_size <= MIN_LIMIT
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    assert {len(line) for line in lines[1:]} == {MAX_LINE}
    assert "truncated" in first_line(path)


def test_works_when_path_and_name_are_gone(folder: Path) -> None:
    """As after pivot_root: only the descriptor is left."""
    path = folder / "log"
    log = LogFile(str(path), MIN_LIMIT)
    kept = os.open(path, os.O_RDONLY)
    path.unlink()
    for number in range(2000):
        log.write(f"line {number} of a file without a name")
    content = os.pread(kept, MIN_LIMIT * 2, 0)
    os.close(kept)
    log.close()
    assert MIN_LIMIT / 2 < len(content) <= MIN_LIMIT
    assert b"truncated" in content.split(b"\n")[0]
    assert content.endswith(b"line 1999 of a file without a name\n")


def test_both_ways_to_make_room_leave_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = []
    for name, copy in (("log", False), ("log", True)):
        if copy:
            monkeypatch.setattr(log_file, "_fallocate", lambda *_: -1)
            monkeypatch.setattr(log_file, "_COPY", 5000)
        path = tmp_path / name
        log = LogFile(str(path), MIN_LIMIT, clock=Clock())
        for number in range(3000):
            log.write(f"{number}")
        log.close()
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_a_file_that_somebody_emptied_is_filled_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(str(path), MIN_LIMIT)
    for _ in range(30):
        log.write("z" * 1000)
    os.truncate(path, 0)
    for _ in range(20):
        log.write("z" * 1000)
    log.close()
    content = path.read_bytes()
    assert 20_000 < len(content) <= MIN_LIMIT
    assert b"\0" not in content


@pytest.mark.root
def test_a_full_disk_ends_it_with_one_line(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    said: list[str] = []
    try:
        path = tmp_path / "log"
        log = LogFile(str(path), 1 << 20, on_failure=said.append)
        for number in range(200):
            log.write(f"{number} " + "x" * 1000)
        assert not log.active
        assert path.read_bytes().endswith(b"x\n"), "no half line"
        assert len(path.read_bytes()) > 50_000
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert said == [f"--log-file '{path}': No space left on device; nothing more is logged, traffic goes on"]


def test_failure_is_said_on_stderr_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    log = LogFile("/dev/full")
    assert not log.active
    log.write("lost")
    assert capfd.readouterr().err == (
        "bucatini: --log-file '/dev/full': No space left on device; nothing more is logged, traffic goes on\n"
    )


def test_a_pipe_without_a_reader_never_blocks(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log = LogFile(str(path), MIN_LIMIT)
    for _ in range(200):
        log.write("x" * 1000)
    assert log.active
    log.close()


@pytest.mark.parametrize("path", ["/nonexistent/log", "/", "a\0b"])
def test_that_cannot_be_opened(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^--log-file '.*': "):
        LogFile(path)


def test_limit() -> None:
    assert check_limit(MIN_LIMIT) == MIN_LIMIT
    with pytest.raises(ConfigError, match=r"^--log-size 40959: expected at least 40960 bytes$"):
        check_limit(MIN_LIMIT - 1)
    with pytest.raises(ConfigError, match="--log-size"):
        LogFile("/nonexistent/log", 0)
