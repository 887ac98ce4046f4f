"""The command line of `scripts/bench`: choose cases and peers, run them interleaved, print and save the table.

For every case the peers take turns, run by run (A B C, A B C, ...), so that what else happens on the machine meets all
of them alike. An engine stays up from case to case; one that fails is started again, and after two failures in a row it
is left out of that case and the table says why. Every wait is bounded.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import re
import resource
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.cases import all_cases
from benchmarks.document import render_markdown, replace_section
from benchmarks.filter_peers import Filter, filter_peers
from benchmarks.install import install
from benchmarks.lab import BenchError, Lab, clean_up_on_signals, stop
from benchmarks.peers import Bucatini, BucatiniPure, Native, Pasta, Peer, Slirp, package_version
from benchmarks.rows import GROUP_TITLES, MACHINE, NAMESPACE, NATIVE, ROWS
from benchmarks.sampling import Bench, Case
from benchmarks.session import ECHO_PORT, Session
from benchmarks.table import COLUMNS, Results, render_text
from benchmarks.vm_guest import MEMORY
from benchmarks.vm_image import build_image
from benchmarks.vm_peers import BucatiniDgram, BucatiniStream, BucatiniUser, MachinePeer, Passt

START_RUNS = 10
LOAD_SAMPLES: list[float] = []


class Runner:
    """Runs cases over peers and keeps the engines that are up."""

    def __init__(self, bench: Bench, peers: list[Peer], results: Results) -> None:
        self.bench = bench
        self.peers = peers
        self.results = results
        self._open: dict[tuple[str, int | None], Session] = {}

    def session(self, peer: Peer, mtu: int | None) -> Session:
        """The engine of this peer at this MTU, started if it is not up."""
        wanted = None if mtu == peer.default_mtu or isinstance(peer, Native) else mtu
        session = self._open.get((peer.name, wanted))
        if session is None or not session.alive():
            self.drop(peer, mtu)
            session = self._open[(peer.name, wanted)] = peer.open(wanted)
        return session

    def drop(self, peer: Peer, mtu: int | None) -> str:
        """End this engine if it is up. Returns its last words if it had ended by itself."""
        wanted = None if mtu == peer.default_mtu or isinstance(peer, Native) else mtu
        session = self._open.pop((peer.name, wanted), None)
        if session is None:
            return ""
        epitaph = session.epitaph()
        session.close()
        return epitaph

    def close(self) -> None:
        """End all engines."""
        while self._open:
            self._open.popitem()[1].close()

    def run(self, case: Case, runs: int) -> None:
        """Sample one case `runs` times at every peer, interleaved."""
        if case.fresh is not None:
            self.close()  # other engines would share pages with the one that is measured
        peers = [peer for peer in self.peers if peer.kind == case.kind]
        failed = dict.fromkeys((peer.name for peer in peers), 0)
        for number in range(runs):
            LOAD_SAMPLES.append(os.getloadavg()[0])
            for peer in peers:
                if failed[peer.name] < 2:
                    progress(f"{case.keys[0]} {number + 1}/{runs} {peer.name}")
                    failed[peer.name] = 0 if self.sample(case, peer) else failed[peer.name] + 1

    def sample(self, case: Case, peer: Peer) -> bool:
        """Take one sample; a failure becomes a footnote and ends the engine. Returns whether it worked."""
        recorded: set[str] = set()

        def record(key: str, value: float) -> None:
            recorded.add(key)
            self.results.add(key, peer.name, value)

        try:
            if case.fresh is not None:
                case.fresh(self.bench, peer, record)
            elif case.measure is not None:
                case.measure(self.bench, self.session(peer, case.mtu), record)
        except (BenchError, OSError, ValueError, KeyError) as problem:
            reason = self.drop(peer, case.mtu) or str(problem) or type(problem).__name__
            for key in set(case.keys) - recorded:
                self.results.failures[(key, peer.name)] = reason
            return False
        return True


def progress(text: str) -> None:
    """One line on the terminal that overwrites itself; nothing if stderr is not a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure bucatini beside its peers.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"any of: {' '.join(GROUP_TITLES)} (default: all)")
    parser.add_argument("--runs", type=int, default=5, help="samples per row and peer (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one sample (default 2); iperf3 rounds up")
    parser.add_argument("--quick", action="store_true", help="1 run of 1 second")
    parser.add_argument("--only", metavar="PEER,...", help=f"any of: {','.join(COLUMNS)} (default: all)")
    parser.add_argument(
        "--match", metavar="REGEX", type=pattern, default="", help="only cases that fill a row so named"
    )
    parser.add_argument("--list", action="store_true", help="print the keys and names of these rows and end")
    parser.add_argument("--udp-rate", type=float, default=0, help="packets/s of the UDP rows (default: unpaced)")
    parser.add_argument("--venv", type=Path, help="use bucatini of this environment (made if missing, kept)")
    parser.add_argument("--vm-image", type=Path, help="make the guest of the group vm in this directory, and keep it")
    parser.add_argument("--json", type=Path, help="write facts and all samples to this file")
    parser.add_argument("--markdown", type=Path, help="write the table into this document, between its markers")
    parser.add_argument("--user", default="bucatini-bench", help="the ordinary user (made for the run if missing)")
    options = parser.parse_args(arguments)
    options.names = options.only.split(",") if options.only else list(COLUMNS)
    for given, known in ((options.groups, GROUP_TITLES), (options.names, COLUMNS)):
        for word in given:
            if word not in known:
                parser.error(f"unknown: {word} (known: {' '.join(known)})")
    if options.quick:
        options.runs, options.seconds = 1, 1.0
    if options.runs < 1 or options.seconds < 0.1:
        parser.error("--runs is at least 1, --seconds at least 0.1")
    return options


def pattern(written: str) -> str:
    """A regular expression, checked."""
    try:
        re.compile(written)
    except re.error as problem:
        raise argparse.ArgumentTypeError(f"{written!r} is not a regular expression: {problem}") from None
    return written


def select(groups: Iterable[str], match: str) -> list[Case]:
    """The cases of these groups (all if none is named) that fill a row in whose key the expression `match` is found."""
    wanted = set(groups) or set(GROUP_TITLES)
    return [case for case in all_cases() if case.groups & wanted and any(re.search(match, key) for key in case.keys)]


def print_keys(cases: Iterable[Case]) -> None:
    """The rows that these cases fill: what `--match` is held against, and the label in the table."""
    filled = {key for case in cases for key in case.keys}
    for row in ROWS:
        if row.key in filled:
            print(f"{row.key:24} {row.label}")


def make_peers(lab: Lab, options: argparse.Namespace, cases: Iterable[Case]) -> list[Peer]:
    """The peers of these cases that can take part. One that cannot is reported on stderr and left out."""
    every: list[Peer] = [Native(lab), Bucatini(lab), BucatiniPure(lab), Pasta(lab), Slirp(lab)]
    every += [BucatiniStream(lab), BucatiniUser(lab), BucatiniDgram(lab), Passt(lab)]
    every += filter_peers(lab)
    kinds = {case.kind for case in cases}
    peers = [peer for peer in every if peer.name in options.names and peer.kind in kinds]
    if any(isinstance(peer, (Bucatini, BucatiniStream, Filter)) for peer in peers):
        progress("installing bucatini")
        try:
            Bucatini.python = install(Path(__file__).resolve().parent.parent, lab.home, options.venv)
        except BenchError as problem:
            Bucatini.problem = str(problem)
    if any(peer.kind == MACHINE for peer in peers):
        progress("making the guest")
        try:
            MachinePeer.image = build_image((options.vm_image or lab.home / "image").resolve())
        except BenchError as problem:
            MachinePeer.problem = str(problem)
    for peer in list(peers):
        reason = peer.missing()
        if reason is not None:
            peers.remove(peer)
            print(f"\nscripts/bench: without {peer.title}: {reason}", file=sys.stderr)
    return peers


def describe(peers: list[Peer], runs: int, seconds: float) -> dict[str, str]:
    """The facts for the head of the table."""
    model = platform.processor() or platform.machine()
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            model = text.partition(":")[2].strip()
            break
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1e6
    brief = START_RUNS if runs > 1 else 1
    facts = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPUs, {model}, {memory:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "samples": f"median of {runs}, {seconds:g} s each, peers in turn; start-up: median of {brief}",
        "open files": f"at most {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} per process",
    }
    for peer in peers:
        if peer.name != NATIVE:
            facts[peer.title if peer.kind == NAMESPACE else peer.title.partition(",")[0]] = version_of(peer)
    if MachinePeer.image is not None:
        qemu = package_version("qemu-system-x86")
        facts["virtual machines"] = f"Linux {MachinePeer.image.version}, QEMU {qemu} without KVM, 1 CPU, {MEMORY}"
    return facts


def version_of(peer: Peer) -> str:
    """A peer's version, or why it does not tell."""
    try:
        return peer.version()
    except BenchError as problem:
        return f"unknown ({problem})"


def save(options: argparse.Namespace, results: Results, facts: dict[str, str], command: str) -> None:
    """Write the files that were asked for."""
    if options.json is not None:
        failures = [{"row": key, "peer": peer, "reason": text} for (key, peer), text in results.failures.items()]
        data = {"facts": facts, "command": command, "samples": results.samples, "failures": failures}
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    if options.markdown is not None:
        old = options.markdown.read_text() if options.markdown.exists() else ""
        section = render_markdown(results, facts, command)
        options.markdown.write_text(replace_section(old, section))


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark. Returns the exit code: 0, 1 if nothing could be measured, 2 for bad use or a bad machine."""
    options = parse_arguments(arguments)
    results, cases = Results(), select(options.groups, options.match)
    if options.list:
        print_keys(cases)
        return 0
    if not cases:
        print("scripts/bench: no row matches (--list names them)", file=sys.stderr)
        return 2
    clean_up_on_signals()
    try:
        with Lab(options.user) as lab:
            peers = make_peers(lab, options, cases)
            facts = describe(peers, options.runs, options.seconds)
            run_cases(Runner(Bench(lab, options.seconds, options.udp_rate), peers, results), cases, options.runs)
    except BenchError as problem:
        print(f"scripts/bench: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nscripts/bench: interrupted", file=sys.stderr)
        return 130
    if LOAD_SAMPLES:
        facts["load average"] = f"{min(LOAD_SAMPLES):.1f} to {max(LOAD_SAMPLES):.1f} (1 minute, the benchmark included)"
    progress("")
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), end="\n\n")
    print(render_text(results), end="")
    save(options, results, facts, " ".join(["scripts/bench", *(arguments or sys.argv[1:])]))
    return 0 if results.samples else 1


def run_cases(runner: Runner, cases: list[Case], runs: int) -> None:
    """Run all cases with one echo server on the host, and end every engine whatever happens."""
    host = runner.bench.lab.host
    echo = host.start([runner.bench.lab.probe, "echo", str(ECHO_PORT)], log=runner.bench.lab.log("echo"))
    try:
        host.wait_port("tcp", ECHO_PORT, echo)
        for case in cases:
            runner.run(case, START_RUNS if case.brief and runs > 1 else runs)
    finally:
        runner.close()
        stop(echo)


if __name__ == "__main__":
    sys.exit(main())
