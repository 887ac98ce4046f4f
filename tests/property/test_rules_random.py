"""Softnet's rules for all inputs: one text each, and the table and the flows answer as the plainest models do."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether

from bucatini.base.address import pack
from bucatini.base.errors import ConfigError
from bucatini.base.prefix import Prefix, truncated
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.guard.binding import Binding
from bucatini.guard.flow_states import FlowStates
from bucatini.guard.frame import Frame
from bucatini.guard.live_policy import LivePolicy
from bucatini.guard.reach import ALLOW, BLOCK, NO_RULE
from bucatini.guard.rule_grammar import BARE, HOST, Pattern, normalised, parse_compat_list, parse_rule
from bucatini.guard.rules import RuleTable

HOSTS = (pack("10.0.0.1"), pack("fd00::1"))
SEEDS = [pack(address) for address in ("10.0.0.1", "10.0.0.255", "128.0.0.0", "fd00::1", "fd00::ffff", "::ffff:a00:1")]
DIRECTIONS = (EGRESS, INGRESS)

addresses = st.sampled_from(SEEDS) | st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
directions = st.sampled_from([BARE, BARE, EGRESS, INGRESS])
ports = st.integers(0, 6) | st.integers(0, 65535)


@st.composite
def patterns(draw: st.DrawFn, own: st.SearchStrategy[str] = directions) -> Pattern:
    """Few addresses and ports, so that rules nest, tie and overlap."""
    prefix = None
    if draw(st.integers(0, 5)):
        address = draw(addresses)
        prefix = truncated(address, draw(st.integers(0, 8 * len(address)) | st.sampled_from([0, 8 * len(address)])))
    first, last = sorted((draw(st.integers(1, 6)), draw(st.integers(1, 6) | st.just(65535))))
    return Pattern(draw(own), prefix, *((first, last) if draw(st.booleans()) else (0, 0)))


rules = st.lists(patterns(), max_size=8)
bare_rules = st.lists(patterns(st.just(BARE)), max_size=8)


@given(pattern=patterns())
def test_a_rule_is_its_text(pattern: Pattern) -> None:
    found = parse_rule(str(pattern))
    assert str(parse_rule(str(found))) == str(found)
    is_mapped = pattern.prefix is not None and pattern.prefix.length >= 96 and str(pattern).count("::ffff:")
    assert found == pattern or is_mapped
    assert str(found) == str(pattern) or is_mapped


@given(written=st.lists(patterns()))
def test_normalised_says_the_same_once(written: list[Pattern]) -> None:
    found = normalised(written)
    assert set(found) == set(written)
    assert len(found) == len(set(written))
    assert normalised(reversed(found)) == found


pieces = st.sampled_from(
    ["in", "out", " ", "@host", "host", "10.0.0.0", "/", "8", ":", "80", "-", "[", "]", "::1", "fd00::", ",", "0", "\0"]
)


@settings(max_examples=500)
@given(written=st.text(max_size=30) | st.lists(pieces, max_size=9).map("".join))
def test_any_text_is_a_rule_or_one_line_of_error(written: str) -> None:
    for parse in (parse_rule, parse_compat_list):
        line, found = "--allow", []
        try:
            parsed = parse(written, "--allow")
            found = [parsed] if isinstance(parsed, Pattern) else list(parsed)
        except ConfigError as error:
            line = str(error)
        assert line.startswith("--allow")
        assert line.isprintable()
        for pattern in found:
            assert parse_rule(str(pattern)) == pattern
            assert pattern.prefix is not None or HOST in str(pattern)


@settings(max_examples=300)
@given(line=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")))
def test_any_line_has_an_answer(line: bytes) -> None:
    answer = LivePolicy().answer(line)
    assert b'"error"' in answer
    assert b"\n" not in answer


def meant(pattern: Pattern) -> list[Prefix]:
    if pattern.prefix is None:
        return [Prefix(host, 8 * len(host)) for host in HOSTS]
    everything = Prefix(bytes(4), 0)
    return [pattern.prefix, Prefix(bytes(16), 0)] if pattern.prefix == everything else [pattern.prefix]


def brute_force(allow: list[Pattern], block: list[Pattern], direction: str, address: bytes, port: int) -> int:
    """Every rule, one after the other."""
    stateful = any(pattern.direction != BARE for pattern in (*allow, *block))
    best: tuple[bool, int, bool] | None = None
    for written, verdict in ((allow, ALLOW), (block, BLOCK)):
        for pattern in written:
            about = pattern.direction or (direction if stateful else EGRESS)
            for prefix in meant(pattern):
                if about != direction or len(prefix.address) != len(address):
                    continue
                if truncated(address, prefix.length) != prefix:
                    continue
                if pattern.first and not pattern.first <= port <= pattern.last:
                    continue
                rank = (pattern.first > 0, prefix.length, verdict == BLOCK)
                best = rank if best is None else max(best, rank)
    return NO_RULE if best is None else BLOCK if best[2] else ALLOW


@settings(max_examples=250)
@given(
    allow=rules | bare_rules,
    block=rules | bare_rules,
    asked=st.lists(st.tuples(st.sampled_from(DIRECTIONS), addresses, ports), min_size=1, max_size=8),
)
def test_the_table_is_brute_force(
    allow: list[Pattern], block: list[Pattern], asked: list[tuple[str, bytes, int]]
) -> None:
    table = RuleTable(allow, block, HOSTS)
    edges = [pattern.prefix.address for pattern in (*allow, *block) if pattern.prefix is not None]
    asked += [(direction, address, port) for address in edges for direction in DIRECTIONS for port in (0, 3, 65535)]
    for direction, address, port in asked:
        expected = brute_force(allow, block, direction, address, port)
        assert table.decide(direction, address, port) == expected
        rule = table.find(direction, address, port)
        assert (rule is None) == (expected == NO_RULE)
        if rule is not None:
            assert rule.pattern in (allow if rule.allow else block)
            assert rule.allow == (expected == ALLOW)


# -- flows, beside a model


MAC = bytes.fromhex("020000000001")
OWN = "192.168.0.2"
PEERS = ("1.1.1.1", "10.0.0.5")
"""Open by default, and not."""
TABLES = [
    RuleTable(*([parse_rule(rule) for rule in side] for side in sides))
    for sides in (
        ([], []),
        (["10.0.0.0/8"], []),
        ([], ["1.1.1.1"]),
        (["in 10.0.0.0/8"], []),
        (["out 10.0.0.0/8:1"], ["in 0.0.0.0/0"]),
        (["10.0.0.0/8"], ["in 1.1.1.1:1"]),
        (["in 1.1.1.1:1"], ["out 0.0.0.0/0:1"]),
    )
]
SECONDS = {"syn": 60, "ack": 300, "udp": 30, "ask": 30, "reply": 30}
Key = tuple[str, str, int, str]
"""TCP, UDP or echo; the peer and its port; of an echo who asked."""


@dataclasses.dataclass
class Entry:
    """A flow of the model."""

    direction: str
    until: float
    table: RuleTable


class Model:
    """The same decisions with as little cleverness as can be: each look goes through all that is known."""

    def __init__(self, table: RuleTable, limit: int) -> None:
        self.table, self.limit = table, limit
        self.entries: dict[Key, Entry] = {}

    def approves(self, direction: str, key: Key) -> tuple[bool, bool, bool]:
        """May it pass; does a rule say so; and is what begins so a flow."""
        kind, peer, port, _ = key
        verdict = self.table.decide(direction, pack(peer), port)
        may = verdict == ALLOW if verdict else direction == INGRESS or peer == PEERS[0]
        by_rule = verdict == ALLOW
        return may, by_rule, may and (by_rule or direction == EGRESS or kind == "tcp")

    def find(self, key: Key, now: float) -> Entry | None:
        self.entries = {each: entry for each, entry in self.entries.items() if now < entry.until}
        entry = self.entries.get(key)
        if entry is not None and entry.table is not self.table:
            entry.table = self.table
            if not self.approves(entry.direction, key)[2]:
                del self.entries[key]
        return self.entries.get(key)

    def judge(self, direction: str, kind: str, peer: str, port: int, now: float) -> DropReason:
        key = {"syn": "tcp", "ack": "tcp", "udp": "udp"}.get(kind, "echo"), peer, port, ""
        if key[0] == "echo":
            asked = direction if kind == "ask" else EGRESS if direction == INGRESS else INGRESS
            key = "echo", peer, 0, asked
        entry = self.find(key, now)
        if entry is not None and entry.direction == direction:
            entry.until = now + SECONDS[kind]
            return DropReason.NONE
        if entry is not None and kind != "syn":
            return DropReason.NONE
        may, by_rule, makes_flow = self.approves(direction, key)
        if not may:
            return DropReason.POLICY_DENIED
        if entry is not None:
            return DropReason.NONE
        if not makes_flow or kind in ("ack", "reply"):
            return DropReason.NO_FLOW if by_rule and self.table.stateful else DropReason.NONE
        if len(self.entries) >= self.limit:
            return DropReason.FLOW_TABLE_FULL
        self.entries[key] = Entry(direction, now + SECONDS[kind], self.table)
        return DropReason.NONE


def look(direction: str, kind: str, peer: str, port: int) -> Frame:
    outward = direction == EGRESS
    own_port, ports = 7, (7, port) if outward else (port, 7)
    transport = {
        "syn": TCP(sport=ports[0], dport=ports[1], flags="S"),
        "ack": TCP(sport=ports[0], dport=ports[1], flags="PA"),
        "udp": UDP(sport=ports[0], dport=ports[1]),
        "ask": ICMP(type=8, id=own_port),
        "reply": ICMP(type=0, id=own_port),
    }[kind]
    source, destination = (OWN, peer) if outward else (peer, OWN)
    mac, to = (MAC, b"\2\0\0\0\0\xfe") if outward else (b"\2\0\0\0\0\xfe", MAC)
    octets = bytes(Ether(src=mac.hex(":"), dst=to.hex(":")) / IP(src=source, dst=destination) / transport)
    view = Frame(memoryview(bytearray(octets)))
    view.parse(0, len(octets))
    return view


FRAMES = {
    (direction, kind, peer, port): look(direction, kind, peer, port)
    for direction in DIRECTIONS
    for kind in SECONDS
    for peer in PEERS
    for port in (1, 2)
}
packets = st.sampled_from(sorted(FRAMES))
others = st.tuples(st.sampled_from(["rules"]), st.integers(0, len(TABLES) - 1)) | st.tuples(
    st.sampled_from(["wait"]),
    st.integers(1, 100),  # so that what is over is swept before the next packet
)
steps = st.one_of(packets, packets, packets, others)


@settings(max_examples=500)
@given(begin=st.sampled_from(TABLES), limit=st.sampled_from([2, 100]), script=st.lists(steps, max_size=40))
def test_flows_are_those_of_the_model(
    begin: RuleTable, limit: int, script: list[tuple[str, str, str, int] | tuple[str, int]]
) -> None:
    bound = Binding(MAC)
    bound.lease(pack(OWN), 1e9, 0.0)
    states, model, now = FlowStates(bound, begin, limit), Model(begin, limit), 0.0
    for step in script:
        if len(step) == 4:
            ask = states.admit if step[0] == EGRESS else states.admit_to_guest
            assert DropReason(ask(FRAMES[step], now)) == model.judge(*step, now), step
            assert len(states) <= limit
        elif step[0] == "wait":
            now += step[1]
        else:
            states.replace(TABLES[step[1]])
            model.table = TABLES[step[1]]
