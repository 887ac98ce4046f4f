"""Whatever guests ask for, in whatever order, over restarts and a clock that goes back: no address is two guests' at
once, and none is given away before the end of its lease.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from bucatini.base.address import pack, text
from bucatini.services.address_plan import LeaseRange
from bucatini.services.dhcp import DhcpSettings, PoolAnswer, answer_from_pool
from bucatini.services.leases import (
    INFINITE,
    LeaseDeclined,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    LeaseRenewed,
    Outcome,
    Phase,
    PoolExhausted,
)
from bucatini.services.pool import LeasePool, PoolSettings
from bucatini.wire.dhcp import parse_dhcp

NOW = 1_760_000_000.0
SHARED = (LeaseRange(pack("192.0.2.0"), 29),)
EACH = (LeaseRange(pack("10.0.0.0"), 28, guest_length=30),)
ONE = (LeaseRange(pack("192.0.2.0"), 30),)
SIX = (LeaseRange(pack("fd00::"), 125),)
TWO = (LeaseRange(pack("192.0.2.0"), 30), LeaseRange(pack("10.0.0.0"), 28, guest_length=30))
MACS = [bytes((2, 0, 0, 0, 0, number)) for number in range(8)]
LINKS = ["a", "b", "c"]


class Leases(RuleBasedStateMachine):
    """Against what guests were told: `told` holds, for each address, whose it is and until when, by a clock of its own
    that nobody sets.
    """

    addresses: Bundle[bytes] = Bundle("addresses")

    @initialize(
        ranges=st.sampled_from((ONE, TWO, EACH, SHARED, SIX)),
        lease=st.sampled_from((10, 100, 600, INFINITE)),
        quarantine=st.booleans(),
        identities=st.integers(1, 3),
        limit=st.integers(1, 8),
        remembered=st.integers(0, 6),
    )
    def begin(self, **fields: Any) -> None:
        self.settings = PoolSettings(**fields, offers=3, declines=2)
        self.pool = LeasePool(self.settings)
        self.now = NOW
        self.time = 0.0
        self.told: dict[bytes, tuple[bytes, float]] = {}
        self.bindings: dict[bytes, bytes] = {}
        """As a guard keeps them: made and ended by events alone."""
        self.restarts = 0

    # -- what guests do

    @rule(
        target=addresses,
        mac=st.sampled_from(MACS),
        link=st.sampled_from(LINKS),
        wish=st.none() | st.binary(min_size=3, max_size=5),
    )
    def discovers(self, mac: bytes, link: str, wish: bytes | None) -> bytes:
        outcome = self.pool.offer(mac, self.now, link, wish)
        self.hear(outcome)
        if outcome.lease is None:
            return bytes(4)
        owner, until = self.told.get(outcome.lease.address, (mac, 0.0))
        assert owner == mac or until <= self.time, "offered while it is another's"
        return outcome.lease.address

    @rule(target=addresses, mac=st.sampled_from(MACS), link=st.sampled_from(LINKS), wish=addresses)
    def discovers_with_a_wish(self, mac: bytes, link: str, wish: bytes) -> bytes:
        return self.discovers(mac, link, wish)

    @rule(mac=st.sampled_from(MACS), link=st.sampled_from(LINKS), address=st.none() | addresses)
    def requests(self, mac: bytes, link: str, address: bytes | None) -> None:
        outcome = self.pool.request(mac, address, self.now, link)
        self.hear(outcome)
        self.granted(outcome, mac, link)

    @rule(mac=st.sampled_from(MACS))
    def joins(self, mac: bytes) -> None:
        link = LINKS[mac[5] % len(LINKS)]
        self.discovers(mac, link, None)
        self.requests(mac, link, None)

    @rule(which=st.integers(0, 6), what=st.sampled_from(("requests", "releases", "declines")))
    def does_as_it_should(self, which: int, what: str) -> None:
        leases = self.pool.leases()
        if leases:
            lease = leases[which % len(leases)]
            getattr(self, what)(lease.mac, lease.link or LINKS[lease.mac[5] % len(LINKS)], lease.address)

    @rule(which=st.integers(0, 6), mac=st.sampled_from(MACS))
    def follows_one_that_leaves(self, which: int, mac: bytes) -> None:
        self.does_as_it_should(which, "releases")
        self.joins(mac)

    @rule(mac=st.sampled_from(MACS), link=st.sampled_from(LINKS), address=addresses)
    def releases(self, mac: bytes, link: str, address: bytes) -> None:
        outcome = self.pool.release(mac, address, self.now, link)
        self.hear(outcome)
        if not self.settings.quarantine and outcome.refusal is None:
            del self.told[address]

    @rule(mac=st.sampled_from(MACS), link=st.sampled_from(LINKS), address=addresses)
    def declines(self, mac: bytes, link: str, address: bytes) -> None:
        outcome = self.pool.decline(mac, address, self.now, link)
        self.hear(outcome)
        if outcome.refusal is None:
            _, until = self.told.get(address, (mac, 0.0))
            until = 0.0 if until == inf else until
            self.told[address] = (b"", max(until, self.time + self.settings.rest))

    @rule(mac=st.sampled_from(MACS), link=st.sampled_from(LINKS))
    def chooses_another_server(self, mac: bytes, link: str) -> None:
        self.hear(self.pool.withdraw(mac, self.now, link))

    # -- what happens to us

    @rule(link=st.sampled_from(LINKS))
    def goes(self, link: str) -> None:
        for address, hold in self.pool._holds.items():
            if hold.link == link and hold.until == inf:
                self.told[address] = (hold.mac, self.time + self.settings.rest)
        self.pool.detach(link, self.now)

    @rule(seconds=st.sampled_from((0.5, 9, 50, 61, 99, 300, 599, 5000)))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds
        self.time += seconds
        self.hear(Outcome(None, self.pool.expire(self.now)))

    @rule(seconds=st.sampled_from((0.5, 100, 10_000)))
    def the_clock_goes_back(self, seconds: float) -> None:
        self.now -= seconds

    @rule()
    def a_restart(self) -> None:
        self.hear(Outcome(None, self.pool.expire(self.now)))
        records = self.pool.records()
        known = dict(self.bindings)
        self.pool = LeasePool(self.settings)
        self.bindings = {}
        self.hear(Outcome(None, self.pool.restore(records, self.now)))
        assert self.bindings == known
        assert {record.address for record in self.pool.records()} == {record.address for record in records}
        self.restarts += 1

    # -- what must hold

    def granted(self, outcome: Outcome, mac: bytes, link: str) -> None:
        lease = outcome.lease
        if lease is None:
            return
        assert (lease.mac, lease.link) == (mac, link)
        owner, until = self.told.get(lease.address, (mac, 0.0))
        assert owner == mac or until <= self.time, f"{text(lease.address)} given away {until - self.time} s early"
        length = inf if self.settings.lease == INFINITE else self.settings.lease
        assert lease.until >= self.now + length
        self.told[lease.address] = (mac, self.time + length)

    def hear(self, outcome: Outcome) -> None:
        assert (outcome.lease is None) or outcome.refusal is None
        for event in outcome.events:
            match event:
                case LeaseGranted():
                    assert event.address not in self.bindings
                    self.bindings[event.address] = event.mac
                case LeaseRenewed():
                    assert self.bindings[event.address] == event.mac
                case LeaseReleased() | LeaseExpired():
                    assert self.bindings.pop(event.address) == event.mac
                case LeaseDeclined():
                    assert self.bindings.pop(event.address, event.mac) == event.mac
                case PoolExhausted():
                    pass

    def bounded(self, link: str) -> None:
        of_link = [hold for hold in self.pool._holds.values() if hold.link == link]
        resting = [hold for hold in of_link if hold.phase is Phase.DECLINED]
        assert len(of_link) - len(resting) == self.pool._identities[link] <= self.settings.identities
        assert len(resting) == self.pool._declined[link] <= self.settings.declines

    @invariant()
    def one_guest_for_each_address_and_one_address_for_each_guest(self) -> None:
        if not hasattr(self, "pool"):
            return
        leases = self.pool.leases()
        assert {lease.address: lease.mac for lease in leases} == self.bindings
        assert len({lease.mac for lease in leases}) == len(leases)
        for lease in leases:
            assert self.pool.holder_of(lease.address) == lease.mac
            assert self.pool.lease_of(lease.mac) == lease

    @invariant()
    def nothing_grows(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool = self.pool
        assert len(pool) <= min(self.settings.limit, pool.size)
        assert len(pool._remembered) <= self.settings.remembered
        assert len(pool._old) <= len(pool._remembered)
        assert not pool._remembered.keys() & pool._holds.keys()
        phases = [hold.phase for hold in pool._holds.values()]
        assert phases.count(Phase.OFFERED) == pool._offers <= self.settings.offers
        assert phases.count(Phase.DECLINED) == pool._declined.total() <= max(1, pool.size // 4)
        assert pool._strangers == 0
        owned = {id(hold) for hold in pool._own.values()}
        assert owned == {id(hold) for hold in pool._holds.values() if hold.phase is not Phase.DECLINED}
        for link in LINKS:
            self.bounded(link)

    @invariant()
    def every_end_comes_up(self) -> None:
        if not hasattr(self, "pool"):
            return
        ends = {address: hold.until for address, hold in self.pool._holds.items() if hold.until != inf}
        for address, until in ends.items():
            assert self.pool._due_at[address] <= until
        assert {(until, address) for address, until in self.pool._due_at.items()} <= set(self.pool._due)

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for link in LINKS:
            self.pool.detach(link, self.now)
        for mac in MACS:
            self.pool.dismiss(mac, self.now)
        self.pool.expire(self.now + 1e6)
        assert len(self.pool) == 0
        assert not self.pool._due_at
        assert self.pool._identities.total() == self.pool._declined.total() == self.pool._offers == 0


TestLeases = pytest.mark.filterwarnings("default")(Leases.TestCase)
TestLeases.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


SERVER = "192.0.2.1"
TOLD = DhcpSettings(bytes.fromhex("9a559a559a55"), pack(SERVER), pack("192.0.2.2"), 24, pack(SERVER), 1500)
NET = PoolSettings((LeaseRange(pack("192.0.2.0"), 24),))
ADDRESSES = st.sampled_from(["0.0.0.0", "192.0.2.1", "192.0.2.2", "192.0.2.3", "10.0.0.1", "255.255.255.255"])


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Frames of three guests, who say of themselves what they like."""
    mac = draw(st.sampled_from(MACS[:3]))
    kind = draw(st.sampled_from(["discover", "request", "request", "decline", "release", "inform"]))
    options: list[Any] = [("message-type", kind)]
    options.extend((name, draw(ADDRESSES)) for name in ("requested_addr", "server_id") if draw(st.booleans()))
    if draw(st.integers(0, 4)) == 0:
        options.append((80, b""))
    if draw(st.booleans()):
        options.append(("client_id", draw(st.binary(max_size=20))))
    chaddr = mac if draw(st.integers(0, 5)) else draw(st.sampled_from(MACS))
    bootp = BOOTP(chaddr=chaddr, ciaddr=draw(ADDRESSES), flags=draw(st.sampled_from([0, 0x8000])))
    frame = Ether(src=mac.hex(":"), dst="ff:ff:ff:ff:ff:ff") / IP(src=draw(ADDRESSES), dst="255.255.255.255")
    return bytes(frame / UDP(sport=68, dport=67) / bootp / DHCP(options=[*options, "end"]))


def checked(answer: PoolAnswer, frame: bytes) -> None:
    """An answer goes to who asked, about an address that is that guest's."""
    if answer.answer is None or answer.answer.frame is None:
        assert answer.lease is None
        return
    reply = answer.answer.frame
    assert reply[6:12] == TOLD.mac
    assert reply[:6] in (frame[6:12], b"\xff" * 6)
    message = parse_dhcp(reply[42:])
    assert message is not None
    kind = message.options[53][0]
    assert {"offer": 2, "ack": 5, "inform": 5, "nak": 6}[answer.answer.event] == kind
    assert (answer.lease is not None) == (answer.answer.event == "ack")
    if answer.lease is not None:
        assert message.yiaddr == answer.lease.address
        assert answer.lease.mac == frame[6:12] == message.chaddr[:6]
        assert int.from_bytes(message.options[51], "big") == answer.lease.until - answer.lease.since


@settings(max_examples=60)
@given(st.lists(st.tuples(messages(), st.sampled_from((0, 1, 100, 700))), max_size=12), st.booleans())
def test_frames_of_guests_who_say_what_they_like(deeds: list[tuple[bytes, int]], few: bool) -> None:
    pool, now = LeasePool(replace(NET, limit=2 if few else 100)), NOW
    for frame, seconds in deeds:
        now += seconds
        checked(answer_from_pool(frame, TOLD, pool, now, link=frame[6:12].hex()), frame)
        assert len(pool.leases()) <= (2 if few else 3)


@given(st.data(), messages())
def test_damaged_frames(data: st.DataObject, frame: bytes) -> None:
    pool = LeasePool(NET)
    at = data.draw(st.integers(0, len(frame)))
    damaged = frame[:at] + data.draw(st.binary(max_size=8)) + frame[at + data.draw(st.integers(0, 8)) :]
    checked(answer_from_pool(damaged, TOLD, pool, NOW, verified=True), damaged)


@given(st.binary(max_size=400))
def test_any_bytes(frame: bytes) -> None:
    assert answer_from_pool(frame, TOLD, LeasePool(NET), NOW, verified=True) == (None, None, ())
