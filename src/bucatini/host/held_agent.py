"""The engine's hold on an agent: what it says while it sets up, changes asked of it later, and its end.

What arrives is half trusted, see `channel.py`: messages are read with checks, descriptors that nobody asked for are
closed. A change of the network is answered on a channel of its own, sent along with the request, so that the answer
never stands between those of the socket factory.

Does not: know whether the agent made the guest's namespaces or joined somebody's.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from bucatini.base.errors import HostError
from bucatini.host.channel import Channel, Message, Say, pair
from bucatini.host.netchange import NetChange, pack_change
from bucatini.host.tap import Offloads, Tap

__all__ = ["SETUP_TIMEOUT", "HeldAgent", "await_end", "only_descriptor", "receive"]

SETUP_TIMEOUT = 10.0
"""Seconds; some 30 ms are usual, a loaded machine may take a second."""

_END_TIMEOUT = 5.0  # seconds for killed processes to go; one in uninterruptible sleep may take longer
_MAC_LENGTH = 6
_ANSWERS = 16
"""Changes that may be unanswered; a guest's network changes once in minutes."""


class HeldAgent:
    """One agent, a child of the caller, and our end of its channel."""

    def __init__(self, process: int, control: Channel) -> None:
        self.process = process
        self.ended = os.pidfd_open(process)
        """Readable when the agent has ended."""
        self.notes: list[str] = []
        self._control = control
        self._answers: list[Channel] = []

    def receive_tap(self, deadline: float) -> Tap | Message:
        """The TAP, or a message before it that is no note. Raises HostError with the reason there will be none."""
        while True:
            message = receive(self._control, deadline, "the guest's agent")
            if message.say == Say.TAP:
                return _read_tap(message)
            if message.say == Say.INIT:
                return message
            self.note(message)

    def set_ready(self) -> None:
        """From now on the channel is the socket factory's, and never waits."""
        self._control.set_timeout(0)

    def note(self, message: Message) -> None:
        """Keep a note. Raises HostError for an error, which is all else that may come."""
        text = message.payload.decode(errors="replace")
        if message.say != Say.NOTE:
            raise HostError(" ".join(text.splitlines()))
        self.notes.append(text)

    def reconfigure(self, change: NetChange) -> None:
        """Ask for a change; never waits. Raises HostError when it is too large, or the agent is gone or behind."""
        self.collect()
        if len(self._answers) >= _ANSWERS:
            raise HostError("cannot change the guest's network: the agent does not answer")
        payload = pack_change(change)
        ours, theirs = pair()
        ours.set_timeout(0)
        try:
            descriptors = [theirs.fileno()]
            self._control.send(Say.RECONFIGURE, payload, descriptors)
        except OSError as error:
            ours.close()
            raise HostError(f"cannot change the guest's network: {error.strerror}") from None
        finally:
            theirs.close()
        self._answers.append(ours)

    def collect(self) -> list[str]:
        """Notes on changes asked for that have come since the last call, which `notes` gets too; never waits."""
        lines: list[str] = []
        waiting: list[Channel] = []
        for answer in self._answers:
            try:
                message = answer.receive()
            except BlockingIOError:
                waiting.append(answer)
                continue
            answer.close()
            if message is not None:
                _close(message.descriptors)
                lines += message.payload.decode(errors="replace").splitlines()
        self._answers = waiting
        self.notes += lines
        return lines

    def answer_fileno(self) -> int:
        """Readable when `collect` has something to do; -1 when no answer is awaited."""
        return self._answers[0].fileno() if self._answers else -1

    def close(self) -> None:
        """End the agent, by end-of-file; kill it when it does not go. Call once."""
        for answer in self._answers:
            answer.close()
        self._answers = []
        self._control.close()
        if not await_end(self.ended):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.ended, signal.SIGKILL)
        os.close(self.ended)
        with contextlib.suppress(ChildProcessError):  # somebody waits for any child of ours
            os.waitpid(self.process, 0)


def receive(channel: Channel, deadline: float, who: str) -> Message:
    """The next message, before `deadline` (monotonic seconds). Raises HostError, in which `who` is to blame."""
    channel.set_timeout(max(deadline - time.monotonic(), 0.001))
    try:
        message = channel.receive()
    except TimeoutError:
        raise HostError(f"{who} is not ready after {SETUP_TIMEOUT:.0f} s") from None
    if message is None:
        raise HostError(f"{who} ended while setting up")
    return message


def only_descriptor(message: Message) -> int:
    """The one descriptor of a message. Raises HostError when the kernel could not give it to us."""
    if len(message.descriptors) != 1:
        _close(message.descriptors)
        raise HostError("too many open files: raise the limit (ulimit -n)")
    return message.descriptors[0]


def await_end(pidfd: int) -> bool:
    """Whether the process ended within 5 seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(_END_TIMEOUT * 1000))


def _read_tap(message: Message) -> Tap:
    descriptor = only_descriptor(message)
    mask, mac = message.payload[:1], message.payload[1:]
    if not mask or len(mac) != _MAC_LENGTH:
        os.close(descriptor)
        raise HostError("the guest's agent sent something else than a TAP")
    return Tap(descriptor, Offloads.from_mask(mask[0]), mac)


def _close(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
