"""Whom a guest may talk to by address: the rules as one immutable table.

How one address and port are judged
    1. A rule with ports that names this port outranks every rule without, whatever their prefixes. Port 0 stands for a
       packet that has none (ICMP, later fragments): no rule with ports is about it.
    2. The longest prefix wins; Block wins ties. Rules with ports of one prefix tie when they hold the port, however
       wide their ranges are.
    3. Ports are the peer's: the destination of what the guest sends, the source of what it hears.
    4. Bare rules are about what the guest sends, as in Softnet 0.19.0. One rule that names a direction makes the whole
       table *stateful*: bare rules are then about both directions, and `flow_states` asks who began.
    5. 0.0.0.0/0 means ::/0 as well: it was written where there is no IPv6, and a guest that is denied everything must
       not find the other family open.

A look-up is a bisect for the rules without ports, and one for each prefix with port rules around the address: no more
than 33 (IPv4) or 129, in practice none or one. How many rules there are hardly matters, and memory is linear in them. A
table never changes; a new policy is a new one, swapped whole. Bound: `MAX_RULES`, more is a ConfigError.

Does not: say what holds where no rule decides, or judge an address that carries another as both (`reach` does), know
leases, gateways and resolvers, or look at packets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from bucatini.base.errors import ConfigError
from bucatini.base.prefix import Prefix, PrefixTable, truncated
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.guard.reach import ALLOW, BLOCK, NO_RULE
from bucatini.guard.rule_grammar import BARE, Pattern, normalised

__all__ = ["MAX_RULES", "Rule", "RuleTable", "isolates"]

MAX_RULES = 16384
"""Four times what the live policy takes; some 7 MB at the most."""

EVERYTHING4, EVERYTHING6 = Prefix(bytes(4), 0), Prefix(bytes(16), 0)
EVERYTHING = Pattern(BARE, EVERYTHING4)


def isolates(allow: Iterable[Pattern]) -> bool:
    """Whether the bridge port is to be isolated: unless the bare rule 0.0.0.0/0 is among `allow`, whatever is blocked.

    Softnet looked before it ignored host bits, so that its 1.2.3.4/0 opened all and isolated still; here it is the same
    rule as 0.0.0.0/0, as upstream has it since.
    """
    return EVERYTHING not in allow


class Rule(NamedTuple):
    """One line of policy; its text names it in events and captures."""

    allow: bool
    pattern: Pattern

    def __str__(self) -> str:
        return f"{'--allow' if self.allow else '--block'} {self.pattern}"


class RuleTable:
    """Immutable. `allow` and `block` are what it was made of, normalised; `hosts` are the packed addresses that `@host`
    means. Raises ConfigError naming `option` when there are more than `MAX_RULES`.
    """

    __slots__ = ("_in", "_out", "_size", "allow", "block", "hosts", "stateful")

    def __init__(
        self,
        allow: Iterable[Pattern] = (),
        block: Iterable[Pattern] = (),
        hosts: Iterable[bytes] = (),
        option: str = "--allow, --block",
    ) -> None:
        self.allow = normalised(allow)
        self.block = normalised(block)
        if (number := len(self.allow) + len(self.block)) > MAX_RULES:
            raise ConfigError(f"{option}: {number} rules; at most {MAX_RULES} are accepted")
        self.hosts = frozenset(hosts)
        self.stateful = any(pattern.direction != BARE for pattern in (*self.allow, *self.block))
        """Whether flows have to be followed, and bare rules are about both directions."""
        # Blocks last: of two rules about the same, the last is kept.
        rules = [Rule(True, pattern) for pattern in self.allow] + [Rule(False, pattern) for pattern in self.block]
        self._out = _Direction(self._about(rules, EGRESS))
        self._in = _Direction(self._about(rules, INGRESS))
        self._size = self._out.size + self._in.size

    def __len__(self) -> int:
        """Rules that can decide: `@host` counts once for each address, a bare rule of a stateful table twice, an Allow
        about the same as a Block not at all.
        """
        return self._size

    def find(self, direction: str, address: bytes, port: int = 0) -> Rule | None:
        """The rule about this packed address and port of the peer, None when there is none. `direction` is EGRESS or
        INGRESS of `base.verdict`.
        """
        table = self._out if direction == EGRESS else self._in
        if port and table.ports is not None:
            node = table.ports.find(address)
            while node is not None:
                rule = node.rules[bisect_right(node.starts, port) - 1]
                if rule is not None:
                    return rule
                node = node.parent
        return table.plain.find(address)

    def decide(self, direction: str, address: bytes, port: int = 0) -> int:
        """The same for `admit`: ALLOW, BLOCK or NO_RULE."""
        rule = self.find(direction, address, port)
        return NO_RULE if rule is None else ALLOW if rule.allow else BLOCK

    def _about(self, rules: Iterable[Rule], direction: str) -> Iterator[tuple[Prefix, Rule]]:
        bare = self.stateful or direction == EGRESS
        for rule in rules:
            pattern = rule.pattern
            if pattern.direction == direction or (bare and pattern.direction == BARE):
                if pattern.prefix is not None:
                    yield pattern.prefix, rule
                    if pattern.prefix == EVERYTHING4:
                        yield EVERYTHING6, rule
                else:
                    for host in sorted(self.hosts):
                        yield Prefix(host, 8 * len(host)), rule


class _Ports:
    """The rules with ports of one prefix, and where to look next: the prefix around it."""

    __slots__ = ("parent", "rules", "starts")

    def __init__(self, rules: Iterable[Rule], parent: _Ports | None) -> None:
        self.starts, self.rules = _ranges(rules)
        self.parent = parent


class _Direction:
    """The rules about one direction."""

    __slots__ = ("plain", "ports", "size")

    def __init__(self, rules: Iterable[tuple[Prefix, Rule]]) -> None:
        plain: dict[Prefix, Rule] = {}
        ported: dict[Prefix, dict[tuple[int, int], Rule]] = {}
        for prefix, rule in rules:
            first, last = rule.pattern.first, rule.pattern.last
            if first:
                ported.setdefault(prefix, {})[first, last] = rule
            else:
                plain[prefix] = rule
        self.plain: PrefixTable[Rule | None] = PrefixTable(plain.items(), None)
        self.ports: PrefixTable[_Ports | None] | None = PrefixTable(_nest(ported), None) if ported else None
        written = [(prefix, rule) for prefix, own in ported.items() for rule in own.values()]
        self.size = sum(rule.pattern.prefix in (None, prefix) for prefix, rule in (*written, *plain.items()))


def _nest(ported: dict[Prefix, dict[tuple[int, int], Rule]]) -> Iterator[tuple[Prefix, _Ports]]:
    """Each prefix with its rules and the prefix around it. Prefixes nest or are apart, so a stack is enough."""
    around: list[tuple[Prefix, _Ports]] = []
    for prefix in sorted(ported, key=lambda each: (len(each.address), each)):
        while around and not _holds(around[-1][0], prefix):
            around.pop()
        node = _Ports(ported[prefix].values(), around[-1][1] if around else None)
        around.append((prefix, node))
        yield prefix, node


def _holds(outer: Prefix, inner: Prefix) -> bool:
    same_family = len(outer.address) == len(inner.address)
    return same_family and outer.length <= inner.length and truncated(inner.address, outer.length) == outer


def _ranges(rules: Iterable[Rule]) -> tuple[list[int], list[Rule | None]]:
    """Starts of port ranges that do not overlap, from 0, and the rule of each: Block before Allow, then by text.

    Goes through the ports from below. The heap holds, best first, the rules that have begun; who has ended is thrown
    out when it comes to the top.
    """
    waiting = sorted(rules, key=lambda rule: rule.pattern.first, reverse=True)
    bounds = sorted({0, *(r.pattern.first for r in waiting), *(r.pattern.last + 1 for r in waiting)})
    begun: list[tuple[bool, str, Rule]] = []
    found: list[Rule | None] = []
    for bound in bounds:
        while waiting and waiting[-1].pattern.first == bound:
            rule = waiting.pop()
            heappush(begun, (rule.allow, str(rule), rule))
        while begun and begun[0][2].pattern.last < bound:
            heappop(begun)
        found.append(begun[0][2] if begun else None)
    return bounds, found
