"""Options as text become a checked configuration, whatever object carries them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bucatini.base.errors import ConfigError
from bucatini.cli.run import make_parser
from bucatini.config import RunConfig
from bucatini.config.arguments import run_config


def arguments(**given: object) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(make_parser().parse_args([])), **given})


def test_nothing_given_is_the_default() -> None:
    assert run_config(arguments(), ["true"]) == RunConfig(command=("true",))


def test_one_family() -> None:
    assert not run_config(arguments(ipv4_only=True), ["true"]).network.ipv6
    assert not run_config(arguments(ipv6_only=True), ["true"]).network.ipv4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"slot": "-1"}, "--slot '-1': must be a number from 0 to 65535"),
        ({"mtu": "jumbo"}, "--mtu 'jumbo': must be a number from 68 to 65521"),
        ({"ipv4_only": True, "ipv6_only": True}, "exclude each other"),
    ],
)
def test_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(arguments(**given), ["true"])
    assert message in str(caught.value)
