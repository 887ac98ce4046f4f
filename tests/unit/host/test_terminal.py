"""host.terminal without a terminal, and on one; job control is in tests/interop/test_guest_terminal.py."""

from __future__ import annotations

import fcntl
import os
import pty
import termios
from collections.abc import Callable
from typing import TypeVar

import pytest

from bucatini.host.terminal import Standing, Terminal, hand_over, standing
from support.forked import in_child

T = TypeVar("T")


def on_a_terminal(function: Callable[[], T], *, streams: tuple[int, ...] = (0, 1, 2)) -> T:
    """Call it in a session with a controlling terminal, on which these standard streams are."""

    def session() -> T:
        os.setsid()
        _ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(theirs if stream in streams else null, stream)
        return function()

    return in_child(session)


def without_a_terminal(function: Callable[[], T]) -> T:
    def session() -> T:
        os.setsid()
        return function()

    return in_child(session)


def look() -> Standing:
    return standing(Terminal.find())


class TestStanding:
    def test_without_a_terminal(self) -> None:
        assert without_a_terminal(look) == Standing(own_group=True, foreground=False)

    def test_interactive(self) -> None:
        assert on_a_terminal(look) == Standing(own_group=True, foreground=True)

    @pytest.mark.parametrize("streams", [(0, 2), (1, 2), (2,), ()])
    def test_in_a_pipeline(self, streams: tuple[int, ...]) -> None:
        assert on_a_terminal(look, streams=streams) == Standing(own_group=False, foreground=False)

    def test_in_the_background(self) -> None:
        def background() -> Standing:
            return in_child(lambda: (os.setpgid(0, 0), look())[1])

        assert on_a_terminal(background) == Standing(own_group=True, foreground=False)


class TestForeground:
    def test_goes_away_and_comes_back(self) -> None:
        def there_and_back() -> list[bool]:
            terminal = Terminal.find()
            assert terminal is not None
            seen = [terminal.is_ours()]
            reading, writing = os.pipe()
            other = os.fork()
            if other == 0:
                os.setpgid(0, 0)
                hand_over(os.getpid())
                os.write(writing, b"x")
                os.read(os.open("/dev/tty", os.O_RDONLY), 1)  # until killed
            os.read(reading, 1)
            seen.append(terminal.is_ours())
            terminal.take_back()  # as a background process: SIGTTOU must not stop us
            seen.append(terminal.is_ours())
            os.kill(other, 9)
            os.waitpid(other, 0)
            return seen

        assert on_a_terminal(there_and_back) == [True, False, True]

    def test_attributes_come_back_too(self) -> None:
        def change() -> list[int]:
            terminal = Terminal.find()
            assert terminal is not None
            attributes = termios.tcgetattr(0)
            before = attributes[3]
            attributes[3] &= ~termios.ECHO
            termios.tcsetattr(0, termios.TCSANOW, attributes)
            changed = termios.tcgetattr(0)[3]
            terminal.take_back()
            return [before & termios.ECHO, changed & termios.ECHO, termios.tcgetattr(0)[3] & termios.ECHO]

        before, changed, after = on_a_terminal(change)
        assert before == after != changed

    def test_nothing_happens_without_a_terminal(self) -> None:
        assert without_a_terminal(lambda: (Terminal.find(), hand_over(os.getpid()))) == (None, None)

    def test_nothing_happens_to_a_closed_one(self) -> None:
        def close() -> list[bool]:
            terminal = Terminal.find()
            assert terminal is not None
            terminal.close()
            terminal.close()
            terminal.take_back()
            return [terminal.is_ours()]

        assert on_a_terminal(close) == [False]
