"""A command in namespaces of its own, with a TAP whose descriptor we hold (namespaces(7), pid_namespaces(7)).

Theory of operation. Three processes are made, each forked from the lean caller, none of them executes anything but
COMMAND:

```text
engine (the caller)          holds the TAP, the host's sockets; runs asyncio later
└── agent                    in the guest's user and network namespaces: set-up, then a socket factory
    └── init                 PID 1 of the guest's PID namespace; own mount, UTS and IPC namespaces
        └── COMMAND          executed here; everything it starts lives and ends in that PID namespace
```

Use, in this order; everything is an error before COMMAND runs, or nothing is:

```python
guest = launch(settings)            # forks at once; call it early, single-threaded, before heavy imports
try:
    tap = guest.tap()               # blocks, 10 s at most: Tap(descriptor, offloads, mac); see guest.notes too
    ...                             # bind published ports, build the engine
    guest.start()                   # inside a running asyncio loop: takes over signals, lets COMMAND run
    status = await guest.wait()     # exit status as a shell says it: 0..255, 128+N for signal N
finally:
    guest.close()                   # idempotent: nothing is left when it returns

guest.kill()                        # SIGKILL for every process of the guest, at any time
guest.factory                       # SocketFactory: sockets that live in the guest's network namespace (see factory.py)
guest.factory.create("tcp4", 8)     #   blocking, bounded: list of non-blocking sockets
guest.factory.request("tcp4", 8)    #   or: ask, watch fileno(), then take() when it is readable

guest.reconfigure(addresses, gateways, routes)  # replaces them on the running guest's interface; returns at once
guest.collect()                                 # later: what could not be done, line by line
```

Who dies first. Engine by SIGKILL: the TAP goes with its last descriptor, the agent sees end-of-file and leaves, COMMAND
lives on without a network to its own end. COMMAND: init reports and leaves, and the kernel ends the rest of its PID
namespace. Init: the kernel ends COMMAND; `wait` says 137. Agent: the engine kills the guest through init's pidfd and
`wait` raises HostError.

Signals and the terminal are the work of `supervisor.py` and `terminal.py`.

Does not: read or write frames, choose addresses, publish ports.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from bucatini.base.errors import BugError, HostError
from bucatini.host.agent import run_agent
from bucatini.host.channel import Channel, Message, Say, pair
from bucatini.host.descriptors import fill_standard_streams
from bucatini.host.factory import SocketFactory
from bucatini.host.held_agent import SETUP_TIMEOUT, HeldAgent, await_end, only_descriptor, receive
from bucatini.host.init import Birth
from bucatini.host.netchange import NetChange
from bucatini.host.settings import GuestSettings, Route
from bucatini.host.tap import Offloads, Tap
from bucatini.host.terminal import Terminal, standing

if TYPE_CHECKING:
    from bucatini.host.supervisor import Supervisor

__all__ = ["Guest", "GuestSettings", "Offloads", "Route", "Tap", "launch"]


def launch(settings: GuestSettings) -> Guest:
    """Fork the guest's processes; returns at once, while they set up. The caller must have no other thread.

    Raises HostError when not even a process can be had.
    """
    fill_standard_streams()
    terminal = Terminal.find()
    control, agent_end = pair()
    reports, init_end = pair()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        agent = os.fork()
        if agent == 0:
            run_agent(settings, agent_end, init_end, Birth(mask, standing(terminal)))
    except OSError as error:
        raise HostError(f"cannot start a process: {error.strerror}") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    agent_end.close()
    init_end.close()
    return Guest(agent, control, reports, terminal)


class Guest:
    """The engine's hold on the guest. Methods are called in the order the module shows; `kill` and `close` any time."""

    def __init__(self, agent: int, control: Channel, reports: Channel, terminal: Terminal | None) -> None:
        self._agent = HeldAgent(agent, control)
        self.notes = self._agent.notes
        """One line for each nicety the machine would not give, complete when `tap` returns; later those of `collect`.
        """
        self.factory = SocketFactory(control)
        """For use after `tap`."""
        self.agent_id = agent
        """The agent's process, in the host's PID namespace; only to be looked at."""
        self._init_ended = -1
        self._reports = reports
        self._terminal = terminal
        self._standing = standing(terminal)
        self._supervisor: Supervisor | None = None
        self._closed = False

    def tap(self) -> Tap:
        """Wait until the guest is set up, 10 s at most; its TAP, whose descriptor the caller owns from now on.

        Raises HostError with the reason when it could not be; everything is closed then.
        """
        try:
            tap = self._receive_tap(time.monotonic() + SETUP_TIMEOUT)
        except BaseException:
            self.close()
            raise
        self._agent.set_ready()
        self._reports.set_timeout(0)
        return tap

    def start(self) -> None:
        """Let the command run, and handle signals and the terminal for it from now on. Needs a running asyncio loop."""
        if self._init_ended < 0 or self._supervisor is not None:
            raise BugError("start() is for once, after tap()")
        # Imported late: it brings asyncio, which the guest's processes do without.
        from bucatini.host.supervisor import Supervisor

        self._supervisor = Supervisor(self._reports, self._agent.ended, self.kill, self._terminal, self._standing)
        self._supervisor.start()

    async def wait(self) -> int:
        """The command's exit status as a shell says it, 0 to 255; 128+N when signal N ended it.

        Raises HostError when the guest's agent died before the command; the command is killed then.
        """
        if self._supervisor is None:
            raise BugError("wait() before start()")
        return await self._supervisor.wait()

    def reconfigure(
        self, addresses: tuple[tuple[bytes, int], ...], gateways: tuple[bytes, ...], routes: tuple[Route, ...]
    ) -> None:
        """Ask the agent to replace these (see `NetSettings`) on the interface; what is in both stays. For use after
        `tap`; never waits. Nothing happens to a guest that configures itself.

        Raises HostError when they are more than 4 KiB, or the agent is gone.
        """
        self._agent.reconfigure(NetChange(addresses, gateways, routes))

    def collect(self) -> list[str]:
        """One line for each thing earlier changes could not do, that has come since the last call; never waits."""
        return self._agent.collect()

    def answer_fileno(self) -> int:
        """Readable when `collect` has something to read; -1 when no change is under way."""
        return self._agent.answer_fileno()

    def kill(self) -> None:
        """SIGKILL for every process of the guest; harmless when they are gone or not yet there."""
        if self._init_ended >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_ended, signal.SIGKILL)

    def close(self) -> None:
        """End what still runs, give back terminal and signals. Idempotent; blocks until the processes are gone."""
        if self._closed:
            return
        self._closed = True
        if self._supervisor is not None:
            self._supervisor.stop()
        self.kill()
        if self._init_ended >= 0:
            await_end(self._init_ended)
            os.close(self._init_ended)
            self._init_ended = -1
        self._reports.close()
        self._agent.close()
        if self._terminal is not None:
            self._terminal.close()

    def _receive_tap(self, deadline: float) -> Tap:
        tap: Tap | None = None
        try:
            while tap is None:
                received = self._agent.receive_tap(deadline)
                if isinstance(received, Message):
                    self._init_ended = only_descriptor(received)
                else:
                    tap = received
            while (message := receive(self._reports, deadline, "the guest's init")).say != Say.READY:
                self._agent.note(message)
        except BaseException:
            if tap is not None:
                os.close(tap.descriptor)
            raise
        return tap
