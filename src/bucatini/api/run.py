"""`run(config)`: a command on a network of its own, from a checked configuration to an exit status.

The guest's processes are forked first, while this process is small and has one thread; the engine's modules are
imported while they set up. Published ports are bound and captures opened before the command may start, so whatever
cannot be is an error and nothing runs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from bucatini.base.address import text
from bucatini.base.errors import ConfigError, HostError

if TYPE_CHECKING:
    from bucatini.config import RunConfig
    from bucatini.host.guest import Guest, GuestSettings, Offloads, Route
    from bucatini.observe.observers import Observers
    from bucatini.stack.settings import StackSettings

__all__ = ["run"]

IPV4_PREFIX = 30
IPV6_PREFIX = 64
DEFAULT_MTU = 1500
LOST_STATUS = 1


class Network(NamedTuple):
    """Addresses of both ends of the link. `gateways` are what the guest routes through; packed, by family."""

    guest_mac: bytes
    gateway_mac: bytes
    addresses: tuple[tuple[bytes, int], ...]
    gateways: tuple[bytes, ...]
    routes: tuple[Route, ...]
    mtu: int

    def first(self, length: int) -> bytes | None:
        """The guest's primary address of a family; `length` is 4 or 16."""
        return next((address for address, _ in self.addresses if len(address) == length), None)

    def gateway(self, length: int) -> bytes | None:
        """The gateway's address of a family."""
        return next((address for address in self.gateways if len(address) == length), None)


def run(config: RunConfig) -> int:
    """Run `config.command` and return its exit status as a shell says it. Raises ConfigError or HostError before it
    starts.
    """
    from bucatini.host.guest import launch
    from bucatini.observe.observers import Observers

    network = _network(config)
    observers = Observers(config.observe)
    guest = launch(_guest_settings(config, network))
    try:
        return _serve(config, network, guest, observers)
    finally:
        guest.close()


def _network(config: RunConfig) -> Network:
    own = config.addressing()
    addresses = tuple(
        (address, prefix)
        for address, prefix in ((own.guest_ipv4, IPV4_PREFIX), (own.guest_ipv6, IPV6_PREFIX))
        if address is not None
    )
    gateways = tuple(address for address in (own.gateway_ipv4, own.gateway_ipv6) if address is not None)
    if not config.mirror_host:
        return Network(own.guest_mac, own.gateway_mac, addresses, gateways, (), config.mtu or DEFAULT_MTU)
    from bucatini.host.mirror import read_host

    host = read_host()
    lengths = [length for length, wanted in ((4, config.ipv4), (16, config.ipv6)) if wanted]
    mirrored = tuple(item for item in host.addresses if len(item[0]) in lengths)
    if not mirrored:
        raise ConfigError("--mirror-host: this host has no address to mirror; leave the option out")
    return Network(
        own.guest_mac,
        own.gateway_mac,
        mirrored,
        tuple(gateway for gateway in host.gateways if len(gateway) in lengths),
        tuple(route for route in host.routes if len(route.destination) in lengths),
        config.mtu or host.mtu or DEFAULT_MTU,
    )


def _guest_settings(config: RunConfig, network: Network) -> GuestSettings:
    from bucatini.host.guest import GuestSettings

    return GuestSettings(
        command=config.command,
        guest_mac=network.guest_mac,
        mtu=network.mtu,
        addresses=network.addresses,
        gateways=network.gateways,
        routes=network.routes,
        resolv_conf="".join(f"nameserver {_nameserver(gateway)}\n" for gateway in network.gateways),
        hosts=_hosts(network),
        ipv4=network.first(4) is not None,
        ipv6=network.first(16) is not None,
    )


def _nameserver(address: bytes) -> str:
    return f"{text(address)}%eth0" if address[:2] == b"\xfe\x80" else text(address)


def _hosts(network: Network) -> str:
    """The guest's /etc/hosts: itself, and the gateway under every name of the host."""
    from bucatini.host.settings import default_hostname
    from bucatini.services.dns import HOST_NAMES

    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{text(address)} {default_hostname()}" for address, _ in network.addresses]
    lines += [f"{text(gateway)} {' '.join(HOST_NAMES)}" for gateway in network.gateways]
    return "\n".join(lines) + "\n"


def _serve(config: RunConfig, network: Network, guest: Guest, observers: Observers) -> int:
    from bucatini.engine.build import Parts, Translator, raise_descriptor_limit
    from bucatini.links.tap import TapLink

    raise_descriptor_limit()
    policy = config.build_policy(network.gateways)
    forwards = config.forwards()
    tap = guest.tap()
    for note in guest.notes:
        observers.say(note)
    link = TapLink(tap.descriptor)
    parts = Parts(
        link,
        tap.offloads,
        _stack_settings(network, tap.offloads),
        policy.decide,
        forwards,
        guest.factory,
        (observers,),
        observers.wants_flows,
        observers.capture,
        observers.flush if observers.buffers else None,
    )
    try:
        translator = Translator(parts)
    except BaseException:
        link.close()
        raise
    try:
        translator.start()
        return translator.loop.run_until_complete(_wait(guest))
    except HostError as error:
        # The command ran: its status is lost, and this is no error of the options any more.
        observers.warn(str(error))
        return LOST_STATUS
    finally:
        translator.close()
        observers.finish(translator.counters, stderr=sys.stderr)


async def _wait(guest: Guest) -> int:
    guest.start()
    return await guest.wait()


def _stack_settings(network: Network, offloads: Offloads) -> StackSettings:
    from bucatini.stack.settings import StackSettings

    return StackSettings(
        network.guest_mac,
        network.gateway_mac,
        network.first(4),
        network.first(16),
        network.gateway(4),
        network.gateway(16),
        network.mtu,
        offloads.tso4,
        offloads.tso6,
    )
