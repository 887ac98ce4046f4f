"""A link that loses one frame in a hundred and reorders another: every byte arrives all the same.

Sizes are in MiB: BUCATINI_LOSSY_MIB says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bucatini import _build
from support.inprocess import Host, Scenario
from support.transfer import Job, expected

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun"),
]

SIZE = int(os.environ.get("BUCATINI_LOSSY_MIB", "1024" if _build.form() == "compiled" else "128")) << 20
SHARE = 0.01


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_bytes_arrive_over_a_lossy_link(host: Host, direction: str, family: int) -> None:
    jobs = [Job("lossy", family, direction, SIZE)]
    with host.serve() as server:
        outcome = host.run(Scenario(server.command(jobs), loss=SHARE, seed=family), timeout=100)
    assert outcome.status == 0, outcome.stderr
    results = outcome.results() + server.results
    assert [(result.error, result.bytes) for result in results] == [("", SIZE)] * 2
    assert expected(0, SIZE) in {result.digest for result in results}
    assert (outcome.tcp_left, outcome.sockets_left) == (0, 0)
    for way in ("up", "down"):
        total = sum(outcome.link[f"{way}_{fate}"] for fate in ("passed", "dropped", "reordered"))
        for fate in ("dropped", "reordered"):
            if total > 2000:  # else too few to say
                assert 0.3 * SHARE < outcome.link[f"{way}_{fate}"] / total < 3 * SHARE
