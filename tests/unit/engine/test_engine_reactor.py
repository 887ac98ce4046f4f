"""engine.reactor: asyncio on it is asyncio, and the data plane neither starves it nor waits for it."""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bucatini.engine.reactor import Reactor

NEVER = float("inf")


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    made = Reactor()
    yield made
    made.close()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop whose selector is `loop.reactor`."""
    reactor = Reactor()
    made = asyncio.SelectorEventLoop(reactor)
    made.reactor = reactor  # type: ignore[attr-defined]
    yield made
    made.close()


@pytest.fixture
def busy() -> Iterator[int]:
    """A descriptor that is always readable."""
    descriptor = os.eventfd(1, os.EFD_NONBLOCK)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


def run(loop: Any, coroutine: Any) -> Any:
    return loop.run_until_complete(asyncio.wait_for(coroutine, 10))


class TestDataPlane:
    def test_handlers_are_called(self, reactor: Reactor, pair: tuple[socket.socket, socket.socket]) -> None:
        calls: list[tuple[int, int]] = []
        reactor.watch(pair[0].fileno(), lambda fd, events, now: calls.append((fd, events)), select.EPOLLIN)
        assert reactor.turn(0) == []
        assert calls == []
        pair[1].send(b"x")
        assert reactor.turn(1) == []
        assert reactor.turn(0) == []
        assert calls == [(pair[0].fileno(), select.EPOLLIN)] * 2
        assert reactor.turns == 3
        reactor.unwatch(pair[0].fileno())
        reactor.unwatch(pair[0].fileno())
        reactor.turn(0)
        assert len(calls) == 2

    def test_an_edge_is_told_once_and_again_when_renewed(
        self, reactor: Reactor, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        calls: list[int] = []
        edge = select.EPOLLIN | select.EPOLLET
        reactor.watch(pair[0].fileno(), lambda fd, events, now: calls.append(events), edge)
        pair[1].send(b"x")
        reactor.turn(0)
        reactor.turn(0)
        assert calls == [select.EPOLLIN]
        reactor.rewatch(pair[0].fileno(), edge)
        reactor.turn(0)
        assert calls == [select.EPOLLIN] * 2

    def test_a_handler_may_drop_another_that_is_ready_too(self, reactor: Reactor) -> None:
        pairs = [socket.socketpair() for _ in range(2)]
        calls: list[int] = []

        def handler(descriptor: int, events: int, now: float) -> None:
            calls.append(descriptor)
            for near, _ in pairs:
                reactor.unwatch(near.fileno())

        for near, far in pairs:
            reactor.watch(near.fileno(), handler, select.EPOLLIN)
            far.send(b"x")
        reactor.turn(0)
        assert len(calls) == 1
        for near, far in pairs:
            near.close()
            far.close()

    def test_forgotten_and_closed_leaves_nothing(self, reactor: Reactor) -> None:
        """The kernel drops a closed descriptor; its number may be watched again at once."""
        for _ in range(3):
            near, far = socket.socketpair()
            calls: list[int] = []
            reactor.watch(near.fileno(), lambda fd, events, now, calls=calls: calls.append(fd), select.EPOLLIN)  # type: ignore[misc]
            far.send(b"x")
            reactor.turn(0)
            assert calls == [near.fileno()]
            reactor.forget(near.fileno())
            near.close()
            far.close()
            reactor.turn(0)
            assert len(calls) == 1

    def test_the_end_of_a_turn_says_when_the_next_is(self, reactor: Reactor) -> None:
        ends: list[float] = []

        def end_of_turn(now: float) -> float:
            ends.append(now)
            return now + 0.05 if len(ends) < 3 else NEVER

        reactor.attach(end_of_turn)
        start = time.monotonic()
        for _ in range(3):
            reactor.turn(5)
        assert ends == sorted(ends)
        assert len(ends) == 3
        assert 0.1 <= time.monotonic() - start < 2
        assert all(later - earlier >= 0.05 for earlier, later in itertools.pairwise(ends))

    def test_every_turn_ends_once_and_work_left_makes_the_next_at_once(self, reactor: Reactor, busy: int) -> None:
        ends: list[float] = []
        reactor.attach(lambda now: ends.append(now) or now)  # type: ignore[func-returns-value]
        for _ in range(5):
            reactor.turn(60)
        assert len(ends) == 5

    def test_fileno_is_readable_when_a_turn_has_work(
        self, reactor: Reactor, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """For another owner's loop."""
        calls: list[int] = []
        reactor.watch(pair[0].fileno(), lambda fd, events, now: calls.append(pair[0].recv(10)[0]), select.EPOLLIN)
        assert select.select([reactor.fileno()], [], [], 0)[0] == []
        pair[1].send(b"\x07")
        assert select.select([reactor.fileno()], [], [], 5)[0] == [reactor.fileno()]
        reactor.turn(0)
        assert calls == [7]
        assert select.select([reactor.fileno()], [], [], 0)[0] == []

    def test_embedded_in_another_loop(self, pair: tuple[socket.socket, socket.socket]) -> None:
        async def main() -> None:
            reactor = Reactor()
            got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            reactor.watch(pair[0].fileno(), lambda fd, events, now: got.set_result(pair[0].recv(10)), select.EPOLLIN)
            asyncio.get_running_loop().add_reader(reactor.fileno(), reactor.turn, 0)
            pair[1].send(b"hello")
            assert await asyncio.wait_for(got, 10) == b"hello"
            asyncio.get_running_loop().remove_reader(reactor.fileno())
            reactor.close()

        asyncio.run(main())


class TestTogether:
    def test_timers_keep_time_while_descriptors_are_busy(self, loop: Any, busy: int) -> None:
        turns = 0

        def handler(descriptor: int, events: int, now: float) -> None:
            nonlocal turns
            turns += 1

        loop.reactor.watch(busy, handler, select.EPOLLIN)
        start = time.monotonic()
        late: list[float] = []

        async def main() -> None:
            for number in range(1, 11):
                await asyncio.sleep(start + number / 50 - time.monotonic())
                late.append(time.monotonic() - start - number / 50)

        run(loop, main())
        assert turns > 100
        assert all(0 <= each < 0.5 for each in late), late

    def test_the_data_plane_is_served_while_asyncio_waits(
        self, loop: Any, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """An echo of the data plane answers while asyncio only sleeps, without waking it."""
        loop.reactor.watch(pair[0].fileno(), lambda fd, events, now: pair[0].send(pair[0].recv(100)), select.EPOLLIN)
        answers: list[bytes] = []

        async def main() -> None:
            for number in range(20):
                await loop.sock_sendall(pair[1], bytes([number]))
                answers.append(await loop.sock_recv(pair[1], 100))

        run(loop, main())
        assert answers == [bytes([number]) for number in range(20)]

    def test_interrupt_hands_over(self, loop: Any, pair: tuple[socket.socket, socket.socket]) -> None:
        """What a handler schedules runs at once when it interrupts, although asyncio waits without limit."""
        got = loop.create_future()

        def handler(descriptor: int, events: int, now: float) -> None:
            pair[0].recv(10)
            loop.call_soon(got.set_result, now)
            loop.reactor.interrupt()

        loop.reactor.watch(pair[0].fileno(), handler, select.EPOLLIN)
        pair[1].send(b"x")

        async def main() -> Any:
            return await got

        assert loop.run_until_complete(main()) <= time.monotonic()

    def test_an_idle_loop_does_not_spin(self, loop: Any) -> None:
        loop.reactor.attach(lambda now: NEVER)
        before = loop.reactor.turns
        cpu = time.process_time()
        run(loop, asyncio.sleep(0.3))
        assert loop.reactor.turns - before < 10
        assert time.process_time() - cpu < 0.1

    def test_a_failing_handler_is_not_swallowed(self, loop: Any, busy: int) -> None:
        def handler(descriptor: int, events: int, now: float) -> None:
            raise RuntimeError("of the handler")

        loop.reactor.watch(busy, handler, select.EPOLLIN)
        with pytest.raises(RuntimeError, match="of the handler"):
            loop.reactor.select(1)
        loop.reactor.unwatch(busy)


class TestSelector:
    """The contract of `selectors.BaseSelector`, as the standard library's tests have it."""

    def test_register_modify_unregister(self, reactor: Reactor, pair: tuple[socket.socket, socket.socket]) -> None:
        near, far = pair
        key = reactor.register(near, selectors.EVENT_READ, "data")
        assert key == selectors.SelectorKey(near, near.fileno(), selectors.EVENT_READ, "data")
        assert reactor.get_key(near) == key
        assert reactor.get_map()[near.fileno()] == key
        with pytest.raises(KeyError):
            reactor.register(near, selectors.EVENT_READ)
        assert reactor.select(0) == []
        far.send(b"x")
        assert reactor.select(5) == [(key, selectors.EVENT_READ)]
        changed = reactor.modify(near, selectors.EVENT_READ | selectors.EVENT_WRITE, "other")
        assert reactor.select(5) == [(changed, 3)]
        changed = reactor.modify(near, selectors.EVENT_WRITE, "other")
        assert reactor.select(5) == [(changed, selectors.EVENT_WRITE)]
        assert reactor.modify(near, selectors.EVENT_WRITE, "third").data == "third"
        assert reactor.unregister(near).data == "third"
        assert reactor.select(0) == []
        assert dict(reactor.get_map()) == {}
        for call in (reactor.unregister, reactor.get_key):
            with pytest.raises(KeyError):
                call(near)
        with pytest.raises(KeyError):
            reactor.modify(near, selectors.EVENT_READ)

    def test_closed_before_it_is_unregistered(self, reactor: Reactor) -> None:
        near, far = socket.socketpair()
        reactor.register(near, selectors.EVENT_READ)
        near.close()
        far.close()
        assert reactor.unregister(near).fileobj is near
        with pytest.raises(ValueError):
            reactor.unregister(near)
        with pytest.raises(ValueError):
            reactor.register(near, selectors.EVENT_READ)

    def test_hang_up_wakes_readers_and_writers(self, reactor: Reactor) -> None:
        reading, writing = os.pipe()
        key = reactor.register(reading, selectors.EVENT_READ)
        os.close(writing)
        assert reactor.select(5) == [(key, selectors.EVENT_READ)]
        reactor.unregister(reading)
        os.close(reading)
        reading, writing = os.pipe()
        key = reactor.register(writing, selectors.EVENT_WRITE)
        os.close(reading)
        assert reactor.select(5) == [(key, selectors.EVENT_WRITE)]
        reactor.unregister(writing)
        os.close(writing)

    @pytest.mark.parametrize("timeout", [0, -1])
    def test_select_without_waiting(self, reactor: Reactor, timeout: int) -> None:
        start = time.monotonic()
        assert reactor.select(timeout) == []
        assert time.monotonic() - start < 0.5

    def test_select_waits_as_told(self, reactor: Reactor) -> None:
        start = time.monotonic()
        assert reactor.select(0.1) == []
        assert 0.1 <= time.monotonic() - start < 1


class TestAsyncio:
    def test_streams(self, loop: Any) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.close()

        async def client(port: int, body: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(body)
            writer.write_eof()
            got = await reader.read()
            writer.close()
            await writer.wait_closed()
            return got

        async def main() -> list[bytes]:
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            got = await asyncio.gather(*(client(port, bytes([number]) * 300_000) for number in range(8)))
            server.close()
            await server.wait_closed()
            return got

        assert run(loop, main()) == [bytes([number]) * 300_000 for number in range(8)]

    def test_subprocess(self, loop: Any) -> None:
        async def main() -> tuple[int | None, bytes]:
            code = "import sys; print(sys.stdin.read().upper()); sys.exit(3)"
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await child.communicate(b"hello")
            return child.returncode, out

        asyncio.set_event_loop(loop)
        try:
            assert run(loop, main()) == (3, b"HELLO\n")
        finally:
            asyncio.set_event_loop(None)

    def test_readers_and_writers(self, loop: Any, pair: tuple[socket.socket, socket.socket]) -> None:
        near, far = pair
        seen: list[str] = []

        async def main() -> None:
            done = loop.create_future()
            loop.add_writer(near, lambda: (seen.append("w"), loop.remove_writer(near)))
            loop.add_reader(near, lambda: (seen.append(near.recv(9).decode()), done.set_result(None)))
            await asyncio.sleep(0.01)
            far.send(b"r")
            await done
            assert loop.remove_reader(near) is True
            assert loop.remove_reader(near) is False
            far.send(b"late")
            await asyncio.sleep(0.01)

        run(loop, main())
        assert seen == ["w", "r"]

    def test_calls_come_in_order(self, loop: Any) -> None:
        seen: list[int] = []

        async def main() -> None:
            for number in (3, 1, 2, 0):
                loop.call_later(number / 50, seen.append, number)
            handle = loop.call_later(0.03, seen.append, 99)
            handle.cancel()
            for number in (10, 11, 12):
                loop.call_soon(seen.append, number)
            await asyncio.sleep(0.15)

        run(loop, main())
        assert seen == [10, 11, 12, 0, 1, 2, 3]

    def test_another_thread_wakes_it(self, loop: Any) -> None:
        async def main() -> int:
            return await loop.run_in_executor(None, lambda: 42)

        assert run(loop, main()) == 42
        loop.run_until_complete(loop.shutdown_default_executor())


class TestBugs:
    """An exception that comes out of a handler."""

    def test_costs_its_descriptor_alone(self, reactor: Reactor, busy: int) -> None:
        other = os.eventfd(1, os.EFD_NONBLOCK)
        told: list[Exception] = []
        called: list[int] = []

        def bad(descriptor: int, events: int, now: float) -> None:
            called.append(descriptor)
            raise OSError("nobody caught it")

        try:
            reactor.on_bug = told.append
            reactor.watch(busy, bad, select.EPOLLIN)
            reactor.watch(other, lambda descriptor, events, now: called.append(descriptor), select.EPOLLIN)
            for _ in range(3):
                reactor.turn(0)
            assert called.count(busy) == 1
            assert called.count(other) == 3
            assert [str(error) for error in told] == ["nobody caught it"]
        finally:
            os.close(other)

    def test_passes_while_nobody_is_told(self, reactor: Reactor, busy: int) -> None:
        def bad(descriptor: int, events: int, now: float) -> None:
            raise OSError("nobody caught it")

        reactor.watch(busy, bad, select.EPOLLIN)
        with pytest.raises(OSError, match="nobody caught it"):
            reactor.turn(0)


def test_a_deadline_that_came_between_two_turns_is_not_slept_over() -> None:
    turns: list[float] = []
    made = Reactor(lambda now: turns.append(now) or now + 60)  # type: ignore[func-returns-value]
    try:
        made.turn(0)
        made.hurry()
        begun = time.monotonic()
        made.turn(30)
        assert time.monotonic() - begun < 5
    finally:
        made.close()
