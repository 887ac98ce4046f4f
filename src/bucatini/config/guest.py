"""What every command that serves a guest was asked for, as one frozen value with all defaults filled in.

Settings stay words where a package has its own grammar for them (policy targets, ports); `check` has each grammar read
them, so that whoever holds a checked configuration meets no ConfigError later. Does not: look at the host.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from bucatini.base.errors import ConfigError
from bucatini.config.addressing import Addressing, derive
from bucatini.config.network import NetworkOptions
from bucatini.observe.settings import ObserveSettings
from bucatini.policy.settings import PolicySettings

if TYPE_CHECKING:
    from bucatini.forward.portspec import Forward
    from bucatini.policy.decide import Policy

__all__ = ["DEFAULT_MTU", "LEASE", "MAX_MTU", "MIN_MTU", "MIN_MTU_IPV6", "GuestConfig"]

DEFAULT_MTU = 1500

MIN_MTU = 68
"""RFC 791: every link carries 68 bytes."""

MIN_MTU_IPV6 = 1280
"""RFC 8200 section 5. Below it Linux takes IPv6 off the interface."""

MAX_MTU = 65521
"""What a Linux TAP takes: 65535 less the Ethernet header."""

LEASE = 600
"""Seconds: short enough that a DHCP client follows a change of the host within minutes."""


class GuestConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One guest with a network of its own, whatever kind of guest it is."""

    slot: int = 0
    """Number from which MAC and IP addresses are derived, 0..65535."""

    mirror_host: bool = False
    """Addresses, routes and MTU of the host in place of those of the slot. The MAC addresses stay the slot's."""

    network: NetworkOptions = NetworkOptions(config_net=True, dhcp_dns=True, dhcp_search=True, lease=LEASE)
    policy: PolicySettings = PolicySettings()
    publish: tuple[str, ...] = ()
    """Published ports in the grammar of `forward.portspec`."""

    guard: bool = True
    """The isolation filter: the guest speaks under its own MAC and IP addresses, or is not heard."""

    observe: ObserveSettings = ObserveSettings()

    control: str | None = None
    """Path of the control socket."""

    def addressing(self) -> Addressing:
        """Addresses of the slot, None for a family that is off. Raises ConfigError."""
        return derive(self.slot, ipv4=self.network.ipv4, ipv6=self.network.ipv6)

    def build_policy(self, gateway_addresses: Iterable[bytes]) -> Policy:
        """The policy for a network whose gateway has these packed addresses. Raises ConfigError."""
        from bucatini.policy.settings import build

        return build(self.policy, gateway_addresses)

    def forwards(self) -> tuple[Forward, ...]:
        """The published ports. Raises ConfigError, also for an address whose family is off."""
        from bucatini.forward.portspec import parse_publish_all

        forwards = parse_publish_all(self.publish)
        for forward in forwards:
            family = None if forward.address is None else len(forward.address)
            if (family == 4 and not self.network.ipv4) or (family == 16 and not self.network.ipv6):
                name, switch = ("IPv4", "-6") if family == 4 else ("IPv6", "-4")
                raise ConfigError(f"--publish '{forward}': {name} is switched off by {switch}")
        return forwards

    def check(self) -> None:
        """Raise ConfigError, naming the option and the value, for whatever in here cannot be."""
        if not self.network.ipv4 and not self.network.ipv6:
            raise ConfigError("-4 and -6 exclude each other: without both options the guest has both families")
        self._check_mtu()
        if self.network.interface is not None and not self.mirror_host:
            raise ConfigError(f"--interface {self.network.interface!r}: is what --mirror-host mirrors; add that option")
        addressing = self.addressing()
        gateways = (addressing.gateway_ipv4, addressing.gateway_ipv6)
        self.build_policy(address for address in gateways if address is not None)
        self.forwards()
        self._check_observe()

    def _check_mtu(self) -> None:
        mtu = self.network.mtu
        if mtu is None:
            return
        if not MIN_MTU <= mtu <= MAX_MTU:
            raise ConfigError(f"--mtu {mtu}: must be from {MIN_MTU} to {MAX_MTU}")
        if self.network.ipv6 and mtu < MIN_MTU_IPV6:
            raise ConfigError(f"--mtu {mtu}: IPv6 needs at least {MIN_MTU_IPV6}; -4 does without IPv6")

    def _check_observe(self) -> None:
        pcap, events = self.observe.pcap, self.observe.events
        for option, path in (("--pcap", pcap), ("--events", events), ("--control", self.control)):
            if path in ("", "-"):
                raise ConfigError(
                    f"{option} {path!r}: must be a file; standard streams are /dev/stdout and /dev/stderr"
                )
        if pcap is not None and pcap == events:
            raise ConfigError(f"--events {events!r}: --pcap already writes to this file")
        if self.observe.verbose and self.observe.quiet:
            raise ConfigError("-v and -q exclude each other")
