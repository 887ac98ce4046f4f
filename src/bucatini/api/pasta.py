"""`pasta(config)`: what the command pasta does, by our engine.

Order, as callers rely on it: files are opened and the process goes to the background first, with the caller waiting;
root of the machine becomes somebody else; the namespace is made or entered; ports are bound; then the PID file is
written and the caller's wait ends with 0. Whatever cannot be until then is one line on stderr and status 1.

The policy is `open`: pasta has none, and a drop-in must not refuse what it lets through.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from bucatini.host import daemon, privileges

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bucatini.api.session import Handle
    from bucatini.config.derive import Network
    from bucatini.config.pasta import PastaConfig
    from bucatini.host.daemon import Daemon
    from bucatini.host.settings import GuestSettings
    from bucatini.observe.log import Log

__all__ = ["pasta"]

NAME = "pasta"
_KEPT = frozenset(
    (
        privileges.CAP_NET_BIND_SERVICE,
        privileges.CAP_SYS_ADMIN,
        privileges.CAP_NET_ADMIN,
        privileges.CAP_SYS_PTRACE,
    )
)
"""What entering a namespace and binding low ports takes."""
_NEEDED_LATER = (
    "bucatini.api.attach",
    "bucatini.api.jobs",
    "bucatini.api.waiting",
    "bucatini.config.pasta_arguments",
    "bucatini.engine.forwarding.auto",
    "bucatini.host.attach",
    "bucatini.host.guest",
    "bucatini.host.mirror",
    "bucatini.host.netns_watch",
    "bucatini.host.port_scan",
    "bucatini.host.supervisor",
)


def pasta(config: PastaConfig) -> int:
    """Serve the namespace or the command; the exit status. Raises ConfigError and HostError before it serves."""
    from bucatini.api.blueprint import Blueprint, open_policy
    from bucatini.observe.observers import Observers
    from bucatini.observe.settings import ObserveSettings

    pid_file = _absolute(config.pid_file)
    service = daemon.stay_in_foreground(pid_file) if config.foreground else daemon.become_daemon(pid_file)
    log = _open_log(config)
    observers = Observers(ObserveSettings(pcap=config.pcap, quiet=True), diary=log)
    for note in config.notes:
        log.warning(note)
    was_root = _drop_privileges(config, log)
    blueprint = Blueprint(config.network, None, default_mtu=None, own_dns=False)
    network = blueprint.network()
    guest, wait = _begin(config, network, lambda: _ready(config, network, service, log, was_root))
    try:
        from bucatini.api.jobs import ports_of
        from bucatini.api.session import Job, new_duid, serve
        from bucatini.config.pasta_arguments import DEFAULT_MAC

        gateway_mac = config.network.mac or DEFAULT_MAC
        return serve(
            Job(
                blueprint,
                network,
                gateway_mac,
                open_policy,
                ports_of(config.network, allow_all=False),
                observers,
                new_duid(gateway_mac),
            ),
            guest,
            wait,
        )
    finally:
        guest.close()
        log.close()


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _open_log(config: PastaConfig) -> Log:
    """To the file alone; else to stderr in the foreground, and to syslog in the background."""
    from bucatini.observe.log import Log, Syslog, level_of
    from bucatini.observe.log_file import LogFile

    level = level_of(quiet=config.quiet, debug=config.debug, trace=config.trace)
    if config.log_file is not None:
        return Log(level, name=NAME, stderr=None, file=LogFile(config.log_file, config.log_size, name=NAME))
    return Log(level, name=NAME, syslog=None if config.foreground else Syslog(NAME))


def _drop_privileges(config: PastaConfig, log: Log) -> bool:
    """Become the user of --runas, or nobody where root of the machine started us; whether that was root."""
    root = privileges.is_real_root()
    if config.runas is not None:
        user, group = privileges.parse_user(config.runas)
    elif root:
        user, group = privileges.nobody()
        log.warning("started as root: going on as nobody; --runas names another user, 0:0 stays root")
    else:
        return False
    if (user, group) != (os.geteuid(), os.getegid()):
        _import_the_rest()
        privileges.drop_to(user, group, _KEPT)
    return root and user != 0


def _import_the_rest() -> None:
    """The new user may not be able to read where we are installed."""
    for name in _NEEDED_LATER:
        importlib.import_module(name)


def _begin(
    config: PastaConfig, network: Network, ready: Callable[[], None]
) -> tuple[Handle, Callable[[], Awaitable[int]]]:
    """Fork the guest's processes; the guest, and what to wait for, which calls `ready` first."""
    if config.target.kind in ("shell", "command"):
        from bucatini.host.guest import launch

        command = launch(_guest_settings(config, network))

        async def wait() -> int:
            ready()
            command.start()
            return await command.wait()

        return command, wait
    from bucatini.api.attach import attach_settings, until_gone
    from bucatini.host.attach import attach, netns_paths
    from bucatini.host.netns_watch import NetnsWatch

    netns, userns = netns_paths(str(config.target.pid) if config.target.kind == "pid" else str(config.target.netns))
    watch = NetnsWatch(netns) if config.netns_quit else None
    settings = attach_settings(
        network,
        netns,
        None if config.netns_only else config.userns or userns,
        mac=config.network.guest_mac,
        configure=config.network.config_net,
        reuse=True,
    )
    attached = attach(settings)
    return attached, until_gone(attached, watch, ready)


def _guest_settings(config: PastaConfig, network: Network) -> GuestSettings:
    import socket

    from bucatini.host.settings import GuestSettings

    shell = os.environ.get("SHELL") or "/bin/sh"
    spawned = config.target.kind == "shell"
    return GuestSettings(
        command=(shell,) if spawned else config.target.command,
        guest_mac=config.network.guest_mac,
        mtu=network.mtu,
        addresses=network.addresses,
        gateways=network.gateways,
        routes=network.routes,
        hostname=f"pasta-{socket.gethostname()}"[:64],
        ipv4=network.ipv4 is not None,
        ipv6=network.ipv6 is not None,
        interface=network.interface,
        configure=config.network.config_net,
        argv0=f"-{os.path.basename(shell)}" if spawned else None,
        netns_only=config.netns_only,
    )


def _describe(log: Log, network: Network) -> None:
    from bucatini.base.address import text

    for what, addresses in (
        ("address", [address for address, _ in network.addresses]),
        ("router", network.gateways),
        ("name server", network.dns),
        ("host's loopback", network.translation.host_loopback),
    ):
        for address in addresses:
            log.info(f"{what}: {text(address)}")


def _ready(config: PastaConfig, network: Network, service: Daemon, log: Log, was_root: bool) -> None:
    """Everything is bound and built."""
    _describe(log, network)
    if was_root:
        privileges.limit_capabilities(frozenset((privileges.CAP_NET_BIND_SERVICE,)))
    if not config.foreground:
        log.leave_terminal()
    service.ready()
