"""host.channel: messages arrive whole, with their descriptors, and the end is the end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.host.channel import MAX_DESCRIPTORS, MAX_PAYLOAD, Channel, Message, Say, pair

Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = pair()
    yield made
    for end in made:
        end.close()


@given(payload=st.binary(max_size=MAX_PAYLOAD + 100))
def test_payload_arrives_cut_to_the_limit(payload: bytes) -> None:
    ours, theirs = pair()
    ours.send(Say.NOTE, payload)
    assert theirs.receive() == Message(Say.NOTE, payload[:MAX_PAYLOAD], ())
    ours.close()
    theirs.close()


def test_messages_do_not_run_together(ends: Ends) -> None:
    ours, theirs = ends
    ours.send(Say.GO)
    ours.send(Say.SIGNAL, b"\x0f")
    assert [theirs.receive(), theirs.receive()] == [Message(Say.GO, b"", ()), Message(Say.SIGNAL, b"\x0f", ())]


def test_descriptors_arrive_open_and_closed_on_exec(ends: Ends) -> None:
    ours, theirs = ends
    null = os.open(os.devnull, os.O_RDONLY)
    ours.send(Say.SOCKETS, b"x", [null] * MAX_DESCRIPTORS)
    os.close(null)
    message = theirs.receive()
    assert message is not None
    assert len(message.descriptors) == MAX_DESCRIPTORS
    for descriptor in message.descriptors:
        assert os.get_inheritable(descriptor) is False
        assert os.fstat(descriptor).st_rdev == os.stat(os.devnull).st_rdev
        os.close(descriptor)


def test_end_of_the_other_side_is_none(ends: Ends) -> None:
    ours, theirs = ends
    ours.close()
    assert theirs.receive() is None


def test_end_with_unread_messages_is_none_too(ends: Ends) -> None:
    ours, theirs = ends
    theirs.send(Say.GO)
    theirs.close()
    received = [ours.receive(), ours.receive()]
    assert received[-1] is None
    third, fourth = pair()
    fourth.send(Say.GO)
    third.close()  # the kernel tells the writer of a discarded message by ECONNRESET
    assert fourth.receive() is None
    fourth.close()


def test_sending_to_nobody_is_an_error_not_a_signal(ends: Ends) -> None:
    ours, theirs = ends
    theirs.close()
    with pytest.raises(BrokenPipeError):
        ours.send(Say.GO)


def test_waiting_is_as_set(ends: Ends) -> None:
    ours, _theirs = ends
    ours.set_timeout(0)
    with pytest.raises(BlockingIOError):
        ours.receive()
    ours.set_timeout(0.01)
    with pytest.raises(TimeoutError):
        ours.receive()


def test_empty_packet_closes_what_came_with_it(ends: Ends) -> None:
    """Only a peer that breaks the protocol sends one."""
    ours, theirs = ends
    reading, writing = os.pipe()
    with socket.socket(fileno=os.dup(theirs.fileno())) as raw:
        socket.send_fds(raw, [b""], [writing])
    os.close(writing)
    assert ours.receive() is None
    assert os.read(reading, 1) == b""  # no writer is left
    os.close(reading)
