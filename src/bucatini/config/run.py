"""Everything `bucatini run` was asked for, as one frozen value with all defaults filled in.

Settings stay words where a package has its own grammar for them (policy targets, published ports); `check` has each
grammar read them, so that whoever holds a checked RunConfig meets no ConfigError later. Does not: look at the host.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from bucatini.base.errors import ConfigError
from bucatini.config.addressing import Addressing, derive
from bucatini.observe.settings import ObserveSettings
from bucatini.policy.settings import PolicySettings

if TYPE_CHECKING:
    from bucatini.forward.portspec import Forward
    from bucatini.policy.decide import Policy

__all__ = ["DEFAULT_MTU", "MAX_MTU", "MIN_MTU", "MIN_MTU_IPV6", "RunConfig"]

DEFAULT_MTU = 1500

MIN_MTU = 68
"""RFC 791: every link carries 68 bytes."""

MIN_MTU_IPV6 = 1280
"""RFC 8200 section 5. Below it Linux takes IPv6 off the interface."""

MAX_MTU = 65521
"""What a Linux TAP takes: 65535 less the Ethernet header."""


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of one command on a network of its own."""

    command: tuple[str, ...]
    """Program and arguments, at least one word."""

    slot: int = 0
    """Number from which MAC and IP addresses are derived, 0..65535."""

    mirror_host: bool = False
    """Addresses, routes and MTU of the host in place of those of the slot. The MAC addresses stay the slot's."""

    ipv4: bool = True
    ipv6: bool = True

    mtu: int | None = None
    """Bytes of the largest IP packet; None: `DEFAULT_MTU`, or the host's with `mirror_host`."""

    policy: PolicySettings = PolicySettings()
    publish: tuple[str, ...] = ()
    """Published ports in the grammar of `forward.portspec`."""

    observe: ObserveSettings = ObserveSettings()

    def addressing(self) -> Addressing:
        """Addresses of the slot, None for a family that is off. Raises ConfigError."""
        return derive(self.slot, ipv4=self.ipv4, ipv6=self.ipv6)

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
            if (family == 4 and not self.ipv4) or (family == 16 and not self.ipv6):
                name, switch = ("IPv4", "-6") if family == 4 else ("IPv6", "-4")
                raise ConfigError(f"--publish '{forward}': {name} is switched off by {switch}")
        return forwards

    def check(self) -> None:
        """Raise ConfigError, naming the option and the value, for whatever in here cannot be."""
        if not self.command:
            raise ConfigError("no command given")
        if not self.ipv4 and not self.ipv6:
            raise ConfigError("-4 and -6 exclude each other: without both options the guest has both families")
        self._check_mtu()
        addressing = self.addressing()
        gateways = (addressing.gateway_ipv4, addressing.gateway_ipv6)
        self.build_policy(address for address in gateways if address is not None)
        self.forwards()
        self._check_observe()

    def _check_mtu(self) -> None:
        if self.mtu is None:
            return
        if not MIN_MTU <= self.mtu <= MAX_MTU:
            raise ConfigError(f"--mtu {self.mtu}: must be from {MIN_MTU} to {MAX_MTU}")
        if self.ipv6 and self.mtu < MIN_MTU_IPV6:
            raise ConfigError(f"--mtu {self.mtu}: IPv6 needs at least {MIN_MTU_IPV6}; -4 does without IPv6")

    def _check_observe(self) -> None:
        pcap, events = self.observe.pcap, self.observe.events
        for option, path in (("--pcap", pcap), ("--events", events)):
            if path in ("", "-"):
                raise ConfigError(
                    f"{option} {path!r}: must be a file; standard streams are /dev/stdout and /dev/stderr"
                )
        if pcap is not None and pcap == events:
            raise ConfigError(f"--events {events!r}: --pcap already writes to this file")
        if self.observe.verbose and self.observe.quiet:
            raise ConfigError("-v and -q exclude each other")
