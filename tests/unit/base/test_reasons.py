"""The closed list of drop reasons and its counters."""

from __future__ import annotations

import pytest

from bucatini.base.reasons import Counters, DropReason, describe


def test_numbers_are_dense_so_that_counters_can_be_a_list() -> None:
    assert [int(reason) for reason in DropReason] == list(range(len(DropReason)))
    assert not DropReason.NONE


def test_labels_and_descriptions_are_distinct_one_liners() -> None:
    assert len({reason.label for reason in DropReason}) == len({reason.description for reason in DropReason})
    for reason in DropReason:
        assert reason.label == reason.name.lower().replace("_", "-")
        assert reason.description
        assert "\n" not in reason.description
        assert len(describe(reason)) <= 120


def test_describe_names_the_reason() -> None:
    assert describe(DropReason.POLICY_DENIED) == "policy-denied: refused by policy"


def test_a_reason_survives_its_number() -> None:
    assert DropReason(int(DropReason.VLAN)) is DropReason.VLAN
    with pytest.raises(ValueError, match="not a valid DropReason"):
        DropReason(len(DropReason))


def test_counters_count_by_reason_and_show_by_label() -> None:
    counters = Counters()
    counters.drop(DropReason.VLAN)
    counters.drop(DropReason.NO_FLOW, 3)
    counters.values[DropReason.VLAN] += 1
    assert counters[DropReason.VLAN] == 2
    assert counters.total == 5
    assert counters.snapshot() == {"vlan": 2, "no-flow": 3}


def test_snapshot_with_zeros_has_every_reason_but_none() -> None:
    assert list(Counters().snapshot(zeros=True)) == [reason.label for reason in DropReason if reason]
