"""A TAP in a network namespace that exists already: a container's, or that of any process (setns(2), namespaces(7)).

Theory of operation. One process is made, forked from the lean caller: the agent. It opens the paths, joins the user
namespace if one is named, then the network namespace, makes and configures the interface there, sends us the TAP and
serves sockets of that namespace until we are gone. It executes nothing, forks nothing and holds no TAP. Whoever lives
in the namespace is no child of ours: when they end is for `netns_watch.py` to notice.

```python
netns, userns = netns_paths("4242")     # a PID; or a name below /run/netns; or a path
attached = attach(AttachSettings(netns, userns, mtu=65520, addresses=..., gateways=...))
try:
    tap = attached.tap()                # blocks, 10 s at most; Tap(descriptor, offloads, mac)
    ...                                 # attached.factory, .notes, .reconfigure, .collect: as in guest.py
finally:
    attached.close()                    # idempotent; the interface vanishes when the TAP's descriptor is closed
```

Who may. Root of the machine may join any namespace. Anybody else joins the network namespaces that belong to a user
namespace they made, by joining that one first, or to the one they are root in already, as rootless Podman's helper is.

Who dies first. Engine: the TAP goes with its last descriptor, the agent sees end-of-file and leaves. Agent: the
interface stays and passes frames, but sockets inside the namespace cannot be made any more: watch `agent_ended`.

Does not: choose addresses, notice that the namespace is gone, drop privileges.
"""

from __future__ import annotations

import os
import signal
import time
from typing import NamedTuple

from bucatini.base.errors import HostError
from bucatini.host.agent import run_attached_agent
from bucatini.host.channel import Message, pair
from bucatini.host.descriptors import fill_standard_streams
from bucatini.host.factory import SocketFactory
from bucatini.host.held_agent import SETUP_TIMEOUT, HeldAgent, only_descriptor
from bucatini.host.netchange import NetChange
from bucatini.host.settings import NetSettings, Route
from bucatini.host.tap import Offloads, Tap

__all__ = ["AttachSettings", "Attached", "attach", "netns_paths"]

_NAMED = "/run/netns"
"""Where ip-netns(8) keeps namespaces that have a name."""


class AttachSettings(NamedTuple):
    """Where to attach, and the network to set up there; from `interface` on see `NetSettings`."""

    netns: str
    """Path of the network namespace, as /proc/123/ns/net or /run/netns/x."""
    userns: str | None
    """Path of the user namespace to join first; None: none. Our own is not joined again."""
    interface: str = "tap0"
    mac: bytes | None = None
    mtu: int = 0
    addresses: tuple[tuple[bytes, int], ...] = ()
    gateways: tuple[bytes, ...] = ()
    routes: tuple[Route, ...] = ()
    ipv4: bool = True
    ipv6: bool = True
    offloads: Offloads = Offloads()
    transmit_queue: int = 10000
    configure: bool = True
    accept_ra: bool = False
    reuse: bool = False

    @property
    def network(self) -> NetSettings:
        """The part that any guest has."""
        fields = self._asdict()
        return NetSettings(**{name: fields[name] for name in NetSettings._fields})


def netns_paths(target: str) -> tuple[str, str | None]:
    """Paths of the network and the user namespace that `target` means; None: it names no user namespace.

    Only digits: a process. No `/`: a name below /run/netns. Else it is the path of a network namespace.
    """
    if target.isascii() and target.isdigit():
        process = target.lstrip("0") or "0"
        return f"/proc/{process}/ns/net", f"/proc/{process}/ns/user"
    return target if "/" in target else f"{_NAMED}/{target}", None


def attach(settings: AttachSettings) -> Attached:
    """Fork the agent; returns at once, while it sets up. The caller must have no other thread.

    Raises HostError when not even a process can be had.
    """
    fill_standard_streams()
    control, agent_end = pair()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        agent = os.fork()
        if agent == 0:
            run_attached_agent(settings.network, settings.netns, settings.userns, agent_end)
    except OSError as error:
        control.close()
        raise HostError(f"cannot start a process: {error.strerror}") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        agent_end.close()
    held = HeldAgent(agent, control)
    return Attached(held, SocketFactory(control))


class Attached:
    """The engine's hold on the namespace. `tap` comes first, `close` any time."""

    def __init__(self, agent: HeldAgent, factory: SocketFactory) -> None:
        self._agent = agent
        self._closed = False
        self.notes = agent.notes
        """One line for each nicety the machine would not give, complete when `tap` returns; later those of `collect`.
        """
        self.factory = factory
        """For use after `tap`."""
        self.agent_id = agent.process
        """The agent's process; only to be looked at."""
        self.agent_ended = agent.ended
        """Descriptor, readable when the agent has ended; valid until `close`."""

    def tap(self) -> Tap:
        """Wait until the interface is set up, 10 s at most; its TAP, whose descriptor the caller owns from now on.

        Raises HostError with the reason when it could not be; everything is closed then.
        """
        try:
            tap = self._agent.receive_tap(time.monotonic() + SETUP_TIMEOUT)
            if isinstance(tap, Message):
                os.close(only_descriptor(tap))
                raise HostError("the guest's agent sent something else than a TAP")
        except BaseException:
            self.close()
            raise
        self._agent.set_ready()
        return tap

    def reconfigure(
        self, addresses: tuple[tuple[bytes, int], ...], gateways: tuple[bytes, ...], routes: tuple[Route, ...]
    ) -> None:
        """As `Guest.reconfigure`."""
        self._agent.reconfigure(NetChange(addresses, gateways, routes))

    def collect(self) -> list[str]:
        """As `Guest.collect`."""
        return self._agent.collect()

    def answer_fileno(self) -> int:
        """As `Guest.answer_fileno`."""
        return self._agent.answer_fileno()

    def close(self) -> None:
        """End the agent. Idempotent; blocks until it is gone."""
        if not self._closed:
            self._closed = True
            self._agent.close()
