"""Unmodified DHCP clients, router discovery and the kernel's own configuration take what the services give.

No engine: a thread holds a packet socket at one end of a veth pair, hands every frame to the pure functions of
`services`, and sends what they return. The client is at the other end, in a namespace of its own. Clients say what they
learned by the environment of their script; what the kernel learned is asked of the kernel.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bucatini.base.address import pack
from bucatini.services.arp import ArpSettings, answer_arp
from bucatini.services.dhcp import INFINITE, DhcpSettings, answer_dhcp
from bucatini.services.dhcpv6 import Dhcp6Settings, answer_dhcpv6
from bucatini.services.ndp import NdpSettings, answer_ndp
from bucatini.services.router import RouterSettings, advertisement, answer_solicitation
from bucatini.wire.dhcpv6 import CONFIRM, INFORMATION_REQUEST, RELEASE, REQUEST, SOLICIT, duid_llt
from bucatini.wire.ndp import Prefix
from support.fakehost import Namespace

pytestmark = pytest.mark.root

OUR_MAC = bytes.fromhex("9a559a559a55")
GUEST_MAC = "02:00:00:00:00:01"
ROUTER, GUEST, NEW_GUEST, DNS = "192.0.2.1", "192.0.2.2", "192.0.2.99", "192.0.2.53"
ROUTER6, GUEST6, NEW_GUEST6, DNS6 = "fe80::1", "2001:db8::2", "2001:db8::99", "2001:db8::53"
LINK_LOCAL6, SLAAC6 = "fe80::ff:fe00:1", "2001:db8::ff:fe00:1"
MTU = 1400
SEARCH = ("eng.example.com", "example.com")

_SOL_PACKET, _PACKET_AUXDATA, _CSUM_NOT_READY = 263, 8, 8

FOUR = DhcpSettings(OUR_MAC, pack(ROUTER), pack(GUEST), 24, pack(ROUTER), MTU, (pack(DNS),), SEARCH)
SIX = Dhcp6Settings(OUR_MAC, duid_llt(OUR_MAC, 849312000), pack(ROUTER6), pack(GUEST6), (pack(DNS6),), SEARCH)
ADVERTISED = RouterSettings(
    OUR_MAC, pack(ROUTER6), (Prefix(pack(GUEST6), 64, True, True, INFINITE, INFINITE),), MTU, (pack(DNS6),), SEARCH
)

SCRIPT = """#!/bin/sh
# Says what is known, and gives the address to the interface as the real scripts do: renewals are sent from it.
env -0 > {folder}/.part
case "$reason$1" in
    PREINIT*) ip link set dev "$interface" up ;;
    bound|renew) ip addr replace "$ip/24" dev "$interface" ;;
    BOUND|RENEW|REBIND|REBOOT) [ -z "$new_ip_address" ] || ip addr replace "$new_ip_address/24" dev "$interface" ;;
    EXPIRE|FAIL|NAK|nak|deconfig) ip -4 addr flush dev "$interface" ;;
esac
echo "$reason$1" > {folder}/.reason
mv {folder}/.part "{folder}/$(ls {folder} | wc -l)"
"""


def eventually(look: Callable[[], object], seconds: float = 20, or_else: Callable[[], str] = lambda: "") -> None:
    """Waits until `look` is true, longer than elsewhere: clients begin after a random delay and have slow timers."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            pytest.fail(f"never came: {or_else()}")
        time.sleep(0.02)


class Network:
    """The two namespaces, the thread that answers, and what the client's script has said."""

    def __init__(self, folder: Path) -> None:
        self.server, self.client = Namespace.create(), Namespace.create()
        self.four, self.six, self.router = FOUR, SIX, ADVERTISED
        self.events: list[str] = []
        """What DHCP messages led to."""
        self.kinds: list[int] = []
        """Types of the DHCPv6 messages that got an answer."""
        self.unfinished = 0
        """Frames whose checksum was left to the link."""
        self.folder = folder
        self.said = folder / "said"
        self.said.mkdir()
        self.script = folder / "script"
        self.script.write_text(SCRIPT.format(folder=self.said))
        self.script.chmod(0o755)
        self._stop = threading.Event()
        self._connect()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _connect(self) -> None:
        with self.server.entered():
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        self.server.ip(f"link add s0 mtu 9000 type veth peer name c0 mtu 9000 netns {self.client.path}")
        self.server.ip("link set s0 up")
        self.client.ip(f"link set c0 address {GUEST_MAC}")
        self.set_client("accept_ra", "0")
        with self.server.entered():
            self._link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._link.bind(("s0", 0))
        self._link.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)

    def set_client(self, name: str, value: str) -> None:
        with self.client.entered():
            Path(f"/proc/sys/net/ipv6/conf/c0/{name}").write_text(value)

    def start_link(self) -> None:
        """The client's interface up, its link-local address ready (there is no address detection in it)."""
        self.client.ip("link set c0 up")
        eventually(lambda: LINK_LOCAL6 in self.addresses() and "tentative" not in self.addresses())

    def addresses(self) -> str:
        return self.client.run("ip", "addr", "show", "dev", "c0").stdout

    def routes(self, family: str) -> str:
        return self.client.run("ip", family, "route").stdout

    # -- our end

    def _serve(self) -> None:
        while not self._stop.is_set():
            if not select.select([self._link], [], [], 0.05)[0]:
                continue
            frame, ancillary, _, sender = self._link.recvmsg(65536, 256)
            if sender[2] == 4:  # PACKET_OUTGOING: ours
                continue
            verified = any(struct.unpack_from("I", data)[0] & _CSUM_NOT_READY for _, _, data in ancillary)
            answer = self._answer(frame, verified)
            if answer is not None:
                self._link.send(answer)

    def _answer(self, frame: bytes, verified: bool) -> bytes | None:
        leased = answer_dhcp(frame, self.four, verified=verified)
        six = answer_dhcpv6(frame, self.six, verified=verified)
        if leased is not None:
            self.events.append(leased.event)
        if six is not None:
            self.kinds.append(frame[14 + 40 + 8])
        self.unfinished += verified and (leased is not None or six is not None)
        guests = frozenset((self.four.address, pack(GUEST6), pack(NEW_GUEST6), pack(LINK_LOCAL6), pack(SLAAC6)))
        return (
            (leased.frame if leased is not None else six)
            or answer_arp(frame, ArpSettings(OUR_MAC, guests))
            or answer_ndp(frame, NdpSettings(OUR_MAC, guests))
            or answer_solicitation(frame, self.router)
        )

    def advertise(self) -> None:
        """An unsolicited advertisement."""
        self._link.send(advertisement(self.router))

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._link.close()
        self.server.close()
        self.client.close()

    # -- the client's end

    def reports(self) -> list[dict[str, str]]:
        """What the script was told, one environment for each time it was called."""
        found = sorted((path for path in self.said.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
        return [dict(line.split("=", 1) for line in path.read_text().split("\0") if "=" in line) for path in found]

    def told(self, wanted: Callable[[dict[str, str]], object], timeout: float = 20) -> dict[str, str]:
        """The first report that is wanted."""
        eventually(lambda: any(wanted(report) for report in self.reports()), timeout, self.describe)
        return next(report for report in self.reports() if wanted(report))

    def describe(self) -> str:
        output = self.folder / "output"
        printed = output.read_text(errors="replace") if output.exists() else ""
        return "\n".join((f"events {self.events}", *map(str, self.reports()), printed))

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """A client, killed when it was watched long enough. What it printed is in `output`."""
        with self.client.entered(), (self.folder / "output").open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # not asked to end: some would release their lease
            process.wait(5)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    tmp_path.chmod(0o755)
    made = Network(tmp_path)
    try:
        yield made
    finally:
        made.close()


def installed(name: str) -> str:
    """Path of a client. Skips the test when it is not there."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"no {name}")
    return found


class TestDhclient:
    OPTIONS = (
        "option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;\n"
        "request subnet-mask, routers, domain-name-servers, domain-search, interface-mtu,\n"
        "  rfc3442-classless-static-routes, dhcp6.name-servers, dhcp6.domain-search;\n"
        "initial-interval 1; backoff-cutoff 2;\n"
    )

    def command(self, network: Network, *options: str) -> list[str]:
        """A copy of the program, since distributions confine the installed one to its own files."""
        program = network.folder / "dhclient"
        if not program.exists():
            shutil.copy(installed("dhclient"), program)
        (network.folder / "conf").write_text(self.OPTIONS)
        files = ("-cf", "conf", "-lf", "leases", "-pf", "pid")
        paths = [str(network.folder / word) if i % 2 else word for i, word in enumerate(files)]
        return [str(program), *options, "-d", "-sf", str(network.script), *paths, "c0"]

    def test_lease(self, network: Network) -> None:
        network.start_link()
        with network.running(*self.command(network, "-4")):
            told = network.told(lambda report: report["reason"] == "BOUND")
        assert told["new_ip_address"] == GUEST
        assert told["new_subnet_mask"] == "255.255.255.0"
        assert told["new_routers"] == ROUTER
        assert told["new_domain_name_servers"] == DNS
        assert told["new_domain_search"].split() == [f"{name}." for name in SEARCH]
        assert told["new_interface_mtu"] == str(MTU)
        assert told["new_dhcp_server_identifier"] == ROUTER
        assert told["new_dhcp_lease_time"] == str(INFINITE)
        assert "new_rfc3442_classless_static_routes" not in told
        assert network.events == ["offer", "ack"]

    def test_router_outside_the_subnet(self, network: Network) -> None:
        network.four = replace(FOUR, prefix_length=32, router=pack("198.51.100.1"))
        network.start_link()
        with network.running(*self.command(network, "-4")):
            told = network.told(lambda report: report["reason"] == "BOUND")
        assert told["new_rfc3442_classless_static_routes"] == "32 198 51 100 1 0 0 0 0 0 198 51 100 1"
        assert told["new_subnet_mask"] == "255.255.255.255"
        assert "new_routers" not in told

    def test_renewal_and_a_change_of_the_address(self, network: Network) -> None:
        network.four = replace(FOUR, lease=4)
        network.start_link()
        with network.running(*self.command(network, "-4")):
            network.told(lambda report: report["reason"] == "BOUND")
            network.told(lambda report: report["reason"] == "RENEW")
            network.four = replace(network.four, address=pack(NEW_GUEST))
            told = network.told(lambda report: report.get("new_ip_address") == NEW_GUEST, 30)
        assert told["reason"] == "BOUND"
        assert network.events[:3] == ["offer", "ack", "ack"]
        assert network.events[-3:] == ["nak", "offer", "ack"]

    def test_a_lease_of_yesterday(self, network: Network) -> None:
        network.start_link()
        (network.folder / "leases").write_text(
            'lease {\n interface "c0";\n fixed-address 10.9.9.9;\n option subnet-mask 255.255.255.0;\n'
            " option dhcp-lease-time 4294967295;\n option dhcp-server-identifier 10.9.9.1;\n"
            " renew never;\n rebind never;\n expire never;\n}\n"
        )
        with network.running(*self.command(network, "-4")):
            told = network.told(lambda report: report.get("new_ip_address") == GUEST)
        assert told["reason"] == "BOUND"
        assert network.events == ["nak", "offer", "ack"]

    def test_release(self, network: Network) -> None:
        network.start_link()
        with network.running(*self.command(network, "-4")):
            network.told(lambda report: report["reason"] == "BOUND")
        network.client.run(*self.command(network, "-4", "-r"), timeout=20)
        eventually(lambda: network.events == ["offer", "ack", "release"])

    def test_six(self, network: Network) -> None:
        network.start_link()
        with network.running(*self.command(network, "-6")):
            told = network.told(lambda report: report["reason"] == "BOUND6")
        assert told["new_ip6_address"] == GUEST6
        assert told["new_dhcp6_name_servers"] == DNS6
        assert told["new_dhcp6_domain_search"].split() == [f"{name}." for name in SEARCH]
        assert told["new_max_life"] == str(INFINITE)
        assert network.unfinished > 0, "its socket leaves checksums to the link"

    def test_six_renewal_and_a_change_of_the_address(self, network: Network) -> None:
        network.six = replace(SIX, preferred=4, valid=8)
        network.start_link()
        with network.running(*self.command(network, "-6")):
            network.told(lambda report: report["reason"] == "BOUND6")
            network.told(lambda report: report["reason"] == "RENEW6")
            network.six = replace(network.six, address=pack(NEW_GUEST6))
            network.told(lambda report: report.get("new_ip6_address") == NEW_GUEST6, 30)

    def test_six_release(self, network: Network) -> None:
        network.start_link()
        with network.running(*self.command(network, "-6")):
            network.told(lambda report: report["reason"] == "BOUND6")
        network.client.run(*self.command(network, "-6", "-r"), timeout=20)
        network.told(lambda report: report["reason"] == "RELEASE6")
        # The report and the message take different ways.
        eventually(lambda: network.kinds == [SOLICIT, REQUEST, RELEASE])

    def test_six_confirms_after_a_restart(self, network: Network) -> None:
        network.start_link()
        for count in (1, 2):
            with network.running(*self.command(network, "-6")):
                eventually(lambda: self.bound(network) == [GUEST6] * count, or_else=network.describe)  # noqa: B023
        assert network.kinds == [SOLICIT, REQUEST, CONFIRM]
        network.six = replace(SIX, address=pack(NEW_GUEST6))
        with network.running(*self.command(network, "-6")):
            eventually(lambda: self.bound(network) == [GUEST6, GUEST6, NEW_GUEST6], or_else=network.describe)
        assert network.kinds[3:] == [CONFIRM, SOLICIT, REQUEST]

    def bound(self, network: Network) -> list[str]:
        return [report["new_ip6_address"] for report in network.reports() if report["reason"] == "BOUND6"]

    def test_six_only_information(self, network: Network) -> None:
        network.six = replace(SIX, address=None)
        network.start_link()
        with network.running(*self.command(network, "-6", "-S")):
            told = network.told(lambda report: "new_dhcp6_name_servers" in report)
        assert told["new_dhcp6_name_servers"] == DNS6
        assert "new_ip6_address" not in told
        assert network.kinds == [INFORMATION_REQUEST]


class TestUdhcpc:
    WISHES = ("-O", "search", "-O", "staticroutes", "-O", "mtu")

    def command(self, network: Network, *options: str) -> list[str]:
        times = ("-t", "5", "-T", "2", "-A", "1")
        return [installed("udhcpc"), "-f", "-i", "c0", "-s", str(network.script), *times, *self.WISHES, *options]

    @pytest.mark.parametrize("options", [(), ("-B",), ("-C",), ("-r", GUEST), ("-o",), ("-a",)], ids="-".join)
    def test_lease(self, network: Network, options: tuple[str, ...]) -> None:
        network.start_link()
        with network.running(*self.command(network, "-q", "-n", *options)) as process:
            assert process.wait(20) == 0
        told = network.told(lambda report: "ip" in report)
        assert (told["ip"], told["mask"], told["subnet"]) == (GUEST, "24", "255.255.255.0")
        assert (told["router"], told["dns"], told["mtu"]) == (ROUTER, DNS, str(MTU))
        assert told["search"].split() == list(SEARCH)
        assert (told["serverid"], told["lease"]) == (ROUTER, str(INFINITE))
        assert "staticroutes" not in told
        assert network.events == ["offer", "ack"]

    def test_a_wish_that_cannot_be_granted(self, network: Network) -> None:
        network.start_link()
        with network.running(*self.command(network, "-q", "-n", "-r", "10.9.9.9")) as process:
            assert process.wait(20) == 0
        assert network.told(lambda report: "ip" in report)["ip"] == GUEST

    def test_routes(self, network: Network) -> None:
        routes = ((pack("10.0.0.0"), 8, None), (pack("203.0.113.0"), 24, pack("192.0.2.9")))
        network.four = replace(FOUR, prefix_length=32, routes=routes)
        network.start_link()
        with network.running(*self.command(network, "-q", "-n")) as process:
            assert process.wait(20) == 0
        told = network.told(lambda report: "ip" in report)
        assert told["staticroutes"].split() == [
            "192.0.2.9/32", "0.0.0.0", f"{ROUTER}/32", "0.0.0.0", "10.0.0.0/8", "0.0.0.0",
            "203.0.113.0/24", "192.0.2.9", "0.0.0.0/0", ROUTER,
        ]  # fmt: skip

    def test_renewal_by_unicast_and_release(self, network: Network) -> None:
        network.start_link()
        with network.running(*self.command(network, "-R")) as process:
            network.told(lambda report: "ip" in report)
            eventually(lambda: GUEST in network.addresses())
            process.send_signal(signal.SIGUSR1)
            eventually(lambda: network.events == ["offer", "ack", "ack"])
            assert network.unfinished == 1, "the renewal came from a socket"
            process.send_signal(signal.SIGTERM)
            process.wait(10)
        eventually(lambda: network.events[-1] == "release")


class TestDhcpcd:
    def command(self, network: Network, *options: str) -> list[str]:
        """In a mount namespace, so that the system's leases and identifiers stay what they are, and in a PID namespace,
        so that none of its processes is left.
        """
        program = installed("dhcpcd")
        (network.folder / "conf").write_text(
            "allowinterfaces c0\nnohook resolv.conf, hostname, timesyncd\nduid\npersistent\n"
            "option domain_name_servers, domain_search, interface_mtu, classless_static_routes, rapid_commit\n"
            "option dhcp6_name_servers, dhcp6_domain_search\noption subnet_mask, routers\n"
            "require dhcp_server_identifier\nnoipv4ll\n"
        )
        hidden = [path for path in ("/run", "/var/lib/dhcpcd", "/var/lib/dhcpcd5") if os.path.isdir(path)]
        hide = "".join(f"mount -t tmpfs none {path} && " for path in hidden)
        words = [program, "-f", str(network.folder / "conf"), "-c", str(network.script), "-B", "-d", *options, "c0"]
        return ["unshare", "-m", "-p", "-f", "--kill-child", "sh", "-c", f'{hide}exec "$@"', "sh", *words]

    def test_both_families(self, network: Network) -> None:
        network.start_link()
        with network.running(*self.command(network)):
            four = network.told(lambda report: report["reason"] in ("BOUND", "REBOOT"), 30)
            six = network.told(lambda report: report["reason"] == "BOUND6", 30)
            announced = network.told(lambda report: report["reason"] == "ROUTERADVERT", 30)
            eventually(lambda: GUEST in network.addresses() and f"{GUEST6}/" in network.addresses(), 20)
            eventually(lambda: f"default via {ROUTER} " in network.routes("-4"), 20)
            eventually(lambda: f"default via {ROUTER6} " in network.routes("-6"), 20)
        assert four["new_ip_address"] == GUEST
        assert four["new_subnet_cidr"] == "24"
        assert four["new_routers"] == ROUTER
        assert four["new_domain_name_servers"] == DNS
        assert four["new_domain_search"].split() == list(SEARCH)
        assert four["new_interface_mtu"] == str(MTU)
        assert six["new_dhcp6_ia_na1_ia_addr1"] == GUEST6
        assert six["new_dhcp6_name_servers"] == DNS6
        assert six["new_dhcp6_domain_search"].split() == list(SEARCH)
        assert announced["nd1_prefix_information1_prefix"] == "2001:db8::"
        assert announced["nd1_mtu"] == str(MTU)
        assert announced["nd1_rdnss1_servers"] == DNS6
        assert announced["nd1_dnssl1_search"].split() == list(SEARCH)
        assert network.events == ["ack"], "by rapid commit"


class TestRouterDiscovery:
    def test_rdisc6(self, network: Network) -> None:
        program = installed("rdisc6")
        network.start_link()
        said = network.client.run(program, "-1", "-n", "-r", "5", "c0").stdout
        lines = {" ".join(line.split()) for line in said.splitlines()}
        for line in (
            "Hop limit : 255 ( 0xff)",
            "Stateful address conf. : Yes",
            "Stateful other conf. : No",
            "Router lifetime : 65535 (0x0000ffff) seconds",
            "Prefix : 2001:db8::/64",
            "On-link : Yes",
            "Autonomous address conf.: Yes",
            "Valid time : infinite (0xffffffff)",
            "Source link-layer address: 9A:55:9A:55:9A:55",
            f"MTU : {MTU} bytes (valid)",
            f"Recursive DNS server : {DNS6}",
            "DNS server lifetime : infinite (0xffffffff)",
            f"DNS search list : {' '.join(SEARCH)}",
            f"from {ROUTER6}",
        ):
            assert line in lines, (line, said)

    def test_the_kernels_own_configuration(self, network: Network) -> None:
        network.set_client("accept_ra", "2")
        network.start_link()
        eventually(lambda: f"{SLAAC6}/64" in network.addresses())
        eventually(lambda: f"default via {ROUTER6} dev c0 proto ra" in network.routes("-6"))
        assert "2001:db8::/64 dev c0 proto kernel" in network.routes("-6")
        assert f"mtu {MTU}" in network.routes("-6").split("default", 1)[1]
        assert self.seen(network, "hop_limit") == "255"
        assert self.seen(network, "mtu") == str(MTU)

    def test_unsolicited(self, network: Network) -> None:
        network.start_link()
        assert "default" not in network.routes("-6")
        network.set_client("accept_ra", "2")
        network.advertise()
        eventually(lambda: f"{SLAAC6}/64" in network.addresses())

    def test_no_longer_a_default_router(self, network: Network) -> None:
        network.set_client("accept_ra", "2")
        network.start_link()
        eventually(lambda: "default" in network.routes("-6"))
        network.router = replace(ADVERTISED, lifetime=0)
        network.advertise()
        eventually(lambda: "default" not in network.routes("-6"))

    def seen(self, network: Network, name: str) -> str:
        with network.client.entered():
            return Path(f"/proc/sys/net/ipv6/conf/c0/{name}").read_text().strip()
