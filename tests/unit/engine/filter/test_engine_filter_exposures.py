"""engine.filter.exposures: ports follow a lease, with the clock handed in; the host's ports are real."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping

import pytest

from bucatini.base.address import pack
from bucatini.base.errors import HostError
from bucatini.engine.filter.exposures import PAUSE, RETRY, Exposures
from bucatini.guard.binding import Binding

GATEWAY, GUEST, OTHER, STATIC = (pack(each) for each in ("10.0.0.1", "10.0.0.7", "10.0.0.8", "10.0.0.200"))
NEVER = float("inf")


class Table:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[int, tuple[bytes, int]]] = []
        self.refuses = ""

    def expose(self, wanted: Mapping[int, tuple[bytes, int]]) -> None:
        if self.refuses:
            raise HostError(self.refuses)
        self.told.append(dict(wanted))


class Bench:
    def __init__(self) -> None:
        self.binding = Binding(bytes.fromhex("020000000007"), [GATEWAY])
        self.table = Table()
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.made: list[Exposures] = []
        probe = socket.socket()
        probe.bind(("0.0.0.0", 0))
        self.port = probe.getsockname()[1]
        probe.close()

    def exposures(self, *ports: tuple[int, int], fixed: bytes | None = None) -> Exposures:
        heard = self.lines.append, self.warnings.append
        made = Exposures(ports or [(self.port, 80)], self.table, self.binding, fixed, *heard)
        self.made.append(made)
        return made


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    for each in made.made:
        each.close()


def can_listen(port: int) -> bool:
    """Whether somebody who reuses addresses gets the port, as most servers do."""
    try:
        socket.create_server(("0.0.0.0", port)).close()
    except OSError:
        return False
    return True


def test_a_life(bench: Bench) -> None:
    exposures, table, port = bench.exposures(), bench.table, bench.port
    assert exposures.look(0.0) == NEVER
    assert table.told == []
    bench.binding.lease(GUEST, 600, 1.0)
    assert exposures.look(1.0) == 601.0
    assert table.told == [{port: (GUEST, 80)}]
    assert exposures.look(2.0) == 601.0
    bench.binding.lease(GUEST, 600, 300.0)  # renewed
    assert exposures.look(300.0) == 900.0
    assert len(table.told) == 1
    bench.binding.lease(OTHER, 600, 400.0)
    exposures.look(400.0)
    assert table.told[1:] == [{port: (OTHER, 80)}]
    assert exposures.look(999.9) == 1000.0
    assert exposures.look(1000.0) == NEVER
    assert table.told[2:] == [{}]
    bench.binding.lease(GUEST, 600, 1002.0)
    exposures.look(1002.0)
    bench.binding.clear()
    exposures.look(1003.0)
    assert table.told[3:] == [{port: (GUEST, 80)}, {}]
    assert bench.lines == [
        f"--expose {port}:80: leads to 10.0.0.7",
        f"--expose {port}:80: leads to 10.0.0.8",
        f"--expose {port}:80: leads nowhere",
        f"--expose {port}:80: leads to 10.0.0.7",
        f"--expose {port}:80: leads nowhere",
    ]


def test_nothing_is_asked_while_nothing_changes(bench: Bench) -> None:
    exposures = bench.exposures()
    bench.binding.lease(GUEST, 600, 0.0)
    for now in range(100):
        exposures.look(float(now))
    assert len(bench.table.told) == 1


def test_an_end_never_waits_and_a_beginning_may(bench: Bench) -> None:
    """A guest that leases and releases all the time costs the host no more than a change in `PAUSE`, and the end of
    each."""
    exposures, table, port = bench.exposures(), bench.table, bench.port
    bench.binding.lease(GUEST, 600, 0.0)
    exposures.look(0.0)
    bench.binding.lease(OTHER, 600, 0.01)
    due = exposures.look(0.01)
    assert table.told[1:] == [{}], "the address may be another's by now"
    assert due <= 0.01 + PAUSE
    exposures.look(0.02)
    assert len(table.told) == 2
    exposures.look(0.02 + PAUSE)
    assert table.told[2:] == [{port: (OTHER, 80)}]


def test_a_static_address(bench: Bench) -> None:
    exposures, table, port = bench.exposures(fixed=STATIC), bench.table, bench.port
    exposures.look(0.0)
    bench.binding.lease(GUEST, 10, 1.0)
    exposures.look(1.0)
    exposures.look(11.0)
    assert table.told == [{port: (STATIC, 80)}, {port: (GUEST, 80)}, {port: (STATIC, 80)}]


def test_the_port_is_nobody_elses_meanwhile(bench: Bench) -> None:
    exposures = bench.exposures()
    with socket.socket() as other:
        with pytest.raises(OSError):
            other.bind(("0.0.0.0", bench.port))
        exposures.close()
        other.bind(("0.0.0.0", bench.port))


def test_the_port_is_not_theirs_who_reuse_addresses_either(bench: Bench) -> None:
    exposures = bench.exposures()
    assert not can_listen(bench.port)
    exposures.close()
    assert can_listen(bench.port)


def test_a_port_whose_old_connections_wait_is_free(bench: Bench) -> None:
    """TIME-WAIT of the end that closed first: it keeps the port of its listener."""
    with socket.create_server(("127.0.0.1", bench.port)) as listener:
        near = socket.create_connection(("127.0.0.1", bench.port))
        far, _ = listener.accept()
        far.close()
        near.recv(1)
        near.close()
    with socket.socket() as plain, pytest.raises(OSError):
        plain.bind(("0.0.0.0", bench.port))
    bench.binding.lease(GUEST, 600, 0.0)
    bench.exposures().look(0.0)
    assert bench.table.told == [{bench.port: (GUEST, 80)}]
    assert bench.warnings == []
    assert not can_listen(bench.port)


def test_a_busy_port_costs_itself_only(bench: Bench) -> None:
    table = bench.table
    with socket.socket() as busy:
        busy.bind(("0.0.0.0", 0))
        busy.listen()
        taken = busy.getsockname()[1]
        exposures = bench.exposures((taken, 22), (bench.port, 80))
        bench.binding.lease(GUEST, 600, 0.0)
        exposures.look(0.0)
        assert table.told == [{bench.port: (GUEST, 80)}]
        assert exposures.look(1.0) == RETRY
        assert exposures.look(RETRY) == 2 * RETRY
    assert bench.warnings == [
        f"--expose {taken}:22: cannot have port {taken} of this host: Address already in use; trying on"
    ]
    assert exposures.look(2 * RETRY) == 600.0
    assert table.told[1:] == [{taken: (GUEST, 22), bench.port: (GUEST, 80)}]


def test_a_refusal_is_said_and_tried_again(bench: Bench) -> None:
    exposures, table = bench.exposures(), bench.table
    table.refuses = "nft refused: busy"
    bench.binding.lease(GUEST, 600, 0.0)
    assert exposures.look(0.0) == RETRY
    assert exposures.look(1.0) == RETRY
    assert bench.warnings == ["--expose: nft refused: busy; next try in 3 s"]
    table.refuses = ""
    exposures.look(RETRY)
    assert table.told == [{bench.port: (GUEST, 80)}]
