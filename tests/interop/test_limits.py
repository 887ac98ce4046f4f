"""At each bound newcomers are refused at once and counted, the old live on, and the place is free again in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from support.inprocess import ADDRESSES, Host, Outcome, Scenario
from support.transfer import Job

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="no /dev/net/tun"),
]

COMMON = """
import errno, json, socket, sys, time
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM

def attempt(family, kind=TCP):
    "A socket, or errno and the seconds it took to learn of it; a UDP socket has had an echo."
    begun = time.monotonic()
    sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
    sock.settimeout(10)
    try:
        sock.connect((addresses[str(family)], port))
        if kind == UDP:
            # Without it Linux keeps "host unreachable" from a UDP socket: it may pass (ip(7), IP_RECVERR).
            sock.setsockopt(*((socket.IPPROTO_IP, 11, 1) if family == 4 else (socket.IPPROTO_IPV6, 25, 1)))
            sock.send(b"?")
            sock.recv(1)
        return sock
    except OSError as error:
        sock.close()
        return errno.errorcode.get(error.errno, repr(error)), time.monotonic() - begun

def refused(results):
    return [result for result in results if isinstance(result, tuple)]

def alive(sock):
    "Whether bytes still go there and back."
    sock.sendall(b"ping")
    return sock.recv(4) == b"ping"

def say(value):
    print(json.dumps(value), flush=True)
"""

ECHO = """
import resource, socket, threading
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
def serve(listener):
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=echo, args=(sock,), daemon=True).start()
def echo(sock):
    with sock:
        while data := sock.recv(4096):
            sock.sendall(data)
def echo_datagrams(sock):
    while True:
        data, peer = sock.recvfrom(65536)
        sock.sendto(data, peer)
port = 0
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    listener = socket.create_server((address, port), family=family, backlog=2048)
    port = listener.getsockname()[1]
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.bind((address, port))
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    threading.Thread(target=echo_datagrams, args=(datagrams,), daemon=True).start()
print(port, flush=True)
input()
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as host:
        yield host


@pytest.fixture(scope="module")
def port(host: Host) -> Iterator[int]:
    """Of a server that echoes TCP and UDP on both loopback addresses."""
    words = host.words(sys.executable, "-c", ECHO)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.communicate("\n", timeout=10)


def script(port: int, body: str) -> tuple[str, ...]:
    """A command that runs `body` after what all have in common."""
    return (sys.executable, "-c", f"{COMMON}\naddresses, port = {ADDRESSES!r}, {port}\n{body}")


def said(outcome: Outcome) -> list[object]:
    assert outcome.status == 0, outcome.stderr
    return [json.loads(line) for line in outcome.stdout.splitlines()]


FILL_THE_TABLE = """
held = [attempt(4 if number % 2 else 6) for number in range(8)]
say(len(refused(held)))
say([attempt(family, kind) for family in (4, 6) for kind in (TCP, UDP)])
say([alive(sock) for sock in held])
held.pop().close()
deadline = time.monotonic() + 5
while isinstance(newcomer := attempt(4), tuple) and time.monotonic() < deadline:
    pass
say(alive(newcomer))
"""


@pytest.fixture(scope="module")
def full_table(host: Host, port: int) -> Outcome:
    """Of a run with eight places."""
    return host.run(Scenario(script(port, FILL_THE_TABLE), flow_limit=8))


class TestFlowTableFull:
    def test_newcomers_are_refused_at_once(self, full_table: Outcome) -> None:
        refused, refusals, _, _ = said(full_table)
        assert refused == 0
        assert isinstance(refusals, list)
        names = [name for name, _ in refusals]
        assert names[0] == names[2] == "ECONNREFUSED"
        # RFC 1812 5.2.7.1, RFC 4443 3.1: administratively prohibited, as Linux tells a UDP socket.
        assert names[1] in ("EHOSTUNREACH", "ENETUNREACH")
        assert names[3] == "EACCES"
        assert max(seconds for _, seconds in refusals) < 0.5

    def test_the_old_live_on_and_a_freed_place_is_given_again(self, full_table: Outcome) -> None:
        _, _, living, newcomer = said(full_table)
        assert living == [True] * 8
        assert newcomer is True
        assert full_table.most_flows == 8

    def test_refusals_are_counted_and_told(self, full_table: Outcome) -> None:
        told = full_table.told("FlowRefused")
        assert {event["reason"] for event in told} == {"flow table full"}
        assert {event["protocol"] for event in told} == {"tcp", "udp"}
        assert full_table.counters["flow-table-full"] == len(told) >= 4

    def test_table_is_empty_in_the_end(self, full_table: Outcome) -> None:
        assert (full_table.tcp_left, full_table.sockets_left) == (0, 0)


class TestDescriptorsExhausted:
    BODY = """
held = [attempt(4) for _ in range(100)]
failed = refused(held)
say([len(failed), sorted({name for name, _ in failed}), max(seconds for _, seconds in failed)])
say(attempt(4, UDP))
say(all(alive(sock) for sock in held if not isinstance(sock, tuple)))
for sock in held:
    if not isinstance(sock, tuple):
        sock.close()
deadline = time.monotonic() + 5
while isinstance(newcomer := attempt(4), tuple) and time.monotonic() < deadline:
    pass
say(alive(newcomer))
"""

    def test_flows_beyond_are_refused_at_once_and_the_old_live_on(self, host: Host, port: int) -> None:
        outcome = host.run(Scenario(script(port, self.BODY), descriptors=64))
        refused, datagram, living, newcomer = said(outcome)
        assert isinstance(refused, list)
        count, names, slowest = refused
        assert 36 < count < 100
        assert names == ["ECONNREFUSED"]
        assert slowest < 0.5
        assert isinstance(datagram, list)
        assert datagram[0] == "EHOSTUNREACH"
        assert datagram[1] < 0.5
        assert (living, newcomer) == (True, True)
        assert outcome.counters["sockets-exhausted"] >= 1
        assert (outcome.tcp_left, outcome.sockets_left) == (0, 0)


class TestIdleFlows:
    BODY = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
say("begin")
sys.stdin.readline()
held = [attempt(4 if number % 2 else 6) for number in range(1001)]
say(len(refused(held)))
sys.stdin.readline()
"""
    FLOWS = 1000
    KIB_PER_FLOW = 8
    """The record, its deadline, its socket object; less than one page of payload."""

    def test_a_thousand_idle_flows_take_little_memory(
        self, host: Host, port: int, record_property: Callable[[str, object], None]
    ) -> None:
        """The first connection is left out: it brings in what every flow shares."""
        with host.start(Scenario(script(port, self.BODY))) as engine:
            assert json.loads(engine.line()) == "begin"
            before = engine.resident()
            engine.say()
            assert json.loads(engine.line()) == 0
            per_flow = (engine.resident() - before) / self.FLOWS
            engine.say()
            outcome = engine.finish()
        record_property("bytes per idle flow", per_flow)
        assert per_flow < 1024 * self.KIB_PER_FLOW
        assert outcome.most_flows == self.FLOWS + 1
        assert (outcome.tcp_left, outcome.sockets_left) == (0, 0)

    def test_flows_come_and_go_without_a_trace(self, host: Host) -> None:
        """Two rounds of the same transfers: whatever the first left behind would be there in the second."""
        jobs = [Job(f"flow {number}", 4, "down", 1000, stream=number) for number in range(100)]
        with host.serve() as server:
            outcome = host.run(Scenario(server.command(jobs)))
        assert outcome.status == 0
        assert (outcome.tcp_left, outcome.sockets_left) == (0, 0)
        assert len(outcome.told("FlowOpened")) == len(outcome.told("FlowClosed")) == 100
