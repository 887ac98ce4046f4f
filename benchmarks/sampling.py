"""What every measurement shares: its shape, the programs it runs, how one sample becomes a value of a row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lab import BenchError, Lab, Place, stop
from benchmarks.peers import Peer
from benchmarks.rows import NAMESPACE
from benchmarks.session import Session

Record = Callable[[str, float], None]


@dataclass(frozen=True)
class Bench:
    """What every case needs. `seconds` is the length of one sample, `udp_rate` in packets/s (0: unpaced)."""

    lab: Lab
    seconds: float
    udp_rate: float

    def probe(self, place: Place, *words: object) -> dict[str, Any]:
        """Run the probe to its end in `place`."""
        return place.run_json([self.lab.probe, *map(str, words)], self.seconds + 15)


@dataclass(frozen=True)
class Case:
    """One measurement. `mtu` None: the engine's own default. `keys` are the rows it fills, all lost if it fails.

    `measure` gets a session; or, for a case that starts engines itself (`fresh`), the peer. `brief`: so short that one
    sample says little, more are taken. `kind`: for the peers whose guests are of this kind, and for no other."""

    groups: frozenset[str]
    keys: tuple[str, ...]
    mtu: int | None
    measure: Callable[[Bench, Session, Record], None] | None = None
    fresh: Callable[[Bench, Peer, Record], None] | None = None
    brief: bool = False
    kind: str = NAMESPACE


def iperf(bench: Bench, client: Place, server: Place, host: str, port: int, *options: str) -> tuple[float, int]:
    """One iperf3 test of whole seconds with a server of its own. Returns bits per second and bytes at the receiver."""
    log = bench.lab.log("iperf3-server")
    process = server.start(["iperf3", "-s", "-1", "-p", str(port)], log=log)
    try:
        server.wait_port("tcp", port, process)
        seconds = math.ceil(bench.seconds)
        argv = ["iperf3", "-J", "-c", host, "-p", str(port), "-t", str(seconds), "--connect-timeout", "3000"]
        report = client.run_json([*argv, *options], seconds + 12)
    finally:
        stop(process)
    if "error" in report:
        raise BenchError(f"iperf3: {report['error']}")
    received = report["end"]["sum_received"]
    return float(received["bits_per_second"]), int(received["bytes"])


def read_json(log: Path) -> dict[str, Any]:
    """The JSON object that a finished process wrote."""
    text = log.read_text()
    try:
        return dict(json.loads(text))
    except ValueError:
        raise BenchError((text.strip() or "the server printed nothing").splitlines()[-1]) from None
