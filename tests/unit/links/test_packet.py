"""links.packet: which interfaces a packet socket is opened on."""

from __future__ import annotations

import subprocess

import pytest

from bucatini.base.errors import ConfigError
from bucatini.links.packet import open_packet
from support.forked import in_new_network

pytestmark = pytest.mark.root

MAKE = """
ip link add v0 type veth peer name v1
ip link add br0 type bridge
ip tuntap add u0 mode tun
ip tuntap add t0 mode tap
ip link set t0 mtu 1400
"""


def opened(name: str) -> str:
    """The MTU, or why not."""

    def in_there() -> str:
        subprocess.run(["sh", "-ec", MAKE], check=True, timeout=10)
        try:
            sock, _, mtu = open_packet(name)
        except ConfigError as error:
            return str(error)
        sock.close()
        return str(mtu)

    return in_new_network(in_there)


def test_a_tap() -> None:
    assert opened("t0") == "1400"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("v0", "the interface of a TAP; this is veth"),
        ("br0", "the interface of a TAP; this is bridge"),
        ("u0", "the interface of a TAP; this is tun"),
        ("lo", "the interface of a TAP; this is another kind"),
        ("none", "the name of an interface of this host"),
    ],
)
def test_another_interface(name: str, what: str) -> None:
    """A network of this host would be served, its real one perhaps."""
    assert opened(name) == f"--tap '{name}': must be {what}"
