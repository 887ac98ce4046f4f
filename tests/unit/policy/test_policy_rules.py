"""bucatini.policy.rules: the TARGET grammar and its errors."""

from __future__ import annotations

import pytest

from bucatini.base.errors import ConfigError
from bucatini.policy.groups import GROUPS
from bucatini.policy.rules import HOST_ALIASES, parse_rule, parse_target


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        *((group, group) for group in GROUPS),
        ("link_local", "link-local"),
        ("PRIVATE", "private"),
        *((alias, "host") for alias in HOST_ALIASES),
        ("Host.Docker.Internal.", "host"),
        ("198.51.100.5", "198.51.100.5"),
        ("198.51.100.5/32", "198.51.100.5"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("FD00::/8", "fd00::/8"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("::/0", "::/0"),
    ],
)
def test_targets(written: str, shown: str) -> None:
    assert str(parse_target(written)) == shown


def test_a_rule_reads_as_the_option_that_made_it() -> None:
    assert str(parse_rule(True, "link_local")) == "--allow link-local"
    assert str(parse_rule(False, "10.0.0.0/8")) == "--deny 10.0.0.0/8"


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "it is empty"),
        ("publik", "did you mean 'public'?"),
        ("link local", "did you mean 'link-local'?"),
        ("metdata", "did you mean 'metadata'?"),
        ("host.bucatini.internl", "did you mean 'host.bucatini.internal'?"),
        ("example.com", "domain names are not supported yet"),
        ("*.example.com", "domain names are not supported yet"),
        ("public.com", "domain names are not supported yet"),
        ("localhost", "domain names are not supported yet"),
        ("10.0.0.5/8", "host bits are set: write 10.0.0.0/8 or 10.0.0.5"),
        ("10.0.0.0/40", "prefix length '40' is not a number from 0 to 32"),
        ("fe80::1%eth0", "an address has no zone here"),
        ("10.0.0", "not an IP address"),
        ("300.1.1.1", "not an IP address"),
        ("[::1]", "not an IP address"),
        ("1.2.3.4:80", "not an IP address"),
        ("10.0.0.0\0", "not an IP address"),
        ("\ud800", "not an IP address"),
        (" 10.0.0.1", "not an IP address"),
    ],
)
def test_errors_name_option_text_reason_and_what_is_accepted(written: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rule(False, written)
    message = str(caught.value)
    assert message.startswith(f"--deny {written!r}: ")
    assert reason in message
    assert "accepted: an address, a CIDR" in message
    assert all(group in message for group in GROUPS)
    assert "\n" not in message
