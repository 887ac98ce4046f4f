"""`bucatini filter` between guests and bridges whose DHCP servers are dnsmasq and udhcpd."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucatini.engine.filter.refusals import NOT_OPEN
from support.bridged import (
    EMPTY,
    HOST,
    HOST6,
    LEASED6,
    MAC,
    NAME_ADDRESS,
    OTHER_MAC,
    SHORT_LEASE,
    BridgedHost,
    Guest,
    Neighbour,
)
from support.fakehost import HOST4, PRIVATE4, PUBLIC4, PUBLIC6, WORLD4, FakeHost, guest_python
from support.fakehost import HOST6 as OUTSIDE6
from support.guests import PATIENCE, eventually
from support.signalled import signalled

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("filter")]

BUSY, FREE = 8023, 8024
QUERY = bytes.fromhex("00070100000100000000000005") + b"world\x04test" + bytes.fromhex("0000010001")
"""A of world.test."""
OWN_NETWORK = """ip link set lo up; ip link add br0 type bridge; ip addr add 10.55.0.1/24 dev br0; ip link set br0 up
exec "$@"
"""


@pytest.fixture(scope="module")
def place(host: FakeHost) -> Iterator[BridgedHost]:
    made = BridgedHost(host)
    try:
        yield made
    finally:
        made.close()


# -- the lease


@pytest.mark.parametrize("pumped", [False, True], ids=["tap", "dgram"])
def test_lease_from_dnsmasq(place: BridgedHost, pumped: bool) -> None:
    """Three renewals; the host and the world are reached, the world sees the host's address."""
    with place.guest(pumped=pumped) as guest:
        address = guest.address
        for _ in range(3):
            assert guest.reaches(HOST["br0"])
            assert guest.talks_to(PUBLIC4, place.host.world) == HOST4
            assert guest.renew() == address
        assert guest.talks_to(HOST["br0"], place.net) == address
        with guest.net.bound("0.0.0.0") as asking:
            asking.sendto(QUERY, (HOST["br0"], 53))
            assert asking.recv(512).endswith(socket.inet_aton(NAME_ADDRESS))


def test_faithful(place: BridgedHost) -> None:
    with place.guest("--faithful", "-v") as guest:
        address = guest.address
        assert guest.renew() == address
        assert guest.talks_to(PUBLIC4, place.host.world) == HOST4
        assert not guest.reaches(guest.host_link_local, seconds=0.3)
        guest.end()
        assert "family-off" in guest.stderr


def test_lease_runs_out(place: BridgedHost) -> None:
    """Renewed, it lasts longer than it was given for; when nobody asks any more, the network ends, until a new one."""
    with place.guest("-v", bridge="br1") as guest:
        begin = time.monotonic()
        while time.monotonic() < begin + 1.2 * SHORT_LEASE:
            assert guest.reaches(HOST["br1"])
            assert guest.reaches(PUBLIC4)
            guest.renew()
        guest.kill_client()
        address = guest.address
        eventually(lambda: not guest.reaches(HOST["br1"], seconds=0.3))
        assert not guest.reaches(PUBLIC4, seconds=0.3)
        assert guest.address == address
        guest.dhcp()
        assert guest.reaches(HOST["br1"])
        assert guest.reaches(PUBLIC4)
        guest.end()
        assert "lease-expired" in guest.stderr


def test_lease_given_back(place: BridgedHost) -> None:
    """After its RELEASE a guest may not go on with the address, which may be another's by now."""
    with place.guest() as guest:
        address = guest.address
        assert guest.reaches(HOST["br0"])
        guest.release()
        guest.net.ip(f"addr replace {address}/24 dev eth0\n")
        assert not guest.reaches(HOST["br0"], seconds=0.3)
        guest.forget()
        guest.client.send_signal(signal.SIGUSR1)
        guest.told("bound")
        assert guest.reaches(HOST["br0"])


# -- who is reached


def test_defaults(place: BridgedHost) -> None:
    """Public addresses and the host's own on the bridge, no private ones. Root that filters has no powers left."""
    with place.guest() as guest:
        status = Path(f"/proc/{guest.engine.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert "CapPrm:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert guest.reaches(PUBLIC4)
        assert not guest.reaches(PRIVATE4, seconds=0.3)
        assert not guest.reaches(HOST4, seconds=0.3)


def test_rules(place: BridgedHost) -> None:
    with place.guest("--block", "0.0.0.0/0", "--allow", "@host", "--allow", "10.0.0.0/8", "--block", PRIVATE4) as guest:
        assert guest.reaches(HOST["br0"])
        assert guest.renew()
        assert not guest.reaches(PUBLIC4, seconds=0.3)
        assert not guest.reaches(PRIVATE4, seconds=0.3)


def test_ipv6(place: BridgedHost) -> None:
    """The address made of the MAC is the guest's, another only with --address."""
    with place.guest("--address", "fd55::7") as guest:
        eventually(lambda: guest.reaches(guest.host_link_local))
        guest.net.ip("addr add fd55::7/64 dev eth0 nodad\naddr add fd55::8/64 dev eth0 nodad\n")
        assert guest.reaches(HOST6["br0"], source="fd55::7")
        assert not guest.reaches(HOST6["br0"], seconds=0.3, source="fd55::8")


def test_ipv6_of_its_own_making(place: BridgedHost) -> None:
    """A prefix that the bridge announces: the address that the MAC makes in it reaches the world, no other does."""
    with place.guest(dhcp=False) as guest:
        own = f"{HOST6['br0'][:-1]}ff:fe00:7"
        eventually(lambda: own in guest.addresses6("fd55::"))
        assert guest.talks_to(PUBLIC6, place.host.world) == OUTSIDE6
        assert guest.talks_to(HOST6["br0"], place.net) == own
        guest.net.ip("addr add fd55::8/64 dev eth0 nodad\n")
        assert not guest.reaches(HOST6["br0"], seconds=0.3, source="fd55::8")


def test_ipv6_lease(place: BridgedHost) -> None:
    """Given by dnsmasq to dhclient; given back, it is nobody's, even when the guest keeps it."""
    with place.guest("-v", dhcp=False) as guest:
        guest.dhcp6()
        (leased,) = guest.addresses6(LEASED6)
        assert guest.reaches(HOST6["br0"], source=leased)
        guest.dhcp6("-r")
        guest.net.ip(f"addr add {leased}/64 dev eth0 nodad\n")
        assert not guest.reaches(HOST6["br0"], seconds=0.3, source=leased)
        guest.dhcp6()
        assert guest.reaches(HOST6["br0"], source=leased)
        guest.end()
        assert "source-not-guest" in guest.stderr


def test_host_only(place: BridgedHost) -> None:
    """The host forwards for the guests of `nat`, and not for this one."""
    with place.guest("--vm-net-type", "host") as guest, place.guest(mac=OTHER_MAC) as other:
        assert other.reaches(PUBLIC4)
        assert guest.reaches(HOST["br0"])
        assert not guest.reaches(PUBLIC4, seconds=0.3)


# -- neighbours


@pytest.mark.parametrize("isolated", [True, False])
def test_two_guests(place: BridgedHost, isolated: bool) -> None:
    """On one bridge, where both may speak to each other's address: only isolation keeps them apart."""
    rule = "10.55.0.0/24" if isolated else "0.0.0.0/0"
    with place.guest("--allow", rule) as guest, place.guest("--allow", rule, mac=OTHER_MAC) as other:
        assert guest.reaches(HOST["br0"])
        assert other.reaches(HOST["br0"])
        assert guest.reaches(other.address, seconds=0.3) is not isolated
        assert other.reaches(guest.address, seconds=0.3) is not isolated


def test_mac_cannot_be_taken(place: BridgedHost) -> None:
    """A port that is not ours and sends under the guest's MAC gets nothing of what is for the guest."""
    with place.guest() as guest, Neighbour(place, "br0", MAC) as thief:
        thief.net.ip("addr add 10.55.0.200/24 dev eth0\n")
        thief.reaches(HOST["br0"], seconds=0.3)
        assert guest.reaches(HOST["br0"])
        assert guest.talks_to(PUBLIC4, place.host.world) == HOST4


def test_what_a_plain_bridge_lets_happen(place: BridgedHost) -> None:
    """Without a filter neighbours reach each other, and the same theft succeeds."""
    with (
        Neighbour(place, "br0", "02:00:00:00:00:09") as neighbour,
        Neighbour(place, "br0", OTHER_MAC) as victim,
        Neighbour(place, "br0", OTHER_MAC) as thief,
    ):
        neighbour.net.ip("addr add 10.55.0.201/24 dev eth0\n")
        victim.net.ip("addr add 10.55.0.202/24 dev eth0\n")
        thief.net.ip("addr add 10.55.0.203/24 dev eth0\n")
        assert neighbour.reaches("10.55.0.202")
        assert thief.reaches(HOST["br0"])
        assert not neighbour.reaches("10.55.0.202", seconds=0.3)


# -- exposed ports


def asks(place: BridgedHost, port: int, *, seconds: float = 3.0) -> str:
    """What a client in the world hears from a port of the host."""
    with place.host.world.connect(HOST4, port, timeout=seconds) as sock:
        return sock.recv(100).decode()


def serve(guest: Guest, port: int) -> subprocess.Popen[bytes]:
    """A server in the guest that says `hello` to whoever connects."""
    code = (
        "import socket,sys\ns=socket.create_server(('0.0.0.0',int(sys.argv[1])))\nprint(flush=True)\n"
        "while 1:\n c=s.accept()[0]\n c.sendall(b'hello')\n c.close()"
    )
    with guest.net.entered():
        server = subprocess.Popen(guest_python(code, str(port)), stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.read(1)
    return server


@contextlib.contextmanager
def serving(guest: Guest, port: int) -> Iterator[None]:
    server = serve(guest, port)
    try:
        yield
    finally:
        server.kill()
        server.communicate()


def test_exposed_ports(place: BridgedHost) -> None:
    """A port that is taken keeps no other, and is had when it is free. The lease's end is theirs. Replies need no rule:
    the client's address is one that the guest may not speak to.
    """
    options = [f"--expose={BUSY}:80", f"--expose={FREE}:80"]
    with place.net.listen("0.0.0.0", BUSY) as busy:
        with place.guest(*options) as guest, serving(guest, 80):
            assert not guest.reaches(WORLD4, seconds=0.3)
            assert f"cannot have port {BUSY}" in guest.stderr
            assert asks(place, FREE) == "hello"
            with place.net.connect(HOST4, FREE) as local:
                assert local.recv(100) == b"hello"
            with pytest.raises(OSError):
                place.net.bound("0.0.0.0", FREE, socket.SOCK_STREAM)
            busy.close()
            eventually(lambda: f"--expose {BUSY}:80: leads to {guest.address}" in guest.stderr)
            assert asks(place, BUSY) == "hello"
            guest.release()
            eventually(lambda: f"--expose {FREE}:80: leads nowhere" in guest.stderr)
            with pytest.raises(OSError):
                asks(place, FREE)
            guest.forget()
            guest.client.send_signal(signal.SIGUSR1)
            guest.told("bound")
            assert eventually(lambda: guest.stderr.count(f"--expose {FREE}:80: leads to") == 2)
            assert asks(place, FREE) == "hello"


def test_low_port_that_is_taken(place: BridgedHost) -> None:
    """It could never be had, as privileges go."""
    words = ["filter", "--mac", MAC, "--bridge", "br0", "--socket", str(place.folder / "low.sock"), "--expose", "80:22"]
    with place.net.listen("0.0.0.0", 80):
        done = place.host.runner("root").complete(words)
    assert done.status == 2
    assert done.stderr == (
        "bucatini filter: --expose 80:22: cannot have port 80 of this host: Address already in use, and none below "
        "1024 once privileges are given up\n"
    )
    assert not place.tables()


def test_exposed_port_when_the_lease_runs_out(place: BridgedHost) -> None:
    with place.guest(f"--expose={FREE}:80", bridge="br1") as guest, serving(guest, 80):
        assert asks(place, FREE) == "hello"
        guest.kill_client()
        eventually(lambda: f"--expose {FREE}:80: leads nowhere" in guest.stderr)
        with pytest.raises(OSError):
            asks(place, FREE)


def ask_for(channel: socket.socket, revision: str, **rules: list[str]) -> dict[str, object]:
    params = {"allow": [], "block": [], "desiredRevision": revision, **rules}
    request = {"jsonrpc": "2.0", "id": 1, "method": "softnet.policy.set", "params": params}
    channel.sendall(json.dumps(request).encode() + b"\n")
    answer: dict[str, object] = json.loads(channel.recv(1 << 16))
    return answer


def test_exposed_port_of_faithful(place: BridgedHost) -> None:
    """As with Softnet, the guest cannot answer whom it may not speak to."""
    near, far = socket.socketpair()
    near.settimeout(PATIENCE)
    options = ["--faithful", f"--expose={FREE}:80", "--control-fd", str(far.fileno())]
    with near, place.guest(*options, descriptors=(far.fileno(),)) as guest, serving(guest, 80):
        far.close()
        with pytest.raises(TimeoutError):
            asks(place, FREE, seconds=0.5)
        ask_for(near, "1", allow=[f"{WORLD4}/32"])
        assert asks(place, FREE) == "hello"


# -- changes while it runs


def test_policy_changes(place: BridgedHost) -> None:
    """Counts from the next packet on, while the guest floods as fast as it can."""
    near, far = socket.socketpair()
    near.settimeout(PATIENCE)
    with near, place.guest("--control-fd", str(far.fileno()), descriptors=(far.fileno(),)) as guest:
        far.close()
        with guest.net.entered():
            flood = subprocess.Popen(["ping", "-f", "-q", "-s", "1000", PUBLIC4], stdout=subprocess.DEVNULL)
        try:
            assert not guest.reaches(PRIVATE4, seconds=0.3)
            ask_for(near, "1", allow=[f"{PRIVATE4}/32"])
            assert guest.reaches(PRIVATE4)
            ask_for(near, "2", block=["0.0.0.0/0"], allow=["@host"])
            assert not guest.reaches(PRIVATE4, seconds=0.3)
            assert not guest.reaches(PUBLIC4, seconds=0.3)
            assert guest.renew()
            answer = ask_for(near, "3", allow=["0.0.0.0/0"])
            assert "isolation" in str(answer["error"])
        finally:
            flood.send_signal(signal.SIGINT)
            flood.wait(PATIENCE)


def test_control_socket(place: BridgedHost, tmp_path: Path) -> None:
    path = tmp_path / "control"
    with place.guest("--control", str(path)) as guest:
        code = (
            "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
            "s.sendall(sys.argv[2].encode()+b'\\n')\nprint(s.recv(65536).decode())"
        )
        request = {
            "jsonrpc": "2.0", "id": 1, "method": "softnet.policy.set",
            "params": {"allow": [PRIVATE4], "block": [], "desiredRevision": "a"},
        }  # fmt: skip
        said = json.loads(place.net.run(*guest_python(code, str(path), json.dumps(request))).stdout)
        assert said["result"]["allow"] == [f"{PRIVATE4}/32"]
        assert guest.reaches(PRIVATE4)
    assert not path.exists()


# -- reports


def test_reports(place: BridgedHost, tmp_path: Path) -> None:
    capture, events = tmp_path / "a.pcapng", tmp_path / "a.jsonl"
    with place.guest("--pcap", str(capture), "--events", str(events), "--summary") as guest:
        assert guest.reaches(HOST["br0"])
        assert not guest.reaches(PRIVATE4, seconds=0.1)
        guest.net.ip("addr add 10.55.0.250/24 dev eth0\n")
        assert not guest.reaches(HOST["br0"], seconds=0.1, source="10.55.0.250")
        with pytest.raises(OSError):
            guest.net.connect(PRIVATE4, 22, timeout=0.1)
        guest.end()
        assert "policy-denied: refused by policy" in guest.stderr
        assert " packets refused\n" in guest.stderr
        assert "flows allowed" not in guest.stderr
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert {"arp-spoof", "source-not-guest"} & {each.get("reason") for each in told}
    refused = {(each["protocol"], each["peer"], each["rule"]) for each in told if each["event"] == "flow-refused"}
    assert {("icmp", PRIVATE4, NOT_OPEN), ("tcp", f"{PRIVATE4}:22", NOT_OPEN)} <= refused
    assert capture.read_bytes().count(b"policy-denied") >= 1


def test_who_is_refused_is_said_at_once(place: BridgedHost) -> None:
    with place.guest("-v", "--block", PUBLIC4) as guest:
        with pytest.raises(OSError):
            guest.net.connect(PUBLIC4, 443, timeout=0.1)
        eventually(lambda: f"-> {PUBLIC4}:443 refused by policy (--block {PUBLIC4}/32)" in guest.stderr)


# -- the end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_is_left(place: BridgedHost, number: signal.Signals) -> None:
    guest = Guest(place, MAC, "br0")
    try:
        guest.start([f"--expose={FREE}:80"])
        assert len(place.tables()) == 1
        assert guest.tap in place.interfaces()
        assert guest.end(number) == (-number if number == signal.SIGKILL else 0)
        eventually(lambda: not place.tables())
        assert guest.tap not in place.interfaces()
        place.net.bound("0.0.0.0", FREE, socket.SOCK_STREAM).close()
    finally:
        guest.close()


def test_guest_is_gone(place: BridgedHost) -> None:
    """The kernel tells of the end of a datagram socket when something is sent there."""
    guest = Guest(place, MAC, "br0")
    try:
        guest.start([], pumped=True)
        guest.dhcp()
        address = guest.address
        guest.kill_client()
        guest.unplug()
        place.net.run("ping", "-n", "-c", "1", "-W", "0.1", address, check=False)
        assert guest.engine.wait(PATIENCE) == 0, guest.stderr
    finally:
        guest.close()


def test_bridge_port_is_gone(place: BridgedHost) -> None:
    guest = Guest(place, MAC, "br0")
    try:
        guest.start([])
        place.net.ip(f"link delete {guest.tap}\n")
        assert guest.engine.wait(PATIENCE) == 1
        assert "the interface on the bridge is gone" in guest.stderr
    finally:
        guest.close()


@pytest.mark.parametrize("change", ["link set {tap} nomaster", "link delete br7"])
def test_bridge_is_gone(place: BridgedHost, change: str) -> None:
    """Or the port was taken off it: the guest is cut off, and somebody has to know."""
    place.net.ip("link add br7 type bridge\naddr add 10.99.0.1/24 dev br7\nlink set br7 up\n")
    guest = Guest(place, MAC, "br7")
    try:
        guest.start([])
        place.net.ip(change.format(tap=guest.tap) + "\n")
        assert guest.engine.wait(PATIENCE) == 1
        assert f"{guest.tap} is no port of br7 any more" in guest.stderr
    finally:
        guest.close()
        place.net.run("ip", "link", "delete", "br7", check=False)


def test_no_path_is_left(place: BridgedHost, tmp_path: Path) -> None:
    paths = ["--socket", f"{tmp_path}/guest", "--control", f"{tmp_path}/control"]
    command = signalled("filter", "--mac", MAC, "--bridge", "br0", *paths)
    with place.net.entered():
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_translation_is_gone(place: BridgedHost) -> None:
    """Without the table a guest of `host` might get further than it should."""
    guest = Guest(place, MAC, "br0")
    try:
        guest.start(["--vm-net-type", "host"])
        os.kill(guest.child("nft"), signal.SIGKILL)
        assert guest.engine.wait(PATIENCE) == 1
        assert "nft ended" in guest.stderr
    finally:
        guest.close()


def test_bridge_port_is_down_for_a_while(place: BridgedHost) -> None:
    with place.guest() as guest:
        place.net.ip(f"link set {guest.tap} down\n")
        assert not guest.reaches(HOST["br0"], seconds=0.3)
        place.net.ip(f"link set {guest.tap} up\n")
        eventually(lambda: guest.reaches(HOST["br0"], seconds=0.3))


# -- privileges


def test_privileges_are_given_up(place: BridgedHost) -> None:
    with place.guest("--user", "nobody", f"--expose={FREE - 8000}:80") as guest, serving(guest, 80):
        status = Path(f"/proc/{guest.engine.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert set(fields["Uid"].split()) == {"65534"}
        assert set(fields["Gid"].split()) == {"65534"}
        assert fields["Groups"].strip() == ""
        assert {fields[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert fields["NoNewPrivs"] == "1"
        assert guest.reaches(PUBLIC4)
        assert asks(place, FREE - 8000) == "hello"


def test_ordinary_user(place: BridgedHost) -> None:
    """In a namespace of the user's own, with the same set-up."""
    guest = Guest(place, MAC, "br0")
    runner = place.host.runner("ordinary")
    wrap = runner.wrapped(["unshare", "-Urn", "sh", "-ec", OWN_NETWORK, "sh"])
    try:
        guest.start(["--address", "10.55.0.7"], before=wrap)
        guest.net.ip("addr add 10.55.0.7/24 dev eth0\naddr add 10.55.0.8/24 dev eth0\n")
        assert guest.reaches("10.55.0.1")
        assert not guest.reaches("10.55.0.1", seconds=0.3, source="10.55.0.8")
        assert guest.end() == 0
    finally:
        guest.close()
    runner.gone()


# -- errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bridge", "nope"], "--bridge 'nope': must be the name of a bridge of this host; there is none"),
        (["--bridge", "up0"], "--bridge 'up0': must be the name of a bridge; this is another kind"),
        (["--bridge", EMPTY], f"--bridge '{EMPTY}': has no IPv4 address; --gateway says where"),
        (["--gateway", "fd55::1"], "--gateway: there is no IPv4 address"),
        (["--host-tap", "up0"], "--host-tap 'up0': there is an interface of this name"),
        (["--host-tap", "a%d"], "--host-tap 'a%d': must be the name of an interface"),
        (["--user", "no-such-user"], "--user 'no-such-user': must be a user of this host"),
        (["--group", "no-such-group"], "--group 'no-such-group': must be a group of this host"),
        (["--control-fd", "77"], "--control-fd 77: no such descriptor is open"),
        (["--fd", "99"], "--fd 99: no such descriptor is open"),
        (["--address", "10.55.0.1"], "--address 10.55.0.1: is the bridge's own"),
        (["--gateway", "10.55.0.2", "--address", "10.55.0.1"], "--address 10.55.0.1: is the bridge's own"),
        (["--address", "fd55::1"], "--address fd55::1: is the bridge's own"),
    ],
)
def test_refused(place: BridgedHost, options: list[str], said: str) -> None:
    words = ["filter", "--mac", MAC, "--bridge", "br0", *options]
    if "--fd" not in options:
        words += ["--socket", str(place.folder / "refused.sock")]
    done = place.host.runner("root").complete(words)
    assert done.status == 2
    assert said in done.stderr
    assert done.stderr.count("\n") <= 2
    assert not place.tables()


def test_mac_that_is_there_already(place: BridgedHost) -> None:
    with place.guest(dhcp=False):
        words = ["filter", "--mac", MAC, "--bridge", "br0", "--socket", str(place.folder / "second.sock")]
        done = place.host.runner("root").complete(words)
    assert done.status == 2
    assert f"--mac {MAC}: br0 has another guest of this address" in done.stderr


def test_without_nft(place: BridgedHost) -> None:
    before = "for each in /usr/sbin /sbin; do mount -t tmpfs tmpfs $each; done"
    words = ["filter", "--mac", MAC, "--bridge", "br0", "--socket", str(place.folder / "no-nft.sock")]
    done = place.host.runner("root").complete(words, before=before)
    assert done.status == 2
    assert "--vm-net-type nat: address translation needs the program nft" in done.stderr


def test_without_privileges(place: BridgedHost) -> None:
    words = ["filter", "--mac", MAC, "--bridge", "br0", "--socket", str(place.folder / "no-right.sock")]
    done = place.host.runner("ordinary").complete(words)
    assert done.status == 2
    assert "needs CAP_NET_ADMIN" in done.stderr
