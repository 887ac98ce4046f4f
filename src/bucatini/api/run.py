"""`run(config)`: a command on a network of its own, from a checked configuration to an exit status.

The guest's processes are forked first, while this process is small and has one thread; the engine's modules are
imported while they set up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bucatini.base.address import text

if TYPE_CHECKING:
    from bucatini.api.blueprint import Blueprint
    from bucatini.config import RunConfig
    from bucatini.config.derive import Network
    from bucatini.config.guest import GuestConfig
    from bucatini.host.guest import GuestSettings

__all__ = ["blueprint_of", "run"]

INTERFACE = "eth0"


def run(config: RunConfig) -> int:
    """Run `config.command` and return its exit status as a shell says it. Raises ConfigError or HostError before it
    starts.
    """
    from bucatini.host.guest import launch
    from bucatini.observe.observers import Observers

    blueprint = blueprint_of(config, INTERFACE)
    network = blueprint.network()
    observers = Observers(config.observe)
    guest = launch(guest_settings(config, network))
    try:
        from bucatini.api.jobs import job_of
        from bucatini.api.session import serve

        async def wait() -> int:
            guest.start()
            return await guest.wait()

        return serve(job_of(config, blueprint, network, observers), guest, wait)
    finally:
        guest.close()


def blueprint_of(config: GuestConfig, interface: str) -> Blueprint:
    """The network of `run` and `attach`, whose TAP is `interface` unless the options name it. Raises ConfigError."""
    import msgspec

    from bucatini.api.blueprint import Blueprint
    from bucatini.config.guest import DEFAULT_MTU

    options = config.network
    if options.guest_interface is None:
        options = msgspec.structs.replace(options, guest_interface=interface)
    if config.mirror_host:
        return Blueprint(options, None, default_mtu=None, own_dns=True, need_host="--mirror-host")
    return Blueprint(options, config.addressing(), default_mtu=DEFAULT_MTU, own_dns=True)


def guest_settings(config: RunConfig, network: Network) -> GuestSettings:
    """What the guest's processes set up."""
    from bucatini.host.guest import GuestSettings

    return GuestSettings(
        command=config.command,
        guest_mac=config.network.guest_mac or config.addressing().guest_mac,
        mtu=network.mtu,
        addresses=network.addresses,
        gateways=network.gateways,
        routes=network.routes,
        resolv_conf=_resolv_conf(network),
        hosts=_hosts(network),
        ipv4=bool(network.ipv4 and network.ipv4.addresses),
        ipv6=bool(network.ipv6 and network.ipv6.addresses),
        interface=network.interface,
        configure=config.network.config_net,
    )


def _resolv_conf(network: Network) -> str:
    lines = [f"nameserver {_nameserver(each, network.interface)}\n" for each in network.dns[:3]]
    if network.search:
        lines.append(f"search {' '.join(network.search)}\n")
    return "".join(lines)


def _nameserver(address: bytes, interface: str) -> str:
    return f"{text(address)}%{interface}" if address[:2] == b"\xfe\x80" else text(address)


def _hosts(network: Network) -> str:
    """The guest's /etc/hosts: itself, and the addresses that lead to this machine under every name of the host."""
    from bucatini.host.settings import default_hostname
    from bucatini.services.dns import HOST_NAMES

    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{text(address)} {default_hostname()}" for address, _ in network.addresses]
    lines += [f"{text(address)} {' '.join(HOST_NAMES)}" for address in network.translation.host_loopback]
    return "\n".join(lines) + "\n"
