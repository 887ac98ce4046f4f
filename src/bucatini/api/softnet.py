"""`softnet(config)`: what the command softnet does, by our engine.

By default the guest is served by the translating engine, without root: its own DHCP gives it the one address of a
private /30 that no interface of the host has a part of, its own name service answers at the gateway, and `RulePolicy`
says whom it may reach. `--bridge` is another engine, the faithful filter (`api.softnet_filter`).

The virtual machine's socket is moved away from the descriptor it was inherited as, and /dev/null takes the place of a
standard stream: what is meant for people must not become a frame. In the order in which things happen: the socket, the
translator, exposed ports, and only then does root become somebody else, before a frame of the guest is read.

Exposed ports that cannot be had are said once and tried again every second; none of them keeps the others. A pair of
datagram sockets has no end that the kernel would tell: the gateway asks for the guest's address every few seconds, as
routers do, and the error of a socket that is gone ends us.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

from bucatini.base.errors import ConfigError, HostError
from bucatini.host import privileges
from bucatini.host.descriptors import check_inherited, release_descriptor, take_descriptor

if TYPE_CHECKING:
    from collections.abc import Callable

    from bucatini.config.addressing import Addressing
    from bucatini.config.softnet import SoftnetConfig
    from bucatini.engine.build import Translator
    from bucatini.forward.portspec import Forward
    from bucatini.guard.live_policy import LivePolicy
    from bucatini.observe.log import Log

__all__ = ["identity", "softnet"]

NAME = "softnet"
MTU = 1500
"""Bytes: what a hypervisor that talks to Softnet has room for."""
POOLS = (("172.16.0.0", 12), ("10.0.0.0", 8), ("192.168.0.0", 16))
"""RFC 1918; the guest's network is the first /30 that is free."""
GUEST_PREFIX = 30
RETRY = 1.0
"""Seconds until a port that could not be had is tried again."""
LOOK = 3.0
"""Seconds between two questions whether the guest is there."""
NEEDED_LATER = ("bucatini.engine.control.softnet", "encodings.idna")
"""Modules that another user may not be able to read where we are installed."""


def softnet(config: SoftnetConfig) -> int:
    """Serve the virtual machine; the exit status, 0 when a signal came, 1 when its socket is gone. Raises ConfigError
    and HostError before it serves.
    """
    _check_descriptors(config)
    if config.bridge is not None:
        from bucatini.api.softnet_filter import softnet_filter

        return softnet_filter(config)
    from bucatini.api.blueprint import Blueprint
    from bucatini.api.session import Job, Plug, new_duid, serve_all
    from bucatini.config.network import NetworkOptions
    from bucatini.guard.live_policy import LivePolicy
    from bucatini.guard.rule_policy import RulePolicy
    from bucatini.links.socket_link import OFFLOADS
    from bucatini.observe.log import Level, Log
    from bucatini.observe.observers import Observers
    from bucatini.observe.settings import ObserveSettings

    become = identity(config)
    link = _open_link(config)
    log = Log(Level.WARNING, name=NAME)
    try:
        for note in config.notes:
            log.warning(note)
        own = _free_addressing()
        # A guest that may reach nothing but this host learns no names either: questions would leave it with them.
        has_names = config.net_type == "nat"
        options = NetworkOptions(
            dhcp_dns=True, dns=None if has_names else (), search=None if has_names else (), lease=config.lease
        )
        blueprint = Blueprint(options, own, default_mtu=MTU, own_dns=has_names)
        network = blueprint.network()
        live = LivePolicy(config.allow, config.block, network.gateways)

        def policy(hosts: tuple[bytes, ...]) -> RulePolicy:
            return RulePolicy(live, hosts, network.resolvers, host_only=config.net_type == "host")

        upkeep = _Upkeep(config, live, log, become)
        observers = Observers(ObserveSettings(quiet=True), diary=log)
        job = Job(
            blueprint, network, own.gateway_mac, policy, (), observers, new_duid(own.gateway_mac), guard=True,
            control=upkeep.adopt,
        )  # fmt: skip
        return serve_all(((job, Plug(link, OFFLOADS, config.mac)),), upkeep.wait)
    finally:
        link.close()
        log.close()


def _check_descriptors(config: SoftnetConfig) -> None:
    """Raise ConfigError for a number that nothing is open under. To be called before anything is opened."""
    from bucatini.engine.control.softnet import ACCEPTED

    check_inherited("--vm-fd", config.vm_fd, "the number of a connected socket is accepted")
    check_inherited("--control-fd", config.control_fd, ACCEPTED)


def identity(config: SoftnetConfig) -> tuple[int, int] | None:
    """User and group to become; None: stay. Raises ConfigError for names nobody has, HostError without the right."""
    if os.geteuid() != 0 and config.user is None and config.group is None:
        return None
    user, group = os.getuid(), os.getgid()
    if config.user is not None:
        user, group = privileges.find_user("--user", config.user)
    elif user == 0 and privileges.is_real_root():
        user, group = privileges.nobody()
    if config.group is not None:
        group = privileges.find_group("--group", config.group)
    if user == os.geteuid() and (config.group is None or group == os.getegid()):
        return None
    if os.geteuid() != 0:
        raise HostError(f"cannot become user {user}, group {group}: only root can")
    return user, group


def _open_link(config: SoftnetConfig) -> Any:
    """The link on the inherited socket: its kind says which."""
    option = f"--vm-fd {config.vm_fd}"
    descriptor = take_descriptor(config.vm_fd)
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(f"{option}: must be a connected socket: {error.strerror}") from None
    if sock.type == socket.SOCK_DGRAM:
        from bucatini.links.unix_dgram import UnixDatagramLink

        return UnixDatagramLink(option, sock)
    if sock.type == socket.SOCK_SEQPACKET:
        from bucatini.links.unix_dgram import UnixSeqpacketLink

        return UnixSeqpacketLink(option, sock=sock)
    if sock.type == socket.SOCK_STREAM:
        from bucatini.links.unix_stream import UnixStreamLink

        return UnixStreamLink(option, sock=sock)
    sock.close()
    raise ConfigError(f"{option}: a socket of this kind carries no frames; accepted: datagram, seqpacket, stream")


def _free_addressing() -> Addressing:
    """Addresses of a guest whose IPv4 network no interface of the host has a part of. Raises HostError."""
    from bucatini.base.address import pack, text
    from bucatini.config.addressing import derive
    from bucatini.host.netlink import Netlink
    from bucatini.services.address_plan import AddressPlan, LeaseRange

    try:
        with Netlink() as netlink:
            taken = [(each.address, each.prefix_length) for each in netlink.addresses()]
    except OSError as error:
        raise HostError(f"cannot read the host's addresses: {error.strerror}") from None
    for network, length in POOLS:
        try:
            place = AddressPlan((LeaseRange(pack(network), length, GUEST_PREFIX),), taken).at(0)
        except ConfigError:
            continue  # all of it is in use
        return derive(0, ipv4_address=text(place.address))
    raise HostError("no private IPv4 network is free: interfaces of this host have all of them")


class _Upkeep:
    """What runs beside the translator: exposed ports, the control channel, the look at the guest."""

    def __init__(
        self, config: SoftnetConfig, live: LivePolicy, log: Log, become: tuple[int, int] | None
    ) -> None:
        self._config = config
        self._live = live
        self._log = log
        self._become = become
        self._translator: Any = None
        self._channel: Any = None
        self._missing: list[Forward] = []
        self._timers: list[asyncio.TimerHandle] = []
        self._signalled = asyncio.Event()

    def adopt(self, translator: Translator) -> _Upkeep:
        """Everything that can fail or needs root, before the guest is served. Raises ConfigError and HostError."""
        self._translator = translator
        self._live.on_change = lambda _: translator.policy_changed()
        if self._config.control_fd is not None:
            from bucatini.engine.control.softnet import PolicyChannel

            self._channel = PolicyChannel(translator.loop, self._config.control_fd, self._live)
            release_descriptor(self._config.control_fd)
        self._missing = [each for each in self._config.expose if not self._expose(each, is_first=True)]
        if self._become is not None:
            for module in NEEDED_LATER:
                importlib.import_module(module)
            keep = frozenset((privileges.CAP_NET_BIND_SERVICE,)) if self._config.expose else frozenset()
            privileges.drop_for_good(*self._become, keep)
        return self

    def start(self) -> None:
        """See `Job.control`."""
        from bucatini.api.vm import ENDING
        from bucatini.links.unix_dgram import UnixDatagramLink

        # Here and not in `wait`, before which the loop may already serve a frame: until now a signal raises.
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._translator.loop.add_signal_handler(number, self._signalled.set)
        if self._channel is not None:
            self._channel.start()
        if self._missing:
            self._every(RETRY, self._expose_again)
        if isinstance(self._translator.link, UnixDatagramLink):
            self._every(LOOK, self._look)

    async def wait(self) -> int:
        """Until a signal, with status 0. Raises HostError when the virtual machine's socket is gone."""
        ends = [asyncio.ensure_future(event.wait()) for event in (self._signalled, self._translator.ended)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if self._signalled.is_set():
            return 0
        raise HostError(f"--vm-fd {self._config.vm_fd}: the virtual machine's end of the socket is gone")

    def close(self) -> None:
        """Idempotent."""
        for timer in self._timers:
            timer.cancel()
        if self._channel is not None:
            self._channel.close()

    def _expose(self, forward: Forward, *, is_first: bool = False) -> bool:
        try:
            self._translator.publisher.add(forward, "--expose")
        except ConfigError as error:
            if is_first:
                self._log.warning(f"{error}; tried again every second")
            return False
        if not is_first:
            self._log.warning(f"--expose '{forward}': listens now")
        return True

    def _expose_again(self) -> bool:
        self._missing = [each for each in self._missing if not self._expose(each)]
        return bool(self._missing)

    def _look(self) -> bool:
        translator = self._translator
        guest = translator.ingress.settings.guest_ipv4
        translator.sink.transmit_error(translator.ingress.gateway.who_has(guest))
        translator.reactor.hurry()
        return not translator.ended.is_set()

    def _every(self, seconds: float, act: Callable[[], bool]) -> None:
        """Act again and again, until it says that there is no more to do."""
        at = len(self._timers)

        def due() -> None:
            if act():
                self._timers[at] = self._translator.loop.call_later(seconds, due)

        self._timers.append(self._translator.loop.call_later(seconds, due))
