"""From configurations to what the session serves: forwarded ports, policy and control socket, read from their words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bucatini.api.blueprint import Blueprint
from bucatini.api.session import Job, new_duid
from bucatini.base.errors import ConfigError
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.config.derive import Network
from bucatini.config.guest import GuestConfig
from bucatini.config.network import NetworkOptions
from bucatini.engine.build import Ports, Translator
from bucatini.forward.port_grammar import parse_port_specs
from bucatini.host.port_range import ephemeral_ports
from bucatini.observe.observers import Observers

__all__ = ["job_of", "ports_of"]

TCP, UDP = 6, 17


def job_of(
    config: GuestConfig, blueprint: Blueprint, network: Network, observers: Observers, *, namespace: bool = True
) -> Job:
    """The job of `run`, `attach` and `vm`. `namespace`: the guest is one, so its bound ports can be followed. Raises
    ConfigError.
    """
    published = Ports("--publish", config.forwards())
    gateway_mac = config.network.mac or config.addressing().gateway_mac
    return Job(
        blueprint,
        network,
        gateway_mac,
        config.build_policy,
        (published, *ports_of(config.network, allow_all=True, allow_auto=namespace, say=observers.warn)),
        observers,
        new_duid(gateway_mac),
        config.guard,
        None if config.control is None else _control(config.control),
    )


def ports_of(
    options: NetworkOptions,
    *,
    allow_all: bool,
    allow_auto: bool = True,
    say: Callable[[str], None] | None = None,
) -> tuple[Ports, ...]:
    """The forwarded ports of `-t -u -T -U`; `say` hears what is odd about them. Raises ConfigError."""
    ephemeral = ephemeral_ports()
    found = []
    for option, protocol, direction, written, on in (
        ("-t", TCP, INGRESS, options.tcp_in, options.tcp),
        ("-u", UDP, INGRESS, options.udp_in, options.udp),
        ("-T", TCP, EGRESS, options.tcp_out, options.tcp),
        ("-U", UDP, EGRESS, options.udp_out, options.udp),
    ):
        if not on:
            if any(spec != "none" for spec in written):
                switch = "--no-tcp" if protocol == TCP else "--no-udp"
                raise ConfigError(f"{option} {written[0]!r}: {switch} switches the protocol off")
            continue
        table = parse_port_specs(
            option, written or (options.default_ports,), protocol=protocol, direction=direction,
            ephemeral=ephemeral, allow_all=allow_all and direction == INGRESS, allow_auto=allow_auto,
        )  # fmt: skip
        if table is not None:
            automatic = (protocol, direction) if table.mode == "auto" else None
            found.append(Ports(option, table.forwards, automatic))
            if say is not None:
                for note in table.notes:
                    say(note)
    return tuple(found)


def _control(path: str) -> Callable[[Translator], Any]:
    def start(translator: Translator) -> Any:
        from bucatini.engine.control.forwards import forward_methods
        from bucatini.engine.control.server import ControlServer

        return ControlServer(translator.loop, path, forward_methods(translator.publisher))

    return start
