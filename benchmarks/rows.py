"""The rows of the table and the goals they are held to: data only, no measuring and no printing.

A row's key says what it is: "tcp.up.1500.1.v4" is TCP from guest to host at MTU 1500, 1 stream, IPv4. "Up" and "out"
are from the guest, "down" and "in" are to it.
"""

from __future__ import annotations

from dataclasses import dataclass

MTUS = (1500, 65520)
STREAMS = (1, 8)
FAMILIES = (4, 6)
DIRECTIONS = ("up", "down")
UDP_SIZES = (64, 1400, 60000)

COMPILED, PURE, PASTA, SLIRP, NATIVE = "bucatini", "pure", "pasta", "slirp4netns", "native"
OTHERS = (PASTA, SLIRP)
VM_STREAM, VM_USER, VM_DGRAM, VM_PASST = "vm-stream", "vm-vhost-user", "vm-dgram", "vm-passt"
FILTER_PLAIN, FILTER_RELAY = "plain-bridge", "relay"
FILTER_RULES, FILTER_FAITHFUL, FILTER_DATAGRAMS = "rules", "faithful", "datagrams"
OWN_MTU = {PASTA: 65520, SLIRP: 1500}

NAMESPACE, MACHINE, BRIDGED = "namespace", "machine", "bridged"
"""Kinds of guests. A bridged one is on a bridge of the host's, maybe behind a filter."""

BEST, BEST_OWN_MTU, ABSOLUTE = "best", "best at own MTU", "absolute"


@dataclass(frozen=True)
class Goal:
    """`column` must reach `bound` times what `against` has (PASTA, BEST, BEST_OWN_MTU), or `bound` itself (ABSOLUTE).

    Whether that is a minimum or a maximum follows from the row."""

    column: str
    against: str
    bound: float


@dataclass(frozen=True)
class Row:
    """One line of the table. `more_is_better` tells which way a ratio is good.

    `loss_key` names a fraction that is shown in the same cell. `own_mtu_keys` names, per peer, the row that
    holds this measure at that peer's own default MTU."""

    key: str
    group: str
    label: str
    unit: str
    more_is_better: bool = True
    goals: tuple[Goal, ...] = ()
    loss_key: str = ""
    own_mtu_keys: tuple[tuple[str, str], ...] = ()


def tcp_key(direction: str, mtu: int, streams: int, family: int) -> str:
    """The key of a TCP bulk row."""
    return f"tcp.{direction}.{mtu}.{streams}.v{family}"


def _tcp_rows() -> list[Row]:
    rows = []
    for mtu in MTUS:
        for family in FAMILIES:
            for streams in STREAMS:
                for direction in DIRECTIONS:
                    goals: tuple[Goal, ...] = ()
                    if mtu == 1500:
                        own = 2.0 if direction == "up" else 1.1
                        goals = (Goal(COMPILED, BEST, 8), Goal(COMPILED, BEST_OWN_MTU, own), Goal(PURE, BEST, 1))
                    plural = "stream" if streams == 1 else "streams"
                    label = f"TCP {direction}, MTU {mtu}, {streams} {plural}, IPv{family}"
                    at_own = tuple((peer, tcp_key(direction, OWN_MTU[peer], streams, family)) for peer in OTHERS)
                    key = tcp_key(direction, mtu, streams, family)
                    rows.append(Row(key, "tcp", label, "Gbit/s", goals=goals, own_mtu_keys=at_own))
    return rows


def _cpu_rows() -> list[Row]:
    rows = []
    for mtu in MTUS:
        for direction in DIRECTIONS:
            at_own = tuple((peer, f"cpu.{direction}.{OWN_MTU[peer]}") for peer in OTHERS)
            label = f"engine CPU, TCP {direction}, MTU {mtu}"
            rows.append(Row(f"cpu.{direction}.{mtu}", "cpu", label, "s/GB", False, own_mtu_keys=at_own))
    return rows


def _latency_rows() -> list[Row]:
    below = (Goal(COMPILED, PASTA, 1.1),)
    above = (Goal(COMPILED, PASTA, 1.0),)
    return [
        Row("rtt.tcp.median", "latency", "TCP request-response, median", "us", False, below),
        Row("rtt.tcp.p99", "latency", "TCP request-response, p99", "us", False),
        Row("rtt.udp.median", "latency", "UDP request-response, median", "us", False, below),
        Row("rtt.udp.p99", "latency", "UDP request-response, p99", "us", False),
        Row("crr", "latency", "connect-request-response", "per s", True, above),
        Row("crr.p99", "latency", "connect-request-response, p99", "us", False),
    ]


def _udp_rows() -> list[Row]:
    rows = []
    for size in UDP_SIZES:
        for direction in DIRECTIONS:
            key = f"udp.{direction}.{size}"
            goals = (Goal(COMPILED, PASTA, 1.0),) if size == 1400 else ()
            label = f"UDP {size} B {direction}, received (lost)"
            rows.append(Row(key, "udp", label, "packets/s", True, goals, loss_key=key + ".loss"))
    return rows


def _published_rows() -> list[Row]:
    """Both directions of local forwarding, which need no frame at all: client and server are on a loopback each."""
    equal = (Goal(COMPILED, PASTA, 1.0),)
    rows = []
    for key, label in (("published", "published port"), ("outward", "guest's loopback")):
        rows += [
            Row(f"{key}.in", key, f"{label}, TCP in", "Gbit/s", True, equal),
            Row(f"{key}.out", key, f"{label}, TCP out", "Gbit/s", True, equal),
            Row(f"{key}.rtt.median", key, f"{label}, request-response, median", "us", False),
            Row(f"{key}.rtt.p99", key, f"{label}, request-response, p99", "us", False),
            Row(f"{key}.crr", key, f"{label}, connect-request-response", "per s", True, equal),
            Row(f"{key}.urtt.median", key, f"{label}, UDP request-response, median", "us", False),
            Row(f"{key}.urtt.p99", key, f"{label}, UDP request-response, p99", "us", False),
        ]
    return rows


def _ports_rows() -> list[Row]:
    return [
        Row("ports.start", "ports", "start and end of `run -p 20000-20999:20000-20999 -- true`", "ms", False),
        Row("ports.pss", "ports", "idle, PSS of all processes", "MB", False),
    ]


def vm_key(key: str) -> str:
    """The key of a measure when the guest is a virtual machine."""
    return f"vm.{key}"


def _vm_rows() -> list[Row]:
    """A virtual machine's own speed limits what is moved: the engine's CPU time for it is the telling number."""
    rows = []
    for mtu in MTUS:
        for direction in DIRECTIONS:
            name = f"TCP {direction}, guest's MTU {mtu}"
            rows.append(Row(vm_key(f"tcp.{direction}.{mtu}"), "vm", name, "Gbit/s"))
            rows.append(Row(vm_key(f"cpu.{direction}.{mtu}"), "vm", f"engine CPU, {name}", "s/GB", False))
    udp = vm_key("udp.up.1400")
    rows += [
        Row(vm_key("rtt.tcp"), "vm", "TCP request-response, median", "us", False),
        Row(vm_key("cpu.rtt.tcp"), "vm", "engine CPU per request-response", "us", False),
        Row(vm_key("rtt.udp"), "vm", "UDP request-response, median", "us", False),
        Row(vm_key("cpu.rtt.udp"), "vm", "engine CPU per request-response", "us", False),
        Row(vm_key("crr"), "vm", "connect-request-response", "per s"),
        Row(vm_key("cpu.crr"), "vm", "engine CPU per connection", "us", False),
        Row(udp, "vm", "UDP 1400 B up, received (lost)", "packets/s", loss_key=udp + ".loss"),
        Row(vm_key("cpu.udp"), "vm", "engine CPU per datagram", "us", False),
        Row(vm_key("published.in"), "vm", "published port, TCP in", "Gbit/s"),
        Row(vm_key("published.out"), "vm", "published port, TCP out", "Gbit/s"),
        Row(vm_key("published.rtt.median"), "vm", "published port, request-response, median", "us", False),
        Row(vm_key("published.crr"), "vm", "published port, connect-request-response", "per s"),
        Row(vm_key("published.urtt.median"), "vm", "published port, UDP request-response, median", "us", False),
    ]
    return rows


def filter_column(rules: int, way: str = FILTER_RULES) -> str:
    """The column of the filter with so many rules."""
    return f"{way}-{rules}"


def filter_key(key: str) -> str:
    """The key of a measure with a guest on a bridge."""
    return f"filter.{key}"


def _filter_rows() -> list[Row]:
    """How many rules there are should hardly matter: with 10,000, throughput is at least 95 % of that with 100."""
    most = (Goal(filter_column(10000), filter_column(100), 0.95),)
    rows = []
    for size, label in (("64k", "frames of 64 KiB"), ("1500", "frames of 1500 B")):
        for way in DIRECTIONS:
            name = f"TCP {way}, {label}"
            rows.append(Row(filter_key(f"tcp.{way}.{size}"), "filter", name, "Gbit/s", goals=most))
            rows.append(Row(filter_key(f"cpu.{way}.{size}"), "filter", f"engine CPU, {name}", "s/GB", False))
    for way in DIRECTIONS:
        udp = filter_key(f"udp.{way}.64")
        rows.append(Row(udp, "filter", f"UDP 64 B {way}, received (lost)", "frames/s", True, most, udp + ".loss"))
        rows.append(Row(filter_key(f"cpu.udp.{way}"), "filter", f"engine CPU per frame {way}", "us", False))
    return [
        *rows,
        Row(filter_key("rtt.tcp"), "filter", "TCP request-response, median", "us", False),
        Row(filter_key("cpu.rtt.tcp"), "filter", "engine CPU per request-response", "us", False),
        Row(filter_key("rtt.udp"), "filter", "UDP request-response, median", "us", False),
        Row(filter_key("cpu.rtt.udp"), "filter", "engine CPU per request-response", "us", False),
        Row(filter_key("crr"), "filter", "connect-request-response", "per s", True, most),
        Row(filter_key("cpu.crr"), "filter", "engine CPU per connection", "us", False),
    ]


def _cost_rows() -> list[Row]:
    start, flows = (Goal(COMPILED, ABSOLUTE, 300),), (Goal(COMPILED, ABSOLUTE, 40),)
    return [
        Row("start", "start", "start and end of `run -- true`", "ms", False, start),
        Row("memory.idle.rss", "memory", "idle, RSS of all processes", "MB", False),
        Row("memory.idle.pss", "memory", "idle, PSS", "MB", False),
        Row("memory.1000.pss", "memory", "1,000 open flows, PSS", "MB", False),
        Row("memory.10000.pss", "memory", "10,000 open flows, PSS", "MB", False),
        Row("memory.10000.growth", "memory", "10,000 open flows, over idle", "MB", False, flows),
    ]


GROUP_TITLES = {
    "tcp": "TCP bulk",
    "cpu": "CPU per gigabyte",
    "latency": "Latency and short connections",
    "udp": "UDP",
    "published": "Published port, from the host's loopback to the guest",
    "outward": "Forwarded port, from the guest's loopback to the host's",
    "ports": "1,000 forwarded ports",
    "start": "Start-up",
    "memory": "Resident memory of the engine",
    "vm": "Virtual machine (QEMU without KVM, one CPU)",
    "filter": "Isolation filter between a guest and a bridge",
}

ROWS: tuple[Row, ...] = (
    *_tcp_rows(),
    *_cpu_rows(),
    *_latency_rows(),
    *_udp_rows(),
    *_published_rows(),
    *_ports_rows(),
    *_cost_rows(),
    *_vm_rows(),
    *_filter_rows(),
)
