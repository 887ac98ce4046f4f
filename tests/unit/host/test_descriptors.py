"""host.descriptors, in forked children."""

from __future__ import annotations

import os

from bucatini.host.descriptors import keep_only, silence_standard_streams
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
