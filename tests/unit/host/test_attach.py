"""host.attach: what a target names, and the settings as the agent gets them; the rest is in tests/interop."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bucatini.host.attach import AttachSettings, netns_paths
from bucatini.host.settings import NetSettings, Route
from bucatini.host.tap import Offloads


@pytest.mark.parametrize(
    ("target", "paths"),
    [
        ("123", ("/proc/123/ns/net", "/proc/123/ns/user")),
        ("00123", ("/proc/123/ns/net", "/proc/123/ns/user")),
        ("0", ("/proc/0/ns/net", "/proc/0/ns/user")),
        ("x", ("/run/netns/x", None)),
        ("-1", ("/run/netns/-1", None)),
        ("1x", ("/run/netns/1x", None)),
        ("\N{ARABIC-INDIC DIGIT ONE}", ("/run/netns/\N{ARABIC-INDIC DIGIT ONE}", None)),
        ("/run/user/0/netns/a", ("/run/user/0/netns/a", None)),
        ("./123", ("./123", None)),
        ("9" * 5000, (f"/proc/{'9' * 5000}/ns/net", f"/proc/{'9' * 5000}/ns/user")),
    ],
)
def test_paths(target: str, paths: tuple[str, str | None]) -> None:
    assert netns_paths(target) == paths


def test_network_has_every_setting() -> None:
    values = NetSettings(
        mac=bytes(6),
        mtu=1400,
        addresses=((bytes(4), 8),),
        gateways=(bytes(4),),
        routes=(Route(bytes(4), 8),),
        ipv4=False,
        ipv6=False,
        offloads=Offloads(False),
        interface="x",
        transmit_queue=1,
        configure=False,
        accept_ra=True,
    )
    assert AttachSettings("/proc/1/ns/net", None, **values._asdict()).network == values


def test_little_is_imported_before_the_fork() -> None:
    code = "import sys, bucatini.host.attach; print(*sys.modules)"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert {"asyncio", "dataclasses", "inspect", "pyroute2", "msgspec"}.isdisjoint(done.stdout.split())
