"""Results to lines of text: medians, ratios, goals, footnotes. Pure: everything is handed in.

A ratio is always ours divided by theirs, so above 1 is good where more is better and below 1 is good where less is.
A missing value is shown as "-"; the reason is a footnote.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.rows import (
    ABSOLUTE,
    BEST,
    BEST_OWN_MTU,
    COMPILED,
    FILTER_DATAGRAMS,
    FILTER_FAITHFUL,
    FILTER_PLAIN,
    FILTER_RELAY,
    GROUP_TITLES,
    NATIVE,
    OTHERS,
    PASTA,
    PURE,
    ROWS,
    SLIRP,
    VM_DGRAM,
    VM_PASST,
    VM_STREAM,
    VM_USER,
    Goal,
    Row,
    filter_column,
)


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
    if unit in ("per s", "packets/s", "frames/s") or value >= 1000:
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


def over(ours: str, theirs: str) -> Callable[[Row, Results], float | None]:
    """The ratio of two peers in one row."""
    return lambda row, results: divide(results.median(row.key, ours), results.median(row.key, theirs))


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


@dataclass(frozen=True)
class Layout:
    """The columns of the groups that compare the same peers: a value per peer (its title), then ratios."""

    peers: dict[str, str]
    ratios: dict[str, Callable[[Row, Results], float | None]]

    def header(self) -> list[str]:
        """The column titles."""
        return ["measure (median)", "unit", *self.peers.values(), *self.ratios, "goal"]


NAMESPACES = Layout(
    {NATIVE: "native", COMPILED: "bucatini", PURE: "pure", PASTA: "pasta", SLIRP: "slirp4netns"},
    {
        "/ pasta": over(COMPILED, PASTA),
        "/ slirp4netns": over(COMPILED, SLIRP),
        "/ best at own MTU": lambda row, results: divide(
            results.median(row.key, COMPILED), best_peer_at_own_mtu(row, results)
        ),
        "pure / best": lambda row, results: divide(results.median(row.key, PURE), best_peer(row, results)),
    },
)
MACHINES = Layout(
    {
        VM_STREAM: "bucatini stream",
        VM_USER: "bucatini vhost-user",
        VM_DGRAM: "bucatini dgram",
        VM_PASST: "passt stream",
    },
    {
        "stream / passt": over(VM_STREAM, VM_PASST),
        "vhost-user / passt": over(VM_USER, VM_PASST),
        "dgram / passt": over(VM_DGRAM, VM_PASST),
    },
)
MANY, FEW, NONE = (filter_column(count) for count in (10000, 100, 0))
FAITHFUL_MANY, FAITHFUL_NONE = (filter_column(count, FILTER_FAITHFUL) for count in (10000, 0))
BRIDGES = Layout(
    {
        FILTER_PLAIN: "no filter, veth",
        FILTER_RELAY: "relay in C",
        NONE: "no rules",
        FEW: "100 rules",
        MANY: "10,000 rules",
        filter_column(100, FILTER_DATAGRAMS): "100 rules, datagrams",
        FAITHFUL_NONE: "faithful",
        FAITHFUL_MANY: "faithful, 10,000",
    },
    {
        "10,000 / 100": over(MANY, FEW),
        "100 / relay": over(FEW, FILTER_RELAY),
        "faithful, 10,000 / none": over(FAITHFUL_MANY, FAITHFUL_NONE),
    },
)
LAYOUTS = {"vm": MACHINES, "filter": BRIDGES}
COLUMNS = (*NAMESPACES.peers, *MACHINES.peers, *BRIDGES.peers)


def layout_of(group: str) -> Layout:
    """The columns of a group."""
    return LAYOUTS.get(group, NAMESPACES)


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
    layout = layout_of(row.group)
    ratios = [format_ratio(ratio(row, results)) for ratio in layout.ratios.values()]
    goals = [judge(row, goal, results) for goal in row.goals]
    values = [cell(row, peer, results, notes) for peer in layout.peers]
    return [row.label, row.unit, *values, *ratios, "; ".join(filter(None, goals))]


def lines_by_group(results: Results, notes: Footnotes) -> list[tuple[str, list[str], list[list[str]]]]:
    """The title, the header and the lines of every group that has a sample or a failure, in table order."""
    touched = {key for key, _ in results.failures} | results.samples.keys()
    groups: dict[str, list[list[str]]] = {}
    for row in ROWS:
        if row.key in touched:
            groups.setdefault(row.group, []).append(line(row, results, notes))
    return [(GROUP_TITLES[group], layout_of(group).header(), lines) for group, lines in groups.items()]


def render_text(results: Results) -> str:
    """The table for a terminal: columns padded, labels left, numbers right; headed anew where the columns change."""
    notes = Footnotes()
    output: list[str] = []
    for head, groups in itertools.groupby(lines_by_group(results, notes), key=lambda group: group[1]):
        output += [*([""] if output else []), *_block(head, [(title, lines) for title, _, lines in groups])]
    if notes.reasons:
        output += ["", *(f"[{i}] {reason}" for i, reason in enumerate(notes.reasons, 1))]
    return "\n".join(output) + "\n"


def _block(head: list[str], groups: Sequence[tuple[str, list[list[str]]]]) -> list[str]:
    """The header and the lines of groups with the same columns."""
    last = len(head) - 1
    every = [head, *(cells for _, lines in groups for cells in lines)]
    widths = [max(len(cells[i]) for cells in every) for i in range(last)]

    def pad(cells: Sequence[str]) -> str:
        left = [text.ljust(width) for text, width in zip(cells[:2], widths[:2], strict=True)]
        right = [text.rjust(width) for text, width in zip(cells[2:last], widths[2:], strict=True)]
        return "  ".join([*left, *right, cells[last]]).rstrip()

    return [pad(head), *(text for title, lines in groups for text in ("", title, *map(pad, lines)))]
