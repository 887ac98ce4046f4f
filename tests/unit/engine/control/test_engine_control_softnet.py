"""engine.control.softnet: the policy channel on a real socket pair and loop, up to its bounds and however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from bucatini.base.errors import ConfigError
from bucatini.engine.control.softnet import MAX_UNSENT, PolicyChannel, policy_methods
from bucatini.guard.live_policy import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    ISOLATION_CONFLICT,
    MAX_LINE,
    MAX_TARGETS,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    REVISION_CONFLICT,
    LivePolicy,
)

WAIT = 20.0
Talk = Callable[["Peer"], Awaitable[None]]


class Peer:
    """Who holds the other end. Every wait is bounded."""

    def __init__(self, sock: socket.socket, live: LivePolicy, channel: PolicyChannel) -> None:
        self.sock = sock
        self.live = live
        self.channel = channel
        self.loop = asyncio.get_running_loop()
        self.pending = bytearray()

    async def send(self, data: bytes) -> None:
        await asyncio.wait_for(self.loop.sock_sendall(self.sock, data), WAIT)

    async def receive(self) -> bytes:
        """The next line; nothing at the end of the stream."""
        while (end := self.pending.find(b"\n")) < 0:
            data = await asyncio.wait_for(self.loop.sock_recv(self.sock, 1 << 20), WAIT)
            if not data:
                assert not self.pending
                return b""
            self.pending += data
        line = bytes(self.pending[: end + 1])
        del self.pending[: end + 1]
        return line

    async def ask(self, line: bytes) -> dict[str, Any]:
        await self.send(line + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.receive())
        return found

    async def set(self, revision: str, *allow: str) -> dict[str, Any]:
        return await self.ask(setting(revision, *allow))

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT):
            while not is_so():
                await asyncio.sleep(0.001)


def get(number: Any = 1) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "softnet.policy.get"}).encode()


def setting(revision: str, *allow: str) -> bytes:
    params = {"allow": allow, "block": [], "desiredRevision": revision}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "softnet.policy.set", "params": params}).encode()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    with contextlib.closing(made):
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def serve(
    loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]
) -> Iterator[Callable[[Talk], PolicyChannel]]:
    """Runs a conversation with a served policy; returns its channel, closed."""
    live = LivePolicy(hosts=[b"\xc0\xa8\0\1"])
    channel = PolicyChannel(loop, pair[0].fileno(), live)
    # As an engine has it: the descriptor that was inherited is closed once it is duplicated.
    pair[0].close()

    def run(talk: Talk) -> PolicyChannel:
        channel.start()

        async def conversation() -> None:
            await talk(Peer(pair[1], live, channel))

        loop.run_until_complete(conversation())
        channel.close()
        return channel

    yield run
    channel.close()


Serve = Callable[[Talk], PolicyChannel]


class TestConversation:
    def test_get_and_set(self, serve: Serve) -> None:
        async def talk(peer: Peer) -> None:
            assert (await peer.ask(get("a")))["id"] == "a"
            answer = await peer.set("1", "10.1.2.3/8", "@host")
            assert answer["result"]["allow"] == ["10.0.0.0/8", "@host"]
            assert (await peer.ask(get()))["result"] == answer["result"]
            assert await peer.set("1", "@host", "10.0.0.0/8") == answer
            assert peer.channel.is_open

        channel = serve(talk)
        assert (channel.requests, channel.overlong, channel.lost, channel.is_open) == (4, 0, "", False)

    @pytest.mark.parametrize(
        ("line", "code"),
        [
            (b"x", PARSE_ERROR),
            (b"", PARSE_ERROR),
            (b"[]", INVALID_REQUEST),
            (get(None), INVALID_REQUEST),
            (get("x" * 257), INVALID_REQUEST),
            (get().replace(b"get", b"put"), METHOD_NOT_FOUND),
            (setting("x" * 257), INVALID_PARAMS),
            (setting("2", "10.0.0.0/33"), INVALID_PARAMS),
            (setting("2", *["1.1.1.1"] * (MAX_TARGETS + 1)), INVALID_PARAMS),
            (setting("1", "10.0.0.0/9"), REVISION_CONFLICT),
            (setting("2", "0.0.0.0/0"), ISOLATION_CONFLICT),
        ],
        ids=lambda value: repr(value[-40:]) if isinstance(value, bytes) else str(value),
    )
    def test_an_error_is_an_answer_and_changes_nothing(self, serve: Serve, line: bytes, code: int) -> None:
        async def talk(peer: Peer) -> None:
            before = await peer.set("1", "10.0.0.0/8")
            rules = peer.live.rules
            assert (await peer.ask(line))["error"]["code"] == code
            assert await peer.ask(get()) == before
            assert peer.live.rules is rules

        serve(talk)

    def test_a_request_counts_when_its_newline_has_come(self, serve: Serve) -> None:
        async def talk(peer: Peer) -> None:
            for octet in setting("1", "10.0.0.0/8"):
                await peer.send(bytes([octet]))
            await asyncio.sleep(0)
            assert peer.channel.requests == 0
            await peer.send(b"\n" + get()[:9])
            assert (await peer.answer())["result"]["desiredRevision"] == "1"
            assert (await peer.ask(get()[9:]))["result"]["desiredRevision"] == "1"

        serve(talk)

    def test_requests_in_one_piece_are_answered_in_order(self, serve: Serve) -> None:
        async def talk(peer: Peer) -> None:
            lines = [setting(str(number), f"10.{number}.0.0/16") for number in range(200)]
            await peer.send(b"\n".join(lines) + b"\n")
            for number in range(200):
                result = (await peer.answer())["result"]
                assert (result["desiredRevision"], result["allow"]) == (str(number), [f"10.{number}.0.0/16"])

        assert serve(talk).requests == 200

    def test_each_in_a_turn_of_its_own(self, serve: Serve) -> None:
        """Between two of them whatever else waits is served."""

        async def talk(peer: Peer) -> None:
            await peer.send((get() + b"\n") * 50)
            seen: set[int] = set()
            async with asyncio.timeout(WAIT):
                while peer.channel.requests < 50:
                    seen.add(peer.channel.requests)
                    await asyncio.sleep(0)
            assert len(seen) >= 49

        serve(talk)

    def test_the_most_that_can_be_set(self, serve: Serve) -> None:
        rules = [f"in 10.{number >> 8}.{number & 255}.0/24:1000-{2000 + number}" for number in range(MAX_TARGETS)]

        async def talk(peer: Peer) -> None:
            sent = asyncio.ensure_future(peer.send(setting("1", *rules) + b"\n"))
            assert (await peer.answer())["result"]["ruleCount"] == MAX_TARGETS
            await sent

        serve(talk)


class TestLongLines:
    def test_the_longest(self, serve: Serve) -> None:
        async def talk(peer: Peer) -> None:
            assert "result" in await peer.ask(get().ljust(MAX_LINE))

        assert serve(talk).overlong == 0

    @pytest.mark.parametrize("extra", [1, 2, 3 * MAX_LINE])
    def test_a_longer_one_is_skipped_up_to_its_newline(self, serve: Serve, extra: int) -> None:
        """What it says is not read, even if it looks like requests."""

        async def talk(peer: Peer) -> None:
            await peer.set("1", "10.0.0.0/8")
            line = setting("2", "11.0.0.0/8").ljust(MAX_LINE + extra - 100) + get().ljust(100)
            sent = asyncio.ensure_future(peer.send(line + b"\n" + get("after") + b"\n"))
            answer = await peer.answer()
            assert (answer["id"], answer["error"]["code"]) == (None, PARSE_ERROR)
            answer = await peer.answer()
            assert (answer["id"], answer["result"]["desiredRevision"]) == ("after", "1")
            await sent

        channel = serve(talk)
        assert (channel.requests, channel.overlong) == (3, 1)

    def test_one_that_never_ends_is_answered_once(self, serve: Serve) -> None:
        async def talk(peer: Peer) -> None:
            await peer.send(bytes(4 * MAX_LINE))
            assert (await peer.answer())["error"]["code"] == PARSE_ERROR
            peer.sock.shutdown(socket.SHUT_WR)
            assert await peer.receive() == b""

        assert serve(talk).requests == 1


class TestEnd:
    def test_the_last_policy_stays(self, serve: Serve) -> None:
        async def talk(peer: Peer) -> None:
            await peer.set("1", "10.0.0.0/8")
            peer.sock.shutdown(socket.SHUT_WR)
            assert await peer.receive() == b""
            await peer.until(lambda: not peer.channel.is_open)
            assert [str(rule) for rule in peer.live.rules.allow] == ["10.0.0.0/8"]
            assert peer.live.revision == "1"

        assert serve(talk).lost == ""

    def test_what_it_cuts_off_was_no_request(self, serve: Serve) -> None:
        async def talk(peer: Peer) -> None:
            await peer.send(get() + b"\n" + setting("1", "10.0.0.0/8"))
            peer.sock.shutdown(socket.SHUT_WR)
            assert (await peer.answer())["result"]["desiredRevision"] is None
            assert await peer.receive() == b""
            assert peer.live.revision is None

        serve(talk)

    def test_answers_are_sent_before_it(self, serve: Serve) -> None:
        """More than the socket holds."""

        async def talk(peer: Peer) -> None:
            rules = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(1000)]
            await peer.set("1", *rules)
            await peer.send((get() + b"\n") * 60)
            peer.sock.shutdown(socket.SHUT_WR)
            await peer.until(lambda: peer.channel.requests == 61)
            for _ in range(60):
                assert len((await peer.answer())["result"]["allow"]) == 1000
            assert await peer.receive() == b""

        assert serve(talk).lost == ""

    def test_a_peer_that_is_gone(self, serve: Serve) -> None:
        async def talk(peer: Peer) -> None:
            await peer.set("1", "10.0.0.0/8")
            await peer.send((get() + b"\n") * 500)
            peer.sock.close()
            await peer.until(lambda: not peer.channel.is_open)
            assert peer.live.revision == "1"

        serve(talk)

    def test_a_peer_that_does_not_read(self, serve: Serve) -> None:
        """The channel ends, and what was asked until then holds."""

        async def talk(peer: Peer) -> None:
            await peer.set("1", *[f"10.{number >> 8}.{number & 255}.0/24" for number in range(MAX_TARGETS)])
            await peer.send((get() + b"\n") * 200)
            await peer.until(lambda: not peer.channel.is_open)
            assert peer.live.revision == "1"
            with contextlib.suppress(ConnectionError):
                while await peer.loop.sock_recv(peer.sock, 1 << 20):
                    pass

        channel = serve(talk)
        assert channel.lost == f"more than {MAX_UNSENT} bytes of answers were not read"
        assert channel.requests < 200

    def test_closed_by_us(self, serve: Serve) -> None:
        async def talk(peer: Peer) -> None:
            await peer.ask(get())
            peer.channel.close()
            peer.channel.close()
            assert await peer.receive() == b""
            await peer.until(lambda: not peer.channel.is_open)

        assert serve(talk).lost == ""

    def test_closed_before_its_first_turn(
        self, loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        for begin in (lambda channel: None, PolicyChannel.start):
            channel = PolicyChannel(loop, pair[0].fileno(), LivePolicy())
            begin(channel)
            assert channel.is_open
            channel.close()
            assert not channel.is_open
        assert pair[1].recv(1) == b""

    def test_ends_for_whoever_else_holds_the_socket(self, serve: Serve) -> None:
        async def talk(peer: Peer) -> None:
            other = peer.channel._socket.dup()
            with other:
                peer.channel.close()
                assert await peer.receive() == b""

        serve(talk)


class TestDescriptors:
    @pytest.fixture(autouse=True)
    def _loop(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def refused(self, descriptor: int, option: str = "--control-fd") -> str:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ConfigError) as caught:
            PolicyChannel(self.loop, descriptor, LivePolicy(), option)
        assert os.listdir("/proc/self/fd") == before, "nothing is left open"
        match = re.fullmatch(
            rf"{option} {descriptor}: (.*); the number of a connected UNIX stream socket is accepted", str(caught.value)
        )
        assert match is not None, caught.value
        return match[1]

    def test_closed(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        os.close(writing)
        for descriptor in (reading, -1, 1 << 20, 1 << 40):
            assert self.refused(descriptor) == "no such descriptor is open"

    def test_no_socket(self) -> None:
        with open("/dev/null", "rb") as file:
            assert self.refused(file.fileno(), "--other") == "it is no socket"

    @pytest.mark.parametrize(
        ("family", "kind", "reason"),
        [
            (socket.AF_INET, socket.SOCK_STREAM, "it is no UNIX socket"),
            (socket.AF_INET, socket.SOCK_DGRAM, "it is no UNIX socket"),
            (socket.AF_INET6, socket.SOCK_DGRAM, "it is no UNIX socket"),
            (socket.AF_UNIX, socket.SOCK_DGRAM, "it is no stream socket"),
            (socket.AF_UNIX, socket.SOCK_SEQPACKET, "it is no stream socket"),
            (socket.AF_UNIX, socket.SOCK_STREAM, "it is not connected"),
        ],
    )
    def test_no_connected_unix_stream_socket(self, family: int, kind: int, reason: str) -> None:
        with socket.socket(family, kind) as sock:
            assert self.refused(sock.fileno()) == reason

    def test_a_listening_one(self) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("")
            sock.listen()
            assert self.refused(sock.fileno()) == "it is not connected"

    def test_a_connected_pair_of_datagram_sockets(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours, theirs:
            assert self.refused(ours.fileno()) == "it is no stream socket"

    def test_the_number_given_stays_its_owners(
        self, loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        channel = PolicyChannel(loop, pair[0].fileno(), LivePolicy())
        assert channel._socket.fileno() != pair[0].fileno()
        assert not channel._socket.get_inheritable()
        channel.close()
        os.fstat(pair[0].fileno())

    def test_a_peer_that_left_before(
        self, loop: asyncio.AbstractEventLoop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """It may have said something."""
        live = LivePolicy()
        pair[1].send(setting("1", "10.0.0.0/8") + b"\n")
        pair[1].close()
        channel = PolicyChannel(loop, pair[0].fileno(), live)
        channel.start()
        assert channel._task is not None
        loop.run_until_complete(asyncio.wait_for(channel._task, WAIT))
        assert live.revision == "1"
        assert not channel.is_open


def test_the_same_methods_for_the_control_socket() -> None:
    live = LivePolicy()
    methods = policy_methods(live)
    assert sorted(methods) == ["softnet.policy.get", "softnet.policy.set"]
    answer = methods["softnet.policy.set"]({"allow": ["10.0.0.0/8"], "block": [], "desiredRevision": "1"})
    assert answer == methods["softnet.policy.get"]({})
