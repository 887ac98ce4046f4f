"""A guest configures itself by DHCPv4 (udhcpc), SLAAC (its kernel), DHCPv6 (dhclient); it finds names and echoes."""

from __future__ import annotations

import base64
import ipaddress
import re

import dns.message
import dns.rdatatype
import pytest

from support.fakehost import PUBLIC4, PUBLIC6
from support.vm_peers import TRANSFER_LIMIT
from support.vm_served import DHCP, NAMED, Served

pytestmark = pytest.mark.root

DEBIAN_FAILS = {
    "test_name_by_tcp": "hangs: a guest that has shut down is not told of the other's end",
}


def variables(served: Served, path: str) -> dict[str, str]:
    """What a client's script was told."""
    lines = served.machine.do(f"cat {path}").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def addresses(served: Served, family: int) -> list[str]:
    """Of eth0, global ones."""
    shown = served.machine.do(f"ip -{family} address show dev eth0 scope global")
    return re.findall(r"inet6? (\S+)", shown)


def test_dhcp(served: Served) -> None:
    network = served.network
    served.machine.do(DHCP)
    lease = variables(served, "/tmp/lease4")
    told = (lease["ip"], int(lease["mask"]), lease["router"], lease["dns"], int(lease["mtu"]))
    assert told == (network.address4, network.mask4, network.gateway4, network.name_server, network.mtu)
    assert addresses(served, 4) == [f"{network.address4}/{network.mask4}"]
    assert served.machine.do("cat /sys/class/net/eth0/mtu").strip() == str(network.mtu)


def test_slaac(served: Served) -> None:
    """With duplicate address detection, which nobody may object to; the router is the engine's link-local address."""
    mac = bytes.fromhex(served.engine.nic().mac.replace(":", ""))
    interface = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    prefix = ipaddress.IPv6Network(f"{served.network.address6}/64", strict=False)
    wanted = prefix.network_address + int.from_bytes(interface, "big")
    assert f"{wanted}/64" in addresses(served, 6)
    assert "dadfailed" not in served.machine.do("ip -6 address show dev eth0")
    assert re.search(r"default via fe80::\S+ dev eth0", served.machine.do("ip -6 route show default"))
    assert served.machine.do("cat /proc/sys/net/ipv6/conf/eth0/mtu").strip() == str(served.network.mtu)


def test_dhcpv6(served: Served) -> None:
    said = served.machine.do("dhclient -6 -1 -v --no-pid -sf /etc/dhclient-script eth0", TRANSFER_LIMIT)
    try:
        assert variables(served, "/tmp/lease6")["new_ip6_address"] == served.network.address6, said
        assert f"{served.network.address6}/128" in addresses(served, 6)
    finally:
        served.machine.do("kill $(pidof dhclient)")


def test_name(served: Served) -> None:
    """Asked of the server that DHCP told."""
    said = served.machine.do("nslookup -type=a www.example.com")
    assert NAMED in said, said


def test_name_by_tcp(served: Served) -> None:
    question = dns.message.make_query("www.example.com", "A").to_wire()
    encoded = base64.b64encode(len(question).to_bytes(2, "big") + question).decode()
    ask = f"vm_probe tcp-ask {served.network.name_server} 53 /tmp/question"
    said = served.machine.do(f"echo {encoded} | base64 -d >/tmp/question; {ask} | base64")
    answer = dns.message.from_wire(base64.b64decode(said)[2:])
    assert [str(item) for record in answer.answer for item in record] == [NAMED]


@pytest.mark.parametrize("where", ["gateway", "world"])
@pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
def test_ping(served: Served, family: int, where: str) -> None:
    public = PUBLIC4 if family == 4 else PUBLIC6
    to = served.network.gateway(family) if where == "gateway" else public
    said = served.machine.do(f"ping -{family} -c 3 -i 0.1 -W 3 {to}")
    assert "3 packets received" in said, said
