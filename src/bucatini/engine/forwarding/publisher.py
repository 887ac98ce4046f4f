"""Forwarded ports of one guest: what listens, on the host and in the guest.

Two directions (`forward.portspec.Forward`): INGRESS listens on the host and leads to the guest, EGRESS listens on the
guest's own loopback and leads to the host's. Before the guest starts everything is bound, so that a port in use is an
error of the command line; afterwards forwards come and go at any time. A flow does not need its forward any longer:
`remove` ends no flow.

A forward names a port only; where the guest is reached is looked up for each new flow.

Who may come in, and as whom, is `admission`'s.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bucatini.base.address import Endpoint
from bucatini.base.errors import ConfigError, HostError
from bucatini.base.verdict import EGRESS, INGRESS, Request, Verdict
from bucatini.engine.forwarding.admission import Admission
from bucatini.engine.forwarding.binding import (
    LOOPBACK,
    TCP,
    families,
    kind_of,
    listen_in_guest,
    listen_on_host,
    why,
    written,
)
from bucatini.engine.forwarding.tcp_listener import TcpInward, TcpOutward
from bucatini.engine.forwarding.udp_listener import UdpInward, UdpOutward
from bucatini.engine.guest_sockets import GuestSockets
from bucatini.engine.splice import StreamSplices
from bucatini.forward.portspec import Forward
from bucatini.forward.translate import Translation
from bucatini.stack.settings import StackSettings

if TYPE_CHECKING:
    from bucatini.engine.forwarding.auto import Automatic
    from bucatini.host.port_scan import PortScan

__all__ = ["MAX_FORWARDS", "Publisher"]

MAX_FORWARDS = 4 * 65535
"""Every port, for both protocols and in both directions; the host's descriptors end sooner."""

UDP = 17

_Listener = TcpInward | TcpOutward | UdpInward | UdpOutward
_LISTENERS: dict[tuple[int, str], type[_Listener]] = {
    (6, INGRESS): TcpInward,
    (6, EGRESS): TcpOutward,
    (17, INGRESS): UdpInward,
    (17, EGRESS): UdpOutward,
}


class Publisher(Admission):
    """All forwarded ports of one guest. `isn` as for `Ingress`; `trains` says by family whether the link takes trains
    of datagrams.

    `splice` False: peers on the host's loopback become flows as well, under a translated address. `freebind`: listen on
    addresses that the host does not have yet. `guests` gives the guest's addresses at this moment, of one family the
    one to reach first; None: those of `settings`. `translation`, `settings` and `guests` may be replaced at any time.
    """

    def __init__(
        self,
        sink: Any,
        settings: StackSettings,
        decide: Callable[[Request], Verdict],
        isn: Callable[[bytes], int],
        guest_sockets: GuestSockets,
        trains: tuple[bool, bool],
        *,
        splice: bool = True,
        freebind: bool = False,
        translation: Translation | None = None,
        guests: Callable[[], tuple[bytes, ...]] | None = None,
    ) -> None:
        super().__init__(sink, settings, decide, translation, guests)
        self.isn = isn
        self.guest_sockets = guest_sockets
        self.trains = trains
        self.spliced = splice and guest_sockets.available
        self.freebind = freebind
        self.splices = StreamSplices(sink, guest_sockets)
        self.auto: Automatic | None = None
        self.elsewhere: Callable[[], frozenset[int]] = frozenset
        """Gives the UDP ports of the host that another part of the engine listens on for the guest."""
        self.changes = 0
        """How often a forward came or went."""
        self._lingering: tuple[float, frozenset[tuple[str, int]]] = (-1.0, frozenset())
        """What `_held_ports` found, and the instant: many forwards may ask in one turn."""
        self._started = False
        self._served: dict[Forward, list[_Listener]] = {}
        self._ports: dict[tuple[str, int, int], list[Forward]] = {}

    # -- forwards come and go

    def add(self, forward: Forward, option: str = "--publish") -> None:
        """Listen for `forward`, and serve once started. Raises ConfigError naming option and port; of an `optional` one
        only when the process may have no more descriptors.
        """
        self.open(forward, option)

    def add_all(self, forwards: Iterable[Forward], option: str = "--publish") -> None:
        """All of them, or none and ConfigError: at the first that cannot be had, or when of optional ones none can."""
        opened: list[Forward] = []
        asked = 0
        try:
            for forward in forwards:
                asked += 1
                if self.open(forward, option):
                    opened.append(forward)
            if asked and not opened:
                raise ConfigError(f"{option}: none of its {asked} ports can be had")
        except BaseException:
            for forward in opened:
                self.remove(forward)
            raise

    def open(self, forward: Forward, option: str) -> bool:
        """As `add`; whether it listens now."""
        forward = _plain(forward, keep=forward.optional)
        twin = self._overlapping(forward)
        if twin is not None and not forward.optional:
            raise ConfigError(f"{option} '{written(forward)}': '{written(twin)}' listens there already")
        if twin is not None:
            return False
        if len(self._served) >= MAX_FORWARDS:
            raise ConfigError(f"{option} '{written(forward)}': more than {MAX_FORWARDS} forwarded ports in all")
        listeners = self._bind(forward, option)
        if not listeners:
            return False
        self.changes += 1
        self._served[forward] = listeners
        self._ports.setdefault(_listening(forward), []).append(forward)
        if self._started:
            for listener in listeners:
                listener.watch()
        return True

    def remove(self, forward: Forward) -> bool:
        """Stop listening for `forward`; its flows live on. False when it was not there."""
        forward = _plain(forward, keep=False)
        for held in (forward, forward._replace(optional=True)):
            listeners = self._served.pop(held, None)
            if listeners is not None:
                self.changes += 1
                place = _listening(held)
                self._ports[place].remove(held)
                if not self._ports[place]:
                    del self._ports[place]
                for listener in listeners:
                    listener.close()
                return True
        return False

    def forwards(self) -> list[Forward]:
        """What is listened for now, in the order it came."""
        return list(self._served)

    @property
    def listeners(self) -> list[_Listener]:
        """Every listening socket, with what it stands for."""
        return [listener for listeners in self._served.values() for listener in listeners]

    def ports(self, protocol: int, direction: str) -> frozenset[int]:
        """Ports listened on: the host's for INGRESS, the guest's for EGRESS."""
        found = frozenset(port for way, number, port in self._ports if (way, number) == (direction, protocol))
        return found | self.elsewhere() if (protocol, direction) == (UDP, INGRESS) else found

    def automatic(self, protocol: int, direction: str) -> None:
        """From now on forward what is bound on the other side: INGRESS the guest's ports, EGRESS the host's. Raises
        HostError when the kernel does not tell which these are.
        """
        # Imported late: a guest without automatic ports starts sooner.
        from bucatini.engine.forwarding.auto import Automatic
        from bucatini.host.port_scan import open_scan

        if self.auto is None:
            self.auto = Automatic(self, open_scan, self._scan_of_guest)
        self.auto.enable(protocol, direction)
        if self._started:
            self.auto.start()

    def manual(self, protocol: int, direction: str) -> bool:
        """Undo `automatic`: close what it opened. False when it was not on."""
        return self.auto is not None and self.auto.disable(protocol, direction)

    def is_automatic(self, forward: Forward) -> bool:
        """Whether `forward` came by `automatic`."""
        return self.auto is not None and self.auto.holds(forward)

    def _scan_of_guest(self) -> PortScan:
        from bucatini.host.port_scan import PortScan

        return PortScan(self.guest_sockets.obtain("diag", 1)[0])

    def _overlapping(self, forward: Forward) -> Forward | None:
        """A forward that listens there already; the kernel would say that the port is in use."""
        for other in self._ports.get(_listening(forward), ()):
            if other.device and forward.device and other.device != forward.device:
                continue
            one, two = other.address, forward.address
            if one is None or two is None or (len(one) == len(two) and (one == two or not any(one) or not any(two))):
                return other
        return None

    def _bind(self, forward: Forward, option: str) -> list[_Listener]:
        """The listeners of `forward`, not yet served; none when it is optional and cannot be had."""
        made: list[_Listener] = []
        try:
            for length in self._lengths(forward, option):
                self._bind_one(forward, length, made)
            self._prepare(forward, made)
        except (OSError, HostError) as error:
            for listener in made:
                listener.sock.close()
            number = error.errno if isinstance(error, OSError) else 0
            if forward.optional and isinstance(error, OSError) and number not in (errno.EMFILE, errno.ENFILE):
                return []
            reason = why(error, forward) if isinstance(error, OSError) else str(error)
            raise ConfigError(f"{option} '{written(forward)}': {reason}") from None
        return made

    def _bind_one(self, forward: Forward, length: int, made: list[_Listener]) -> None:
        try:
            sock = self._listen(forward, length, ours=False)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and forward.protocol != TCP and self._lingers(forward):
                sock = self._listen(forward, length, ours=True)
            elif self._family_is_missing(error.errno or 0, forward, length):
                return
            else:
                raise
        made.append(_LISTENERS[forward.protocol, forward.direction](self, sock, forward, length))

    def _prepare(self, forward: Forward, listeners: list[_Listener]) -> None:
        """Have the guest's sockets ready that flows of `forward` will need. Raises HostError."""
        if self.spliced if forward.direction == INGRESS else forward.protocol != TCP:
            for listener in listeners:
                self.guest_sockets.prepare(kind_of(forward.protocol, listener.length))

    def _listen(self, forward: Forward, length: int, ours: bool) -> Any:
        if forward.direction == INGRESS:
            return listen_on_host(forward, length, self.freebind, ours)
        return listen_in_guest(self.guest_sockets, forward, length, ours)

    def _family_is_missing(self, number: int, forward: Forward, length: int) -> bool:
        """Whether IPv6 alone is what the kernel does not have, where nobody asked for it by name."""
        if forward.address is not None or length == 4:
            return False
        return number == errno.EAFNOSUPPORT or (number == errno.EADDRNOTAVAIL and forward.direction == EGRESS)

    def _lengths(self, forward: Forward, option: str) -> tuple[int, ...]:
        """Families to listen for, by the length of their addresses."""
        if forward.direction == EGRESS:
            if not self.guest_sockets.available:
                raise HostError("this guest has no namespace to listen in")
            return (4, 16)
        on = families(self.settings)
        if forward.address is None:
            return on
        if len(forward.address) not in on:
            raise HostError(f"the guest has no {'IPv4' if len(forward.address) == 4 else 'IPv6'}")
        return (len(forward.address),)

    def _lingers(self, forward: Forward) -> bool:
        """Whether conversations of a removed UDP forward still hold its port."""
        if self._lingering[0] != self.sink.now:
            self._lingering = (self.sink.now, frozenset(_held_ports(self.sink.table.all())))
        direction, _, port = _listening(forward)
        return (direction, port) in self._lingering[1]

    # -- life

    def start(self) -> None:
        """Begin to serve; called when the guest starts."""
        self._started = True
        for listener in self.listeners:
            listener.watch()
        if self.auto is not None:
            self.auto.start()

    def close(self) -> None:
        """Stop listening. Flows live on until the sink ends them."""
        if self.auto is not None:
            self.auto.close()
        for listener in self.listeners:
            listener.close()
        self._served.clear()
        self._ports.clear()
        self.splices.close()

    # -- what listeners ask

    def inner_targets(self, protocol: int, length: int, port: int) -> tuple[Endpoint, ...]:
        """Where in the guest's namespace a spliced peer finds the server: on loopback, where servers of all addresses
        listen too, then on the guest's own address. Never on loopback where we listen ourselves: that leads back here.
        """
        targets = [] if (EGRESS, protocol, port) in self._ports else [Endpoint(LOOPBACK[length], port)]
        guest = self.guest_address(length)
        if guest is not None:
            targets.append(Endpoint(guest, port))
        # Port 0 is refused at once.
        return tuple(targets) or (Endpoint(LOOPBACK[length], 0),)


def _listening(forward: Forward) -> tuple[str, int, int]:
    """Direction, protocol and port of the listening socket."""
    port = forward.guest_port if forward.direction == EGRESS else forward.host_port
    return forward.direction, forward.protocol, port


def _plain(forward: Forward, keep: bool) -> Forward:
    """The key of a forward: what means nothing for its direction is left out."""
    if forward.direction == EGRESS:
        forward = forward._replace(address=None, device="")
    return forward if keep else forward._replace(optional=False)


def _held_ports(flows: Iterable[Any]) -> Iterator[tuple[str, int]]:
    """Direction and listening port of UDP conversations that live."""
    for flow in flows:
        if flow.protocol == UDP:
            sock = getattr(flow, "near", None) or getattr(flow, "sock", None)
            if sock is not None and sock.fileno() >= 0:
                yield flow.direction, sock.getsockname()[1]
