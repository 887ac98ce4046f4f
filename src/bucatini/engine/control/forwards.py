"""Methods of the control socket that change the forwarded ports of a running engine.

    forward.list                                          what is listened for now
    forward.add     {"spec", "protocol", "direction"}     as `-t`, `-u` (in) or `-T`, `-U` (out) say it, with `auto`
    forward.remove  {"spec", "protocol", "direction"}     the same, no longer; flows live on

An addition is made as a whole or not at all. At most 4096 ports at a time: the engine serves nobody meanwhile.
"""

from __future__ import annotations

from typing import Any

from bucatini.base.address import text
from bucatini.base.errors import ConfigError
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.engine.control.server import Method
from bucatini.engine.forwarding.publisher import Publisher
from bucatini.forward.port_grammar import PortTable, parse_port_specs
from bucatini.forward.portspec import Forward
from bucatini.host.port_range import ephemeral_ports

__all__ = ["MAX_AT_ONCE", "forward_methods"]

MAX_AT_ONCE = 4096
PROTOCOLS = {"tcp": 6, "udp": 17}
DIRECTIONS = {"in": INGRESS, "out": EGRESS}
_PARAMETERS = frozenset(("spec", "protocol", "direction"))


def forward_methods(publisher: Publisher) -> dict[str, Method]:
    """The methods, by name, for `ControlServer`."""
    return {
        "forward.list": lambda params: _list(publisher, params),
        "forward.add": lambda params: _add(publisher, params),
        "forward.remove": lambda params: _remove(publisher, params),
    }


def _list(publisher: Publisher, params: dict[str, Any]) -> list[dict[str, Any]]:
    if params:
        raise ConfigError("forward.list takes no parameters")
    return [_described(forward, publisher.is_automatic(forward)) for forward in publisher.forwards()]


def _described(forward: Forward, automatic: bool) -> dict[str, Any]:
    inward = forward.direction == INGRESS
    return {
        "direction": "in" if inward else "out",
        "protocol": "tcp" if forward.protocol == PROTOCOLS["tcp"] else "udp",
        "address": None if forward.address is None else text(forward.address),
        "device": forward.device or None,
        "port": forward.host_port if inward else forward.guest_port,
        "target": forward.guest_port if inward else forward.host_port,
        "automatic": automatic,
    }


def _add(publisher: Publisher, params: dict[str, Any]) -> dict[str, Any]:
    table, protocol, direction = _read("forward.add", params)
    if table.mode == "auto":
        publisher.automatic(protocol, direction)
        return {"added": 0, "automatic": True, "notes": []}
    before = len(publisher.forwards())
    publisher.add_all(table.forwards, "forward.add")
    return {"added": len(publisher.forwards()) - before, "automatic": False, "notes": list(table.notes)}


def _remove(publisher: Publisher, params: dict[str, Any]) -> dict[str, Any]:
    table, protocol, direction = _read("forward.remove", params)
    if table.mode == "auto":
        if not publisher.manual(protocol, direction):
            raise ConfigError("forward.remove 'auto': ports are not forwarded automatically")
        return {"removed": 0, "automatic": False}
    removed = sum(publisher.remove(forward) for forward in table.forwards)
    if not removed:
        raise ConfigError(f"forward.remove {params['spec']!r}: nothing of it is forwarded")
    return {"removed": removed}


def _read(method: str, params: dict[str, Any]) -> tuple[PortTable, int, str]:
    """The parameters of a change, checked. Raises ConfigError."""
    unknown = sorted(set(params) - _PARAMETERS)
    if unknown:
        raise ConfigError(f"{method}: unknown parameter {unknown[0]!r}; accepted: {', '.join(sorted(_PARAMETERS))}")
    spec = params.get("spec")
    if not isinstance(spec, str):
        raise ConfigError(f"{method}: spec {spec!r} is no string such as '8080:80'")
    protocol = _choice(method, "protocol", params.get("protocol", "tcp"), PROTOCOLS)
    direction = _choice(method, "direction", params.get("direction", "in"), DIRECTIONS)
    table = parse_port_specs(
        method,
        [spec],
        protocol=protocol,
        direction=direction,
        ephemeral=ephemeral_ports(),
        allow_all=False,
        allow_auto=True,
    )
    if table is None or table.mode == "none":
        raise ConfigError(f"{method} {spec!r}: no port is named")
    if len(table.forwards) > MAX_AT_ONCE:
        raise ConfigError(f"{method} {spec!r}: more than {MAX_AT_ONCE} ports at a time")
    return table, protocol, direction


def _choice(method: str, name: str, value: Any, choices: dict[str, Any]) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{method}: {name} {value!r} is not one of {', '.join(choices)}")
    return choices[value]
