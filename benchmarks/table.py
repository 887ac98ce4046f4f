"""Results to lines of text: medians, ratios, goals, footnotes. Pure: everything is handed in.

A ratio is always ours divided by theirs, so above 1 is good where more is better and below 1 is good where less is.
A missing value is shown as "-"; the reason is a footnote.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.rows import (
    ABSOLUTE,
    BEST,
    BEST_OWN_MTU,
    COMPILED,
    GROUP_TITLES,
    NATIVE,
    OTHERS,
    PASTA,
    PURE,
    ROWS,
    SLIRP,
    Goal,
    Row,
)

COLUMNS = (NATIVE, COMPILED, PURE, PASTA, SLIRP)
_TITLES = {COMPILED: "bucatini", PURE: "pure"}
_RATIO_TITLES = ("/ pasta", "/ slirp4netns", "/ best at own MTU", "pure / best", "goal")


@dataclass
class Results:
    """Samples by row key and peer, one per run, and the failures: (row key, peer) to reason."""

    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, key: str, peer: str, value: float) -> None:
        """Record one sample."""
        self.samples.setdefault(key, {}).setdefault(peer, []).append(value)

    def median(self, key: str, peer: str) -> float | None:
        """The median of the samples, or None if there are none."""
        values = self.samples.get(key, {}).get(peer)
        return statistics.median(values) if values else None


def format_value(value: float | None, unit: str) -> str:
    """A number with three or four significant digits, as fits the unit; "-" for None."""
    if value is None:
        return "-"
    if unit in ("per s", "packets/s") or value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def format_ratio(value: float | None) -> str:
    """A ratio such as "8.3x"; "-" for None."""
    if value is None:
        return "-"
    return f"{value:.0f}x" if value >= 100 else f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def divide(ours: float | None, theirs: float | None) -> float | None:
    """Ours over theirs; None if either is missing or theirs is 0."""
    return ours / theirs if ours is not None and theirs else None


def best(row: Row, values: Sequence[float | None]) -> float | None:
    """The best of the values that are there, in the row's sense of good."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return max(there) if row.more_is_better else min(there)


def best_peer(row: Row, results: Results) -> float | None:
    """The best other engine in the same row."""
    return best(row, [results.median(row.key, peer) for peer in OTHERS])


def best_peer_at_own_mtu(row: Row, results: Results) -> float | None:
    """The best other engine, each at its own default MTU.

    None for a row that does not depend on the MTU, and if a peer of this row was not measured at its own MTU: a part of
    the peers would flatter us. One that was tried there and failed does not count."""
    for peer, key in row.own_mtu_keys:
        tried = results.median(key, peer) is not None or (key, peer) in results.failures
        if results.median(row.key, peer) is not None and not tried:
            return None
    return best(row, [results.median(key, peer) for peer, key in row.own_mtu_keys])


def reference(row: Row, goal: Goal, results: Results) -> float | None:
    """The value that a goal's bound multiplies."""
    if goal.against == ABSOLUTE:
        return 1.0
    if goal.against == BEST:
        return best_peer(row, results)
    if goal.against == BEST_OWN_MTU:
        return best_peer_at_own_mtu(row, results)
    return results.median(row.key, goal.against)


def judge(row: Row, goal: Goal, results: Results) -> str:
    """One goal in words: what was asked, and whether it was reached ("met") or not (what it is instead, in capitals).

    Empty if a side of the comparison is missing."""
    ours = results.median(row.key, goal.column)
    reached = divide(ours, reference(row, goal, results))
    if reached is None:
        return ""
    met = reached >= goal.bound if row.more_is_better else reached <= goal.bound
    sign = ">=" if row.more_is_better else "<="
    absolute = goal.against == ABSOLUTE
    asked = f"{goal.bound:g} {row.unit}" if absolute else f"{goal.bound:g}x {goal.against}"
    name = "pure " if goal.column == PURE else ""
    actual = format_value(reached, row.unit) if absolute else format_ratio(reached)
    return f"{name}{sign} {asked}: {'met' if met else 'MISSED, ' + actual}"


class Footnotes:
    """Numbers equal reasons equally, in order of first use."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def mark(self, reason: str) -> str:
        """The mark of this reason, such as "[1]"."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f"[{self.reasons.index(reason) + 1}]"


def cell(row: Row, peer: str, results: Results, notes: Footnotes) -> str:
    """One value with its loss and its footnote."""
    value = results.median(row.key, peer)
    text = format_value(value, row.unit)
    loss = results.median(row.loss_key, peer) if row.loss_key else None
    if value is not None and loss is not None:
        text += f" ({loss:.0%})"
    reason = results.failures.get((row.key, peer))
    return f"{text} {notes.mark(f'{peer}: {reason}')}" if reason else text


def line(row: Row, results: Results, notes: Footnotes) -> list[str]:
    """All cells of one row: label, unit, a value per column, the ratios, the goals."""
    ours, pure = results.median(row.key, COMPILED), results.median(row.key, PURE)
    ratios = [
        *(divide(ours, results.median(row.key, peer)) for peer in OTHERS),
        divide(ours, best_peer_at_own_mtu(row, results)),
        divide(pure, best_peer(row, results)),
    ]
    goals = [judge(row, goal, results) for goal in row.goals]
    values = [cell(row, peer, results, notes) for peer in COLUMNS]
    return [row.label, row.unit, *values, *map(format_ratio, ratios), "; ".join(filter(None, goals))]


def lines_by_group(results: Results, notes: Footnotes) -> list[tuple[str, list[list[str]]]]:
    """The lines of every group that has a sample or a failure, in table order."""
    touched = {key for key, _ in results.failures} | results.samples.keys()
    groups: dict[str, list[list[str]]] = {}
    for row in ROWS:
        if row.key in touched:
            groups.setdefault(row.group, []).append(line(row, results, notes))
    return [(GROUP_TITLES[group], lines) for group, lines in groups.items()]


def header() -> list[str]:
    """The column titles."""
    return ["measure (median)", "unit", *(_TITLES.get(name, name) for name in COLUMNS), *_RATIO_TITLES]


def render_text(results: Results) -> str:
    """The table for a terminal: columns padded, labels left, numbers right."""
    notes = Footnotes()
    groups = lines_by_group(results, notes)
    every = [header(), *(cells for _, lines in groups for cells in lines)]
    last = len(header()) - 1
    widths = [max(len(cells[i]) for cells in every) for i in range(last)]

    def pad(cells: Sequence[str]) -> str:
        left = [text.ljust(width) for text, width in zip(cells[:2], widths[:2], strict=True)]
        right = [text.rjust(width) for text, width in zip(cells[2:last], widths[2:], strict=True)]
        return "  ".join([*left, *right, cells[last]]).rstrip()

    output = [pad(header())]
    for title, lines in groups:
        output += ["", title, *map(pad, lines)]
    if notes.reasons:
        output += ["", *(f"[{i}] {reason}" for i, reason in enumerate(notes.reasons, 1))]
    return "\n".join(output) + "\n"
