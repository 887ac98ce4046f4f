"""The table at the end of a run: who was spoken to, how much, and what was refused by which rule.

Flows are added up by verdict, protocol, destination and rule, so a thousand requests to one server are one line. At
most `ROWS` lines are kept; flows beyond them are added up in one line, and never cost memory. Does not: list single
flows (the event log does).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TextIO

from bucatini.base.address import text
from bucatini.base.events import Ending, Event, FlowClosed, FlowEvent, FlowRefused, FrameDropped, Refusal
from bucatini.base.reasons import Counters, DropReason, describe
from bucatini.base.verdict import INGRESS
from bucatini.observe.words import duration_text, endpoint_text, plural, size_text

__all__ = ["ROWS", "Summary"]

ROWS = 1000

_COLUMNS = ("verdict", "proto", "destination", "flows", "sent", "received", "time", "rule")
_RIGHT = frozenset(("flows", "sent", "received", "time"))
_FOLD = {"verdict": 8, "rule": 9, "destination": 15}  # how narrow these may get on a narrow terminal
_FULL_WIDTH = 100  # columns of a terminal; below, times are left out
_LEAST_WIDTH = 80  # below, lines overflow: a cell is never cut
_ALLOWED = "allowed"
_FAILURES = frozenset((Ending.PEER_REFUSED, Ending.UNREACHABLE, Ending.TIMEOUT, Ending.FAILED))


class _Key(NamedTuple):
    verdict: str
    protocol: str
    destination: str
    rule: str


_OVERFLOW = _Key("", "", "everything else", "")


class _Row:
    """Sums of the flows of one key; bytes and seconds of those that ended."""

    __slots__ = ("failed", "flows", "received", "seconds", "sent")

    def __init__(self) -> None:
        self.flows = self.failed = self.sent = self.received = 0
        self.seconds = 0.0


class Summary:
    """Listener that adds up, and prints once at the end. `sees_flows`: whether it hears of those that are allowed."""

    __slots__ = ("_limit", "_rows", "_sees_flows")

    def __init__(self, limit: int = ROWS, *, sees_flows: bool = True) -> None:
        self._limit = limit
        self._sees_flows = sees_flows
        self._rows: dict[_Key, _Row] = {}

    def on_event(self, event: Event, now: float) -> None:
        """Add one flow's event up; drops are counted elsewhere."""
        if isinstance(event, FrameDropped):
            return
        row = self._row(_key(event))
        if not isinstance(event, FlowClosed):
            row.flows += event.times if isinstance(event, FlowRefused) else 1
            return
        row.sent += event.sent_bytes
        row.received += event.received_bytes
        row.seconds += event.duration
        row.failed += event.how in _FAILURES

    def write(self, stream: TextIO, counters: Counters | None = None, *, width: int | None = None) -> None:
        """Print the table, totals and the drops that happened; with colours where `stream` is a terminal.

        `width` overrides that of the terminal, in columns. A reader that went away is no error.
        """
        lines = self.totals() + _drop_lines(counters)
        try:
            if self._rows and stream.isatty():
                self._write_rich(stream, width)
            elif self._rows:
                _write_plain(stream, self.cells())
            stream.writelines(f"{line}\n" for line in lines)
            stream.flush()
        except OSError:
            pass

    def cells(self) -> list[tuple[str, ...]]:
        """Rows of text in the order of the columns: allowed first, each by bytes, the overflow last."""
        ordered = sorted(self._rows.items(), key=_rank)
        return [_cells(key, row) for key, row in ordered]

    def totals(self) -> list[str]:
        """One line that sums everything up."""
        if not self._sees_flows:
            return [f"{plural(sum(row.flows for row in self._rows.values()), 'packet')} refused"]
        allowed = sum(row.flows for key, row in self._rows.items() if key.verdict == _ALLOWED)
        other = self._rows.get(_OVERFLOW)
        refused = sum(row.flows for row in self._rows.values()) - allowed - (other.flows if other else 0)
        line = f"{plural(allowed, 'flow')} allowed, {refused} refused"
        if other:
            line += f", {other.flows} in neither count because the table was full"
        sent = sum(row.sent for row in self._rows.values())
        received = sum(row.received for row in self._rows.values())
        return [f"{line}; {size_text(sent)} sent, {size_text(received)} received"]

    def _row(self, key: _Key) -> _Row:
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= self._limit:
                key = _OVERFLOW
            row = self._rows.setdefault(key, _Row())
        return row

    def _write_rich(self, stream: TextIO, width: int | None) -> None:
        from rich.console import Console
        from rich.table import Table

        # Without markup: an IPv6 endpoint in brackets is text.
        console = Console(file=stream, markup=False, highlight=False, emoji=False, width=width)
        console.width = max(console.width, _LEAST_WIDTH)
        skipped = "" if console.width >= _FULL_WIDTH else "time"
        rows = self.cells()
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for name, size in _widths(rows, skipped, console.width).items():
            justify: Literal["left", "right"] = "right" if name in _RIGHT else "left"
            table.add_column(name, justify=justify, overflow="fold", width=size)
        for row in rows:
            cells = [cell for name, cell in zip(_COLUMNS, row, strict=True) if name != skipped]
            table.add_row(*cells, style="red" if row[0].startswith("refused") else None)
        console.print(table)


def _key(event: FlowEvent) -> _Key:
    verdict = _ALLOWED
    if isinstance(event, FlowRefused):
        verdict = "refused" if event.reason is Refusal.POLICY else f"refused: {event.reason}"
    if event.direction == INGRESS:
        destination = f"port {event.guest.port} from {text(event.peer.address)}"
    else:
        destination = endpoint_text(event.peer)
    return _Key(verdict, event.protocol, destination, event.rule)


def _rank(item: tuple[_Key, _Row]) -> tuple[bool, str, int, int, _Key]:
    key, row = item
    return key == _OVERFLOW, key.verdict, -(row.sent + row.received), -row.flows, key


def _cells(key: _Key, row: _Row) -> tuple[str, ...]:
    flows = f"{row.flows} ({row.failed} failed)" if row.failed else str(row.flows)
    if key.verdict.startswith("refused"):
        return *key[:3], flows, "", "", "", key.rule
    return *key[:3], flows, size_text(row.sent), size_text(row.received), duration_text(row.seconds), key.rule


def _widths(rows: list[tuple[str, ...]], skipped: str, room: int) -> dict[str, int]:
    """Width of each column but `skipped`; where `room` is too small, texts fold rather than numbers."""
    widths = {name: max(map(len, cells)) for name, *cells in zip(_COLUMNS, _COLUMNS, *rows, strict=True)}
    widths.pop(skipped, None)
    for name, least in _FOLD.items():
        excess = sum(widths.values()) + 2 * len(widths) - room
        if excess > 0:
            widths[name] = min(widths[name], max(least, widths[name] - excess))
    return widths


def _write_plain(stream: TextIO, rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    for row in (_COLUMNS, *rows):
        cells = [
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for name, cell, width in zip(_COLUMNS, row, widths, strict=True)
        ]
        stream.write("  ".join(cells).rstrip() + "\n")


def _drop_lines(counters: Counters | None) -> list[str]:
    if counters is None or not counters.total:
        return []
    struck = sorted((-counters[reason], reason) for reason in DropReason if counters[reason])
    return ["dropped:"] + [f"  {-count:>8}  {describe(reason)}" for count, reason in struck]
