"""The end of a guest that is only attached to: its namespace goes, its agent ends, or somebody signals us."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from bucatini.base.errors import HostError

__all__ = ["Waiting", "hold_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


def hold_signals() -> None:
    """Have a signal that ends us wait until a `Waiting` hears it: raised in the middle of the loop that is about to
    run, it would end us well and noisily, and between a path and whoever takes it away it would leave the path.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


class Waiting:
    """`status` is done when the guest is over. Made inside the running loop. `agent` becomes readable when the guest's
    agent ends; None: it has none. `watch` is a `host.netns_watch.NetnsWatch` or None: stay whatever happens to the
    namespace. `exit_fd` ends it by its first event (poll(2)).
    """

    def __init__(self, agent: int | None, watch: Any = None, exit_fd: int | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self.status: asyncio.Future[int] = self._loop.create_future()
        self._watch = watch
        self._agent = agent
        self._timer: asyncio.TimerHandle | None = None
        self._watched = -1
        self._handled = []
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, self._end, 0)
                self._handled.append(number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if agent is not None:
            self._loop.add_reader(agent, self._agent_ended)
        self._exit_fd = exit_fd
        if exit_fd is not None:
            self._loop.add_reader(exit_fd, self._end, 0)
        if watch is not None:
            descriptor = watch.fileno()
            if descriptor is not None:
                self._watched = os.dup(descriptor)
                self._loop.add_reader(self._watched, self._look)
            self._look()

    def _look(self) -> None:
        if self._watch.gone():
            self._end(0)
        elif self._watch.interval is not None:
            self._timer = self._loop.call_later(self._watch.interval, self._look)

    def _agent_ended(self) -> None:
        self._forget_agent()
        if not self.status.done():
            self.status.set_exception(HostError("the agent in the namespace ended"))

    def _end(self, status: int) -> None:
        if not self.status.done():
            self.status.set_result(status)

    def _forget_agent(self) -> None:
        if self._agent is not None:
            self._loop.remove_reader(self._agent)

    def close(self) -> None:
        """Give signals and descriptors back."""
        for number in self._handled:
            self._loop.remove_signal_handler(number)
        self._forget_agent()
        if self._exit_fd is not None:
            self._loop.remove_reader(self._exit_fd)
        if self._timer is not None:
            self._timer.cancel()
        if self._watched >= 0:
            self._loop.remove_reader(self._watched)
            os.close(self._watched)
