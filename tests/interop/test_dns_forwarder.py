"""engine.dns: the forwarder between a guest and real resolvers on loopback, honest, hostile, slow and dead.

Resolvers and guests are on the loop of the test; every wait is bounded. Times are shortened by `Settings`.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import select
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Self

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucatini.base.address import Endpoint, pack
from bucatini.engine.dns import Forwarder, Settings
from bucatini.engine.dns.stream import GuestStream
from bucatini.host.resolvers import HostResolvers, Resolver, ResolverConfig
from bucatini.services.dns import HostNames

NAMES = HostNames([pack("100.96.0.1"), pack("fd42:6d73:62::1")])
QUICK = Settings(per_try=0.15, total=0.6)
LIMIT = 65507
WAIT = 5.0

Handler = Callable[[bytes, bool], Iterable[bytes]]
"""Query and whether it came by TCP in; messages to send back out."""


def answered(address: str = "192.0.2.80", rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> Handler:
    def handle(message: bytes, tcp: bool) -> Iterable[bytes]:
        response = dns.message.make_response(dns.message.from_wire(message), recursion_available=True)
        response.set_rcode(rcode)
        if rcode == dns.rcode.NOERROR:
            response.answer.append(dns.rrset.from_text(response.question[0].name, 60, "IN", "A", address))
        yield response.to_wire()

    return handle


def wire(name: str, rtype: str = "A", **options: object) -> bytes:
    """A query."""
    return dns.message.make_query(name, rtype, **options).to_wire()  # type: ignore[arg-type]


def silent(message: bytes, tcp: bool) -> Iterable[bytes]:
    return ()


def bind(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP sockets on one port; of the kernel's choice for 0, until one is free for both."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for attempts_left in reversed(range(20)):
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        tcp = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            udp.bind((address, port))
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((address, udp.getsockname()[1]))
        except OSError:
            udp.close()
            tcp.close()
            if port or not attempts_left:
                raise
        else:
            return udp, tcp
    raise AssertionError


class Upstream:
    """A name server on one loopback address, UDP and TCP on the same port."""

    def __init__(self, handler: Handler, address: str = "127.0.0.1", port: int = 0) -> None:
        self.handler = handler
        self.asked: list[tuple[bytes, bool]] = []
        self.sources: list[tuple[str, int]] = []
        self.delay = 0.0
        self.udp, self.tcp = bind(address, port)
        self.port: int = self.udp.getsockname()[1]
        self.resolver = Resolver(Endpoint(pack(address), self.port))
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, sock=self.tcp)
        asyncio.get_running_loop().add_reader(self.udp, self._datagram)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self.udp)
        self.udp.close()
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _datagram(self) -> None:
        message, source = self.udp.recvfrom(65535)
        self.asked.append((message, False))
        self.sources.append(source)
        loop = asyncio.get_running_loop()
        for response in self.handler(message, False):
            loop.call_later(self.delay, self._send, response, source)

    def _send(self, response: bytes, source: tuple[str, int]) -> None:
        if self.udp.fileno() >= 0:
            self.udp.sendto(response, source)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                message = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                self.asked.append((message, True))
                for response in self.handler(message, True):
                    await asyncio.sleep(self.delay)
                    writer.write(len(response).to_bytes(2, "big") + response)
        writer.close()


class Guest:
    """Asks a forwarder as the UDP path of the engine does."""

    def __init__(self, forwarder: Forwarder, limit: int = LIMIT) -> None:
        self.forwarder = forwarder
        self.limit = limit

    def send(self, message: bytes) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.forwarder.query(message, future.set_result, self.limit)
        return future

    async def ask(self, name: str, rtype: str = "A", **options: object) -> dns.message.Message:
        message = dns.message.make_query(name, rtype, **options)  # type: ignore[arg-type]
        async with asyncio.timeout(WAIT):
            response = dns.message.from_wire(await self.send(message.to_wire()))
        assert response.id == message.id
        return response


class Stream:
    """The guest's end of a stream to the forwarder."""

    def __init__(self, forwarder: Forwarder) -> None:
        self.socket, far = socket.socketpair()
        self.socket.setblocking(False)
        forwarder.serve_stream(far)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    async def send(self, *messages: bytes) -> None:
        data = b"".join(len(message).to_bytes(2, "big") + message for message in messages)
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self.socket, data), WAIT)

    async def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, length - len(data)), WAIT)
            if not more:
                break
            data += more
        return data

    async def receive(self) -> bytes:
        """The next message, empty at the end of the stream."""
        return await self._exactly(int.from_bytes(await self._exactly(2), "big"))


def config(*upstreams: Upstream, **options: object) -> Callable[[], ResolverConfig]:
    found = ResolverConfig(tuple(upstream.resolver for upstream in upstreams), **options)  # type: ignore[arg-type]
    return lambda: found


@contextlib.asynccontextmanager
async def forwarding(
    *handlers: Handler, settings: Settings = QUICK, **options: object
) -> AsyncIterator[tuple[Forwarder, list[Upstream]]]:
    """A forwarder with a resolver for each handler; at the end nothing of it may be left (pytest sees open sockets)."""
    async with contextlib.AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(Upstream(handler)) for handler in handlers]
        forwarder = Forwarder(asyncio.get_running_loop(), config(*upstreams, **options), NAMES, settings)
        try:
            yield forwarder, upstreams
        finally:
            forwarder.close()
        assert forwarder.outstanding == 0
        counters = forwarder.counters
        assert counters.forwarded == counters.answered + counters.failed + counters.cancelled


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


def addresses(response: dns.message.Message) -> list[str]:
    return [str(one) for rrset in response.answer for one in rrset]


# Forwarding


def test_query_and_answer_pass_untouched_but_for_the_identifier() -> None:
    option = dns.edns.GenericOption(65001, b"\x01\x02")
    query = dns.message.make_query("wWw.eXample.ORG", "TYPE65280", use_edns=0, want_dnssec=True, options=[option])
    tail = query.to_wire()[2:]
    odd = b"\x81\xb0" + tail[2:] + b"trailing"

    async def test() -> None:
        async with forwarding(lambda message, _: [message[:2] + odd]) as (forwarder, (upstream,)):
            assert (
                await asyncio.wait_for(Guest(forwarder).send(query.to_wire()), WAIT)
                == query.id.to_bytes(2, "big") + odd
            )
            assert [message[2:] for message, _ in upstream.asked] == [tail]

    run(test)


def test_each_query_has_its_own_port_and_identifier() -> None:
    async def test() -> None:
        async with forwarding(answered()) as (forwarder, (upstream,)):
            guest = Guest(forwarder)
            await asyncio.gather(*(guest.ask("example.org", id=1) for _ in range(40)))
            assert len(set(upstream.sources)) > 35
            assert len({message[:2] for message, _ in upstream.asked}) > 35

    run(test)


def test_ipv6_resolver() -> None:
    async def test() -> None:
        async with Upstream(answered(), "::1") as upstream:
            forwarder = Forwarder(asyncio.get_running_loop(), config(upstream), NAMES, QUICK)
            assert addresses(await Guest(forwarder).ask("example.org")) == ["192.0.2.80"]
            forwarder.close()

    run(test)


def test_host_names_never_leave() -> None:
    async def test() -> None:
        async with forwarding(answered()) as (forwarder, (upstream,)):
            assert addresses(await Guest(forwarder).ask("HOST.docker.internal")) == ["100.96.0.1"]
            assert addresses(await Guest(forwarder).ask("host.bucatini.internal", "AAAA")) == ["fd42:6d73:62::1"]
            assert not (await Guest(forwarder).ask("host.containers.internal", "HTTPS")).answer
            assert not upstream.asked
            assert forwarder.counters.local == 3

    run(test)


@pytest.mark.parametrize("rcode", [dns.rcode.NXDOMAIN, dns.rcode.FORMERR])
def test_answers_that_are_the_truth_are_final(rcode: dns.rcode.Rcode) -> None:
    async def test() -> None:
        async with forwarding(answered(rcode=rcode), answered()) as (forwarder, upstreams):
            assert (await Guest(forwarder).ask("example.org")).rcode() == rcode
            assert not upstreams[1].asked

    run(test)


# Resolvers that do not answer well


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP])
def test_a_refusal_asks_the_next_and_is_the_answer_if_all_refuse(rcode: dns.rcode.Rcode) -> None:
    async def test() -> None:
        async with forwarding(answered(rcode=rcode), answered()) as (forwarder, _):
            assert addresses(await Guest(forwarder).ask("example.org")) == ["192.0.2.80"]
        async with forwarding(answered(rcode=rcode), answered(rcode=dns.rcode.SERVFAIL)) as (forwarder, upstreams):
            assert (await Guest(forwarder).ask("example.org")).rcode() == rcode
            assert [len(one.asked) for one in upstreams] == [1, 1]
            assert forwarder.counters.upstream_refusals == 2

    run(test)


def test_a_dead_resolver_is_passed_at_once() -> None:
    async def test() -> None:
        async with forwarding(answered(), settings=Settings()) as (forwarder, (upstream,)):
            dead = Resolver(Endpoint(pack("127.0.0.9"), upstream.port))
            forwarder._resolvers = lambda: ResolverConfig((dead, upstream.resolver))
            start = time.monotonic()
            assert addresses(await Guest(forwarder).ask("example.org")) == ["192.0.2.80"]
            assert time.monotonic() - start < 1
            assert forwarder.counters.upstream_errors == 1

    run(test)


def test_a_silent_resolver_costs_its_time_and_after_three_times_its_place() -> None:
    async def test() -> None:
        async with forwarding(silent, answered(), settings=Settings(per_try=0.05, total=2)) as (forwarder, upstreams):
            for _ in range(5):
                assert addresses(await Guest(forwarder).ask("example.org")) == ["192.0.2.80"]
            assert [len(one.asked) for one in upstreams] == [3, 5]
            assert forwarder.counters.upstream_timeouts == 3

    run(test)


def test_a_long_timeout_in_the_file_still_gives_each_its_turn() -> None:
    async def test() -> None:
        async with forwarding(silent, answered(), timeout=30) as (forwarder, _):
            assert addresses(await Guest(forwarder).ask("example.org")) == ["192.0.2.80"]

    run(test)


def test_a_slow_answer_counts_even_after_the_next_was_asked() -> None:
    async def test() -> None:
        async with forwarding(answered("192.0.2.1"), silent) as (forwarder, upstreams):
            upstreams[0].delay = 0.25
            assert addresses(await Guest(forwarder).ask("example.org")) == ["192.0.2.1"]
            assert len(upstreams[1].asked) == 1

    run(test)


def test_a_lost_query_is_sent_again() -> None:
    async def test() -> None:
        def second_time(message: bytes, tcp: bool) -> Iterable[bytes]:
            return answered()(message, tcp) if len(upstream.asked) == 2 else ()

        async with forwarding(second_time) as (forwarder, (upstream,)):
            assert addresses(await Guest(forwarder).ask("example.org")) == ["192.0.2.80"]
            assert upstream.asked[0] == upstream.asked[1]

    run(test)


def test_rotation() -> None:
    async def test() -> None:
        async with forwarding(answered(), answered(), answered(), rotate=True) as (forwarder, upstreams):
            for _ in range(6):
                await Guest(forwarder).ask("example.org")
            assert [len(one.asked) for one in upstreams] == [2, 2, 2]

    run(test)


def test_silence_of_all_is_servfail_with_a_reason() -> None:
    async def test() -> None:
        async with forwarding(silent, silent) as (forwarder, upstreams):
            start = time.monotonic()
            response = await Guest(forwarder).ask("example.org", use_edns=0)
            assert 0.5 < time.monotonic() - start < 2
            assert response.rcode() == dns.rcode.SERVFAIL
            assert response.extended_errors()[0].code == dns.edns.EDECode.NO_REACHABLE_AUTHORITY
            assert (await Guest(forwarder).ask("example.org")).edns == -1
            assert forwarder.counters.failed == 2
            assert [len(one.asked) for one in upstreams] == [4, 4]

    run(test)


def test_nobody_listening_is_servfail_at_once_with_a_reason() -> None:
    async def test() -> None:
        async with forwarding(answered(), settings=Settings()) as (forwarder, (upstream,)):
            forwarder._resolvers = lambda: ResolverConfig((Resolver(Endpoint(pack("127.0.0.9"), upstream.port)),))
            start = time.monotonic()
            response = await Guest(forwarder).ask("example.org", use_edns=0)
            assert time.monotonic() - start < 1
            assert response.extended_errors()[0].code == dns.edns.EDECode.NETWORK_ERROR

    run(test)


# Hostile resolvers


FORGERIES = 8


def forgeries(message: bytes) -> list[bytes]:
    (good,) = answered("203.0.113.66")(message, False)
    wrong_id = (int.from_bytes(good[:2], "big") ^ 1).to_bytes(2, "big") + good[2:]
    other = wire("example.com", id=int.from_bytes(message[:2], "big"))
    (wrong_question,) = answered("203.0.113.66")(other, False)
    return [wrong_id, wrong_question, b"", b"\x00", b"\xff" * 500, message, good[:12], good[:-20][:14]]


def test_forgeries_are_passed_over_until_the_answer_comes() -> None:
    async def test() -> None:
        async with forwarding(lambda message, tcp: [*forgeries(message), *answered()(message, tcp)]) as (forwarder, _):
            assert addresses(await Guest(forwarder).ask("example.org")) == ["192.0.2.80"]
            assert forwarder.counters.upstream_mismatches == FORGERIES

    run(test)


def test_forgeries_alone_are_no_answer() -> None:
    async def test() -> None:
        async with forwarding(lambda message, _: forgeries(message)) as (forwarder, _):
            assert (await Guest(forwarder).ask("example.org")).rcode() == dns.rcode.SERVFAIL

    run(test)


def test_a_datagram_from_elsewhere_is_no_answer() -> None:
    async def test() -> None:
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        def from_elsewhere(message: bytes, tcp: bool) -> Iterable[bytes]:
            (good,) = answered()(message, tcp)
            stranger.sendto(good, upstream.sources[-1])
            return ()

        with stranger:
            async with forwarding(from_elsewhere) as (forwarder, (upstream,)):
                assert (await Guest(forwarder).ask("example.org")).rcode() == dns.rcode.SERVFAIL
                assert forwarder.counters.upstream_mismatches == 0

    run(test)


def test_a_liar_on_tcp_is_passed_for_the_next() -> None:
    async def test() -> None:
        for lie in range(FORGERIES):
            async with forwarding(lambda message, _, n=lie: [forgeries(message)[n]], answered()) as (forwarder, _):
                with Stream(forwarder) as stream:
                    await stream.send(wire("example.org"))
                    assert addresses(dns.message.from_wire(await stream.receive())) == ["192.0.2.80"]

    run(test)


@pytest.mark.parametrize("fault", [ConnectionResetError, TimeoutError])
def test_a_resolver_that_breaks_tcp_is_passed_for_the_next(fault: type[OSError]) -> None:
    def breaking(message: bytes, tcp: bool) -> Iterable[bytes]:
        raise fault  # The server closes.

    async def test() -> None:
        async with forwarding(breaking, answered(), settings=Settings()) as (forwarder, (_, upstream)):
            dead = Resolver(Endpoint(pack("127.0.0.9"), upstream.port))
            resolvers = (dead, *forwarder._resolvers().resolvers)
            forwarder._resolvers = lambda: ResolverConfig(resolvers)
            with Stream(forwarder) as stream:
                await stream.send(wire("example.org"))
                assert addresses(dns.message.from_wire(await stream.receive())) == ["192.0.2.80"]
            assert forwarder.counters.upstream_errors == 2

    run(test)


# Limits of the machine


def test_a_query_too_long_for_a_datagram_is_servfail() -> None:
    async def test() -> None:
        async with forwarding(answered()) as (forwarder, (upstream,)):
            message = wire("example.org")
            response = await asyncio.wait_for(Guest(forwarder).send(message + bytes(65535 - len(message))), WAIT)
            assert dns.message.from_wire(response).rcode() == dns.rcode.SERVFAIL
            assert not upstream.asked

    run(test)


@pytest.mark.parametrize("use_tcp", [False, True])
def test_without_descriptors_queries_are_servfail(use_tcp: bool) -> None:
    async def test() -> None:
        async with forwarding(answered(), settings=Settings(), use_tcp=use_tcp) as (forwarder, _):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                response = await Guest(forwarder).ask("example.org")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert response.rcode() == dns.rcode.SERVFAIL
            assert addresses(await Guest(forwarder).ask("example.org")) == ["192.0.2.80"]

    run(test)


# Sizes


def large(message: bytes, tcp: bool, texts: int = 40) -> Iterable[bytes]:
    query = dns.message.from_wire(message)
    response = dns.message.make_response(query)
    for number in range(texts):
        response.answer.append(dns.rrset.from_text(f"r{number}.example.org.", 60, "IN", "TXT", f'"{"x" * 100}"'))
    yield response.to_wire(max_size=65535)


@pytest.mark.parametrize(
    ("options", "limit", "size"),
    [
        ({}, LIMIT, 512),
        ({"use_edns": 0, "payload": 1232}, LIMIT, 1232),
        ({"use_edns": 0, "payload": 100}, LIMIT, 512),
        ({"use_edns": 0, "payload": 4096}, 1452, 1452),
        ({"use_edns": 0, "payload": 65535}, LIMIT, LIMIT),
    ],
)
def test_answers_are_cut_to_what_the_guest_takes(options: dict[str, object], limit: int, size: int) -> None:
    async def test() -> None:
        async with forwarding(large) as (forwarder, _):
            query = dns.message.from_wire(wire("example.org", "TXT", **options))
            found = await asyncio.wait_for(Guest(forwarder, limit).send(query.to_wire(max_size=65535)), WAIT)
            response = dns.message.from_wire(found)
            assert len(found) <= size
            assert bool(response.flags & dns.flags.TC) == (size < 4096) == bool(forwarder.counters.truncated)
            assert response.edns == query.edns
            assert 0 < len(response.answer) <= 40

    run(test)


def test_truncation_upstream_is_passed_to_udp_and_not_to_tcp() -> None:
    def truncating(message: bytes, tcp: bool) -> Iterable[bytes]:
        if tcp:
            yield from large(message, tcp, 500)
        else:
            response = dns.message.make_response(dns.message.from_wire(message))
            response.flags |= dns.flags.TC
            yield response.to_wire()

    async def test() -> None:
        async with forwarding(truncating) as (forwarder, (upstream,)):
            assert (await Guest(forwarder).ask("example.org", "TXT")).flags & dns.flags.TC
            assert forwarder.counters.truncated == 0
            with Stream(forwarder) as stream:
                await stream.send(wire("example.org", "TXT"))
                assert len(dns.message.from_wire(await stream.receive()).answer) == 500
            assert [tcp for _, tcp in upstream.asked] == [False, True]

    run(test)


def test_use_vc_asks_by_tcp_only() -> None:
    async def test() -> None:
        async with forwarding(large, use_tcp=True) as (forwarder, (upstream,)):
            assert (await Guest(forwarder).ask("example.org", "TXT")).flags & dns.flags.TC
            assert [tcp for _, tcp in upstream.asked] == [True]

    run(test)


# Bounds


def test_outstanding_queries_are_bounded() -> None:
    async def test() -> None:
        async with forwarding(silent, settings=Settings(per_try=0.4, total=1)) as (forwarder, (upstream,)):
            guest = Guest(forwarder)
            futures = [guest.send(wire(f"n{n}.example.org", use_edns=0)) for n in range(1000)]
            assert forwarder.outstanding == 512
            refused = [dns.message.from_wire(future.result()) for future in futures if future.done()]
            assert len(refused) == forwarder.counters.overloaded == 488
            assert {response.rcode() for response in refused} == {dns.rcode.SERVFAIL}
            assert (await guest.ask("host.docker.internal")).answer
            async with asyncio.timeout(WAIT):
                responses = [dns.message.from_wire(await future) for future in futures]
            assert {response.rcode() for response in responses} == {dns.rcode.SERVFAIL}
            assert forwarder.outstanding == 0
            await until(lambda: not select.select([upstream.udp], [], [], 0)[0])
            upstream.handler = answered()
            assert addresses(await guest.ask("example.org")) == ["192.0.2.80"]

    run(test)


def test_a_thousand_queries_within_the_bound_are_all_answered() -> None:
    async def test() -> None:
        async with forwarding(answered(), settings=Settings()) as (forwarder, _):
            guest = Guest(forwarder)
            for batch in range(5):
                asked = [guest.ask(f"n{batch}-{n}.example.org") for n in range(200)]
                for response in await asyncio.gather(*asked):
                    assert addresses(response) == ["192.0.2.80"]
            assert forwarder.counters.answered == 1000

    run(test)


def test_closing_forgets_everything() -> None:
    async def test() -> None:
        async with forwarding(silent) as (forwarder, _):
            future = Guest(forwarder).send(wire("example.org"))
            stream = Stream(forwarder)
            await stream.send(wire("example.org"))
            await until(lambda: forwarder.counters.forwarded == 2)
            forwarder.close()
            forwarder.close()
            assert await stream.receive() == b""
            stream.socket.close()
            assert forwarder.counters.cancelled == 2
            assert not Guest(forwarder).send(wire("example.org")).done()
            assert not future.done()

    run(test)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.002)


# Resolvers of the host that change


def test_a_changed_resolv_conf_is_followed(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream(answered("192.0.2.1"), "127.0.0.1") as one:
            async with Upstream(answered("192.0.2.2"), "127.0.0.2", one.port):
                path = tmp_path / "resolv.conf"
                path.write_text("nameserver 127.0.0.1\n")
                resolvers = HostResolvers(str(path), port=one.port, interval=0)
                forwarder = Forwarder(asyncio.get_running_loop(), resolvers, NAMES, QUICK)
                assert addresses(await Guest(forwarder).ask("example.org")) == ["192.0.2.1"]
                path.with_suffix(".new").write_text("nameserver 127.0.0.2\n")
                path.with_suffix(".new").replace(path)
                assert addresses(await Guest(forwarder).ask("example.org")) == ["192.0.2.2"]
                path.unlink()
                assert addresses(await Guest(forwarder).ask("example.org")) == ["192.0.2.2"]
                forwarder.close()

    run(test)


# Streams


def test_stream_answers_pipelined_queries_as_answers_come() -> None:
    async def test() -> None:
        async with forwarding(answered(), settings=Settings()) as (forwarder, (upstream,)):
            upstream.delay = 0.1
            with Stream(forwarder) as stream:
                names = ["example.org"] * 30 + ["host.docker.internal"] * 30
                queries = [wire(name, id=number) for number, name in enumerate(names)]
                await stream.send(*queries)
                responses = [dns.message.from_wire(await stream.receive()) for _ in queries]
                assert sorted(response.id for response in responses) == list(range(60))
                assert responses[0].id >= 30
                assert all(tcp for _, tcp in upstream.asked)

    run(test)


def test_stream_in_single_bytes() -> None:
    async def test() -> None:
        async with forwarding(answered()) as (forwarder, _):
            with Stream(forwarder) as stream:
                message = wire("example.org")
                for byte in len(message).to_bytes(2, "big") + message:
                    stream.socket.send(bytes([byte]))
                    await asyncio.sleep(0)
                assert addresses(dns.message.from_wire(await stream.receive())) == ["192.0.2.80"]

    run(test)


def test_stream_half_closed_by_the_guest_gets_its_answers_then_the_end() -> None:
    async def test() -> None:
        async with forwarding(answered(), settings=Settings()) as (forwarder, (upstream,)):
            upstream.delay = 0.1
            with Stream(forwarder) as stream:
                await stream.send(*(wire("example.org") for _ in range(3)))
                stream.socket.shutdown(socket.SHUT_WR)
                for _ in range(3):
                    assert addresses(dns.message.from_wire(await stream.receive())) == ["192.0.2.80"]
                assert await stream.receive() == b""

    run(test)


def test_stream_closed_by_the_guest_cancels_what_waits() -> None:
    async def test() -> None:
        async with forwarding(silent, settings=Settings(total=30, per_try=30)) as (forwarder, (upstream,)):
            with Stream(forwarder) as stream:
                await stream.send(*[wire("example.org")] * 3)
                await until(lambda: len(upstream.asked) == 3)
            await until(lambda: not forwarder._streams)
            assert forwarder.outstanding == 0
            assert forwarder.counters.cancelled == 3

    run(test)


def test_stream_forwards_no_more_than_its_share_at_a_time() -> None:
    async def test() -> None:
        async with forwarding(answered(), settings=Settings(stream_queries=8)) as (forwarder, (upstream,)):
            upstream.delay = 0.05
            with Stream(forwarder) as stream:
                queries = [wire("example.org", id=number) for number in range(40)]
                await stream.send(*queries)
                most, seen = 0, set()
                for _ in queries:
                    most = max(most, forwarder.outstanding)
                    seen.add((await stream.receive())[:2])
                assert len(seen) == 40
                assert most <= 8

    run(test)


def test_stream_that_is_not_read_does_not_fill_memory() -> None:
    async def test() -> None:
        bounds = Settings(stream_idle=0.5)
        message = wire("example.org", "TXT")
        (response,) = large(message, True, 500)
        async with forwarding(lambda asked, _: [asked[:2] + response[2:]], settings=bounds) as (forwarder, _):
            with Stream(forwarder) as stream:
                with contextlib.suppress(OSError, TimeoutError):
                    await stream.send(*[message] * 3000)
                (end,) = forwarder._streams or [None]
                assert end is None or isinstance(end, GuestStream)
                assert end is None or len(end._output) <= bounds.stream_output
                await until(lambda: not forwarder._streams)
                assert forwarder.counters.streams_overflowed + forwarder.counters.streams_idle == 1

    run(test)


def test_local_answers_in_a_stream_that_is_not_read_stop_its_reading() -> None:
    async def test() -> None:
        async with forwarding(silent, settings=Settings(stream_idle=0.3)) as (forwarder, _):
            with Stream(forwarder) as stream:
                message = wire("host.docker.internal")
                with contextlib.suppress(OSError):
                    await stream.send(*[message] * 20000)
                await until(lambda: not forwarder._streams)
                assert forwarder.counters.streams_idle == 1
                assert forwarder.counters.local < 20000

    run(test)


@pytest.mark.parametrize("sent", [b"", b"\x00", b"\x00\x20partial"])
def test_idle_stream_is_closed(sent: bytes) -> None:
    async def test() -> None:
        async with forwarding(silent, settings=Settings(stream_idle=0.1)) as (forwarder, _):
            with Stream(forwarder) as stream:
                stream.socket.send(sent) if sent else None
                assert await stream.receive() == b""
                assert forwarder.counters.streams_idle == 1

    run(test)


def test_stream_that_waits_for_answers_is_not_idle() -> None:
    async def test() -> None:
        async with forwarding(answered(), settings=Settings(stream_idle=0.1)) as (forwarder, (upstream,)):
            upstream.delay = 0.4
            with Stream(forwarder) as stream:
                await stream.send(wire("example.org"))
                assert addresses(dns.message.from_wire(await stream.receive())) == ["192.0.2.80"]

    run(test)


def test_streams_are_bounded() -> None:
    async def test() -> None:
        async with forwarding(answered(), settings=Settings(streams=2)) as (forwarder, _):
            streams = [Stream(forwarder) for _ in range(3)]
            assert await streams[2].receive() == b""
            assert forwarder.counters.streams_refused == 1
            streams[0].socket.close()
            await until(lambda: len(forwarder._streams) == 1)
            streams.append(Stream(forwarder))
            await streams[3].send(wire("example.org"))
            assert await streams[3].receive()
            for stream in streams:
                stream.socket.close()

    run(test)


def test_short_messages_in_a_stream_are_skipped() -> None:
    async def test() -> None:
        async with forwarding(answered()) as (forwarder, _):
            with Stream(forwarder) as stream:
                await stream.send(b"", b"x", b"\xff" * 12, wire("example.org"))
                assert addresses(dns.message.from_wire(await stream.receive())) == ["192.0.2.80"]
                assert (forwarder.counters.malformed, forwarder.counters.response) == (2, 1)

    run(test)


# Anything at all


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.binary(max_size=200) | st.binary(max_size=80).map(lambda tail: bytes(4) + b"\0\1" + bytes(6) + tail))
)
def test_random_bytes_never_raise(messages: list[bytes]) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        problems: list[object] = []
        loop.set_exception_handler(lambda _, context: problems.append(context))
        async with forwarding(lambda message, _: [message, message[:2] + b"\x80" + message[3:]]) as (forwarder, _):
            for message in messages:
                forwarder.query(message, lambda answer: None, 512)
            with Stream(forwarder) as stream:
                await stream.send(*messages)
                stream.socket.send(b"".join(messages)) if any(messages) else None
                await asyncio.sleep(0.005)
            assert not problems

    run(test)
