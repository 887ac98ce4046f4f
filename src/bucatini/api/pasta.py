"""`pasta(config)`: what the command pasta does, by our engine.

In the order of `api.compat_process`; between the change of user and readiness the namespace is made or entered, and
ports are bound.

The policy is `open`: pasta has none, and a drop-in must not refuse what it lets through.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bucatini.host import privileges

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bucatini.api.session import Handle
    from bucatini.config.derive import Network
    from bucatini.config.pasta import PastaConfig
    from bucatini.host.settings import GuestSettings

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
_KEPT_WHILE_SERVING = frozenset((privileges.CAP_NET_BIND_SERVICE,))
_NEEDED_LATER = (
    "bucatini.api.attach",
    "bucatini.engine.forwarding.auto",
    "bucatini.host.attach",
    "bucatini.host.guest",
    "bucatini.host.netns_watch",
    "bucatini.host.port_scan",
    "bucatini.host.supervisor",
)


def pasta(config: PastaConfig) -> int:
    """Serve the namespace or the command; the exit status. Raises ConfigError and HostError before it serves."""
    from bucatini.api.blueprint import Blueprint
    from bucatini.api.compat_process import CompatProcess

    process = CompatProcess(NAME, config)
    process.drop_privileges(_KEPT, _NEEDED_LATER)
    blueprint = Blueprint(config.network, None, default_mtu=None, own_dns=False)
    network = blueprint.network()
    guest, wait = _begin(config, network, lambda: process.ready(network, _KEPT_WHILE_SERVING))
    try:
        from bucatini.api.session import serve

        return serve(process.job(blueprint, network, allow_all=False), guest, wait)
    finally:
        guest.close()
        process.log.close()


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
