"""The engine as `api/run.py` puts it together, in a process of its own, with its seams in the test's hands.

`Host` is a network namespace with nothing but loopback: no packet can leave it. `Host.start(Scenario(...))` runs this
file there as a program; it launches the guest, builds the engine with what the scenario forces (offloads, no peek
offset, few flows, few descriptors, a lossy link) and leaves an account of what happened (`Outcome`).

Does not: test the command line or published ports; whoever wants the whole program starts `bucatini`.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pytest

from support.transfer import Job, Result

__all__ = ["ADDRESSES", "Engine", "Host", "Outcome", "Scenario", "Server"]

ADDRESSES = {"4": "172.16.0.1", "6": "fd42:6d73:62::1"}
"""The gateway of slot 0, which is the host's loopback, by family."""
SETTLING = 10.0
"""Seconds the engine runs on after the command's end until no TCP flow is left."""
TRANSFER = Path(__file__).with_name("transfer.py")


class Scenario(NamedTuple):
    """What is forced. All of it can be written as JSON."""

    command: tuple[str, ...]
    mtu: int = 1500
    ipv6: bool = True
    offloads: tuple[str, ...] | None = None
    """Names of `host.tap.Offloads`; None asks for all."""
    peek_offset: bool | None = None
    flow_limit: int = 65536
    descriptors: int = 0
    """Of the engine, at most; 0 leaves the limit."""
    loss: float = 0.0
    """Share of frames lost, and another share of the same size reordered."""
    seed: int = 1
    publish: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """How a run ended."""

    status: int
    stdout: str
    stderr: str
    counters: dict[str, int]
    """Drops by label."""
    events: list[dict[str, Any]]
    offloads: list[str]
    """What the kernel granted."""
    most_flows: int
    tcp_left: int
    """TCP flows in the table when the engine ended."""
    sockets_left: int
    """Sockets the engine still watched for TCP flows then."""
    link: dict[str, int]
    """Of the lossy link."""

    def results(self) -> list[Result]:
        """Of the guest's end of transfers."""
        return [Result(*json.loads(line)) for line in self.stdout.splitlines()]

    def told(self, kind: str) -> list[dict[str, Any]]:
        """Events by the name of their type."""
        return [event for event in self.events if event["type"] == kind]


class Host:
    """A network namespace that lives as long as this object is entered; `words` puts a command into it."""

    def __enter__(self) -> Self:
        script = "ip link set lo up && echo up && exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate(timeout=10)

    def words(self, *command: str) -> list[str]:
        """The command line that runs `command` here, as the same process."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--", *command]

    def sockets(self) -> str:
        """All TCP sockets that are connected here, as ss(8) shows them."""
        return subprocess.run(self.words("ss", "-tnom"), capture_output=True, text=True, check=False).stdout

    def start(self, scenario: Scenario) -> Engine:
        """Run an engine and its guest."""
        return Engine(self, scenario)

    def run(self, scenario: Scenario, timeout: float = 60.0) -> Outcome:
        """Run an engine to its guest's end, at most `timeout` seconds."""
        with self.start(scenario) as engine:
            return engine.finish(timeout)

    def serve(self) -> Server:
        """Run a server of transfers."""
        return Server(self)


class Server:
    """`transfer.py serve`: `port` is known on entry, `results` is filled by `finish`, at the latest on leaving."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.results: list[Result] = []
        self.port = 0

    def __enter__(self) -> Self:
        words = self._host.words(sys.executable, str(TRANSFER), "serve")
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = json.loads(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """End the server and fill `results`. Idempotent."""
        if self._process.returncode is None:
            output: str = self._process.communicate(timeout=10)[0]
            self.results = [Result(*json.loads(line)) for line in output.splitlines()]

    def command(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        """What the guest runs to do `jobs` with this server, all at once."""
        plan = {"port": self.port, "addresses": ADDRESSES, "jobs": jobs}
        return (sys.executable, str(TRANSFER), "guest", json.dumps(plan))


class Engine:
    """One run under way. The guest's standard streams are pipes; leaving the context ends everything."""

    def __init__(self, host: Host, scenario: Scenario) -> None:
        self._host = host
        # Both live as long as this object, which is their context.
        self._account = tempfile.NamedTemporaryFile(prefix="bucatini-test-", suffix=".json")  # noqa: SIM115
        words = host.words(sys.executable, __file__, self._account.name, json.dumps(scenario))
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, bufsize=1
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # passed on to the command, whose end is the engine's
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        for stream in (self.process.stdin, self.process.stdout, self._errors, self._account):
            if stream is not None:
                stream.close()

    def line(self, timeout: float = 20.0) -> str:
        """The next line the command prints; the test fails when none comes."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        line = self.process.stdout.readline() if ready else ""
        assert line, f"the guest said nothing: {self.errors()}"
        return line.rstrip("\n")

    def say(self, line: str = "") -> None:
        """Give the command a line to read."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def errors(self) -> str:
        """What engine and command said on standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    def resident(self) -> int:
        """Bytes of memory the engine has in use (VmRSS, proc(5))."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

    def processor_time(self) -> float:
        """Seconds the engine has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def finish(self, timeout: float = 60.0) -> Outcome:
        """Wait for the end; the test fails when it does not come, and says what the host's sockets look like."""
        try:
            stdout, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as late:
            said = (late.stdout or b"").decode()
            pytest.fail(f"no end after {timeout} s\n{said}{self.errors()}\n{self._host.sockets()}")
        text = Path(self._account.name).read_text()
        assert text, f"the engine left no account: {self.errors()}"
        return Outcome(self.process.returncode, stdout, self.errors(), *json.loads(text))


# -- the program


class _Watcher:
    """Keeps what the engine tells, and the most flows there were."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.table: Any = None
        self.most = 0

    def on_event(self, event: Any, now: float) -> None:
        self.events.append(event)
        self.most = max(self.most, len(self.table))


def main(account: str, scenario: Scenario) -> int:
    """Run the scenario, write the account, return the command's status."""
    from bucatini.api.run import INTERFACE, blueprint_of, guest_settings
    from bucatini.config import RunConfig
    from bucatini.config.network import NetworkOptions
    from bucatini.host.guest import Offloads, launch
    from bucatini.policy.settings import PolicySettings

    config = RunConfig(
        command=tuple(scenario.command),
        network=NetworkOptions(config_net=True, mtu=scenario.mtu, ipv6=scenario.ipv6),
        policy=PolicySettings("open", allow=("host",)),
        publish=tuple(scenario.publish),
    )
    config.check()
    blueprint = blueprint_of(config, INTERFACE)
    network = blueprint.network()
    settings = guest_settings(config, network)
    if scenario.offloads is not None:
        settings = settings._replace(offloads=Offloads.from_names(*scenario.offloads))
    guest = launch(settings)
    try:
        return serve(account, scenario, config, blueprint, network, guest)
    finally:
        guest.close()


def serve(account: str, scenario: Scenario, config: Any, blueprint: Any, network: Any, guest: Any) -> int:
    """From a launched guest to the command's status."""
    from dataclasses import replace

    from bucatini.api.jobs import job_of
    from bucatini.api.session import settings_of
    from bucatini.engine.build import Parts, Translator, raise_descriptor_limit
    from bucatini.links.tap import TapLink
    from bucatini.observe.observers import Observers
    from bucatini.observe.settings import ObserveSettings
    from support.lossy import LossyLink

    tap = guest.tap()
    link: Any = TapLink(tap.descriptor)
    if scenario.loss:
        link = LossyLink(link, scenario.loss, scenario.loss, scenario.seed)
    watcher = _Watcher()
    job = job_of(config, blueprint, network, Observers(ObserveSettings(quiet=True)))
    stack = replace(settings_of(job, network, tap), flow_limit=scenario.flow_limit)
    parts = Parts(
        link,
        tap.offloads,
        stack,
        config.build_policy(network.hosts).decide,
        job.ports,
        guest.factory,
        (watcher,),
        peek_offset=scenario.peek_offset,
    )
    translator = Translator(parts)
    watcher.table = translator.sink.table
    limit_descriptors(scenario.descriptors) if scenario.descriptors else raise_descriptor_limit()
    try:
        translator.start()
        status = translator.loop.run_until_complete(wait(guest, translator.sink.table))
        left = (len(translator.sink.table.tcp), sum(flow.protocol == 6 for flow in translator.sink.flows.values()))
    finally:
        translator.close()
    told = [{"type": type(event).__name__, **event._asdict()} for event in watcher.events]
    granted = [name for name, value in tap.offloads._asdict().items() if value]
    statistics = link.statistics() if scenario.loss else {}
    outcome = (translator.counters.snapshot(), told, granted, watcher.most, *left, statistics)
    Path(account).write_text(json.dumps(outcome, default=bytes.hex))
    return int(status)


def limit_descriptors(count: int) -> None:
    """From now on this process may have so many descriptors open."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


async def wait(guest: Any, table: Any) -> int:
    """The command's status, once no TCP flow is left, or after a while."""
    import asyncio

    guest.start()
    status = await guest.wait()
    deadline = time.monotonic() + SETTLING
    while table.tcp and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Scenario(*json.loads(sys.argv[2]))))
