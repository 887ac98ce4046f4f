"""From the options of the command line to a checked configuration.

Takes any object with the attributes that the command line sets, None or empty where an option was not given. Does
not: know argparse, or print.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bucatini.base.errors import ConfigError
from bucatini.config.addressing import MAX_SLOT
from bucatini.config.run import MAX_MTU, MIN_MTU, RunConfig
from bucatini.observe.settings import ObserveSettings
from bucatini.policy.settings import PolicySettings

__all__ = ["RunArguments", "run_config"]


class RunArguments(Protocol):
    """Options of `bucatini run` as text."""

    slot: str | None
    mirror_host: bool
    ipv4_only: bool
    ipv6_only: bool
    mtu: str | None
    publish: Sequence[str]
    policy: str | None
    allow: Sequence[str]
    deny: Sequence[str]
    pcap: str | None
    events: str | None
    summary: bool
    verbose: bool
    quiet: bool


def run_config(arguments: RunArguments, command: Sequence[str]) -> RunConfig:
    """The configuration these options make, checked. Raises ConfigError naming the option at fault."""
    policy = PolicySettings(allow=tuple(arguments.allow), deny=tuple(arguments.deny))
    if arguments.policy is not None:
        policy = PolicySettings(arguments.policy, policy.allow, policy.deny)
    config = RunConfig(
        command=tuple(command),
        slot=_number("--slot", arguments.slot, 0, MAX_SLOT) or 0,
        mirror_host=arguments.mirror_host,
        ipv4=not arguments.ipv6_only,
        ipv6=not arguments.ipv4_only,
        mtu=_number("--mtu", arguments.mtu, MIN_MTU, MAX_MTU),
        policy=policy,
        publish=tuple(arguments.publish),
        observe=ObserveSettings(
            pcap=arguments.pcap,
            events=arguments.events,
            summary=arguments.summary,
            verbose=arguments.verbose,
            quiet=arguments.quiet,
        ),
    )
    config.check()
    return config


def _number(option: str, written: str | None, low: int, high: int) -> int | None:
    """Decimal digits only: `int` alone would also take signs, blanks, underscores and other scripts."""
    if written is None:
        return None
    if written.isascii() and written.isdecimal() and len(written) <= 10 and low <= int(written) <= high:
        return int(written)
    raise ConfigError(f"{option} {written!r}: must be a number from {low} to {high}")
