"""Namespaces for `bucatini attach` to serve, and the engines that serve them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.fakehost import FakeHost, Namespace, Runner, read_all
from support.guests import PATIENCE, eventually


class Attached:
    """A namespace served by `bucatini attach`, with the process that holds it."""

    def __init__(self, runner: Runner, holder: subprocess.Popen[bytes], words: list[str]) -> None:
        self.holder = holder
        self.net = Namespace.of_process(holder.pid)
        self.engine, self._errors = runner.begin(["attach", "-v", *words])

    @property
    def stderr(self) -> str:
        return read_all(self._errors)

    def ready(self) -> None:
        """Wait until the engine says that it serves."""

        def said() -> bool:
            assert self.engine.poll() is None, self.stderr
            return " has " in self.stderr

        assert eventually(said)

    def wait(self) -> int:
        return self.engine.wait(PATIENCE)

    def close(self) -> None:
        for process in (self.engine, self.holder):
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE)
        for stream in (self.engine.stdin, self.engine.stdout):
            if stream is not None:
                stream.close()
        self._errors.close()
        self.net.close()


@contextmanager
def held(runner: Runner) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the runner's user in a user and a network namespace of its own."""
    with runner.host.net.entered():
        words = runner.wrapped(["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo; exec sleep 600"])
        process = subprocess.Popen(words, stdout=subprocess.PIPE, env=runner.environment, cwd="/tmp")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()


@contextmanager
def attached(host: FakeHost, user: str, *options: str) -> Iterator[Attached]:
    runner = host.runner(user)
    with held(runner) as holder:
        served = Attached(runner, holder, [*options, str(holder.pid)])
        try:
            served.ready()
            yield served
        finally:
            served.close()
            runner.kill_all()


@contextmanager
def named(host: FakeHost, name: str) -> Iterator[Path]:
    """A network namespace at a path of its own, as `ip netns` makes them."""
    path = host.folder / name
    path.touch()
    place = Namespace.create()
    try:
        subprocess.run(["mount", "--bind", place.path, str(path)], check=True)
        yield path
        subprocess.run(["umount", str(path)], check=False, capture_output=True)
    finally:
        place.close()
        path.unlink(missing_ok=True)
