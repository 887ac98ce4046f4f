"""bucatini.policy.settings: options to policy."""

from __future__ import annotations

import pytest

from bucatini.base.address import pack
from bucatini.base.errors import ConfigError
from bucatini.policy.settings import PolicySettings, build


def test_the_default_is_public_without_rules() -> None:
    policy = build(PolicySettings())
    assert policy.preset == "public"
    assert policy.rules == ()


def test_options_become_rules() -> None:
    policy = build(PolicySettings("none", ("public", "10.0.0.0/8"), ("metadata",)), [pack("172.16.0.1")])
    assert [str(rule) for rule in policy.rules] == ["--allow public", "--allow 10.0.0.0/8", "--deny metadata"]
    assert policy.gateways == {pack("172.16.0.1")}


def test_an_unknown_preset_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"--policy 'pubic': no such policy; accepted: public, open, none"):
        build(PolicySettings("pubic"))


def test_a_bad_target_names_its_own_option() -> None:
    with pytest.raises(ConfigError, match=r"^--allow 'x y'"):
        build(PolicySettings(allow=("x y",)))
    with pytest.raises(ConfigError, match=r"^--deny 'x y'"):
        build(PolicySettings(deny=("x y",)))
