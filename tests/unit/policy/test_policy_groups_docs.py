"""docs/policy.md says what the code does: its table of blocks is the code's table."""

from __future__ import annotations

from pathlib import Path

from bucatini.policy.decide import PRESETS
from bucatini.policy.groups import BLOCKS, GROUPS
from bucatini.policy.rules import HOST_ALIASES

PAGE = (Path(__file__).parents[3] / "docs" / "policy.md").read_text(encoding="utf-8")


def rows() -> list[str]:
    return [f"| {b.prefix} | {b.group or '(none)'} | {b.name} | {b.source} |" for b in BLOCKS]


def test_the_table_of_blocks_is_the_one_in_the_code() -> None:
    after = PAGE.partition("| prefix | group | name | source |\n")[2].splitlines()[1:]
    written = after[: after.index("")] if "" in after else after
    assert written == rows()


def test_every_word_a_user_may_write_is_explained() -> None:
    for word in (*PRESETS, *GROUPS, *HOST_ALIASES):
        assert f"`{word}`" in PAGE, word
