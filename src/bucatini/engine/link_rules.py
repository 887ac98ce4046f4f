"""Link rules `A:B[:PROTO[:PORTS]]`: guest A of a segment may begin conversations with guest B.

PROTO is tcp, udp, icmp or any, the default; PORTS, of tcp and udp only, are those of B: `N`, `N-N`, or several with
commas between. Ranges are kept sorted and those that touch as one, so that a rule is itself however it is written.

At most 4096 rules are in force, each range of ports counted, which also bounds what a change costs.

Does not: know who is there (`check_rule` is told), or judge (`segment` does).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from bucatini.base.errors import ConfigError

__all__ = ["ANY", "MAX_RULES", "PROTOCOLS", "LinkRule", "check_number", "check_rule", "joined", "read_rule"]

ANY = "any"
PROTOCOLS = ("tcp", "udp", "icmp")
MAX_RULES = 4096
MAX_PORT = 65535

Ports = tuple[tuple[int, int], ...]
"""First and last of each range."""


class LinkRule(NamedTuple):
    """Guest `source` may begin conversations with `target`."""

    source: str
    target: str
    protocol: str = ANY
    ports: Ports = ()
    """Empty: all."""

    def __str__(self) -> str:
        words = [self.source, self.target]
        if self.protocol != ANY:
            words.append(self.protocol)
        if self.ports:
            words.append(",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in self.ports))
        return ":".join(words)


def read_rule(written: str, option: str = "--link") -> LinkRule:
    """`A:B[:PROTO[:PORTS]]`. Raises ConfigError, which names `option`."""
    words = written.split(":")
    if not 2 <= len(words) <= 4 or not all(words):
        raise ConfigError(f"{option} {written!r}: must be A:B, A:B:PROTO or A:B:PROTO:PORTS")
    source, target, protocol = (*words, ANY)[:3]
    if protocol not in (*PROTOCOLS, ANY):
        raise ConfigError(f"{option} {written!r}: protocol {protocol!r}; accepted: {', '.join((*PROTOCOLS, ANY))}")
    if len(words) < 4:
        return LinkRule(source, target, protocol)
    if protocol not in ("tcp", "udp"):
        raise ConfigError(f"{option} {written!r}: only tcp and udp have ports")
    return LinkRule(source, target, protocol, joined(_range(written, each, option) for each in words[3].split(",")))


def check_rule(rule: LinkRule, names: Collection[str], option: str = "--link") -> None:
    """Raise ConfigError unless `rule` is between two of the guests called `names`."""
    unknown = next((each for each in rule[:2] if each not in names), None)
    if unknown is not None:
        raise ConfigError(f"{option} {rule}: no guest is called {unknown!r}; there are {', '.join(names)}")
    if rule.source == rule.target:
        raise ConfigError(f"{option} {rule}: a guest reaches itself without us")


def check_number(rules: Iterable[LinkRule], option: str = "--link") -> None:
    """Raise ConfigError for more rules than may be in force."""
    number = sum(max(1, len(rule.ports)) for rule in rules)
    if number > MAX_RULES:
        raise ConfigError(f"{option}: {number} rules, each range of ports counted; at most {MAX_RULES} are accepted")


def joined(ranges: Iterable[tuple[int, int]]) -> Ports:
    """The same ports in sorted ranges that do not touch."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return tuple(found)


def _range(rule: str, written: str, option: str) -> tuple[int, int]:
    first, dash, last = written.partition("-")
    ends = (first, last if dash else first)
    if not all(_is_port(each) for each in ends):
        raise ConfigError(f"{option} {rule!r}: port {written!r} must be a number from 1 to {MAX_PORT}, or a range")
    if int(ends[0]) > int(ends[1]):
        raise ConfigError(f"{option} {rule!r}: range {written!r} ends before it begins")
    return int(ends[0]), int(ends[1])


def _is_port(written: str) -> bool:
    return written.isascii() and written.isdecimal() and len(written) <= 5 and 1 <= int(written) <= MAX_PORT
