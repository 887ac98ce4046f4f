"""guard against the decision tables and golden vectors of Softnet 0.19.0: what it does, what we do, and why where we
differ.

Each row is judged three times: by `admit_faithful`, by `admit` with rules (a filter in front of a bridge), and by
`admit` without (the translating engine: what only a rule could refuse is left to policy).
"""

from __future__ import annotations

import ipaddress

import pytest
from scapy.layers.inet import IP
from scapy.packet import Raw

from bucatini.base.address import pack, text
from bucatini.base.reasons import DropReason
from bucatini.base.verdict import EGRESS
from bucatini.guard.admit import (
    ALLOW,
    BLOCK,
    NO_RULE,
    admit,
    admit_faithful,
    admit_faithful_to_guest,
    admit_to_guest,
)
from bucatini.guard.binding import Binding
from bucatini.guard.frame import Frame
from bucatini.guard.snoop import Change, Snoop
from bucatini.wire.dhcp import NAK, REQUEST
from support.golden import (
    ALL,
    CHADDR,
    EXPIRED,
    GLOBAL,
    LEARNED,
    LEASED,
    LOCAL,
    NAKED,
    NONE,
    PASS,
    ROWS,
    SECONDS,
    TO_GUEST,
    UPSTREAM,
    D,
    G,
    L,
    Learning,
    R,
    Row,
    ToGuest,
    Upstream,
    answer,
    arp,
    ether,
    ip,
    udp,
    zeros,
)


class Table:
    """Longest prefix, Block over Allow, as the specification has it. The real one has its own tests."""

    def __init__(self, allow: str = "", block: str = "") -> None:
        self.entries: dict[ipaddress.IPv4Network | ipaddress.IPv6Network, int] = {}
        for words, verdict in ((allow, ALLOW), (block, BLOCK)):
            for word in filter(None, words.split(",")):
                prefix = f"{G}/32" if word == "@host" else word
                self.entries[ipaddress.ip_network(prefix, strict=False)] = verdict

    def decide(self, direction: str, address: bytes, port: int) -> int:
        peer = ipaddress.ip_address(address)
        found = [entry for entry in self.entries if entry.version == peer.version and peer in entry]
        if direction != EGRESS or not found:
            return NO_RULE
        return self.entries[max(found, key=lambda entry: entry.prefixlen)]


def binding(state: str) -> Binding:
    """As it is at second 1000."""
    made = Binding(CHADDR, [pack(G)], margin=0.1)
    if state != NONE:
        made.lease(pack(L), 600, 1000.0 if state == LEASED else 399.9, [pack(D)])
    if state == NAKED:
        made.clear()
    return made


def view(frame: bytes, faithful: bool) -> Frame:
    made = Frame(memoryview(bytearray(frame)), faithful)
    made.parse(0, len(frame))
    return made


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_from_guest(row: Row) -> None:
    rules = Table(row.allow, row.block)
    found = admit_faithful(view(row.frame, True), binding(row.state), rules, 1000.0)
    assert DropReason(found) is row.faithful
    found = admit(view(row.frame, False), binding(row.state), rules, 1000.0)
    assert DropReason(found) is row.ours
    found = admit(view(row.frame, False), binding(row.state), None, 1000.0)
    assert DropReason(found) is (PASS if row.ours is R.POLICY_DENIED else row.ours)
    assert bool(row.why) == ((row.faithful is PASS) != (row.ours is PASS)), "a difference has a reason"


@pytest.mark.parametrize("row", [row for row in ROWS if not row.allow and not row.block], ids=lambda row: row.name)
def test_without_rules_softnet_decides_by_its_defaults(row: Row) -> None:
    assert DropReason(admit_faithful(view(row.frame, True), binding(row.state), None, 1000.0)) is row.faithful


@pytest.mark.parametrize("row", UPSTREAM, ids=lambda row: row.name)
def test_upstream_unit(row: Upstream) -> None:
    rules = Table(row.allow, row.block)
    assert {str(entry): verdict == ALLOW for entry, verdict in rules.entries.items()} == row.entries
    leased = Binding(CHADDR, [pack(G)])
    leased.lease(pack(L), 600, 0.0)
    for destination, passes in row.verdicts.items():
        found = admit_faithful(view(zeros(destination), True), leased, rules, 1.0)
        assert (found == 0) is passes
        whole = ether(IP(src=L, dst=destination) / Raw(bytes(1480)))
        assert (admit(view(whole, False), leased, rules, 1.0) == 0) is passes


@pytest.mark.parametrize(("words", "faithful"), [(GLOBAL, PASS), (LOCAL, R.POLICY_DENIED)], ids=["global", "local"])
def test_globally_routable(words: str, faithful: DropReason) -> None:
    """Section 7, both edges of every block."""
    for destination in words.split():
        frame = ip(L, destination)
        assert DropReason(admit_faithful(view(frame, True), binding(LEASED), None, 1000.0)) is faithful, destination
        group = pack(destination)[0] >> 4 == 0xE
        ours = R.POLICY_DENIED if group else faithful
        assert DropReason(admit(view(frame, False), binding(LEASED), Table(), 1000.0)) is ours, destination


# -- host to guest, and the snooper's table


@pytest.mark.parametrize("row", TO_GUEST, ids=lambda row: row.name)
@pytest.mark.parametrize("state", [NONE, LEASED, EXPIRED])
def test_to_guest(row: ToGuest, state: str) -> None:
    assert DropReason(admit_faithful_to_guest(view(row.frame, True))) is row.faithful
    assert DropReason(admit_to_guest(view(row.frame, False), binding(state), Table(block="0.0.0.0/0"))) is row.ours
    assert bool(row.why) == ((row.faithful is PASS) != (row.ours is PASS)), "a difference has a reason"


@pytest.mark.parametrize("row", LEARNED, ids=lambda row: row.name)
@pytest.mark.parametrize("faithful", [True, False], ids=["faithful", "ours"])
@pytest.mark.parametrize("state", [NONE, LEASED, EXPIRED])
def test_what_is_learned(row: Learning, faithful: bool, state: str) -> None:
    assert bool(row.why) == (row.faithful is not row.ours), "a difference has a reason"
    bound = binding(state)
    before = (bound.leased, bound.until, bound.dns)
    snoop = Snoop(bound, faithful)
    assert snoop.from_guest(view(udp("0.0.0.0", 68, ALL, 67, kind=REQUEST), faithful), 1000.0) == 0  # transaction 7
    found = snoop.to_guest(view(row.frame, faithful), 1000.0)
    expected = row.faithful if faithful else row.ours
    if expected is Change.LEASED and state != NONE:
        expected = Change.RENEWED
    assert found is expected
    if expected is Change.NONE:
        assert (bound.leased, bound.until, bound.dns) == before
    elif expected is Change.WITHDRAWN:
        assert bound.leased is None
    else:
        assert bound.leased is not None
        assert text(bound.leased) == L
        assert bound.until == pytest.approx(1599.9)
        assert bound.dns == (frozenset({pack(D)}) if row.name == "ACK" else frozenset())


@pytest.mark.parametrize("faithful", [True, False], ids=["faithful", "ours"])
@pytest.mark.parametrize(
    ("seconds", "until"),
    [(0, 1000.0), (1, 1000.9), (0xFFFFFFFF, 1000.0 + 0xFFFFFFFF - 0.1)],
    ids=["0", "1", "for ever"],
)
def test_lease_times(seconds: int, until: float, faithful: bool) -> None:
    bound = binding(NONE)
    snoop = Snoop(bound, faithful)
    snoop.from_guest(view(udp("0.0.0.0", 68, ALL, 67, kind=REQUEST), faithful), 1000.0)
    snoop.to_guest(view(answer(lease=seconds.to_bytes(4, "big")), faithful), 1000.0)
    assert bound.until == pytest.approx(until)
    assert bound.state(1000.0) == (2 if seconds == 0 else 1)


@pytest.mark.parametrize("faithful", [True, False], ids=["faithful", "ours"])
def test_a_life(faithful: bool) -> None:
    """NONE, LEASED, another address, NAK, and a lease that runs out, through frames alone."""
    bound = binding(NONE)
    snoop = Snoop(bound, faithful)

    def speaks(frame: bytes, now: float) -> DropReason:
        seen = view(frame, faithful)
        reason = admit_faithful(seen, bound, None, now) if faithful else admit(seen, bound, Table(), now)
        return DropReason(reason or snoop.from_guest(seen, now))

    assert speaks(ip(L, "1.1.1.1"), 0.0) is R.SOURCE_NOT_GUEST
    assert speaks(udp("0.0.0.0", 68, ALL, 67, kind=REQUEST), 0.0) is PASS
    snoop.to_guest(view(answer(lease=SECONDS), faithful), 0.0)
    assert speaks(ip(L, "1.1.1.1"), 599.8) is PASS
    assert speaks(udp(L, 68, G, 67, kind=REQUEST), 599.8) is PASS
    snoop.to_guest(view(answer(lease=SECONDS, yiaddr="192.168.0.7"), faithful), 599.8)
    assert speaks(ip(L, "1.1.1.1"), 599.8) is R.SOURCE_NOT_GUEST
    assert speaks(ip("192.168.0.7", "1.1.1.1"), 600.0) is PASS
    assert speaks(ip("192.168.0.7", "1.1.1.1"), 1199.8) is R.LEASE_EXPIRED
    assert speaks(udp("0.0.0.0", 68, ALL, 67, kind=REQUEST), 1200.0) is PASS
    snoop.to_guest(view(answer(NAK), faithful), 1200.0)
    assert speaks(arp("0.0.0.0"), 1200.0) is PASS
    assert speaks(ip("192.168.0.7", "1.1.1.1"), 1200.0) is R.SOURCE_NOT_GUEST
