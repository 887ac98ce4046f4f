"""guard.rules: which rule is about an address and port, and Softnet's own unit cases."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bucatini.base.address import pack
from bucatini.base.errors import ConfigError
from bucatini.base.prefix import Prefix
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.guard.reach import ALLOW, BLOCK, NO_RULE
from bucatini.guard.rule_grammar import BARE, Pattern, parse_rule
from bucatini.guard.rules import MAX_RULES, RuleTable, isolates

GATEWAYS = ("192.168.0.1", "fe80::1")


def table(allow: Iterable[str] = (), block: Iterable[str] = (), hosts: Iterable[str] = GATEWAYS) -> RuleTable:
    return RuleTable(map(parse_rule, allow), map(parse_rule, block), map(pack, hosts))


def out(rules: RuleTable, address: str, port: int = 0) -> int:
    return rules.decide(EGRESS, pack(address), port)


def inwards(rules: RuleTable, address: str, port: int = 0) -> int:
    return rules.decide(INGRESS, pack(address), port)


@pytest.mark.parametrize(
    ("allow", "block", "size", "verdicts"),
    [
        (["66.66.0.0/16"], ["66.66.0.0/16"], 1, {"66.66.66.66": BLOCK}),
        (
            ["33.33.33.33/32"],
            ["33.33.33.0/24"],
            2,
            {"33.33.33.32": BLOCK, "33.33.33.33": ALLOW, "33.33.33.34": BLOCK},
        ),
        (["@host"], ["0.0.0.0/0"], 2, {"8.8.8.8": BLOCK, "192.168.0.1": ALLOW}),
        (["@host"], ["192.168.0.1/32"], 1, {"192.168.0.1": BLOCK}),
    ],
    ids=["blocking_takes_precedence", "longest_prefix_match_wins", "allow_host", "the same as the host's address"],
)
def test_softnets_own_cases(allow: list[str], block: list[str], size: int, verdicts: dict[str, int]) -> None:
    """The fourth of Softnet's, exposed_port, is about `--expose`: tests/unit/config/test_softnet_arguments.py."""
    rules = table(allow, block, ["192.168.0.1"])
    assert len(rules) == size
    for address, verdict in verdicts.items():
        assert out(rules, address) == verdict


def test_no_rule() -> None:
    for rules in (table(), table(["10.0.0.0/8"])):
        assert out(rules, "1.1.1.1") == out(rules, "::1") == NO_RULE
        assert rules.find(EGRESS, pack("1.1.1.1")) is None


def test_families_do_not_mix() -> None:
    rules = table(["0.0.0.0/0"], ["::/0"])
    assert (out(rules, "10.0.0.1"), out(rules, "::ffff:10.0.0.1")) == (ALLOW, BLOCK)


def test_the_rule_is_named() -> None:
    rules = table(["in 10.1.2.3/8:80"], ["@host"])
    assert str(rules.find(INGRESS, pack("10.0.0.1"), 80)) == "--allow in 10.0.0.0/8:80"
    assert str(rules.find(EGRESS, pack("fe80::1"))) == "--block @host"


class TestPorts:
    def test_a_rule_with_ports_outranks_every_rule_without(self) -> None:
        rules = table(["10.1.2.3/32"], ["0.0.0.0/0:25"])
        assert out(rules, "10.1.2.3", 25) == BLOCK
        assert out(rules, "10.1.2.3", 26) == out(rules, "10.1.2.3", 0) == ALLOW
        assert out(rules, "9.9.9.9", 26) == NO_RULE

    def test_among_them_the_longest_prefix_that_names_the_port(self) -> None:
        rules = table(["10.0.0.0/8:1-100", "10.1.2.3:22"], ["10.1.0.0/16:80"])
        found = [out(rules, "10.1.2.3", port) for port in (22, 80, 81, 100, 101)]
        assert found == [ALLOW, BLOCK, ALLOW, ALLOW, NO_RULE]

    def test_block_wins_where_ranges_of_a_prefix_overlap(self) -> None:
        rules = table(["10.0.0.0/8:1-65535", "10.0.0.0/8:80"], ["10.0.0.0/8:70-90"])
        assert [out(rules, "10.0.0.1", port) for port in (1, 69, 70, 80, 90, 91, 65535)] == [
            ALLOW, ALLOW, BLOCK, BLOCK, BLOCK, ALLOW, ALLOW,
        ]  # fmt: skip

    def test_of_the_host_too(self) -> None:
        rules = table(["@host:22"], ["0.0.0.0/0", "::/0"])
        for gateway in GATEWAYS:
            assert (out(rules, gateway, 22), out(rules, gateway, 23)) == (ALLOW, BLOCK)

    def test_prefixes_apart_share_nothing(self) -> None:
        rules = table(["10.0.0.0/9:1", "10.128.0.0/9:2", "[::/0]:3"])
        assert [out(rules, a, p) for a in ("10.0.0.1", "10.128.0.1", "::1") for p in (1, 2, 3)] == [
            ALLOW, NO_RULE, NO_RULE, NO_RULE, ALLOW, NO_RULE, NO_RULE, NO_RULE, ALLOW,
        ]  # fmt: skip


class TestDirections:
    def test_bare_rules_are_about_what_the_guest_sends(self) -> None:
        rules = table(["10.0.0.0/8"], ["0.0.0.0/0"])
        assert not rules.stateful
        assert inwards(rules, "10.0.0.1") == inwards(rules, "9.9.9.9") == NO_RULE

    def test_one_rule_with_a_direction_makes_them_about_both(self) -> None:
        rules = table(["10.0.0.0/8"], ["in 0.0.0.0/0"])
        assert rules.stateful
        assert (out(rules, "10.0.0.1"), inwards(rules, "10.0.0.1")) == (ALLOW, ALLOW)
        assert (out(rules, "9.9.9.9"), inwards(rules, "9.9.9.9")) == (NO_RULE, BLOCK)
        assert len(rules) == 3, "a bare rule counts twice"

    def test_block_wins_between_a_bare_rule_and_a_directional_one(self) -> None:
        for allow, block in ((["10.0.0.0/8"], ["out 10.0.0.0/8"]), (["out 10.0.0.0/8"], ["10.0.0.0/8"])):
            assert out(table(allow, block), "10.0.0.1") == BLOCK


def test_host_is_every_address_of_it_or_none() -> None:
    assert len(table(["@host"])) == 2
    rules = table(["@host"], hosts=[])
    assert len(rules) == 0
    assert [str(pattern) for pattern in rules.allow] == ["@host"]


def test_more_rules_than_a_table_takes() -> None:
    many = [Pattern(BARE, Prefix(number.to_bytes(4, "big"), 32)) for number in range(MAX_RULES)]
    rules = RuleTable(many)
    assert len(rules) == MAX_RULES
    assert out(rules, "0.0.63.255") == ALLOW
    one_more = Pattern(BARE, Prefix(b"\xff" * 4, 32))
    with pytest.raises(ConfigError, match=r"^--allow: 16385 rules; at most 16384 are accepted$"):
        RuleTable(many, [one_more], option="--allow")
    RuleTable(many, many[:0], [])
    RuleTable([*many, *many])


@pytest.mark.parametrize(
    ("allow", "expected"),
    [
        ([], True),
        (["10.0.0.0/8", "@host", "::/0"], True),
        (["0.0.0.0/0"], False),
        (["10.0.0.0/8", "1.2.3.4/0"], False),
        (["0.0.0.0/1", "128.0.0.0/1"], True),
        (["out 0.0.0.0/0"], True),
        (["0.0.0.0/0:80"], True),
    ],
)
def test_isolation_ends_with_the_one_rule_that_opens_all(allow: list[str], expected: bool) -> None:
    assert isolates(table(allow, ["0.0.0.0/0"]).allow) is expected
