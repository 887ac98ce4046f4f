"""What a user writes after `--allow` and `--block` of the isolation filter, as values with one normalised text each.

Ours, `parse_rule`, one rule a text:

    RULE   = [("in" | "out") SPACES] TARGET [":" PORTS]
    TARGET = address | CIDR (host bits are ignored) | "@host" | "host"      IPv6 in brackets when PORTS follow
    PORTS  = PORT | FIRST "-" LAST                                          1 to 65535, of the peer, TCP and UDP

Softnet 0.19.0's, `parse_compat_list`, a comma list: each item an IPv4 CIDR with its slash, or exactly `@host`. Neither
trims: a space that is not asked for is an error, as Softnet has it.

A rule is *bare* when it names no direction. `@host` stays a word: which addresses it means is for who builds the table.
An IPv4-mapped CIDR means the IPv4 one, which is what `guard.reach.readings` makes of such an address. The normalised
text always has its prefix length, so that of an IPv4 rule is Softnet's own.

Raises ConfigError naming option, value (its beginning, when it is long) and what is accepted. Does not: resolve names,
look at what rules mean together (`guard.rules`), or tell TCP from UDP.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bucatini.base.address import MAPPED_PREFIX, text
from bucatini.base.errors import ConfigError
from bucatini.base.prefix import Prefix, parse_prefix
from bucatini.base.verdict import EGRESS, INGRESS

__all__ = ["BARE", "HOST", "Pattern", "normalised", "parse_compat_list", "parse_rule", "shown"]

BARE = ""
HOST = "@host"
DIRECTIONS = {"in": INGRESS, "out": EGRESS}
MAX_PORT = 65535
MAX_SHOWN = 80
"""Characters of a value that an error repeats: who changes policy at run time may send a megabyte of it."""

ACCEPTED = (
    "[in|out ]TARGET[:PORT|:A-B], TARGET an address, a CIDR such as 10.0.0.0/8 or @host, "
    "IPv6 in brackets before ports: [2001:db8::/32]:443"
)
ACCEPTED_COMPAT = "a comma list of IPv4 CIDRs such as 10.0.0.0/8 and @host"


class Pattern(NamedTuple):
    """What one rule is about. Equal patterns are the same rule, and have the same text."""

    direction: str
    """`verdict.EGRESS`, `verdict.INGRESS`, or BARE."""
    prefix: Prefix | None
    """None: the host, whatever its addresses are."""
    first: int = 0
    last: int = 0
    """Ports of the peer, both included; 0 and 0 when the rule names none."""

    def __str__(self) -> str:
        target = HOST if self.prefix is None else f"{text(self.prefix.address)}/{self.prefix.length}"
        ports = ""
        if self.first:
            target = f"[{target}]" if ":" in target else target
            ports = f":{self.first}" if self.first == self.last else f":{self.first}-{self.last}"
        word = "" if self.direction == BARE else "in " if self.direction == INGRESS else "out "
        return word + target + ports


def normalised(patterns: Iterable[Pattern]) -> tuple[Pattern, ...]:
    """Sorted by text, each once."""
    return tuple(sorted(set(patterns), key=str))


def parse_rule(written: str, option: str = "--allow") -> Pattern:
    """One rule of ours."""
    try:
        return _parse(written)
    except ValueError as error:
        raise ConfigError(f"{option} {shown(written)}: {error}; accepted: {ACCEPTED}") from None


def parse_compat_list(written: str, option: str = "--allow") -> tuple[Pattern, ...]:
    """The items of one list of Softnet's, in order."""
    try:
        return tuple(_parse_compat(item) for item in written.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {shown(written)}: {error}; accepted: {ACCEPTED_COMPAT}") from None


def shown(written: str) -> str:
    """A value as an error repeats it."""
    return repr(written) if len(written) <= MAX_SHOWN else f"{written[:MAX_SHOWN]!r}..."


def _parse(written: str) -> Pattern:
    word, space, rest = written.partition(" ")
    if not space:
        return Pattern(BARE, *_target_and_ports(written))
    if word not in DIRECTIONS:
        raise ValueError(f"{shown(word)} is not a direction" if word else "it begins with a space")
    return Pattern(DIRECTIONS[word], *_target_and_ports(rest.lstrip(" ")))


def _target_and_ports(written: str) -> tuple[Prefix | None, int, int]:
    if written.startswith("["):
        inside, bracket, ports = written[1:].partition("]")
        if not bracket or ":" not in inside:
            raise ValueError("brackets are for an IPv6 address or CIDR, and end before the ports")
        if ports and not ports.startswith(":"):
            raise ValueError(f"{shown(ports)} after the bracket begins with no colon")
        return (_target(inside), *_ports(ports))
    if written.count(":") > 1:
        return _target(written), 0, 0
    target, colon, ports = written.partition(":")
    return (_target(target), *_ports(colon + ports))


def _target(written: str) -> Prefix | None:
    if written in ("host", HOST):
        return None
    if not written:
        raise ValueError("there is no target")
    return _unmap(_cidr(written))


def _cidr(written: str) -> Prefix:
    try:
        return parse_prefix(written, host_bits=True)
    except ValueError as error:
        # What the interpreter raises for odd characters is not fit to print.
        is_ours = str(error).startswith("prefix length") and len(written) <= MAX_SHOWN
        raise ValueError(str(error) if is_ours else f"{shown(written)} is no IP address or CIDR") from None


def _unmap(prefix: Prefix) -> Prefix:
    if prefix.length > 96 and prefix.address.startswith(MAPPED_PREFIX):
        return Prefix(prefix.address[12:], prefix.length - 96)
    return prefix


def _ports(written: str) -> tuple[int, int]:
    """Of `:PORT`, `:A-B`, or nothing."""
    if not written:
        return 0, 0
    low, dash, high = written[1:].partition("-")
    first = _port(low)
    last = _port(high) if dash else first
    if last < first:
        raise ValueError(f"ports {first}-{last} end before they begin")
    return first, last


def _port(written: str) -> int:
    is_number = written.isascii() and written.isdigit() and len(written) <= 5 and written[0] != "0"
    if not is_number or int(written) > MAX_PORT:
        raise ValueError(f"port {shown(written)} is not a number from 1 to {MAX_PORT}")
    return int(written)


def _parse_compat(item: str) -> Pattern:
    if item == HOST:
        return Pattern(BARE, None)
    if not item:
        raise ValueError("an item is empty")
    if ":" in item:
        raise ValueError(f"{shown(item)} is not IPv4")
    if "/" not in item:
        raise ValueError(f"{shown(item)} has no prefix length")
    return Pattern(BARE, _cidr(item))
