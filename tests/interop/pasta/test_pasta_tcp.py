"""The group pasta/tcp: both families, three ways between host and namespace, a large file and a small one."""

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
SIZES = {"big": 10 << 20, "small": 2 << 10}
LOOPBACK = {4: "127.0.0.1", 6: "[::1]"}


@pytest.fixture(scope="module")
def served(engine: PastaEngine, host: FakeHost) -> Iterator[tuple[Holder, Running]]:
    """One engine for all cases, started as upstream's tests start it."""
    with Place(host) as place, Holder(place) as holder:
        quick_links(holder.net)
        options = ["--config-net", "-t", str(TO_GUEST), "-T", str(TO_HOST), "-u", "none", "-U", "none"]
        with engine.start(place, options, [str(holder.pid)]) as running:
            yield holder, running
            assert running.alive(), running.output


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    made = {}
    for name, size in SIZES.items():
        made[name] = folder / name
        made[name].write_bytes(os.urandom(size))
    return made


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("way", ["in_spliced", "out_spliced", "out_tap"])
@pytest.mark.parametrize("size", ["big", "small"])
def test_transfer(
    served: tuple[Holder, Running],
    files: dict[str, Path],
    host: FakeHost,
    tmp_path: Path,
    family: int,
    way: str,
    size: str,
) -> None:
    guest = served[0].net
    loopback = LOOPBACK[family]
    gateway = WORLD4 if family == 4 else f"[{Link(guest, LINK).gateway(6)}%{LINK}]"
    if way == "in_spliced":
        server = guest, f"TCP{family}-LISTEN:{TO_GUEST}"
        client = host.net, f"TCP{family}:{loopback}:{TO_GUEST}"
    else:
        server = host.net, f"TCP{family}-LISTEN:{TO_HOST},bind={loopback}"
        client = guest, f"TCP{family}:{loopback if way == 'out_spliced' else gateway}:{TO_HOST}"
    port = TO_GUEST if way == "in_spliced" else TO_HOST
    transfer(server, client, "tcp", port, files[size], tmp_path / "got")
