"""The options of a policy as text, and the policy they make. The only way from words to a `Policy`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bucatini.base.errors import ConfigError
from bucatini.policy.decide import PRESETS, Policy
from bucatini.policy.rules import parse_rule

__all__ = ["PolicySettings", "build"]


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """`--policy`, `--allow` and `--deny` as given. Nothing is checked until `build`."""

    preset: str = "public"
    """One of `decide.PRESETS`."""
    allow: tuple[str, ...] = ()
    """TARGETs, see `rules`."""
    deny: tuple[str, ...] = ()
    """TARGETs, see `rules`."""


def build(settings: PolicySettings, gateway_addresses: Iterable[bytes] = ()) -> Policy:
    """The policy of these settings on a network whose gateway has these packed addresses.

    Raises ConfigError for an unknown preset or a malformed target; the text names the option and the value.
    """
    if settings.preset not in PRESETS:
        raise ConfigError(f"--policy {settings.preset!r}: no such policy; accepted: {', '.join(PRESETS)}")
    rules = [parse_rule(True, written) for written in settings.allow]
    rules += [parse_rule(False, written) for written in settings.deny]
    return Policy(settings.preset, rules, gateway_addresses)
