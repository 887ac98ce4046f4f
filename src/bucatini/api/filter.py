"""`filter(config)`: one guest between its link and a bridge of this host, until a signal ends us or the guest is gone.

The order is the security design. What needs privileges is done first and nothing of the guest's is read meanwhile: the
TAP, its port of the bridge, address translation, reserved ports. Then all privileges go, and only then come the guest's
link, files and sockets that the user named, and the first frame. What remains from before are descriptors: the TAP's,
and a pipe to the child that holds the table.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from bucatini.base.address import text
from bucatini.base.errors import ConfigError, HostError
from bucatini.host.bridge import Bridge, PortWatch, allow_forwarding, find_bridge, plug
from bucatini.host.descriptors import check_inherited
from bucatini.host.nftables import Table, expose, host_only, masquerade
from bucatini.host.privileges import drop_for_good, find_group, find_user
from bucatini.host.tap import Offloads, open_tap

if TYPE_CHECKING:
    from bucatini.config.filter import FilterConfig
    from bucatini.engine.filter.exposures import Exposures
    from bucatini.engine.filter.filter import Filter
    from bucatini.guard.binding import Binding
    from bucatini.guard.live_policy import LivePolicy
    from bucatini.observe.log import Log
    from bucatini.observe.observers import Observers

__all__ = ["filter"]

LOST_STATUS = 1
MARGIN = 0.1
"""Seconds by which a lease ends earlier here than at its server, whatever happens in between."""
NEEDED_LATER = (
    "bucatini.api.waiting",
    "bucatini.engine.control.server",
    "bucatini.engine.control.softnet",
    "bucatini.engine.filter.filter",
    "bucatini.links.tap",
    "bucatini.links.unix_dgram",
    "bucatini.links.unix_stream",
    "bucatini.links.vhost_user.link",
    "bucatini.observe.observers",
    "encodings.idna",
)
"""Modules that the user we become may not be able to read where we are installed."""


class _SetUp(NamedTuple):
    """What privileges were needed for."""

    tap: int
    tap_name: str
    bridge: Bridge
    watch: PortWatch
    table: Table
    live: LivePolicy
    binding: Binding
    exposures: Exposures | None
    notes: list[str]
    """What does not happen, and why."""


def filter(  # noqa: A001  the verb's name
    config: FilterConfig, *, diary: Log | None = None, become: tuple[int, int] | None = None
) -> int:
    """Filter; the exit status: 0 when a signal came or the guest is gone, 1 when the bridge or the translation is.
    `config` is checked; lines go to `diary` if there is one. `become`: user and group, whatever `config` says.

    Raises ConfigError or HostError before the guest is heard.
    """
    from bucatini.api.vm import check_links, end_quietly
    from bucatini.engine.control.softnet import ACCEPTED
    from bucatini.observe.observers import Observers

    end_quietly()
    check_links([config.link])
    check_inherited("--control-fd", config.control_fd, ACCEPTED)
    for module in NEEDED_LATER:
        importlib.import_module(module)
    identity = become or _identity(config)
    with contextlib.ExitStack() as closing:
        made = _set_up(config, closing)
        drop_for_good(*identity)
        return _serve(config, made, Observers(config.observe, diary=diary, sees_flows=False), closing)


def _identity(config: FilterConfig) -> tuple[int, int]:
    """User and group to become: those that were named, else who really started us. Raises ConfigError."""
    user, group = os.getuid(), os.getgid()
    if config.user is not None:
        user, group = find_user("--user", config.user)
    if config.group is not None:
        group = find_group("--group", config.group)
    return user, group


def _set_up(config: FilterConfig, closing: contextlib.ExitStack) -> _SetUp:
    from bucatini.guard.binding import Binding
    from bucatini.guard.live_policy import LivePolicy

    bridge = find_bridge(config.bridge)
    own = tuple(address for address, _ in bridge.addresses)
    gateways = config.gateways or own
    if not any(len(address) == 4 for address in gateways):
        where = "--gateway: there is" if config.gateways else f"--bridge {bridge.name!r}: has"
        raise ConfigError(f"{where} no IPv4 address; --gateway says where the guest's DHCP server is")
    for address in config.addresses:
        if address in own:
            raise ConfigError(f"--address {text(address)}: is the bridge's own; the guest needs another")
    binding = Binding(config.mac, gateways, margin=MARGIN)
    for address in config.addresses:
        binding.bind(address)
    live = LivePolicy(config.allow, config.block, gateways, directions=not config.faithful)
    name = config.host_tap or f"bucatini{os.getpid()}"
    tap = _make_tap(name)
    closing.callback(os.close, tap)
    watch = PortWatch(bridge, name)
    closing.callback(watch.close)
    plug(bridge, name, config.mac, isolated=live.isolated)
    notes: list[str] = []
    table = _make_table(config, bridge, socket.if_nametoindex(name))
    closing.callback(table.close)
    if config.vm_net_type == "nat":
        notes += allow_forwarding(bridge)
    exposures = _make_exposures(config, table, binding, notes)
    if exposures is not None:
        closing.callback(exposures.close)
    return _SetUp(tap, name, bridge, watch, table, live, binding, exposures, notes)


def _make_tap(name: str) -> int:
    try:
        return open_tap(name, Offloads.from_mask(0)).descriptor
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise ConfigError(f"--host-tap {name!r}: must be the name of an interface, 1 to 15 bytes") from None
        if error.errno == errno.EBUSY:
            raise ConfigError(f"--host-tap {name!r}: there is an interface of this name; a new one is made") from None
        why = "needs CAP_NET_ADMIN and /dev/net/tun" if error.errno in (errno.EPERM, errno.EACCES) else error.strerror
        raise HostError(f"cannot make the TAP {name}: {why}") from None


def _make_table(config: FilterConfig, bridge: Bridge, index: int) -> Table:
    """Named after the TAP's index, which nothing else has."""
    if config.vm_net_type == "nat":
        statements = masquerade(bridge.interface, bridge.addresses)
    else:
        statements = host_only(bridge.interface, config.mac)
    if config.expose:
        statements += expose()
    try:
        return Table(f"bucatini_{index}", statements)
    except HostError as error:
        raise HostError(f"--vm-net-type {config.vm_net_type}: {error}") from None


def _make_exposures(config: FilterConfig, table: Table, binding: Binding, notes: list[str]) -> Exposures | None:
    from bucatini.engine.filter.exposures import Exposures

    if not config.expose:
        return None
    fixed = next((address for address in config.addresses if len(address) == 4), None)
    exposures = Exposures(config.expose, table, binding, fixed, notes.append, notes.append)
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        first_free = int(file.read())
    for port, internal in config.expose:
        if port < first_free and port in exposures.refused:
            exposures.close()
            why = f"{exposures.refused[port]}, and none below {first_free} once privileges are given up"
            raise HostError(f"--expose {port}:{internal}: cannot have port {port} of this host: {why}")
    return exposures


def _serve(config: FilterConfig, made: _SetUp, observers: Observers, closing: contextlib.ExitStack) -> int:
    from bucatini.api.vm import open_link
    from bucatini.api.waiting import hold_signals
    from bucatini.engine.filter.filter import Filter, FilterParts

    say = observers.say if config.observe.quiet else observers.warn
    hold_signals()  # before there is a path to take away
    link, offloads = open_link(config.link, one_off=False)
    engine = Filter(
        FilterParts(
            link,
            offloads,
            made.tap,
            made.binding,
            made.live,
            config.faithful,
            made.exposures,
            observers.capture,
            observers.on_event if observers.wants_drops else None,
            observers.on_event,
            observers.flush if observers.buffers else None,
            say,
        )
    )
    closing.callback(_account, engine, observers)
    closing.callback(engine.close)
    _control(config, made, engine, closing)
    for note in made.notes:
        observers.warn(note)
    if made.exposures is not None:
        made.exposures.say, made.exposures.warn = say, observers.warn
    engine.loop.add_reader(made.table, engine.fail, "nft ended, and the table of address translation with it")
    engine.loop.add_reader(made.watch, _look, made.watch, engine)
    engine.start()
    engine.loop.run_until_complete(_run(config, made, engine, observers))
    if engine.failure:
        observers.warn(engine.failure)
        return LOST_STATUS
    return 0


def _look(watch: PortWatch, engine: Filter) -> None:
    why = watch.lost()
    if why:
        engine.fail(why)


def _control(config: FilterConfig, made: _SetUp, engine: Filter, closing: contextlib.ExitStack) -> None:
    """Who may change the rules."""
    from bucatini.engine.control.softnet import PolicyChannel, policy_methods

    servers: list[Any] = []
    if config.control_fd is not None:
        servers.append(PolicyChannel(engine.loop, config.control_fd, made.live))
    if config.control is not None:
        from bucatini.engine.control.server import ControlServer

        servers.append(ControlServer(engine.loop, config.control, policy_methods(made.live)))
    for server in servers:
        closing.callback(server.close)
        server.start()


async def _run(config: FilterConfig, made: _SetUp, engine: Filter, observers: Observers) -> None:
    """Until a signal, or until the engine has ended."""
    import asyncio

    from bucatini.api.waiting import Waiting

    waiting = Waiting(None)
    ended = asyncio.ensure_future(engine.ended.wait())
    try:
        if not config.observe.quiet:
            where = ", ".join(text(address) for address in sorted(made.binding.gateways, key=len))
            port = "an isolated port" if made.live.isolated else "a port"
            observers.warn(f"{config.link}: {made.tap_name} is {port} of {made.bridge.name}, whose host is {where}")
        await asyncio.wait((waiting.status, ended), return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
        waiting.close()


def _account(engine: Filter, observers: Observers) -> None:
    """What the filter saw."""
    passage = engine.passage
    drops = ", ".join(f"{count} {label}" for label, count in engine.counters.snapshot().items())
    frames = f"{passage.from_guest_frames} frames from the guest, {passage.to_guest_frames} to it"
    observers.say(f"{frames}; dropped: {drops or 'none'}")
    observers.finish(engine.counters, stderr=sys.stderr)
