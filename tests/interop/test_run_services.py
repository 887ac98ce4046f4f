"""The services of the link as a command of `bucatini run` meets them: unmodified clients get what is configured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fakehost import GATEWAY4, GATEWAY6, GUEST4, GUEST6, FakeHost, Guest, SharedGuest

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def guest(host: FakeHost) -> Iterator[Guest]:
    with SharedGuest(host) as shared, shared.checked() as made:
        yield made


def test_udhcpc(guest: Guest, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n[ $1 = bound ] && env > " + str(tmp_path / "told") + "\nexit 0\n")
    script.chmod(0o755)
    guest.net.run("udhcpc", "-n", "-q", "-f", "-i", "eth0", "-s", str(script), "-O", "mtu", timeout=20)
    told = (tmp_path / "told").read_text().splitlines()
    for wanted in (f"ip={GUEST4}", "mask=30", f"router={GATEWAY4}", f"dns={GATEWAY4}", "mtu=1500", "lease=600"):
        assert wanted in told, told


def test_rdisc6(guest: Guest) -> None:
    told = guest.net.run("rdisc6", "-1", "-q", "eth0").stdout
    assert GUEST6.rpartition("::")[0] + "::/64" in told
    verbose = guest.net.run("rdisc6", "-1", "eth0").stdout
    assert "1500 bytes" in verbose
    assert GATEWAY6 in verbose, "the name server"


def test_services_that_are_off_stay_silent(host: FakeHost, tmp_path: Path) -> None:
    with host.guest("--no-dhcp", "--no-ra") as guest:
        asked = guest.net.run(
            "udhcpc", "-n", "-q", "-f", "-t", "2", "-T", "1", "-i", "eth0", "-s", "/bin/true", check=False
        )
        assert asked.returncode != 0
        assert guest.net.run("rdisc6", "-1", "-r", "1", "-w", "500", "eth0", check=False).returncode != 0
