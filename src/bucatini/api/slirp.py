"""`slirp(config)`: what the command slirp4netns does, by our engine.

The policy is `open`, minus this host's loopback where --disable-host-loopback says so: slirp4netns has no other. Names
are asked of the host's resolvers by our own name service, at the address slirp4netns has it at.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bucatini.base.errors import HostError

if TYPE_CHECKING:
    from bucatini.config.derive import Network
    from bucatini.config.slirp import SlirpConfig
    from bucatini.engine.build import Translator
    from bucatini.host.attach import AttachSettings
    from bucatini.policy.decide import Policy

__all__ = ["slirp"]


def slirp(config: SlirpConfig) -> int:
    """Serve the namespace until it is told to end; the exit status. Raises ConfigError and HostError before."""
    from bucatini.api.attach import until_gone
    from bucatini.api.blueprint import Blueprint
    from bucatini.config.addressing import derive
    from bucatini.host.attach import attach
    from bucatini.host.netns_watch import NetnsWatch
    from bucatini.observe.observers import Observers
    from bucatini.observe.settings import ObserveSettings

    for note in config.notes:
        sys.stderr.write(f"slirp4netns: {note}\n")
    own = derive(0, ipv4=config.network.ipv4, ipv6=config.network.ipv6)
    blueprint = Blueprint(config.network, own, default_mtu=None, own_dns=not config.disable_dns)
    network = blueprint.network()
    settings = _attach_settings(config, network)
    watch = NetnsWatch(settings.netns)
    guest = attach(settings)
    try:
        from bucatini.api.session import Job, serve

        return serve(
            Job(
                blueprint,
                network,
                config.network.mac or own.gateway_mac,
                _policy,
                (),
                Observers(ObserveSettings(quiet=True)),
                control=_api(config, network),
            ),
            guest,
            until_gone(guest, watch, lambda: _ready(config), exit_fd=config.exit_fd),
        )
    finally:
        guest.close()
        watch.close()


def _attach_settings(config: SlirpConfig, network: Network) -> AttachSettings:
    from bucatini.host.attach import AttachSettings, netns_paths

    netns, userns = netns_paths(str(config.pid) if config.pid is not None else str(config.netns))
    return AttachSettings(
        netns=netns,
        userns=config.userns_path if config.userns_path is not None else userns,
        interface=config.tap,
        mac=config.network.guest_mac,
        mtu=network.mtu,
        addresses=network.addresses,
        gateways=network.gateways,
        routes=network.routes,
        ipv4=network.ipv4 is not None,
        ipv6=network.ipv6 is not None,
        configure=config.configure,
        reuse=True,
    )


def _policy(hosts: tuple[bytes, ...]) -> Policy:
    from bucatini.policy.settings import PolicySettings, build

    return build(PolicySettings("open"), hosts)


def _api(config: SlirpConfig, network: Network) -> Callable[[Translator], Any] | None:
    if config.api_socket is None:
        return None
    path = config.api_socket

    def start(translator: Translator) -> Any:
        from bucatini.engine.control.slirp import SlirpServer

        address = network.addresses[0][0]
        return SlirpServer(translator.loop, path, translator.publisher, address)

    return start


def _ready(config: SlirpConfig) -> None:
    """Tell who waits, by the descriptor agreed on."""
    if config.ready_fd is None:
        return
    try:
        os.write(config.ready_fd, b"1")
        os.close(config.ready_fd)
    except OSError as error:
        raise HostError(f"--ready-fd {config.ready_fd}: {error.strerror}") from None
