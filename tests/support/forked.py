"""Calling a function in a forked child, in a network namespace of its own if asked for; its result is pickled."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import TypeVar

import pytest

from bucatini.host import syscalls

T = TypeVar("T")


def in_child(function: Callable[[], T], *, unshare: int = 0) -> T:
    """What `function` returns there; its failure fails the test, with the child's traceback."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if unshare:
                syscalls.unshare(unshare)
            answer = pickle.dumps((True, function()))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc()))
        with open(writing, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    succeeded, result = pickle.loads(answer)
    if not succeeded:
        pytest.fail(result)
    return result  # type: ignore[no-any-return]


def in_new_network(function: Callable[[], T]) -> T:
    """`in_child`, in an empty network namespace; needs root."""
    return in_child(function, unshare=syscalls.CLONE_NEWNET)
