"""The group pasta/udp: both families, three ways between host and namespace, one datagram of 5 KiB."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fakehost import WORLD4, FakeHost
from support.pasta_engine import LINK, Holder, PastaEngine, Place, Running
from support.pasta_peers import Link, quick_links, transfer

pytestmark = pytest.mark.root

TO_GUEST, TO_HOST = 10002, 10003
SIZE = 5 << 10
LOOPBACK = {4: "127.0.0.1", 6: "[::1]"}


@pytest.fixture(scope="module")
def served(engine: PastaEngine, host: FakeHost) -> Iterator[tuple[Holder, Running]]:
    """One engine for all cases."""
    with Place(host) as place, Holder(place) as holder:
        quick_links(holder.net)
        options = ["--config-net", "-u", str(TO_GUEST), "-U", str(TO_HOST), "-t", "none", "-T", "none"]
        with engine.start(place, options, [str(holder.pid)]) as running:
            yield holder, running
            assert running.alive(), running.output


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("way", ["in_spliced", "out_spliced", "out_tap"])
def test_transfer(served: tuple[Holder, Running], host: FakeHost, tmp_path: Path, family: int, way: str) -> None:
    """An empty datagram ends it: both ends of socat know that as the end of the file."""
    guest = served[0].net
    source = tmp_path / "medium"
    source.write_bytes(os.urandom(SIZE))
    loopback = LOOPBACK[family]
    gateway = WORLD4 if family == 4 else f"[{Link(guest, LINK).gateway(6)}%{LINK}]"
    if way == "in_spliced":
        server = guest, f"UDP{family}-LISTEN:{TO_GUEST},null-eof"
        client = host.net, f"UDP{family}:{loopback}:{TO_GUEST},shut-null"
    else:
        server = host.net, f"UDP{family}-LISTEN:{TO_HOST},null-eof,bind={loopback}"
        client = guest, f"UDP{family}:{loopback if way == 'out_spliced' else gateway}:{TO_HOST},shut-null"
    port = TO_GUEST if way == "in_spliced" else TO_HOST
    transfer(server, client, "udp", port, source, tmp_path / "got")
