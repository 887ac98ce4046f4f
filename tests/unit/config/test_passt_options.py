"""The tables of options that passt and pasta share, and the help of passt."""

from __future__ import annotations

from bucatini.config import pasta_options
from bucatini.config.passt_options import (
    COMMON,
    GUEST_PORTS,
    NAMESPACE_PORTS,
    PASST_ONLY,
    PASTA_ONLY,
    passt_usage,
)

EVERYTHING = (*COMMON, *GUEST_PORTS, *PASST_ONLY, *PASTA_ONLY, *NAMESPACE_PORTS)


def test_both_commands_know_the_same_options() -> None:
    theirs = (*pasta_options.COMMON, *pasta_options.PORTS, *pasta_options.PASST_ONLY)
    assert set(EVERYTHING) == set(theirs)
    assert len(EVERYTHING) == len(theirs)


def test_help_names_what_is_ours_and_fits_a_terminal() -> None:
    shown = passt_usage()
    for option in (*PASST_ONLY, *COMMON, *GUEST_PORTS):
        assert f"--{option.long}" in shown
        assert option.help
    for option in (*PASTA_ONLY, *NAMESPACE_PORTS):
        assert f" --{option.long} " not in shown
    assert "auto" not in shown
    assert max(map(len, shown.splitlines())) <= 100
