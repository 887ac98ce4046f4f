"""engine.control.unix_service: paths that can and cannot be had, and its bounds."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucatini.base.errors import ConfigError
from bucatini.engine.control import unix_service
from bucatini.engine.control.unix_service import MAX_STREAMS, Stream, UnixService


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_the_file_is_ours_alone_whatever_the_mask(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        service = UnixService(loop, str(tmp_path / "socket"), echo, "--control")
        assert stat.S_IMODE(os.stat(tmp_path / "socket").st_mode) == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    service.close()


@pytest.mark.parametrize("path", ["", "x" * 108, "a\0b"])
def test_a_path_that_is_none(loop: asyncio.AbstractEventLoop, path: str) -> None:
    with pytest.raises(ConfigError, match="--control .*: a path of 1 to 107 bytes is accepted"):
        UnixService(loop, path, echo, "--control")


def test_a_file_or_folder_in_its_place_is_kept(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path):
        with pytest.raises(ConfigError, match="is no socket"):
            UnixService(loop, str(path), echo, "--control")
    assert (tmp_path / "file").read_text() == "x"


def test_a_second_one_is_refused_and_a_stale_file_replaced(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)
    first = UnixService(loop, path, echo, "--control")
    with pytest.raises(ConfigError, match="in use"):
        UnixService(loop, path, echo, "--control")
    first.close()
    assert not os.path.exists(path)


def test_a_file_that_somebody_else_made_since_stays(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    service = UnixService(loop, str(path), echo, "--control")
    path.unlink()
    path.write_text("another's")
    service.close()
    assert path.read_text() == "another's"


def test_silence_and_number_are_bounded(
    loop: asyncio.AbstractEventLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_service, "IDLE", 0.2)
    path = str(tmp_path / "socket")
    service = UnixService(loop, path, echo, "--control")
    service.start()

    async def crowd() -> None:
        streams = [await asyncio.open_unix_connection(path) for _ in range(MAX_STREAMS)]
        for reader, writer in streams:
            writer.write(b"x")
            assert await reader.read(1) == b"x"
        extra, writer = await asyncio.open_unix_connection(path)
        assert await asyncio.wait_for(extra.read(), 5) == b""
        writer.close()
        for reader, writer in streams:
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"y")
        assert await asyncio.wait_for(reader.read(1), 5) == b"y"
        writer.close()

    loop.run_until_complete(crowd())
    assert service.refused == 1
    service.close()
