"""`slirp(config)`: what the command slirp4netns does, by our engine.

The policy is `open`: slirp4netns has none, and --disable-host-loopback takes the mapping of the gateway away. Names are
asked of the host's resolvers by our own name service, at the address slirp4netns has it at.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bucatini.base.errors import ConfigError, HostError
from bucatini.host.descriptors import check_inherited

if TYPE_CHECKING:
    from bucatini.config.derive import Network
    from bucatini.config.slirp import SlirpConfig
    from bucatini.engine.build import Translator

__all__ = ["slirp"]


def slirp(config: SlirpConfig) -> int:
    """Serve the namespace until it is told to end; the exit status. Raises ConfigError and HostError before."""
    from bucatini.api.attach import attach_settings, until_gone
    from bucatini.api.blueprint import Blueprint, open_policy
    from bucatini.config.addressing import derive
    from bucatini.host.attach import attach, netns_paths
    from bucatini.host.netns_watch import NetnsWatch
    from bucatini.observe.observers import Observers
    from bucatini.observe.settings import ObserveSettings

    for option, descriptor in (("--exit-fd", config.exit_fd), ("--ready-fd", config.ready_fd)):
        _check_descriptor(option, descriptor)
    for note in config.notes:
        sys.stderr.write(f"slirp4netns: {note}\n")
    own = derive(0, ipv4=config.network.ipv4, ipv6=config.network.ipv6)
    blueprint = Blueprint(config.network, own, default_mtu=None, own_dns=not config.disable_dns)
    network = blueprint.network()
    netns, userns = netns_paths(str(config.pid) if config.pid is not None else str(config.netns))
    settings = attach_settings(
        network,
        netns,
        config.userns_path if config.userns_path is not None else userns,
        mac=config.network.guest_mac,
        configure=config.configure,
        interface=config.tap,
        reuse=True,
    )
    watch = NetnsWatch(settings.netns)
    guest = attach(settings)
    try:
        from bucatini.api.session import Job, new_duid, serve

        gateway_mac = config.network.mac or own.gateway_mac
        return serve(
            Job(
                blueprint,
                network,
                gateway_mac,
                open_policy,
                (),
                Observers(ObserveSettings(quiet=True)),
                new_duid(gateway_mac),
                control=_api(config, network),
            ),
            guest,
            until_gone(guest, watch, lambda: _ready(config), exit_fd=config.exit_fd),
        )
    finally:
        guest.close()
        watch.close()


def _check_descriptor(option: str, descriptor: int | None) -> None:
    kind = check_inherited(option, descriptor, "the number of an inherited one is accepted")
    if option == "--exit-fd" and (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise ConfigError(f"{option} {descriptor}: must be a pipe, a socket or another file that poll(2) waits for")


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
