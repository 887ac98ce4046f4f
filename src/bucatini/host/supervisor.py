"""While the command runs: its signals, its stops and its end, inside the engine's asyncio loop (signal(7), setpgid(2)).

Signals sent to the engine are passed to the command's process group, so that `kill`, a supervisor or a closed terminal
means the command. SIGTERM is patient once: 10 seconds later, or with a second SIGTERM, the whole guest is killed.

Stops. The shell that started us watches *us*. When the command stops (Ctrl-Z), we take the terminal back and stop
ourselves; when the shell continues us, SIGCONT makes us hand the terminal over again, if the shell gave it to us (`fg`,
not `bg`), and continue the command. While we are stopped the guest has no network, which suits a stopped command.

In a foreground pipeline the command shares our group (`terminal.py`) and the kernel does all this: keyboard signals are
then not passed on, the command has them already, and its stops do not concern us.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from bucatini.base.errors import HostError
from bucatini.host.channel import Channel, Say
from bucatini.host.init import STATUS
from bucatini.host.terminal import Standing, Terminal

__all__ = ["Supervisor"]

_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_FROM_KEYBOARD = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)
_NEEDS_TERMINAL = (signal.SIGTTIN, signal.SIGTTOU)
_TERM_PATIENCE = 10.0  # seconds; as docker stop
_TERM_ECHO = 0.5  # seconds; timeout(1) sends SIGTERM twice, to its child and to the group: that is one request
_KILLED = 128 + signal.SIGKILL


class Supervisor:
    """Between `start` and the command's end."""

    def __init__(
        self,
        reports: Channel,
        agent_ended: int,
        kill: Callable[[], None],
        terminal: Terminal | None,
        standing: Standing,
    ) -> None:
        self._reports = reports
        self._agent_ended = agent_ended
        self._kill = kill
        self._terminal = terminal
        self._standing = standing
        self._loop = asyncio.get_running_loop()
        self._status: asyncio.Future[int] = self._loop.create_future()
        self._handled: list[signal.Signals] = []
        self._last_resort: asyncio.TimerHandle | None = None
        self._termed = 0.0
        self._lent = standing.foreground
        self._stopped = False

    def start(self) -> None:
        """Take the signals over, then let the command run: none is lost between."""
        for number in _FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup: it stays ignored, by the command too
                self._handle(number, self._forward, number)
        if self._standing.own_group:
            self._handle(signal.SIGTSTP, self._order, Say.SIGNAL, signal.SIGTSTP)
            self._handle(signal.SIGCONT, self._resume)
        self._loop.add_reader(self._reports.fileno(), self._on_report)
        self._loop.add_reader(self._agent_ended, self._on_agent_end)
        self._reports.send(Say.GO)

    async def wait(self) -> int:
        """See `Guest.wait`."""
        return await asyncio.shield(self._status)

    def stop(self) -> None:
        """Give back signals and terminal. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        if self._last_resort is not None:
            self._last_resort.cancel()
        self._unwatch()
        if not self._loop.is_closed():
            for number in self._handled:
                self._loop.remove_signal_handler(number)
        self._take_terminal_back()

    def _handle(self, number: signal.Signals, callback: Callable[..., None], *arguments: object) -> None:
        self._loop.add_signal_handler(number, callback, *arguments)
        self._handled.append(number)

    def _forward(self, number: signal.Signals) -> None:
        if self._standing.own_group or number not in _FROM_KEYBOARD:
            self._order(Say.SIGNAL, number)
        if number != signal.SIGTERM:
            return
        now = self._loop.time()
        if self._last_resort is None:
            self._last_resort = self._loop.call_later(_TERM_PATIENCE, self._kill)
            self._termed = now
        elif now - self._termed > _TERM_ECHO:
            self._kill()

    def _resume(self) -> None:
        """We were continued: so is the command, in the foreground when the shell put us there."""
        foreground = self._terminal is not None and self._terminal.is_ours()
        self._lent = self._lent or foreground
        self._order(Say.RESUME, foreground)

    def _order(self, say: bytes, argument: int) -> None:
        with contextlib.suppress(OSError):  # init is gone: its report says so
            self._reports.send(say, bytes([argument]))

    def _on_report(self) -> None:
        try:
            message = self._reports.receive()
        except BlockingIOError:
            return
        if message is None:  # init was killed, and with it everything
            self._end(_KILLED)
        elif message.say == Say.STATUS and len(message.payload) == STATUS.size:
            self._on_status(*STATUS.unpack(message.payload))
        elif message.say == Say.ERROR:
            self._fail(message.payload.decode(errors="replace"))

    def _on_status(self, status: int) -> None:
        if os.WIFEXITED(status):
            self._end(os.WEXITSTATUS(status))
        elif os.WIFSIGNALED(status):
            self._end(128 + os.WTERMSIG(status))
        elif os.WIFSTOPPED(status) and self._standing.own_group and self._terminal is not None:
            # Without a terminal no shell would ever continue us.
            self._on_stop(os.WSTOPSIG(status), self._terminal)

    def _on_stop(self, number: int, terminal: Terminal) -> None:
        if number in _NEEDS_TERMINAL and terminal.is_ours():
            self._resume()  # after `bg` then `fg`: a shell tells nobody, as the job runs already
            return
        self._take_terminal_back()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _on_agent_end(self) -> None:
        self._kill()
        self._fail("the guest's agent ended before the command")

    def _end(self, status: int) -> None:
        self._unwatch()
        if not self._status.done():
            self._status.set_result(status)

    def _fail(self, reason: str) -> None:
        self._unwatch()
        if not self._status.done():
            self._status.set_exception(HostError(reason))

    def _unwatch(self) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(self._reports.fileno())
            self._loop.remove_reader(self._agent_ended)

    def _take_terminal_back(self) -> None:
        if self._lent and self._terminal is not None:
            self._terminal.take_back()
            self._lent = False
