"""The group pasta_options/log_to_file: a log that stays small, in order, and begins with who wrote it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fakehost import FakeHost, Namespace
from support.guests import PATIENCE
from support.pasta_engine import PastaEngine, Place, Running, Session
from support.pasta_peers import quick_links

pytestmark = pytest.mark.root

CAP = 100 << 10
ROUNDS = 3
PORT = 10003
MOMENT = re.compile(r"(\d+\.\d{4}):")
"""Seconds since the start, at the beginning of a line."""


class Folder:
    """Where the engine writes its log, and how to see it from here."""

    def __init__(self, place: Session, path: Path, seen: Path) -> None:
        self.place, self.path, self.seen = place, path, seen


@pytest.fixture(params=["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest, host: FakeHost) -> Iterator[Folder]:
    """A cap is kept in another way where a file system cannot take a range out of a file."""
    with Session(host) as session:
        path = session.scratch / "log"
        path.mkdir()
        path.chmod(0o777)
        if request.param == "tmpfs":
            session.run("mount", "-t", "tmpfs", "-o", "mode=777", "none", str(path))
        yield Folder(session, path, session.seen(str(path)))


def test_created(engine: PastaEngine, folder: Folder) -> None:
    """For its owner alone."""
    done = engine.complete(folder.place, ["--config-net", "-l", str(folder.path / "new")], ["--", "true"])
    assert done.returncode == 0, done.stdout
    assert (folder.seen / "new").stat().st_mode & 0o777 == 0o600
    assert (folder.seen / "new").stat().st_size > 0


def test_truncated(engine: PastaEngine, folder: Folder) -> None:
    """What the file held is gone; the first line names the program and the process."""
    folder.place.run("sh", "-c", 'head -c 5000 /dev/zero >"$1"', "sh", str(folder.path / "old"))
    options = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]
    with (
        folder.place.network() as (netns, _),
        engine.start(folder.place, options, ["--netns", netns], log=folder.path / "old") as running,
    ):
        content = (folder.seen / "old").read_text()
        assert "\0" not in content
        assert content.splitlines()[0].startswith("pasta ")
        assert f"({running.pid})" in content.splitlines()[0]


def test_cannot_be_opened(engine: PastaEngine, place: Place) -> None:
    done = engine.complete(place, ["--config-net", "-l", "/nowhere/log"], ["--", "true"])
    assert done.returncode == 1
    assert done.stdout.strip()


@pytest.mark.parametrize("size", ["40959", "1k"])
def test_cap_refused(engine: PastaEngine, place: Place, size: str) -> None:
    """One too small to cut from."""
    options = ["--config-net", "-l", str(place.scratch / "log"), "--log-size", size]
    assert engine.complete(place, options, ["--", "true"]).returncode == 1


@contextlib.contextmanager
def answering(net: Namespace, port: int) -> Iterator[None]:
    """A server that takes a byte of each connection and gives one back."""

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer:
                    peer.settimeout(PATIENCE)
                    peer.sendall(peer.recv(1))

    with net.listen("127.0.0.1", port) as listener:
        listener.settimeout(None)
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


def load(running: Running, net: Namespace, log: Path) -> None:
    """Connections until the log has been cut once more; in the way never larger than it may be."""
    largest, deadline = 0, time.monotonic() + 2 * PATIENCE
    while True:
        for _ in range(10):
            with net.connect("127.0.0.1", PORT) as peer:
                peer.sendall(b"a")
                assert peer.recv(1) == b"a"
        size = log.stat().st_size
        assert size <= CAP
        if size < largest:
            return
        largest = size
        assert running.alive()
        assert time.monotonic() < deadline, f"the log has {size} bytes, and was not cut"


def check_lines(log: Path) -> None:
    """Moments in order."""
    moments = [
        float(found[1]) for line in log.read_text(errors="replace").splitlines() if (found := MOMENT.match(line))
    ]
    assert len(moments) > 100
    assert moments == sorted(moments)


def test_cap(engine: PastaEngine, folder: Folder) -> None:
    """Under many connections the file stays between half of its cap and its cap, header and order of lines with it."""
    log = folder.seen / "log"
    options = ["--trace", "--log-size", str(CAP), "-t", "none", "-u", "none", "-T", str(PORT), "-U", "none"]
    place = folder.place
    with place.network() as (netns, net), answering(place.host.net, PORT):
        quick_links(net)
        with engine.start(place, options, ["--netns", netns], log=folder.path / "log") as running:
            for _ in range(ROUNDS):
                load(running, net, log)
                assert CAP / 2 < log.stat().st_size <= CAP
                check_lines(log)
                header = log.read_text(errors="replace").splitlines()[0]
                assert f"({running.pid})" in header
            assert running.stop() == 0
    assert os.path.getsize(log) <= CAP
