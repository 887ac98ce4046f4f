"""TCP segment by segment: what no ordinary guest sends, and what an ordinary guest does not show of our answers."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from support.fakehost import BLACK_HOLE4, BLACK_HOLE6, FakeHost
from support.guests import eventually
from support.raw_guest import (
    ACK,
    FIN,
    PSH,
    RST,
    SYN,
    URG,
    Injector,
    RawGuest,
    Segment,
    mss_option,
    option_kinds,
    scale_option,
    timestamp_option,
)
from support.tcp_peers import Link, Served, Shared, Task, echo, ended, exactly, family_name, kill_with_reset

pytestmark = pytest.mark.root

MSS, SCALE, SACK_PERMITTED, TIMESTAMP = 2, 3, 4, 8
SACK_OPTION = bytes((1, 1, 4, 2))
FAR_AWAY = 100 << 20
"""Bytes: outside every window."""


@pytest.fixture(scope="module")
def engines(host: FakeHost) -> Iterator[Shared]:
    with Shared(host) as made:
        yield made


@pytest.fixture
def engine(engines: Shared) -> Iterator[Served]:
    with engines.checked() as made:
        yield made


@pytest.fixture(params=[4, 6], ids=family_name)
def link(engine: Served, request: pytest.FixtureRequest) -> Iterator[Link]:
    with engine.link(request.param) as made:
        yield made


@pytest.fixture
def listener(link: Link) -> socket.socket:
    return link.listen()[0]


@pytest.fixture
def raw(link: Link, listener: socket.socket) -> Iterator[RawGuest]:
    """Not connected yet; its peer is `listener`."""
    with RawGuest(link.guest, (link.peer_address, listener.getsockname()[1])) as made:
        yield made


@pytest.fixture
def far(link: Link, listener: socket.socket, raw: RawGuest) -> socket.socket:
    """The peer's end of `raw`, connected."""
    raw.connect(mss_option(1000))
    return link.accept(listener)


def still_works(raw: RawGuest, far: socket.socket) -> None:
    """The conversation is alive in both directions."""
    raw.drop_all()
    raw.say(b"alive?")
    assert exactly(far, 6) == b"alive?"
    far.sendall(b"yes")
    assert raw.hear(3) == b"yes"


def nothing_to_read(sock: socket.socket) -> None:
    sock.settimeout(0.1)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    sock.settimeout(10)


def is_reset(segment: Segment) -> bool:
    return bool(segment.flags & RST)


class TestHandshake:
    def test_syn_without_options(self, link: Link, listener: socket.socket, raw: RawGuest) -> None:
        answer = raw.connect()
        assert set(option_kinds(answer.options)) <= {MSS}
        far = link.accept(listener)
        far.sendall(bytes(300_000))
        # RFC 9293 3.7.1: what may be sent to who stated nothing.
        limit = 536 if link.family == 4 else 1220
        first = [raw.expect(lambda segment: bool(segment.payload))]
        while (segment := raw.receive(0.1)) is not None:
            first.append(segment)
        assert all((segment.cut or len(segment.payload)) <= limit for segment in first)
        in_flight = max(segment.seq + len(segment.payload) - raw.rcv & 0xFFFFFFFF for segment in first)
        assert 60_000 < in_flight <= 65_535
        assert all(segment.window >= 14_600 for segment in first)

    def test_syn_with_timestamps_and_sack_only(self, link: Link, listener: socket.socket, raw: RawGuest) -> None:
        answer = raw.connect(mss_option(1460) + SACK_OPTION + timestamp_option(7))
        assert set(option_kinds(answer.options)) == {MSS, SACK_PERMITTED}, "no time stamps, and SACK for who knows it"
        still_works(raw, link.accept(listener))

    def test_scale_is_offered_to_who_offers_it(self, link: Link, listener: socket.socket, raw: RawGuest) -> None:
        answer = raw.connect(mss_option(1460) + b"\1" + scale_option(2)[1:], window=1000)
        shift = option_kinds(answer.options)[SCALE][0]
        assert shift <= 14
        assert answer.window >= 14_600, "the window of a SYN,ACK is not scaled"
        far = link.accept(listener)
        still_works(raw, far)
        raw.send(ACK | PSH, payload=b"x")
        assert raw.expect(lambda segment: segment.ack == raw.nxt + 1).window << shift >= 14_600
        raw.nxt += 1
        # 1000 << 2 bytes are ours to receive, no more.
        raw.send(ACK, window=1000)
        raw.synchronize()
        far.sendall(bytes(10_000))
        time.sleep(0.1)
        received = 0
        while (segment := raw.receive(0.05)) is not None:
            received = max(received, segment.seq + len(segment.payload) - raw.rcv & 0xFFFFFFFF)
        assert 2500 < received <= 4000

    @pytest.mark.parametrize(
        "options",
        [
            bytes((MSS, 0, 5, 0xB4)),
            bytes((MSS, 1, 5, 0xB4)),
            bytes((MSS, 40, 5, 0xB4)),
            bytes((MSS, 3, 5, 1)),
            mss_option(0),
            mss_option(1),
            mss_option(65535),
            mss_option(1460) + mss_option(800),
            scale_option(15),
            scale_option(255),
            bytes((1, 1, 1, MSS)),
            b"\0" + b"\xff" * 7,
            b"\xff" * 40,
            bytes((254, 4, 0xF9, 0x89)),
        ],
        ids=lambda options: options.hex(),
    )
    def test_options_of_no_sense_do_no_harm(
        self, link: Link, listener: socket.socket, raw: RawGuest, options: bytes
    ) -> None:
        raw.connect(options)
        still_works(raw, link.accept(listener))

    def test_tiny_mss_is_not_followed(self, link: Link, listener: socket.socket, raw: RawGuest) -> None:
        raw.connect(mss_option(1))
        link.accept(listener).sendall(bytes(10_000))
        segment = raw.expect(lambda segment: bool(segment.payload))
        assert segment.cut >= 88 or len(segment.payload) >= 88

    def test_repeated_syn_gets_the_same_answer(self, link: Link, listener: socket.socket, raw: RawGuest) -> None:
        first = raw.open()
        raw.send(SYN, raw.iss)
        again = raw.expect(lambda segment: bool(segment.flags & SYN))
        assert (again.flags, again.seq, again.ack) == (first.flags, first.seq, first.ack)
        raw.send(ACK)
        still_works(raw, link.accept(listener))

    def test_unanswered_syn_ack_is_repeated(self, raw: RawGuest) -> None:
        first = raw.open()
        again = raw.expect(lambda segment: bool(segment.flags & SYN), 3)
        assert (again.seq, again.ack) == (first.seq, first.ack)

    def test_repeated_syn_while_connecting_is_left_alone(self, link: Link, engine: Served) -> None:
        before = engine.open_descriptors()
        with RawGuest(link.guest, (BLACK_HOLE4 if link.family == 4 else BLACK_HOLE6, 80)) as raw:
            for _ in range(3):
                raw.send(SYN, raw.iss)
                raw.silence(0.05)
            assert engine.open_descriptors() == before + 1
            raw.send(RST, raw.iss + 1)
            assert eventually(lambda: engine.last_end(raw.port)) == "reset by guest"
            assert engine.open_descriptors() == before

    def test_fin_in_place_of_the_third_segment(self, link: Link, listener: socket.socket, raw: RawGuest) -> None:
        raw.open()
        raw.send(FIN | ACK)
        raw.nxt += 1
        raw.expect(lambda segment: segment.ack == raw.nxt)
        far = link.accept(listener)
        assert far.recv(1) == b""
        far.sendall(b"late")
        assert raw.hear(4) == b"late"

    def test_bytes_on_the_third_segment(self, link: Link, listener: socket.socket, raw: RawGuest) -> None:
        raw.open()
        raw.say(b"early")
        assert exactly(link.accept(listener), 5) == b"early"

    def test_bytes_on_the_syn_arrive_once(self, link: Link, listener: socket.socket, raw: RawGuest) -> None:
        raw.send(SYN, raw.iss, b"hello")
        raw.nxt = raw.iss + 1
        answer = raw.expect(lambda segment: bool(segment.flags & SYN))
        assert answer.ack in (raw.nxt, raw.nxt + 5)
        raw.rcv = answer.seq + 1
        raw.say(b"hello")
        far = link.accept(listener)
        assert exactly(far, 5) == b"hello"
        nothing_to_read(far)

    def test_syn_right_behind_a_reset(self, link: Link, listener: socket.socket, raw: RawGuest) -> None:
        raw.connect()
        old = link.accept(listener)
        raw.send(RST, raw.nxt)
        raw.iss += 1_000_000
        raw.connect()
        assert ended(old) == "ConnectionResetError"
        still_works(raw, link.accept(listener))

    def test_refusal_acknowledges_the_syn(self, link: Link) -> None:
        """Linux ignores a reset without ACK in answer to its SYN."""
        with RawGuest(link.guest, (link.peer_address, 9)) as raw:
            raw.send(SYN, raw.iss)
            answer = raw.expect(is_reset, 1)
            assert (answer.flags, answer.ack) == (RST | ACK, raw.iss + 1)

    def test_segment_of_no_connection_is_reset(self, raw: RawGuest) -> None:
        raw.send(ACK, 5000, b"what?", ack=123_456)
        answer = raw.expect(is_reset, 1)
        assert (answer.flags & ~ACK, answer.seq) == (RST, 123_456)
        raw.send(FIN, 5000, b"what?")
        answer = raw.expect(is_reset, 1)
        assert (answer.flags, answer.seq, answer.ack) == (RST | ACK, 0, 5006)
        raw.send(RST, 5000)
        raw.send(RST | ACK, 5000, ack=1)
        raw.silence()

    @pytest.mark.parametrize(
        "flags", [SYN | FIN, SYN | RST, SYN | FIN | RST | ACK, 0, FIN | URG | PSH, SYN | ACK, 0xFF]
    )
    def test_flags_of_no_sense_open_nothing(self, raw: RawGuest, flags: int) -> None:
        raw.send(flags, raw.iss, ack=77)
        raw.drop_all()
        raw.send(ACK, raw.iss + 1, ack=77)
        assert raw.expect(is_reset, 1).seq == 77


class TestChecksum:
    def test_wrong_one_opens_nothing(self, raw: RawGuest) -> None:
        raw.send(SYN, raw.iss, wrong_by=1)
        raw.silence()

    @pytest.mark.parametrize("wrong_by", [1, 0x100, 0x8000])
    def test_wrong_one_is_not_accepted_the_right_one_is(self, raw: RawGuest, far: socket.socket, wrong_by: int) -> None:
        raw.send(ACK | PSH, payload=b"evil!", wrong_by=wrong_by)
        raw.silence(0.05)
        raw.say(b"good.")
        assert exactly(far, 5) == b"good."
        raw.send(RST, wrong_by=wrong_by)
        raw.send(ACK | FIN, wrong_by=wrong_by)
        still_works(raw, far)

    def test_injected_into_a_kernels_connection(self, link: Link) -> None:
        near, far = link.connect()
        with Injector(link.guest, near) as injector:
            near.sendall(b"before")
            assert exactly(far, 6) == b"before"
            injector.listen()
            injector.send(ACK | PSH, payload=b"evil!", wrong_by=1)
            injector.send(RST, wrong_by=1)
            injector.send(FIN | ACK, wrong_by=1)
            injector.silence(0.05)
        echo(near, far, b"after")


class TestResets:
    @pytest.mark.parametrize("offset", [-1, -FAR_AWAY, FAR_AWAY, 1 << 31])
    def test_outside_the_window_do_nothing(self, raw: RawGuest, far: socket.socket, offset: int) -> None:
        raw.send(RST, raw.nxt + offset)
        raw.send(RST | ACK, raw.nxt + offset)
        raw.silence(0.05)
        still_works(raw, far)

    @pytest.mark.parametrize("offset", [1, 1000])
    def test_inside_the_window_are_challenged(self, raw: RawGuest, far: socket.socket, offset: int) -> None:
        raw.drop_all()
        raw.send(RST, raw.nxt + offset)
        challenge = raw.expect(lambda segment: True, 1)
        assert (challenge.flags, challenge.seq, challenge.ack) == (ACK, raw.rcv, raw.nxt)
        still_works(raw, far)

    def test_at_the_expected_number_reset_the_peer(self, raw: RawGuest, far: socket.socket) -> None:
        raw.send(RST)
        with pytest.raises(ConnectionResetError):
            far.recv(1)

    @pytest.mark.parametrize("offset", [-1, 0, 1, FAR_AWAY, -FAR_AWAY])
    def test_syn_is_challenged(self, raw: RawGuest, far: socket.socket, offset: int) -> None:
        raw.drop_all()
        raw.send(SYN, raw.nxt + offset)
        challenge = raw.expect(lambda segment: True, 1)
        assert (challenge.flags, challenge.seq, challenge.ack) == (ACK, raw.rcv, raw.nxt)
        still_works(raw, far)

    def test_challenges_are_few(self, raw: RawGuest, far: socket.socket) -> None:
        """RFC 5961 7: a flood of what is challenged is not answered one for one."""
        raw.drop_all()
        for _ in range(1000):
            raw.send(RST, raw.nxt + 1)
        answers = 0
        while raw.receive(0.1) is not None:
            answers += 1
        assert 1 <= answers < 1000
        still_works(raw, far)

    def test_restarted_guest_finds_its_old_connection(
        self, link: Link, listener: socket.socket, raw: RawGuest, far: socket.socket
    ) -> None:
        """RFC 9293 3.5.1: the challenge makes the guest reset the old one; then its SYN opens a new one."""
        raw.drop_all()
        fresh = raw.nxt + 5_000_000
        raw.send(SYN, fresh)
        challenge = raw.expect(lambda segment: True, 1)
        raw.send(RST, challenge.ack)
        assert ended(far) == "ConnectionResetError"
        raw.iss = fresh
        raw.connect()
        still_works(raw, link.accept(listener))


class TestOrder:
    def test_fin_beyond_a_gap(self, raw: RawGuest, far: socket.socket) -> None:
        raw.send(FIN | ACK, raw.nxt + 5)
        raw.send(FIN | ACK | PSH, raw.nxt + 2, b"llo")
        nothing_to_read(far)
        raw.say(b"hello")
        assert exactly(far, 5) == b"hello"
        nothing_to_read(far)
        raw.send(FIN | ACK)
        assert far.recv(1) == b""
        raw.nxt += 1
        raw.expect(lambda segment: segment.ack == raw.nxt)

    def test_fin_that_was_acknowledged_comes_again(self, raw: RawGuest, far: socket.socket) -> None:
        for _ in range(3):
            raw.send(FIN | ACK | PSH, payload=b"end")
            raw.expect(lambda segment: segment.ack == raw.nxt + 4)
        assert exactly(far, 100) == b"end"

    def test_gap_asks_for_what_is_missing(self, raw: RawGuest, far: socket.socket) -> None:
        raw.drop_all()
        for number in range(3):
            raw.send(ACK, raw.nxt + 1000 * (number + 1), bytes(1000))
        equal = [raw.expect(lambda segment: segment.ack == raw.nxt, 1) for _ in range(3)]
        assert len({segment.window for segment in equal}) == 1, "a different window is no duplicate (RFC 5681 2)"
        for _ in range(4):
            raw.say(bytes(1000))
        assert exactly(far, 4000) == bytes(4000)

    @pytest.mark.parametrize(
        "pieces",
        [
            [(0, 6), (3, 9), (9, 12)],
            [(0, 6), (0, 12)],
            [(0, 6), (0, 6), (6, 12), (2, 8), (6, 12)],
            [(0, 1), (0, 2), (1, 4), (0, 12)],
            [(0, 12), (4, 8), (11, 12)],
            [(6, 12), (0, 6), (0, 12)],
            [(9, 12), (3, 6), (6, 9), (0, 3), (0, 12)],
            [(4, 8), (6, 12), (2, 6), (0, 4), (0, 12)],
            [(11, 12), (5, 6), (7, 8), (0, 1), (0, 9), (0, 12)],
        ],
    )
    def test_overlapping_segments(self, raw: RawGuest, far: socket.socket, pieces: list[tuple[int, int]]) -> None:
        text = b"abcdefghijkl"
        for start, end in pieces:
            raw.send(ACK | PSH, raw.nxt + start, text[start:end])
        raw.nxt += len(text)
        raw.expect(lambda segment: segment.ack == raw.nxt)
        assert exactly(far, len(text)) == text
        nothing_to_read(far)
        still_works(raw, far)

    @pytest.mark.parametrize("probe", [b"", b"x"])
    def test_keep_alive_probe(self, raw: RawGuest, far: socket.socket, probe: bytes) -> None:
        raw.say(b"hi")
        assert exactly(far, 2) == b"hi"
        raw.drop_all()
        raw.send(ACK, raw.nxt - 1, probe)
        answer = raw.expect(lambda segment: True, 1)
        assert (answer.flags, answer.seq, answer.ack) == (ACK, raw.rcv, raw.nxt)
        nothing_to_read(far)
        still_works(raw, far)

    @pytest.mark.parametrize("ahead", [1, 1000, FAR_AWAY])
    def test_acknowledgement_of_what_was_never_sent(self, raw: RawGuest, far: socket.socket, ahead: int) -> None:
        raw.drop_all()
        raw.send(ACK | PSH, payload=b"evil!", ack=raw.rcv + ahead)
        answer = raw.expect(lambda segment: True, 1)
        assert (answer.flags, answer.ack) == (ACK, raw.nxt)
        nothing_to_read(far)
        still_works(raw, far)

    def test_very_old_acknowledgement_moves_nothing(self, raw: RawGuest, far: socket.socket) -> None:
        far.sendall(b"12345")
        assert raw.hear(5) == b"12345"
        raw.send(ACK, ack=raw.rcv - 5)
        raw.send(ACK, ack=raw.rcv - FAR_AWAY)
        still_works(raw, far)

    def test_bytes_beyond_the_window_are_cut(self, link: Link, listener: socket.socket, raw: RawGuest) -> None:
        answer = raw.connect(mss_option(1460))
        far = link.accept(listener)
        sent = itertools.count()
        # Without a word of the peer the engine's window is what its SYN,ACK said at least.
        edge = raw.nxt + answer.window
        raw.send(ACK | PSH, edge + 10, b"beyond")
        raw.drop_all()
        while raw.nxt - edge < 0:
            raw.say(bytes((next(sent) & 0xFF,)) * min(1400, edge - raw.nxt))
        expected = b"".join(bytes((number & 0xFF,)) * 1400 for number in range(next(sent)))[: answer.window]
        assert exactly(far, answer.window) == expected
        still_works(raw, far)

    def test_urgent_pointer_changes_nothing(self, raw: RawGuest, far: socket.socket) -> None:
        raw.send(ACK | URG | PSH, payload=b"abc", urgent=1)
        raw.nxt += 3
        raw.send(ACK | URG | PSH, payload=b"def", urgent=60_000)
        raw.nxt += 3
        assert exactly(far, 6) == b"abcdef"
        still_works(raw, far)

    @pytest.mark.parametrize("iss", [0xFFFF_FFFF, 0xFFFF_8000, 0x7FFF_8000])
    def test_numbers_wrap(self, link: Link, listener: socket.socket, iss: int) -> None:
        with RawGuest(link.guest, (link.peer_address, listener.getsockname()[1]), iss=iss) as raw:
            raw.connect(mss_option(1460))
            far = link.accept(listener)
            text = bytes(range(250)) * 400
            for at in range(0, len(text), 1250):
                raw.say(text[at : at + 1250])
            assert exactly(far, len(text)) == text
            sending = Task(far.sendall, text)
            assert raw.hear(len(text)) == text
            sending.result()
            still_works(raw, far)


class TestWindow:
    def test_closed_from_the_start_is_probed(self, link: Link, listener: socket.socket, raw: RawGuest) -> None:
        raw.connect(mss_option(1000), window=0)
        far = link.accept(listener)
        far.sendall(b"waits")
        for _ in range(3):
            probe = raw.expect(lambda segment: True, 3)
            assert len(probe.payload) <= 1
            raw.send(ACK, window=0)
        raw.send(ACK)
        assert raw.hear(5) == b"waits"
        still_works(raw, far)

    def test_closed_with_bytes_in_flight(self, raw: RawGuest, far: socket.socket) -> None:
        """Linux under memory pressure shrinks its window below what it had offered: what was sent must come again."""
        far.sendall(b"a" * 5000)
        raw.expect(lambda segment: bool(segment.payload))
        raw.send(ACK, window=0)
        time.sleep(0.5)
        raw.drop_all()
        raw.send(ACK)
        assert raw.hear(5000) == b"a" * 5000
        still_works(raw, far)

    def test_small_one_is_filled_exactly(self, raw: RawGuest, far: socket.socket) -> None:
        raw.send(ACK, window=300)
        raw.synchronize()
        far.sendall(b"b" * 1000)
        assert raw.hear(300, window=300) == b"b" * 300
        assert raw.hear(700, window=300) == b"b" * 700

    def test_update_lets_more_through(self, raw: RawGuest, far: socket.socket) -> None:
        raw.send(ACK, window=2000)
        raw.synchronize()
        far.sendall(b"c" * 8000)
        raw.expect(lambda segment: segment.seq + len(segment.payload) == raw.rcv + 2000)
        raw.silence(0.05)
        raw.send(ACK, window=6000)
        raw.expect(lambda segment: segment.seq + len(segment.payload) == raw.rcv + 6000, 0.15)

    def test_segments_follow_the_option(self, raw: RawGuest, far: socket.socket) -> None:
        far.sendall(bytes(30_000))
        segment = raw.expect(lambda segment: bool(segment.payload))
        assert segment.cut == 1000 or len(segment.payload) <= 1000


class TestRepair:
    def test_unanswered_bytes_come_again(self, raw: RawGuest, far: socket.socket) -> None:
        far.sendall(b"lost?")
        first = raw.expect(lambda segment: bool(segment.payload))
        began = time.monotonic()
        again = raw.expect(lambda segment: bool(segment.payload), 2)
        assert (again.seq, again.payload) == (first.seq, first.payload)
        assert time.monotonic() - began > 0.1
        assert raw.hear(5) == b"lost?"
        still_works(raw, far)

    def test_three_equal_acknowledgements_bring_them_at_once(self, raw: RawGuest, far: socket.socket) -> None:
        far.sendall(b"d" * 5000)
        raw.expect(lambda segment: bool(segment.payload))
        raw.drop_all(0.01)
        began = time.monotonic()
        for _ in range(4):
            raw.send(ACK)
        raw.expect(lambda segment: segment.seq == raw.rcv and bool(segment.payload), 1)
        assert time.monotonic() - began < 0.15, "that was the timer"

    def test_partial_acknowledgement(self, raw: RawGuest, far: socket.socket) -> None:
        """What was acknowledged never comes again; the rest is complete and in order."""
        text = bytes(range(256)) * 40
        far.sendall(text)
        raw.expect(lambda segment: bool(segment.payload))
        raw.drop_all(0.01)
        raw.rcv += 777
        raw.send(ACK)
        time.sleep(0.3)
        assert raw.hear(len(text) - 777) == text[777:]
        still_works(raw, far)

    def test_fin_comes_again(self, raw: RawGuest, far: socket.socket) -> None:
        far.sendall(b"bye")
        far.shutdown(socket.SHUT_WR)
        assert raw.hear(3) == b"bye"
        for _ in range(2):
            fin = raw.expect(lambda segment: bool(segment.flags & FIN), 2)
            assert fin.seq + len(fin.payload) == raw.rcv
        raw.rcv += 1
        raw.say(b"still here")
        assert exactly(far, 10) == b"still here"

    def test_fin_of_a_finished_conversation_is_acknowledged_again(self, raw: RawGuest, far: socket.socket) -> None:
        far.close()
        raw.expect(lambda segment: bool(segment.flags & FIN))
        raw.rcv += 1
        raw.send(FIN | ACK)
        raw.nxt += 1
        raw.expect(lambda segment: segment.ack == raw.nxt)
        raw.drop_all()
        raw.send(FIN | ACK, raw.nxt - 1)
        assert raw.expect(lambda segment: True, 1).ack == raw.nxt

    def test_new_syn_takes_a_finished_conversations_ports(
        self, link: Link, listener: socket.socket, raw: RawGuest, far: socket.socket
    ) -> None:
        far.close()
        fin = raw.expect(lambda segment: bool(segment.flags & FIN))
        raw.rcv += 1
        raw.send(FIN | ACK)
        raw.nxt += 1
        raw.expect(lambda segment: segment.ack == raw.nxt)
        raw.iss = raw.nxt + 100_000
        answer = raw.connect()
        assert 0 < answer.seq - fin.seq & 0xFFFFFFFF < 1 << 31 or answer.seq != fin.seq
        still_works(raw, link.accept(listener))

    def test_peers_reset_is_a_reset_at_the_right_number(self, raw: RawGuest, far: socket.socket) -> None:
        far.sendall(b"12345")
        assert raw.hear(5) == b"12345"
        kill_with_reset(far)
        assert raw.expect(is_reset, 1).seq == raw.rcv


class TestPortZero:
    @pytest.mark.parametrize("side", ["source", "destination", "both"])
    def test_harms_nothing(self, link: Link, raw: RawGuest, far: socket.socket, side: str) -> None:
        near, peer = link.connect()
        opened = link.served.count("flow-opened")
        ports: dict[str, int] = {f"{name}_port": 0 for name in ("source", "destination") if side in (name, "both")}
        for flags in (SYN, ACK, RST, FIN | ACK, SYN | ACK):
            raw.send(flags, raw.iss, **ports)  # type: ignore[arg-type]
            raw.send(flags, raw.iss, b"payload", **ports)  # type: ignore[arg-type]
        numbers = [0 if side in (name, "both") else 53 for name in ("source", "destination")]
        raw.send_transport(17, bytearray(struct.pack("!HHHH", *numbers, 12, 0) + b"data"), 6)
        still_works(raw, far)
        echo(near, peer)
        assert link.served.count("flow-opened") == opened
