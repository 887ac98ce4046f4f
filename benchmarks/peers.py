"""The engines that are compared: how each is started with a guest, where its gateway is, how it publishes ports.

All engines run in the fake host's namespace as the same ordinary user. Each publishes a few ports to its guest and,
where it can, leads a few of the guest's own loopback to the host's (session.py says which); a measurement may ask for a
range instead. `native` is no engine: guest and host are one namespace and the path between them is the kernel's
loopback, the ceiling of the comparison.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from benchmarks.lab import ROUTER_V4, ROUTER_V6, TAG, BenchError, Lab, poll_until
from benchmarks.rows import NAMESPACE
from benchmarks.session import BULK_PORT, ECHO_PORT, START_SECONDS, Session, find_holder, finish, read_some, timed

_serial = itertools.count(1)
_published = itertools.count(7000, 2)


class Peer(Protocol):
    """What takes part in the comparison. `kind` is that of its guest, see rows.py."""

    name: str
    title: str
    default_mtu: int | None
    kind: str

    def missing(self) -> str | None:
        """Why this peer cannot take part, or None."""

    def version(self) -> str:
        """What is measured, for the head of the table."""

    def open(self, mtu: int | None) -> Session:
        """Start the engine with a guest; `mtu` None means the engine's own default."""

    def open_range(self, ports: range) -> Session | None:
        """Start the engine with a guest to which all these TCP ports are forwarded; None: it cannot."""

    def start_up(self, ports: range | None = None) -> float | None:
        """Seconds from starting the engine to the end of the command `true`; None: it has nothing like that."""


def next_ports() -> tuple[int, int]:
    """Ports for a guest: one for bulk transfers, one for echoes. They are used once."""
    return next(_published), next(_published)


class Native:
    """The kernel's loopback, no engine."""

    name = "native"
    title = "native loopback"
    default_mtu: int | None = 65536
    kind = NAMESPACE

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def missing(self) -> str | None:
        """Why this peer cannot take part, or None."""
        return None

    def version(self) -> str:
        """What is measured, for the head of the table."""
        return f"Linux {os.uname().release}"

    def open(self, mtu: int | None) -> Session:
        """Start the engine with a guest; `mtu` None means the engine's own default."""
        del mtu
        host = self.lab.host
        return Session(host, host, {4: "127.0.0.1", 6: "::1"}, "", *next_ports())

    def open_range(self, ports: range) -> Session | None:
        """None: nothing is forwarded."""
        del ports
        return None

    def start_up(self, ports: range | None = None) -> float | None:
        """Seconds from starting the engine with the command `true` to its end; None with ports: it has none."""
        return None if ports else timed(self.lab.host, ["true"])


class Wrapper:
    """An engine that takes the guest's command on its own command line, as pasta and `bucatini run` do."""

    name = ""
    title = ""
    default_mtu: int | None = None
    kind = NAMESPACE
    gateway: ClassVar[dict[int, str]] = {}
    extra_environment: ClassVar[dict[str, str]] = {}

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def command(self, mtu: int | None, forwards: Sequence[str]) -> list[str]:
        """The command line up to the guest's command; `forwards` are the options that say which ports are forwarded."""
        raise NotImplementedError

    def no_ports(self) -> list[str]:
        """Options: nothing is forwarded."""
        raise NotImplementedError

    def few_ports(self, bulk: int, echo: int) -> list[str]:
        """Options: `bulk` and `echo` are published, BULK_PORT and ECHO_PORT lead the other way, as Session says."""
        raise NotImplementedError

    def many_ports(self, ports: range) -> list[str]:
        """Options: all these TCP ports of every address of the host lead to the same ports of the guest."""
        raise NotImplementedError

    def open(self, mtu: int | None) -> Session:
        """Start the engine with a guest; `mtu` None means the engine's own default."""
        bulk, echo = next_ports()
        return self._open(self.command(mtu, self.few_ports(bulk, echo)), bulk, echo)

    def open_range(self, ports: range) -> Session | None:
        """Start the engine with a guest to which all these TCP ports are forwarded; None: it has no such option."""
        return self._open(self.command(None, self.many_ports(ports)), ports[0], ports[1])

    def _open(self, command: list[str], bulk: int, echo: int) -> Session:
        tag = f"{self.name}-{os.getpid()}-{next(_serial)}"
        log = self.lab.log(tag)
        environment = {TAG: tag, **self.extra_environment}
        process = self.lab.host.start([*command, self.lab.probe, "hold", tag], log=log, env=environment)
        session = Session(self.lab.host, self.lab.host, self.gateway, tag, bulk, echo, log, started=[process])
        try:
            session.holder = find_holder(tag, process, log, self.lab.host)
            finish(self.lab, session)
        except BaseException:
            session.close()
            raise
        return session

    def start_up(self, ports: range | None = None) -> float | None:
        """Seconds from starting the engine with the command `true` to its end, with these ports forwarded."""
        forwards = self.many_ports(ports) if ports else self.no_ports()
        return timed(self.lab.host, [*self.command(None, forwards), "true"], self.extra_environment)


class Pasta(Wrapper):
    """Debian's pasta. Run by root it gives up its privileges too early to start a command: an ordinary user only."""

    name = "pasta"
    title = "pasta"
    default_mtu: int | None = 65520
    gateway: ClassVar[dict[int, str]] = {4: ROUTER_V4, 6: ROUTER_V6}

    def missing(self) -> str | None:
        """Why this peer cannot take part, or None."""
        return None if shutil.which("pasta") else "pasta is not installed"

    def version(self) -> str:
        """The package's version, as the program does not always know its own."""
        return "pasta " + package_version("passt")

    def command(self, mtu: int | None, forwards: Sequence[str]) -> list[str]:
        """The guest gets the host's addresses at once; all four kinds of forwards are named, as the default is auto."""
        size = [] if mtu is None else ["-m", str(mtu)]
        return ["pasta", "--config-net", "-q", *forwards, *size, "--"]

    def no_ports(self) -> list[str]:
        """Options: nothing is forwarded."""
        return ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]

    def few_ports(self, bulk: int, echo: int) -> list[str]:
        """Options: a few ports in both directions."""
        return ["-t", f"{bulk},{echo}", "-u", f"{echo}", "-T", f"{BULK_PORT},{ECHO_PORT}", "-U", f"{ECHO_PORT}"]

    def many_ports(self, ports: range) -> list[str]:
        """Options: a range of TCP ports to the guest."""
        return ["-t", f"{ports[0]}-{ports[-1]}", *self.no_ports()[2:]]


class Bucatini(Wrapper):
    """This program in its compiled form."""

    name = "bucatini"
    title = "bucatini"
    gateway: ClassVar[dict[int, str]] = {4: "172.16.0.1", 6: "fd42:6d73:62::1"}
    python: Path | None = None
    problem: str | None = None

    def missing(self) -> str | None:
        """Why this peer cannot take part, or None."""
        return self.problem

    def version(self) -> str:
        """The program's own answer, which says whether it is compiled."""
        argv = [str(self.python), "-m", "bucatini", "--version"]
        return " ".join(self.lab.host.run(argv, 20, env=self.extra_environment).split())

    def command(self, mtu: int | None, forwards: Sequence[str]) -> list[str]:
        """The default policy plus the host's loopback."""
        size = [] if mtu is None else ["--mtu", str(mtu)]
        return [str(self.python), "-m", "bucatini", "run", "-q", "--allow", "host", *size, *forwards, "--"]

    def no_ports(self) -> list[str]:
        """Options: nothing is forwarded, the default."""
        return []

    def few_ports(self, bulk: int, echo: int) -> list[str]:
        """Options: a few ports in both directions."""
        specs = (f"127.0.0.1:{bulk}:{bulk}", f"127.0.0.1:{echo}:{echo}", f"127.0.0.1:{echo}:{echo}/udp")
        publish = [word for spec in specs for word in ("-p", spec)]
        return [*publish, "-T", f"{BULK_PORT},{ECHO_PORT}", "-U", f"{ECHO_PORT}"]

    def many_ports(self, ports: range) -> list[str]:
        """Options: a range of TCP ports to the guest."""
        written = f"{ports[0]}-{ports[-1]}"
        return ["-p", f"{written}:{written}"]


class BucatiniPure(Bucatini):
    """This program interpreted."""

    name = "pure"
    title = "bucatini, pure"
    extra_environment: ClassVar[dict[str, str]] = {"BUCATINI_PURE": "1"}


class Slirp:
    """slirp4netns, which joins a namespace that someone else made."""

    name = "slirp4netns"
    title = "slirp4netns"
    default_mtu: int | None = 1500
    kind = NAMESPACE
    gateway: ClassVar[dict[int, str]] = {4: "10.0.2.2", 6: "fd00::2"}

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def missing(self) -> str | None:
        """Why this peer cannot take part, or None."""
        return None if shutil.which("slirp4netns") else "slirp4netns is not installed"

    def version(self) -> str:
        """The package's version."""
        return "slirp4netns " + package_version("slirp4netns")

    def _start(self, mtu: int | None, tag: str, api: str) -> Session:
        """Make a namespace, let the engine join it, wait until it says that it is ready."""
        host, log = self.lab.host, self.lab.log(tag)
        namespace = ["unshare", "--user", "--map-root-user", "--net", "--mount", self.lab.probe, "hold", tag]
        holder = host.start(namespace, log=self.lab.log(tag + "-ns"))
        session = Session(host, host, self.gateway, tag, *next_ports(), log, started=[holder], forwards_out=False)
        ready, signal_ready = os.pipe()
        try:
            session.holder = find_holder(tag, holder, log, host)
            size = [] if mtu is None else ["-m", str(mtu)]
            argv = ["slirp4netns", "-c", "-6", "-r", str(signal_ready), "--api-socket", api, *size]
            argv += [str(session.holder), "tap0"]
            session.started.append(host.start(argv, log=log, env={TAG: tag}, pass_fds=[signal_ready]))
            os.close(signal_ready)
            signal_ready = -1
            os.set_blocking(ready, False)
            poll_until("slirp4netns ready", START_SECONDS, lambda: read_some(ready))
        except BaseException:
            session.close()
            raise
        finally:
            os.close(ready)
            if signal_ready >= 0:
                os.close(signal_ready)
        return session

    def open(self, mtu: int | None) -> Session:
        """Start the engine with a guest; `mtu` None means the engine's own default."""
        tag = f"{self.name}-{os.getpid()}-{next(_serial)}"
        api = str(self.lab.host.home / f"{tag}.sock")
        session = self._start(mtu, tag, api)
        try:
            finish(self.lab, session)
            for port, protocol in ((session.bulk_port, "tcp"), (session.echo_port, "tcp"), (session.echo_port, "udp")):
                self._publish(api, port, protocol)
        except BaseException:
            session.close()
            raise
        return session

    def open_range(self, ports: range) -> Session | None:
        """None: one request to its API socket per port is all it has."""
        del ports
        return None

    def _publish(self, api: str, port: int, protocol: str) -> None:
        arguments = {"proto": protocol, "host_addr": "127.0.0.1", "host_port": port, "guest_port": port}
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(api)
            control.sendall(json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode())
            control.shutdown(socket.SHUT_WR)
            answer = json.loads(control.recv(4096))
        if "error" in answer:
            raise BenchError(f"slirp4netns cannot publish port {port}/{protocol}: {answer['error']}")

    def start_up(self, ports: range | None = None) -> float | None:
        """Seconds from starting the namespace to the engine's ready signal: it has no command of its own to run.
        None with ports, see open_range()."""
        if ports:
            return None
        tag = f"{self.name}-{os.getpid()}-{next(_serial)}"
        before = time.perf_counter()
        session = self._start(None, tag, str(self.lab.host.home / f"{tag}.sock"))
        after = time.perf_counter()
        session.close()
        return after - before


def package_version(package: str) -> str:
    """The version of a Debian package, or "unknown" elsewhere."""
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return "unknown"
