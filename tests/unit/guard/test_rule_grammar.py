"""guard.rule_grammar: what may be written, the one text each rule has, and the one line that says what may not."""

from __future__ import annotations

import re

import pytest

from bucatini.base.errors import ConfigError
from bucatini.base.prefix import Prefix
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.guard.rule_grammar import (
    ACCEPTED,
    ACCEPTED_COMPAT,
    BARE,
    Pattern,
    normalised,
    parse_compat_list,
    parse_rule,
    shown,
)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("1.2.3.4/0", "0.0.0.0/0"),
        ("@host", "@host"),
        ("host", "@host"),
        ("2001:DB8:0::1/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::", "::/128"),
        ("[::1]", "::1/128"),
        ("in 10.0.0.0/8", "in 10.0.0.0/8"),
        ("out   @host:22", "out @host:22"),
        ("10.0.0.0/8:80", "10.0.0.0/8:80"),
        ("10.0.0.1:1-65535", "10.0.0.1/32:1-65535"),
        ("10.0.0.1:80-80", "10.0.0.1/32:80"),
        ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
        ("in [::1]:1-2", "in [::1/128]:1-2"),
        ("2001:db8::1:443", "2001:db8::1:443/128"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("[::ffff:10.0.0.0/104]:80", "10.0.0.0/8:80"),
        ("::ffff:0:0/96", "::ffff:0.0.0.0/96"),  # not 0.0.0.0/0, which is more than IPv4
        ("::ffff:0:0/95", "::fffe:0:0/95"),
    ],
)
def test_rules_have_one_text(written: str, normal: str) -> None:
    pattern = parse_rule(written)
    assert str(pattern) == normal
    assert parse_rule(normal) == pattern


def test_what_a_rule_is() -> None:
    assert parse_rule("10.1.2.3/8") == Pattern(BARE, Prefix(b"\n\0\0\0", 8))
    assert parse_rule("in @host:22") == Pattern(INGRESS, None, 22, 22)
    assert parse_rule("out [::1]:1-9") == Pattern(EGRESS, Prefix(bytes(15) + b"\1", 128), 1, 9)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "there is no target"),
        ("in", "'in' is no IP address or CIDR"),
        ("in ", "there is no target"),
        (" 10.0.0.0/8", "it begins with a space"),
        ("from 10.0.0.0/8", "'from' is not a direction"),
        ("IN 10.0.0.0/8", "'IN' is not a direction"),
        ("in\t10.0.0.0/8", "no IP address or CIDR"),
        ("10.0.0.0/8 ", "'10.0.0.0/8' is not a direction"),
        ("in 10.0.0.0/8 ", "prefix length '8 '"),
        ("10.0.0.0/33", "prefix length '33' is not a number from 0 to 32"),
        ("::/129", "prefix length '129' is not a number from 0 to 128"),
        ("10.0.0.0/", "prefix length ''"),
        ("10.0.0.0/08", "prefix length '08'"),
        ("10.0.0", "'10.0.0' is no IP address or CIDR"),
        ("010.0.0.1", "'010.0.0.1' is no IP address or CIDR"),
        ("@Host", "'@Host' is no IP address or CIDR"),
        ("fe80::1%eth0", "no IP address or CIDR"),
        ("\0", r"'\\x00' is no IP address or CIDR"),
        ("\ud800", r"'\\ud800' is no IP address or CIDR"),
        (":80", "there is no target"),
        ("10.0.0.1:", "port '' is not a number from 1 to 65535"),
        ("10.0.0.1:0", "port '0' is not"),
        ("10.0.0.1:080", "port '080' is not"),
        ("10.0.0.1:65536", "port '65536' is not"),
        ("10.0.0.1:+1", r"port '\+1' is not"),
        ("10.0.0.1:٨", "port '٨' is not"),
        ("10.0.0.1:1-", "port '' is not"),
        ("10.0.0.1:-1", "port '' is not"),
        ("10.0.0.1:1-2-3", "port '2-3' is not"),
        ("10.0.0.1:9-8", "ports 9-8 end before they begin"),
        ("10.0.0.1:80/8", "port '80/8' is not"),
        ("[::1]80", "'80' after the bracket begins with no colon"),
        ("[::1", "brackets are for an IPv6 address or CIDR"),
        ("[10.0.0.1]:80", "brackets are for an IPv6 address or CIDR"),
        ("[@host]:80", "brackets are for an IPv6 address or CIDR"),
        ("[[::1]]:80", "']:80' after the bracket begins with no colon"),
    ],
)
def test_what_is_no_rule(written: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        parse_rule(written, "--block")
    line = str(caught.value)
    assert line.startswith(f"--block {written!r}: ")
    assert line.endswith(f"; accepted: {ACCEPTED}")
    assert "\n" not in line


def test_a_long_value_is_cut() -> None:
    for written in ("9" * 1_000_000, "10.0.0.0/" + "9" * 1_000_000, "x" * 99 + " 10.0.0.0/8", "10.0.0.1:" + "1" * 9999):
        with pytest.raises(ConfigError) as caught:
            parse_rule(written)
        assert len(str(caught.value)) < 500
    assert shown("x" * 81) == repr("x" * 80) + "..."


class TestCompatList:
    def test_items_in_order(self) -> None:
        found = parse_compat_list("10.1.2.3/8,@host,0.0.0.0/0,@host")
        assert [str(pattern) for pattern in found] == ["10.0.0.0/8", "@host", "0.0.0.0/0", "@host"]

    @pytest.mark.parametrize(
        ("written", "reason"),
        [
            ("", "an item is empty"),
            ("10.0.0.0/8,", "an item is empty"),
            ("10.0.0.1", "'10.0.0.1' has no prefix length"),
            ("10.0.0.0/8, @host", "' @host' has no prefix length"),
            (" 10.0.0.0/8", "' 10.0.0.0/8' is no IP address or CIDR"),
            ("host", "'host' has no prefix length"),
            ("@HOST", "has no prefix length"),
            ("::/0", "'::/0' is not IPv4"),
            ("10.0.0.0/8:80", "is not IPv4"),
            ("in 10.0.0.0/8", "is no IP address or CIDR"),
            ("10.0.0.0/33", "prefix length '33'"),
            ("\0/8", "is no IP address or CIDR"),
        ],
    )
    def test_what_is_none(self, written: str, reason: str) -> None:
        with pytest.raises(ConfigError, match=reason) as caught:
            parse_compat_list(written, "--allow")
        assert re.match(re.escape(f"--allow {written!r}: "), str(caught.value))
        assert str(caught.value).endswith(f"; accepted: {ACCEPTED_COMPAT}")


def test_normalised_is_sorted_by_text_and_each_once() -> None:
    written = ["out 9.0.0.0/8", "@host", "10.0.0.0/8", "10.9.9.9/8", "host", "9.0.0.0/8"]
    assert [str(p) for p in normalised(map(parse_rule, written))] == [
        "10.0.0.0/8",
        "9.0.0.0/8",
        "@host",
        "out 9.0.0.0/8",
    ]
