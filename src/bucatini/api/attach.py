"""`attach(config)`: a network for a namespace that exists, until it is gone or a signal ends us.

The agent is forked first and enters the namespace, while this process is small; it makes the interface there, sends its
descriptor and serves sockets of that namespace. This process never leaves the host's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bucatini.config.attach import AttachConfig
    from bucatini.config.derive import Network
    from bucatini.host.attach import Attached, AttachSettings
    from bucatini.host.netns_watch import NetnsWatch
    from bucatini.observe.observers import Observers

__all__ = ["attach", "attach_settings", "until_gone"]

INTERFACE = "eth0"


def attach(config: AttachConfig) -> int:
    """Serve the namespace; the exit status, 0 when it is gone or a signal came. Raises ConfigError or HostError before
    the network is up.
    """
    from bucatini.api.run import blueprint_of
    from bucatini.host.attach import attach as enter
    from bucatini.host.netns_watch import NetnsWatch
    from bucatini.observe.observers import Observers

    netns, userns = namespace_of(config)
    blueprint = blueprint_of(config, INTERFACE)
    network = blueprint.network()
    observers = Observers(config.observe)
    watch = NetnsWatch(netns) if config.netns_quit else None
    mac = config.network.guest_mac or config.addressing().guest_mac
    guest = enter(attach_settings(network, netns, userns, mac=mac, configure=config.network.config_net))
    try:
        from bucatini.api.jobs import job_of
        from bucatini.api.session import serve

        job = job_of(config, blueprint, network, observers)
        return serve(job, guest, until_gone(guest, watch, lambda: _tell(observers, network, netns)))
    finally:
        guest.close()
        if watch is not None:
            watch.close()


def namespace_of(config: AttachConfig) -> tuple[str, str | None]:
    """Paths of the network and user namespaces."""
    from bucatini.host.attach import netns_paths

    netns, userns = netns_paths(str(config.pid) if config.pid is not None else str(config.netns))
    if config.netns_only:
        return netns, None
    return netns, config.userns if config.userns is not None else userns


def attach_settings(
    network: Network,
    netns: str,
    userns: str | None,
    *,
    mac: bytes | None,
    configure: bool,
    interface: str | None = None,
    reuse: bool = False,
) -> AttachSettings:
    """What the agent sets up of `network`; `interface` None: the network's own name for it."""
    from bucatini.host.attach import AttachSettings

    return AttachSettings(
        netns=netns,
        userns=userns,
        interface=interface or network.interface,
        mac=mac,
        mtu=network.mtu,
        addresses=network.addresses,
        gateways=network.gateways,
        routes=network.routes,
        ipv4=network.ipv4 is not None,
        ipv6=network.ipv6 is not None,
        configure=configure,
        reuse=reuse,
    )


def until_gone(
    guest: Attached, watch: NetnsWatch | None, ready: Callable[[], None], *, exit_fd: int | None = None
) -> Callable[[], Awaitable[int]]:
    """What `session.serve` waits for: the namespace goes, the agent ends, a signal comes, or `exit_fd` has an event.

    `ready` is called once all of these are watched: whoever is told by it may signal us.
    """

    async def wait() -> int:
        from bucatini.api.waiting import Waiting

        waiting = Waiting(guest.agent_ended, watch, exit_fd)
        try:
            ready()
            return await waiting.status
        finally:
            waiting.close()

    return wait


def _tell(observers: Observers, network: Network, netns: str) -> None:
    from bucatini.base.address import text

    addresses = " ".join(f"{text(address)}/{length}" for address, length in network.addresses)
    servers = " ".join(text(each) for each in network.dns)
    observers.say(f"{netns}: {network.interface} has {addresses or 'no address'}; name servers: {servers or 'none'}")
    observers.flush()
