"""engine.link_rules: the grammar of link rules, and what of it cannot be."""

from __future__ import annotations

import pytest

from bucatini.base.errors import ConfigError
from bucatini.engine.link_rules import MAX_RULES, LinkRule, check_number, check_rule, joined, read_rule


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("a:b", LinkRule("a", "b")),
        ("a:b:any", LinkRule("a", "b", "any")),
        ("a:b:icmp", LinkRule("a", "b", "icmp")),
        ("a:b:tcp", LinkRule("a", "b", "tcp")),
        ("a:b:tcp:80", LinkRule("a", "b", "tcp", ((80, 80),))),
        ("a:b:udp:1-65535", LinkRule("a", "b", "udp", ((1, 65535),))),
        ("a:b:udp:53,67-68", LinkRule("a", "b", "udp", ((53, 53), (67, 68)))),
        ("a:b:tcp:90,80-81,82,81", LinkRule("a", "b", "tcp", ((80, 82), (90, 90)))),
    ],
)
def test_rules(written: str, rule: LinkRule) -> None:
    assert read_rule(written) == rule
    assert read_rule(str(rule)) == rule


@pytest.mark.parametrize(
    "written",
    ["", "a", "a:", ":b", "a:b:", "a:b:sctp", "a:b:TCP", "a:b:any:80", "a:b:icmp:8", "a:b:tcp:", "a:b:tcp:0",
     "a:b:tcp:65536", "a:b:tcp:2-1", "a:b:tcp:1-", "a:b:tcp:1,", "a:b:tcp:x", "a:b:tcp:-1", "a:b:tcp:1:2",
     "a:b:tcp: 1", "a:b:tcp:000080", "a:b:tcp:" + "1" * 5000],
)  # fmt: skip
def test_rules_that_cannot_be(written: str) -> None:
    with pytest.raises(ConfigError, match="--link"):
        read_rule(written)


def test_the_option_at_fault_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^link\.add 'a:b:sctp': protocol 'sctp'; accepted: tcp, udp, icmp, any$"):
        read_rule("a:b:sctp", "link.add")


def test_written_as_short_as_may_be() -> None:
    assert str(read_rule("a:b:any")) == "a:b"
    assert str(read_rule("a:b:tcp:443,80-90,91")) == "a:b:tcp:80-91,443"


@pytest.mark.parametrize(
    ("written", "complaint"),
    [("a:x", "no guest is called 'x'; there are a, b"), ("x:a", "is called 'x'"), ("a:a", "a guest reaches itself")],
)
def test_between_two_who_are_there(written: str, complaint: str) -> None:
    check_rule(read_rule("a:b"), ["a", "b"])
    with pytest.raises(ConfigError) as caught:
        check_rule(read_rule(written), ["a", "b"])
    assert complaint in str(caught.value)


def test_the_bound_counts_ranges() -> None:
    every_other = LinkRule("a", "b", "tcp", tuple((port, port) for port in range(1, 2 * MAX_RULES, 2)))
    check_number([every_other])
    with pytest.raises(ConfigError, match="at most 4096 are accepted"):
        check_number([every_other, LinkRule("a", "b")])


def test_ranges_that_touch_are_one() -> None:
    assert joined([(5, 6), (1, 2), (3, 3), (8, 9), (8, 8), (1, 1)]) == ((1, 3), (5, 6), (8, 9))
    assert joined([]) == ()
