"""Bounded output: whole records, never waited for, given up once."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucatini.base.errors import ConfigError
from bucatini.observe.output import FLUSH_AT, Output, open_output

PIPE_CAPACITY = 65536


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def test_records_reach_the_file_in_order(tmp_path: Path, warnings: list[str]) -> None:
    path = tmp_path / "out"
    output = Output(open_output(str(path), "--x", append=False), name="x", on_failure=warnings.append)
    assert output.append(b"one ", memoryview(b"record\n"))
    assert path.read_bytes() == b""
    output.flush()
    assert path.read_bytes() == b"one record\n"
    output.append(bytearray(b"two\n"))
    output.close()
    output.close()
    assert path.read_bytes() == b"one record\ntwo\n"
    assert not output.active
    assert not output.append(b"late")
    assert (output.lost, warnings) == (0, [])


def test_a_large_buffer_is_written_without_being_asked(tmp_path: Path, warnings: list[str]) -> None:
    path = tmp_path / "out"
    output = Output(open_output(str(path), "--x", append=False), name="x", on_failure=warnings.append)
    output.append(bytes(FLUSH_AT))
    assert output.pending == 0
    assert path.stat().st_size == FLUSH_AT
    output.close()


def test_a_reader_who_does_not_read_costs_records_and_never_waits(pipe: tuple[int, int], warnings: list[str]) -> None:
    reader, writer = pipe
    output = Output(writer, name="x", on_failure=warnings.append, capacity=100_000)
    taken = [output.append(bytes([number]) * 10_000) for number in range(30)]
    output.flush()
    kept = taken.count(True)
    assert 100_000 <= kept * 10_000 <= 100_000 + PIPE_CAPACITY
    assert output.lost == 30 - kept
    received = b""
    while output.pending:
        received += os.read(reader, PIPE_CAPACITY)
        output.flush()
    received += os.read(reader, PIPE_CAPACITY)
    expected = b"".join(bytes([number]) * 10_000 for number in range(30) if taken[number])
    assert received == expected
    assert warnings == []
    output.close()


def test_close_is_patient_only_for_so_long(pipe: tuple[int, int], warnings: list[str]) -> None:
    output = Output(pipe[1], name="x", on_failure=warnings.append, capacity=200_000)
    output.append(bytes(200_000))
    output.close(patience=0.05)
    assert not output.active
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe[1])


def test_a_reader_who_has_gone_is_one_warning(warnings: list[str]) -> None:
    reader, writer = os.pipe()
    output = Output(writer, name="--events x", on_failure=warnings.append)
    os.close(reader)
    output.append(b"line\n")
    output.flush()
    output.append(b"line\n")
    output.flush()
    output.close()
    assert warnings == ["--events x: Broken pipe; nothing more is written to it, traffic goes on"]


def test_a_full_disk_is_one_warning(warnings: list[str]) -> None:
    output = Output(open_output("/dev/full", "--pcap", append=False), name="--pcap f", on_failure=warnings.append)
    for _ in range(3):
        output.append(b"frame")
        output.flush()
    assert warnings == ["--pcap f: No space left on device; nothing more is written to it, traffic goes on"]


def test_a_file_that_may_not_grow_ends_with_a_whole_flush(tmp_path: Path, warnings: list[str]) -> None:
    path = tmp_path / "out"
    output = Output(open_output(str(path), "--x", append=False), name="x", on_failure=warnings.append, trim=True)
    output.append(b"a" * 3000)
    output.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        output.append(b"b" * 3000)
        output.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"a" * 3000
    assert len(warnings) == 1


def test_an_unowned_descriptor_stays_open(pipe: tuple[int, int], warnings: list[str]) -> None:
    output = Output(pipe[1], name="x", on_failure=warnings.append, owned=False)
    output.append(b"hello")
    output.close()
    assert os.read(pipe[0], 100) == b"hello"
    os.close(pipe[1])


def test_a_descriptor_made_non_blocking_by_others_is_no_failure(pipe: tuple[int, int], warnings: list[str]) -> None:
    os.set_blocking(pipe[1], False)
    output = Output(pipe[1], name="x", on_failure=warnings.append, capacity=200_000)
    output.append(bytes(150_000))
    output.flush()
    assert output.pending >= 150_000 - PIPE_CAPACITY
    assert output.active
    output.close(patience=0.0)
    assert warnings == []


@pytest.mark.parametrize(
    ("path", "why"),
    [("/", "Is a directory"), ("/nowhere/x", "No such file"), ("/dev/fd/999", "Bad file"), ("a\0", "null")],
)
def test_what_cannot_be_opened_names_the_option(path: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"--pcap .*: .*{why}"):
        open_output(path, "--pcap", append=False)


def test_new_files_are_private_and_old_content_stays_or_goes(tmp_path: Path) -> None:
    path = tmp_path / "out"
    os.close(open_output(str(path), "--x", append=False))
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"old")
    os.close(open_output(str(path), "--x", append=True))
    assert path.read_bytes() == b"old"
    os.close(open_output(str(path), "--x", append=False))
    assert path.read_bytes() == b""


def test_an_inherited_descriptor_is_neither_reopened_nor_truncated(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as stream:
        stream.write(b"kept ")
        stream.flush()
        fd = open_output(f"/dev/fd/{stream.fileno()}", "--x", append=False)
        os.write(fd, b"added")
        os.close(fd)
    assert path.read_bytes() == b"kept added"
