"""Everything that observes one run, opened together, fed together and closed together.

The composition root makes one `Observers`, hands it to the engine as its `Listener`, hands `capture` to whatever
sees frames, calls `flush` at the end of each turn and `finish` once when the run is over. What was not asked for
costs nothing: with no listener `on_event` is an empty loop, and `capture` is None.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

from bucatini.base.events import Event, Listener
from bucatini.base.reasons import Counters
from bucatini.observe.console import Console, RefusalHint
from bucatini.observe.events import EventLog
from bucatini.observe.log import Level, Log, LogListener
from bucatini.observe.output import open_output
from bucatini.observe.pcapng import PcapngWriter
from bucatini.observe.settings import ObserveSettings
from bucatini.observe.summary import Summary

__all__ = ["Observers"]


class Observers:
    """Opens what `settings` ask for. Raises ConfigError when a file cannot be opened; nothing is left open then.

    `stderr` is where lines, the summary and warnings go; it must have a descriptor. With `diary` lines and warnings go
    there instead, and events too where its level asks for them; it stays the caller's to close. `sees_flows`: whether
    the engine knows flows, and not only packets.
    """

    __slots__ = ("_console", "_diary", "_hint", "_listeners", "_log", "_summary", "_verbose", "capture")

    def __init__(
        self,
        settings: ObserveSettings,
        *,
        stderr: TextIO | None = None,
        diary: Log | None = None,
        sees_flows: bool = True,
    ) -> None:
        self._diary = diary
        self._console = Console((stderr or sys.stderr).fileno())
        self._verbose = settings.verbose
        self._summary = Summary(sees_flows=sees_flows) if settings.summary else None
        noun = "connection" if sees_flows else "packet"
        self._hint = None if settings.quiet or settings.summary or settings.verbose else RefusalHint(noun)
        self._log = self._open_log(settings.events)
        self.capture: PcapngWriter | None = None
        """Where frames go, or None."""
        try:
            self.capture = self._open_capture(settings.pcap)
        except BaseException:
            if self._log:
                self._log.close()
            raise
        wanted: list[Listener | None] = [self._log, self._summary, self._hint]
        if settings.verbose:
            wanted.append(self._console)
        if diary is not None and diary.says(Level.DEBUG):
            wanted.append(LogListener(diary))
        self._listeners = tuple(listener for listener in wanted if listener is not None)

    def on_event(self, event: Event, now: float) -> None:
        """Pass `event` to all who asked for events."""
        for listener in self._listeners:
            listener.on_event(event, now)

    @property
    def wants_flows(self) -> bool:
        """Whether anybody asked for flows that are opened and closed; refused ones are always counted."""
        return bool(self._log or self._summary or self._verbose or (self._diary and self._diary.says(Level.DEBUG)))

    @property
    def wants_drops(self) -> bool:
        """Whether anybody asked for frames that are dropped; the counters hold them all."""
        return bool(self._log or self._verbose or (self._diary and self._diary.says(Level.DEBUG)))

    @property
    def buffers(self) -> bool:
        """Whether there is anything to `flush`."""
        return bool(self.capture or self._log or self._verbose or self._diary)

    def flush(self) -> None:
        """Write what is buffered, without waiting."""
        if self.capture is not None:
            self.capture.flush()
        if self._log is not None:
            self._log.flush()
        if self._verbose:
            self._console.flush()
        if self._diary is not None:
            self._diary.flush()

    def say(self, line: str) -> None:
        """A line for those who asked for `-v`, and for the diary."""
        if self._diary is not None:
            self._diary.info(line)
        elif self._verbose:
            self._console.say(line)

    def warn(self, line: str) -> None:
        """A line for everybody, at once: something the user asked for does not happen."""
        if self._diary is not None:
            self._diary.warning(line)
            return
        self._console.say(line)
        self._console.flush()

    def finish(self, counters: Counters | None = None, *, stderr: TextIO | None = None) -> None:
        """Close captures and logs, then print the summary or the hint. `counters` are the drops to report."""
        for name, output in (("--pcap", self.capture), ("--events", self._log)):
            if output is not None:
                output.close()
                if output.lost:
                    self.warn(f"{name}: {output.lost} records lost: their reader was too slow")
        self._console.close()
        stream = stderr or sys.stderr
        if self._summary is not None:
            self._summary.write(stream, counters)
        hint = self._hint.line() if self._hint else None
        if hint:
            _print(stream, f"bucatini: {hint}\n")

    def _open_log(self, path: str | None) -> EventLog | None:
        if path is None:
            return None
        fd = open_output(path, "--events", append=True)
        epoch_ns = time.time_ns() - time.monotonic_ns()
        return EventLog(fd, name=f"--events {path}", epoch_ns=epoch_ns, on_failure=self.warn)

    def _open_capture(self, path: str | None) -> PcapngWriter | None:
        if path is None:
            return None
        fd = open_output(path, "--pcap", append=False)
        return PcapngWriter(fd, name=f"--pcap {path}", on_failure=self.warn, description="the guest's side of the link")


def _print(stream: TextIO, line: str) -> None:
    try:
        stream.write(line)
        stream.flush()
    except OSError:
        pass  # whoever read it has gone
