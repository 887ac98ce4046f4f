"""bucatini.flows.sequence: arithmetic modulo 2**32 (RFC 9293 section 3.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.flows.sequence import add, distance

NUMBERS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("a", "b", "ahead"),
    [
        (0, 0, 0),
        (1, 0, 1),
        (0, 1, -1),
        (0, 2**32 - 1, 1),
        (2**32 - 1, 0, -1),
        (5, 2**32 - 5, 10),
        (2**31 - 1, 0, 2**31 - 1),
        (2**31, 0, -(2**31)),
        (0, 2**31, -(2**31)),
    ],
)
def test_distance(a: int, b: int, ahead: int) -> None:
    assert distance(a, b) == ahead


@pytest.mark.parametrize(
    ("a", "count", "sum_"), [(0, 0, 0), (2**32 - 1, 1, 0), (0, -1, 2**32 - 1), (10, 2**31, 2**31 + 10), (7, 1 << 40, 7)]
)
def test_add(a: int, count: int, sum_: int) -> None:
    assert add(a, count) == sum_


@given(NUMBERS, st.integers(-(2**31), 2**31 - 1))
def test_distance_undoes_add(a: int, count: int) -> None:
    assert 0 <= add(a, count) < 2**32
    assert distance(add(a, count), a) == count


@given(NUMBERS, NUMBERS)
def test_add_undoes_distance(a: int, b: int) -> None:
    assert -(2**31) <= distance(a, b) < 2**31
    assert add(b, distance(a, b)) == a
