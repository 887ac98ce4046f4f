"""What an engine costs: CPU seconds and memory of all its processes, read from /proc (proc(5)).

An engine is the process that the harness started with its descendants, and whatever else carries the harness's tag in
its environment, so that helpers which detach themselves are found too. The command inside the guest namespace is not
part of the engine and is left out by its process id.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab import TAG

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Memory:
    """Resident memory in bytes: `rss` counts shared pages once per process, `pss` divides them by their users."""

    rss: int
    pss: int


def all_pids() -> list[int]:
    """Every process id visible in /proc."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def tagged(tag: str) -> set[int]:
    """The processes that were started with the environment entry `TAG=tag`, and their children."""
    wanted = f"{TAG}={tag}".encode()
    found: set[int] = set()
    for pid in all_pids():
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def with_descendants(roots: set[int]) -> set[int]:
    """These processes, those of them that exist, and all their descendants."""
    parents: dict[int, int] = {}
    for pid in all_pids():
        with contextlib.suppress(OSError):
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    found = roots & parents.keys()
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def holders(token: str) -> set[int]:
    """The processes `probe hold TOKEN`: guest commands made by the harness, whatever namespaces they live in."""
    ending = ["hold", token]
    found: set[int] = set()
    for pid in all_pids():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            if len(words) == 3 and words[1:] == ending:
                found.add(pid)
    return found


def cpu_seconds(pids: set[int]) -> float:
    """User plus system time of all threads of these processes so far; ended processes count as 0."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / _TICK


def memory(pids: set[int]) -> Memory:
    """Sum of the resident memory of these processes."""
    rss = pss = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "Rss":
                    rss += int(value.split()[0]) * 1024
                elif name == "Pss":
                    pss += int(value.split()[0]) * 1024
    return Memory(rss, pss)
