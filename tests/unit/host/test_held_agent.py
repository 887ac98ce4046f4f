"""host.held_agent: what a half trusted agent may send, answers to changes, and its end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bucatini.base.errors import HostError
from bucatini.host.channel import Channel, Say, pair
from bucatini.host.held_agent import HeldAgent
from bucatini.host.netchange import NetChange, pack_change

EMPTY = NetChange((), (), ())
MAC = bytes.fromhex("026d73000002")


@contextmanager
def held(agent: Callable[[Channel], None]) -> Iterator[HeldAgent]:
    """A child that does `agent` and then waits for our end; nothing may be left open."""
    before = set(os.listdir("/proc/self/fd"))
    ours, theirs = pair()
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            agent(theirs)
            while theirs.receive() is not None:
                pass
        finally:
            os._exit(0)
    theirs.close()
    made = HeldAgent(child, ours)
    try:
        yield made
    finally:
        made.close()
        assert set(os.listdir("/proc/self/fd")) == before


def soon() -> float:
    return time.monotonic() + 10


class TestTap:
    def test_comes_with_mask_and_mac_after_notes(self) -> None:
        def agent(channel: Channel) -> None:
            channel.send(Say.NOTE, b"one")
            channel.send(Say.NOTE, b"two")
            channel.send(Say.TAP, b"\x03" + MAC, [0])

        with held(agent) as made:
            tap = made.receive_tap(soon())
            assert (made.notes, tap[1:]) == (["one", "two"], ((True, True, False, False, False), MAC))
            os.close(tap[0])  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("payload", "descriptors", "said"),
        [
            (b"", [0], "something else than a TAP"),
            (b"\x03", [0], "something else than a TAP"),
            (b"\x03" + MAC + b"\0", [0], "something else than a TAP"),
            (b"\x03" + MAC, [], "too many open files"),
            (b"\x03" + MAC, [0, 1], "too many open files"),
        ],
    )
    def test_wrong_one_is_refused_and_closed(self, payload: bytes, descriptors: list[int], said: str) -> None:
        with (
            held(lambda channel: channel.send(Say.TAP, payload, descriptors)) as made,
            pytest.raises(HostError, match=said),
        ):
            made.receive_tap(soon())

    def test_error_is_one_line(self) -> None:
        with (
            held(lambda channel: channel.send(Say.ERROR, b"no\n\xff way")) as made,
            pytest.raises(HostError, match="^no \N{REPLACEMENT CHARACTER} way$"),
        ):
            made.receive_tap(soon())

    def test_late_one_is_an_error(self) -> None:
        with held(lambda _channel: None) as made, pytest.raises(HostError, match="not ready after 10 s"):
            made.receive_tap(time.monotonic())

    def test_end_is_an_error(self) -> None:
        with (
            held(lambda channel: channel.close()) as made,
            pytest.raises(HostError, match="ended while setting up"),
        ):
            made.receive_tap(soon())


class TestChange:
    @staticmethod
    def answering(text: bytes, extra: int = 0) -> Callable[[Channel], None]:
        def agent(channel: Channel) -> None:
            while (order := channel.receive()) is not None:
                assert (order.say, order.payload) == (Say.RECONFIGURE, pack_change(EMPTY))
                import socket

                Channel(socket.socket(fileno=order.descriptors[0])).send(Say.NOTE, text, [0] * extra)

        return agent

    @staticmethod
    def collected(made: HeldAgent) -> list[str]:
        import select

        assert select.select([made.answer_fileno()], [], [], 10)[0]
        return made.collect()

    def test_is_answered(self) -> None:
        with held(self.answering(b"a\nb")) as made:
            assert (made.collect(), made.answer_fileno()) == ([], -1)
            made.reconfigure(EMPTY)
            assert self.collected(made) == ["a", "b"]
            assert made.notes == ["a", "b"]
            assert made.answer_fileno() == -1

    def test_that_worked_has_no_lines(self) -> None:
        with held(self.answering(b"")) as made:
            made.reconfigure(EMPTY)
            assert self.collected(made) == []
            assert made.answer_fileno() == -1

    def test_descriptors_nobody_asked_for_are_closed(self) -> None:
        with held(self.answering(b"x", extra=3)) as made:
            made.reconfigure(EMPTY)
            assert self.collected(made) == ["x"]

    def test_never_answered_ends_in_a_refusal(self) -> None:
        def agent(channel: Channel) -> None:
            kept = []
            while (order := channel.receive()) is not None:
                kept.append(order)

        with held(agent) as made:
            for _ in range(16):
                made.reconfigure(EMPTY)
            with pytest.raises(HostError, match="does not answer"):
                made.reconfigure(EMPTY)

    def test_when_the_agent_is_gone(self) -> None:
        with held(lambda channel: channel.close()) as made:
            os.kill(made.process, signal.SIGKILL)
            os.waitid(os.P_PID, made.process, os.WEXITED | os.WNOWAIT)
            with pytest.raises(HostError, match="cannot change the guest's network: Broken pipe"):
                made.reconfigure(EMPTY)


def test_agent_that_does_not_go_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucatini.host.held_agent._END_TIMEOUT", 0.05)

    def agent(channel: Channel) -> None:
        channel.send(Say.NOTE, b"up")
        while True:
            signal.pause()

    with held(agent) as made:
        process = made.process
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
