"""Rules that change while a guest sends without pause: what they refuse ends with the answer to the change, what they
allow begins with it, and what was allowed all along misses nothing.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from support.bridged import BridgedHost
from support.fakehost import PRIVATE4, PUBLIC4, FakeHost, Namespace
from support.guests import PATIENCE, eventually
from support.softnet_vm import SoftnetGuest
from support.steady_traffic import SteadyTraffic

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("policy_change")]

CHANGES = 100
TURNS = 4
"""How many turns of traffic each policy judges at least."""
OTHERS = [f"10.{number}.0.0/16" for number in range(20, 120)]
"""Rules that are about nobody, so that a table takes time to make."""
OPENS = ([f"{PRIVATE4}/32"], [f"out {PRIVATE4}/32"])
CLOSES: tuple[list[str], ...] = ([f"{PRIVATE4}/32"], [], [f"out {PRIVATE4}/32"])


@pytest.fixture(scope="module")
def place(host: FakeHost) -> Iterator[BridgedHost]:
    with contextlib.closing(BridgedHost(host)) as made:
        yield made


class Window(NamedTuple):
    """Turns that began after the answer to a change, and were judged before the next one was asked for."""

    first: int
    last: int
    is_open: bool

    def turns(self) -> range:
        return range(self.first, self.last + 1)


def rules(change: int) -> tuple[list[str], list[str]]:
    """What a change allows and blocks: every other one opens the way to PRIVATE4."""
    opened = OPENS[change // 2 % len(OPENS)] if change % 2 else []
    closed = [] if change % 2 else CLOSES[change // 2 % len(CLOSES)]
    return [*OTHERS, *opened], closed


def missing(traffic: SteadyTraffic, wanted: set[int]) -> list[int]:
    """Turns whose datagram has not arrived where the way to it was open."""
    return sorted(wanted.difference(traffic.arrived[1]))


def check(traffic: SteadyTraffic, windows: list[Window]) -> None:
    """Nothing that was allowed all along is missing or came twice, nothing that was refused is there."""
    steady, changed = map(sorted, traffic.arrived)
    assert steady == list(range(1, traffic.began + 1))
    assert len(set(changed)) == len(changed)
    for window in windows:
        assert window.is_open or not set(window.turns()).intersection(changed), window
    assert traffic.stream_length > 0
    assert traffic.received.digest() == traffic.sent.digest()


class Ask:
    """Changes over a control socket."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._revision = 0

    def __call__(self, allow: list[str], block: list[str]) -> None:
        self._revision += 1
        params = {"allow": allow, "block": block, "desiredRevision": str(self._revision)}
        request = {"jsonrpc": "2.0", "id": 1, "method": "softnet.policy.set", "params": params}
        self._channel.sendall(json.dumps(request).encode() + b"\n")
        said = b""
        while not said.endswith(b"\n"):
            said += self._channel.recv(1 << 16)
        assert "result" in json.loads(said), said


def undirected(ask: Ask) -> Callable[[list[str], list[str]], None]:
    """For a filter that knows no directions."""
    return lambda allow, block: ask(*([rule.removeprefix("out ") for rule in rules] for rules in (allow, block)))


def change_often(
    guest: Namespace,
    host: FakeHost,
    ask: Callable[[list[str], list[str]], None],
    between: Callable[[bool], None] = lambda _: None,
) -> None:
    """`between` is called under each policy, with whether PRIVATE4 may be reached."""
    windows = []
    with SteadyTraffic(guest, host.world, PUBLIC4, PRIVATE4) as traffic:
        traffic.wait_for(1)
        for change in range(1, CHANGES + 1):
            is_open = bool(change % 2)
            ask(*rules(change))
            first = traffic.began + 1
            between(is_open)
            windows.append(Window(first, traffic.wait_for(first + TURNS), is_open))
        traffic.end()
        wanted = {turn for window in windows if window.is_open for turn in window.turns()}
        eventually(
            lambda: traffic.look() or not missing(traffic, wanted), or_else=lambda: str(missing(traffic, wanted))
        )
    check(traffic, windows)


@pytest.mark.parametrize("options", [[], ["--faithful"]], ids=["ours", "faithful"])
def test_filter(place: BridgedHost, options: list[str]) -> None:
    near, far = socket.socketpair()
    near.settimeout(PATIENCE)
    with near, place.guest("--control-fd", str(far.fileno()), *options, descriptors=(far.fileno(),)) as guest:
        far.close()
        ask = Ask(near)
        change_often(guest.net, place.host, undirected(ask) if options else ask)


def test_softnet(host: FakeHost) -> None:
    """The translating engine. A stream that is refused is reset at once, on both sides."""
    with (
        SoftnetGuest(host, control=None) as guest,
        host.world.listen(PRIVATE4) as listener,
        contextlib.ExitStack() as open_ends,
    ):
        guest.dhclient()
        stream: list[socket.socket] = []
        resets = 0

        def between(is_open: bool) -> None:
            nonlocal resets
            if is_open:
                stream[:] = near, far = guest.net.connect(*listener.getsockname()), listener.accept()[0]
                for end in stream:
                    open_ends.enter_context(end).settimeout(PATIENCE)
                near.sendall(b"held")
                assert far.recv(4) == b"held"
                return
            for end in stream:
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
                resets += 1
            with pytest.raises(ConnectionRefusedError):
                guest.net.connect(*listener.getsockname())

        change_often(guest.net, host, Ask(guest.control_socket), between)
        assert resets == CHANGES
        assert guest.signal() == 0
