"""Init: PID 1 of the guest's PID namespace; prepares what the command sees, runs it, tells the engine how it fares.

Forked by the agent; executes nothing itself. The kernel shields PID 1: a signal with the default action does nothing to
it, unless SIGKILL or SIGSTOP from outside. So it has one handler, SIGCHLD, and leaves the rest blocked.

Once the engine says GO it starts the command and waits for two things: children that change state (its own, and orphans
the kernel gives to PID 1), and orders from the engine. When the command ends, init reports and leaves; the kernel then
ends whatever else lives in the namespace. When the engine ends first, init goes on alone. Before GO it leaves with it.

Does not: interpret job control; it tells of stops and obeys.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
from types import FrameType
from typing import NamedTuple, NoReturn

from bucatini.base.errors import BucatiniError
from bucatini.host import namespaces, private_files, syscalls
from bucatini.host.channel import Channel, Message, Say
from bucatini.host.command import execute
from bucatini.host.descriptors import keep_only, silence_standard_streams
from bucatini.host.settings import GuestSettings, default_hostname
from bucatini.host.terminal import Standing, hand_over

__all__ = ["STATUS", "Birth", "run_init"]

STATUS = struct.Struct("!I")
"""A wait status as waitpid(2) gives it."""


class Birth(NamedTuple):
    """What the command is to have from the caller, and the processes between must carry."""

    signal_mask: set[signal.Signals | int]
    standing: Standing


def run_init(settings: GuestSettings, channel: Channel, birth: Birth) -> NoReturn:
    """Be init; never returns to the caller's code. All signals are blocked on entry."""
    try:
        keep_only({channel.fileno()})
        for note in _prepare(settings):
            channel.send(Say.NOTE, note.encode())
        channel.send(Say.READY)
        channel.set_timeout(None)
        order = channel.receive()
        if order is not None and order.say == Say.GO:
            _Keeper(settings, channel, birth).run()
    except BaseException as error:
        text = str(error) if isinstance(error, BucatiniError) else f"guest's init: {type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            channel.send(Say.ERROR, text.encode())
    os._exit(0)


def _prepare(settings: GuestSettings) -> list[str]:
    namespaces.enter_private_namespaces()
    private_files.isolate_mounts()
    texts = {"/etc/resolv.conf": settings.resolv_conf, "/etc/hosts": settings.hosts}
    notes = private_files.bind_texts({path: text for path, text in texts.items() if text is not None})
    notes += private_files.mount_proc()
    socket.sethostname(settings.hostname or default_hostname())
    syscalls.set_not_dumpable()
    return notes


class _Keeper:
    """Starts the command and keeps it until it ends."""

    def __init__(self, settings: GuestSettings, channel: Channel, birth: Birth) -> None:
        self._channel = channel
        self._own_group = birth.standing.own_group
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        self._command = os.fork()
        if self._command == 0:
            execute(settings.command, birth.signal_mask, birth.standing, settings.argv0)
        if self._own_group:
            # The child does the same; whoever comes first, no signal finds the group missing.
            with contextlib.suppress(OSError):
                os.setpgid(self._command, self._command)
        silence_standard_streams()

    def run(self) -> None:
        """Until the command's end has been reported."""
        watched = select.poll()
        watched.register(self._woken, select.POLLIN)
        watched.register(self._channel.fileno(), select.POLLIN)
        while True:
            ready = dict(watched.poll())
            if self._woken in ready:
                os.read(self._woken, 4096)
                if self._reap():
                    return
            if self._channel.fileno() in ready:
                order = self._channel.receive()
                if order is None:
                    watched.unregister(self._channel.fileno())
                else:
                    self._obey(order)

    def _reap(self) -> bool:
        """Collect every child that changed state; true when the command has ended."""
        while True:
            try:
                child, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return False
            if child == 0:
                return False
            if child == self._command:
                with contextlib.suppress(OSError):  # nobody listens any more
                    self._channel.send(Say.STATUS, STATUS.pack(status))
                if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                    return True

    def _obey(self, order: Message) -> None:
        if order.say == Say.SIGNAL:
            self._signal(order.payload[0])
        elif order.say == Say.RESUME:
            if order.payload[0]:
                hand_over(self._command)
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        """To the command's group when it leads one: a shell's child, say, is meant as well."""
        with contextlib.suppress(ProcessLookupError):
            if self._own_group:
                os.killpg(self._command, number)
            else:
                os.kill(self._command, number)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Python tells its wake-up descriptor of a signal only when there is a handler."""
