"""host.resolv_search: which words of a search line are names, and how many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.host.resolv_search import MAX_NAMES, MAX_TEXT, search_list

LONG = "a" * 60 + ".example"  # 68 characters


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", ()),
        ("example.org", ("example.org",)),
        ("corp.example.org. example.org _tcp.x-1", ("corp.example.org", "example.org", "_tcp.x-1")),
        ("b a B b.", ("b", "a")),
        (".", ()),
        ("a..b .a a. -a a.-b ä.example a/b a:b " + "a" * 64 + " ok", ("a", "ok")),
        ("n1 n2 n3 n4 n5 n6 n7", ("n1", "n2", "n3", "n4", "n5", "n6")),
        (" ".join(f"{n}{LONG}" for n in range(1, 5)), tuple(f"{n}{LONG}" for n in range(1, 4))),
        (".".join(["a" * 50] * 5), ()),  # 254 characters
        (".".join(["a" * 50] * 4 + ["a" * 49]), (".".join(["a" * 50] * 4 + ["a" * 49]),)),
    ],
)
def test_names(words: str, names: tuple[str, ...]) -> None:
    assert search_list(words.split()) == names


@given(st.lists(st.text(max_size=20) | st.from_regex(r"[a-z.]{1,90}", fullmatch=True), max_size=20))
def test_bounds_hold(words: list[str]) -> None:
    names = search_list(words)
    assert len(names) <= MAX_NAMES
    assert len(" ".join(names)) <= MAX_TEXT
    assert all(0 < len(label) < 64 for name in names for label in name.split("."))
