"""The answer to "may this flow exist?": rules by longest prefix, then the preset.

How one address is judged
    1. A rule on a CIDR has the length of the CIDR. A rule on a group has the length of the block of `groups.BLOCKS`
       that makes the address a member. The longest rule that matches wins; at equal length deny wins. Order never
       matters.
    2. Where no rule matches, the preset answers.
    3. Presets hold some addresses closed at full length: `public` and `none` the gateway (it is the host's loopback),
       the metadata services and loopback; `open` loopback only (such a packet has no business on a link, RFC 1122
       section 3.2.1.3, and would reach the host's own services past `--deny host`). An `--allow` of a wider CIDR does
       not open them: whoever writes `--allow 172.16.0.0/12` means the office, not the gateway that happens to be
       numbered like it. The group word opens them, or a CIDR no wider than the block. In the same way `public` and
       `open` hold DNS at the gateway open against a wider `--deny`.

An address that carries another (`groups.readings`) passes only if both do; the first refusal is the verdict. The
carried one is never the gateway: it is an address of the network behind some translator.

Ingress (a published port) is allowed under every preset, because the user asked for it with `--publish`; a rule about
the peer's address still decides.

Never allowed by anything: the unspecified address, and port 0 of TCP and UDP (RFC 6335 section 6).

ICMP is judged by address. Echo to the gateway itself is answered by us and not asked here. Does not: see names,
payloads, guest addresses; keep state.
"""

from __future__ import annotations

from collections.abc import Iterable

from bucatini.base.address import Endpoint, text, unmap
from bucatini.base.prefix import Prefix, PrefixTable
from bucatini.base.verdict import INGRESS, NO_ADDRESS, NO_PORT, Request, Verdict
from bucatini.policy.groups import Block, find_block, readings
from bucatini.policy.rules import Rule

__all__ = ["PRESETS", "Policy"]

PRESETS = ("public", "open", "none")

_TCP, _UDP = 6, 17
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
_DNS_PORT = 53
_UNSPECIFIED = (bytes(4), bytes(16))
_PUBLISHED = Verdict(True, "--publish")
_PUBLIC = Verdict(True, "policy public")
_OPEN = Verdict(True, "policy open")
_LOOPBACK = Verdict(False, "policy open: loopback is not on the network")
_NONE = Verdict(False, "policy none")
_HELD_CLOSED = {
    "public": frozenset(("host", "metadata", "loopback")),
    "none": frozenset(("host", "metadata", "loopback")),
    "open": frozenset(("loopback",)),
}


class Policy:
    """An immutable policy; replace it whole. `gateways` are the packed addresses that stand for the host."""

    __slots__ = ("_dns", "_groups", "_held", "_hosts", "_ranges", "gateways", "preset", "rules")

    def __init__(self, preset: str, rules: Iterable[Rule], gateways: Iterable[bytes] = ()) -> None:
        """`preset` is one of `PRESETS`; anything else is a KeyError here, a ConfigError in `settings.build`."""
        self.preset = preset
        self.rules = tuple(rules)
        self.gateways = frozenset(unmap(address) for address in gateways)
        self._held = _HELD_CLOSED[preset]
        self._dns = preset != "none"
        self._hosts = {a: Block(Prefix(a, 8 * len(a)), "host", "gateway", "this network") for a in self.gateways}
        # Allows first: of equal prefixes, and of equal groups, the last wins.
        ordered = [(rule, Verdict(rule.allow, str(rule))) for rule in sorted(self.rules, key=lambda r: not r.allow)]
        self._groups = {rule.target.group: verdict for rule, verdict in ordered if rule.target.prefix is None}
        self._ranges: PrefixTable[tuple[int, Verdict] | None] = PrefixTable(
            (
                (rule.target.prefix, (rule.target.prefix.length, verdict))
                for rule, verdict in ordered
                if rule.target.prefix is not None
            ),
            None,
        )

    def decide(self, request: Request) -> Verdict:
        """May this flow exist, and which rule says so. Total: any address of 4 or 16 bytes gets an answer."""
        return self._judge(request)[0]

    def explain(self, request: Request) -> str:
        """One sentence for a person: what is asked, the verdict, the rule, what the address is, what would open it."""
        verdict, reading, block = self._judge(request)
        what = _describe(request)
        place = f"{text(reading)} is {block.group or 'in no group'} ({block.name}, {block.prefix}, {block.source})"
        carried = "" if reading == request.address else f" which carries {text(reading)}"
        if verdict.allow:
            return f"{what}{carried} is allowed by `{verdict.rule}`: {place}."
        openers = self._openers(request)
        hint = f"; `{' '.join(openers)}` opens it" if openers else ""
        return f"{what}{carried} is refused by `{verdict.rule}`: {place}{hint}."

    def _judge(self, request: Request) -> tuple[Verdict, bytes, Block]:
        """The verdict, the reading of the address that got it, and what that reading is."""
        meanings = readings(request.address)
        address = meanings[0]
        block = self._block(address)
        verdict = self._judge_one(address, block, request)
        if verdict.allow and len(meanings) == 2:
            carried = meanings[1]
            behind = find_block(carried)
            inner = self._judge_one(carried, behind, request)
            if not inner.allow:
                return inner, carried, behind
        return verdict, address, block

    def _judge_one(self, address: bytes, block: Block, request: Request) -> Verdict:
        if request.port == 0 and (request.protocol == _TCP or request.protocol == _UDP):
            return NO_PORT
        if address in _UNSPECIFIED:
            return NO_ADDRESS
        rule = self._rule(address, block)
        if request.direction == INGRESS:
            return _PUBLISHED if rule is None else rule[1]
        dns = self._dns and block.group == "host" and _is_dns(request)
        if rule is not None:
            length, verdict = rule
            held = dns or (verdict.allow and block.group in self._held)
            if not held or length >= block.prefix.length:
                return verdict
        return self._fall_through(block, dns)

    def _block(self, address: bytes) -> Block:
        return self._hosts.get(address) or find_block(address)

    def _openers(self, request: Request) -> list[str]:
        """The options that would turn a refusal by the preset around; none when a rule or nobody can."""
        words: list[str] = []
        for position, reading in enumerate(readings(request.address)):
            block = find_block(reading) if position else self._block(reading)
            verdict = self._judge_one(reading, block, request)
            if verdict.allow:
                continue
            if not verdict.rule.startswith("policy"):
                return []
            words.append(f"--allow {block.group or text(reading)}")
        return words

    def _rule(self, address: bytes, block: Block) -> tuple[int, Verdict] | None:
        """The longest rule that matches and its length; deny at a tie."""
        by_range = self._ranges.find(address)
        by_group = self._groups.get(block.group)
        if by_group is None:
            return by_range
        length = block.prefix.length
        if by_range is None or by_range[0] < length or (by_range[0] == length and not by_group.allow):
            return length, by_group
        return by_range

    def _fall_through(self, block: Block, dns: bool) -> Verdict:
        """The preset's own answer."""
        if self.preset == "none":
            return _NONE
        if dns:
            return Verdict(True, f"policy {self.preset}: dns")
        if self.preset == "open":
            return _LOOPBACK if block.group in self._held else _OPEN
        if block.group == "public":
            return _PUBLIC
        return Verdict(False, f"policy public: {block.group or block.name} is not public")


def _describe(request: Request) -> str:
    protocol = _PROTOCOLS.get(request.protocol, f"protocol {request.protocol}")
    if request.direction == INGRESS:
        return f"{protocol} from {text(request.address)} to guest port {request.port}"
    peer = str(Endpoint(request.address, request.port)) if request.port else text(request.address)
    return f"{protocol} to {peer}"


def _is_dns(request: Request) -> bool:
    return request.port == _DNS_PORT and (request.protocol == _UDP or request.protocol == _TCP)
