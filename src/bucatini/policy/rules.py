"""The words a user writes after `--allow` and `--deny`, and the rules they make.

    TARGET = address | CIDR | group | host name of the gateway

An IPv4-mapped address or CIDR means the IPv4 one, since that is what is judged (`groups.readings`). Does not: resolve
names; a domain name is an error that says so.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from bucatini.base.address import MAPPED_PREFIX
from bucatini.base.errors import ConfigError
from bucatini.base.prefix import Prefix, parse_prefix
from bucatini.policy.groups import GROUPS, parse_group

__all__ = ["HOST_ALIASES", "Rule", "Target", "parse_rule", "parse_target"]

HOST_ALIASES = (
    "host.bucatini.internal",
    "host.microsandbox.internal",
    "host.docker.internal",
    "host.containers.internal",
)
"""Names under which programs expect the host; all of them mean the gateway address, hence the group `host`."""

_ACCEPTED = f"an address, a CIDR such as 10.0.0.0/8, a group ({', '.join(GROUPS)}) or {HOST_ALIASES[0]}"
_NAME = re.compile(r"(?:[a-z0-9_*](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z_](?:[a-z0-9_-]*[a-z0-9_])?", re.ASCII)
_NUMERIC = re.compile(r"[0-9a-f.:%/\[\]x-]*", re.ASCII)


class Target(NamedTuple):
    """What a rule is about: a group or a prefix, never both."""

    group: str
    prefix: Prefix | None

    def __str__(self) -> str:
        return self.group if self.prefix is None else str(self.prefix)


class Rule(NamedTuple):
    """One `--allow` or `--deny`, in the order-free form of the policy; its text names it in events and captures."""

    allow: bool
    target: Target

    def __str__(self) -> str:
        return f"{_option(self.allow)} {self.target}"


def parse_rule(allow: bool, written: str) -> Rule:
    """The rule of one option. Raises ConfigError that begins with the option and the text given."""
    return Rule(allow, parse_target(written, _option(allow)))


def parse_target(written: str, option: str = "target") -> Target:
    """TARGET as a value. Raises ConfigError naming `option`, the text, what is wrong with it and what is accepted."""
    word = written.lower()
    if group := parse_group(written):
        return Target(group, None)
    if word.removesuffix(".") in HOST_ALIASES:
        return Target("host", None)
    try:
        return Target("", _unmap(parse_prefix(written)))
    except ValueError as error:
        raise ConfigError(f"{option} {written!r}: {_reason(word, error)}; accepted: {_ACCEPTED}") from None


def _option(allow: bool) -> str:
    return "--allow" if allow else "--deny"


def _unmap(prefix: Prefix) -> Prefix:
    if prefix.length >= 96 and prefix.address.startswith(MAPPED_PREFIX):
        return Prefix(prefix.address[12:], prefix.length - 96)
    return prefix


def _reason(word: str, error: ValueError) -> str:
    """What is wrong, in the words of the likeliest intention."""
    if not word:
        return "it is empty"
    if guess := _did_you_mean(word):
        return f"unknown word, did you mean {guess!r}?"
    if "%" in word:
        return "an address has no zone here"
    head = word.partition("/")[0]
    if _NAME.fullmatch(head.removesuffix(".")) and not _NUMERIC.fullmatch(head):
        return "domain names are not supported yet"
    return "not an IP address" if str(error).startswith("not an IP") else _first_line(error)


def _first_line(error: ValueError) -> str:
    """Reasons of `parse_prefix` are one line; what the interpreter raises for odd characters is not fit to print."""
    return "not an IP address" if isinstance(error, UnicodeError) or "null" in str(error) else str(error)


def _did_you_mean(word: str) -> str:
    from difflib import get_close_matches  # only on the error path: 3 ms to import

    known = HOST_ALIASES if "." in word else GROUPS
    near = get_close_matches(word.replace("_", "-"), known, n=1, cutoff=0.75)
    return near[0] if near else ""
