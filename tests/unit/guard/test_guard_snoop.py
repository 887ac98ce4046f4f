"""guard.snoop: what an answer must be to become a lease, and what the guest itself gives back.

Softnet's own table of states and events: `test_guard_admit_golden`.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from bucatini.base.address import pack
from bucatini.base.reasons import DropReason
from bucatini.guard.admit import admit, admit_to_guest
from bucatini.guard.binding import Binding, LeaseState
from bucatini.guard.frame import DHCP_REQUEST, Frame
from bucatini.guard.snoop import Change, Snoop

MAC, HOST_MAC, ALL = "02:00:00:00:00:01", "02:00:00:00:00:fe", "ff:ff:ff:ff:ff:ff"
CHADDR = bytes.fromhex(MAC.replace(":", ""))
GATEWAY, OWN = "192.168.0.1", "192.168.0.2"


class Wire:
    """One guest and its snooper; what is sent goes through `admit` first, as on the data path."""

    def __init__(self) -> None:
        self.binding = Binding(CHADDR, [pack(GATEWAY)])
        self.snoop = Snoop(self.binding)

    def ask(self, kind: Any, now: float = 0.0, source: str = "0.0.0.0", xid: int = 7, **bootp: Any) -> DropReason:
        options = bootp.pop("options", [])
        to = "255.255.255.255" if source == "0.0.0.0" or bootp.pop("all", False) else GATEWAY
        layers = BOOTP(xid=xid, chaddr=CHADDR, **bootp) / DHCP(options=[("message-type", kind), *options, "end"])
        frame = view(Ether(src=MAC, dst=ALL) / IP(src=source, dst=to) / UDP(sport=68, dport=67) / layers)
        return DropReason(admit(frame, self.binding, None, now) or self.snoop.from_guest(frame, now))

    def answer(self, kind: Any, now: float = 0.0, xid: int = 7, to: str = MAC, **changed: Any) -> Change:
        seconds, server = changed.get("seconds", 600), changed.get("server", GATEWAY)
        options: list[Any] = [("message-type", kind)]
        options += [("lease_time", seconds)] if seconds is not None else []
        options += [("server_id", server)] if server is not None else []
        layers = BOOTP(
            op=changed.get("op", 2), xid=xid, yiaddr=changed.get("yiaddr", OWN), chaddr=changed.get("chaddr", CHADDR)
        ) / DHCP(options=[*options, *changed.get("options", []), "end"])
        packet = IP(src=changed.get("source", GATEWAY), dst=OWN, **changed.get("ip", {})) / UDP(sport=67, dport=68)
        frame = view(Ether(src=HOST_MAC, dst=to) / packet / layers)
        if admit_to_guest(frame, self.binding, None):
            return Change.NONE
        return self.snoop.to_guest(frame, now)

    def lease(self, now: float = 0.0) -> None:
        assert self.ask("request", now) is DropReason.NONE
        assert self.answer("ack", now) is not Change.NONE


def view(layer: Any) -> Frame:
    frame = bytes(layer)
    made = Frame(memoryview(bytearray(frame)))
    made.parse(0, len(frame))
    return made


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_discover_offer_request_ack(wire: Wire) -> None:
    assert wire.ask("discover", 0.0) is DropReason.NONE
    assert wire.answer("offer", 0.1) is Change.NONE
    assert wire.binding.state(0.1) is LeaseState.NONE
    assert wire.ask("request", 0.2) is DropReason.NONE
    assert wire.answer("ack", 0.3, options=[("name_server", "10.9.9.9", "10.9.9.8")]) is Change.LEASED
    assert wire.binding.leased == pack(OWN)
    assert wire.binding.until == pytest.approx(600.3)
    assert wire.binding.dns == {pack("10.9.9.9"), pack("10.9.9.8")}


def test_renewal_from_the_lease(wire: Wire) -> None:
    wire.lease(0.0)
    assert wire.ask("request", 300.0, source=OWN, xid=8, ciaddr=OWN) is DropReason.NONE
    assert wire.answer("ack", 300.0, xid=8) is Change.RENEWED
    assert wire.binding.until == 900.0
    assert wire.ask("request", 800.0, source=OWN, xid=9, ciaddr=OWN, all=True) is DropReason.NONE
    assert wire.answer("ack", 800.0, xid=9, yiaddr="192.168.0.7") is Change.LEASED
    assert wire.binding.leased == pack("192.168.0.7")


RAPID = {"options": [("rapid_commit", b"")]}


def test_rapid_commit(wire: Wire) -> None:
    assert wire.ask("discover", **RAPID) is DropReason.NONE
    assert wire.answer("ack") is Change.LEASED
    assert wire.ask("decline", options=[("requested_addr", OWN)]) is DropReason.NONE


def test_rapid_commit_of_a_server_that_has_none(wire: Wire) -> None:
    """The OFFER says that its DISCOVER has no ACK, so nothing is awaited when the address turns out to be in use."""
    for _ in range(3):
        assert wire.ask("discover", **RAPID) is DropReason.NONE
    assert wire.answer("offer") is Change.NONE
    assert wire.ask("request") is DropReason.NONE
    assert wire.answer("ack") is Change.LEASED
    assert wire.ask("decline", options=[("requested_addr", OWN)]) is DropReason.NONE


def test_an_offer_is_not_the_answer_to_a_request(wire: Wire) -> None:
    wire.lease()
    for kind, options in (("discover", RAPID), ("discover", {}), ("request", {})):
        assert wire.ask(kind, 1.0, **options) is DropReason.NONE
    wire.answer("offer", 1.0, yiaddr="192.168.0.7")
    assert wire.ask("release", 1.0, source=OWN, ciaddr=OWN) is DropReason.DHCP_SPOOF
    assert wire.answer("ack", 1.0, yiaddr="192.168.0.7") is Change.LEASED


@pytest.mark.parametrize("to", [MAC, ALL])
def test_sent_to_the_guest_or_to_all(wire: Wire, to: str) -> None:
    wire.ask("request")
    assert wire.answer("ack", to=to) is Change.LEASED


@pytest.mark.parametrize(
    "changed",
    [
        {"xid": 8},
        {"chaddr": b"\2\0\0\0\0\x09"},
        {"source": "192.168.0.66"},
        {"server": "192.168.0.66"},
        {"op": 1},
        {"seconds": None},
        {"yiaddr": "0.0.0.0"},
        {"to": "02:00:00:00:00:09"},
        {"to": "01:00:5e:00:00:01"},
        {"ip": {"flags": "MF"}},
        {"kind": "offer"},
        {"now": 121.0},
    ],
    ids=str,
)
def test_answers_that_do_not_count(wire: Wire, changed: dict[str, Any]) -> None:
    wire.ask("request")
    before = wire.binding.revision
    values = {"kind": "ack", **changed}
    assert wire.answer(**values) is Change.NONE
    assert wire.binding.revision == before
    if values["kind"] == "ack" and "seconds" not in changed and "yiaddr" not in changed:
        assert wire.answer(**{**values, "kind": "nak"}) is Change.NONE


def test_a_server_need_not_name_itself(wire: Wire) -> None:
    wire.ask("request")
    assert wire.answer("ack", server=None) is Change.LEASED


def test_nobody_gets_a_lease_unasked(wire: Wire) -> None:
    assert wire.answer("ack") is Change.NONE
    wire.ask("inform", source="0.0.0.0")
    assert wire.answer("ack") is Change.NONE


def test_one_transaction_makes_one_lease(wire: Wire) -> None:
    wire.lease(0.0)
    assert wire.answer("ack", 5.0) is Change.NONE
    assert wire.answer("nak", 5.0) is Change.NONE
    assert wire.binding.until == 600.0
    wire.ask("request", 6.0)  # the client did not hear it, and asks again
    assert wire.answer("ack", 6.0) is Change.RENEWED


def test_a_few_transactions_are_awaited(wire: Wire) -> None:
    """Behind them none begins: one that is forgotten could be answered unseen."""
    for xid in range(8):
        assert wire.ask("request", xid=xid) is DropReason.NONE
    assert wire.ask("request", xid=8) is DropReason.DHCP_STARVATION
    assert wire.ask("request", xid=3) is DropReason.NONE, "asked again"
    assert wire.answer("ack", xid=8) is Change.NONE
    assert wire.answer("ack", xid=0) is Change.LEASED
    assert wire.ask("request", xid=8) is DropReason.NONE, "there is room again"
    assert wire.ask("request", 121.0, xid=9) is DropReason.NONE, "the others are over"


def test_every_request_has_its_answer(wire: Wire) -> None:
    """Two under one number: the second answer, for a shorter time or another address, is as good as the first."""
    assert wire.ask("request") is DropReason.NONE
    assert wire.ask("request") is DropReason.NONE
    assert wire.answer("ack", seconds=3600) is Change.LEASED
    assert wire.answer("ack", seconds=120) is Change.RENEWED
    assert wire.binding.until == 120.0
    assert wire.answer("ack", seconds=3600) is Change.NONE, "nobody asked a third time"


def test_a_shorter_lease_that_was_asked_for(wire: Wire) -> None:
    """Its ACK may go another way; until it has come the lease is taken for that short."""
    wire.lease(0.0)
    asked = {"options": [("lease_time", 120)]}
    assert wire.ask("request", 10.0, source=OWN, xid=8, ciaddr=OWN, **asked) is DropReason.NONE
    assert wire.binding.until == 130.0
    assert wire.answer("ack", 10.0, xid=8, seconds=600) is Change.RENEWED
    assert wire.binding.until == 610.0
    assert wire.ask("request", 20.0, xid=9, options=[("lease_time", 7200)]) is DropReason.NONE
    assert wire.binding.until == 610.0


def test_nothing_is_given_back_while_an_answer_is_awaited(wire: Wire) -> None:
    """Its ACK would bind what the server has taken back."""
    wire.lease()
    assert wire.ask("request", 1.0, source=OWN, xid=8, ciaddr=OWN) is DropReason.NONE
    assert wire.ask("release", 1.0, source=OWN, ciaddr=OWN) is DropReason.DHCP_SPOOF
    assert wire.ask("decline", 1.0, options=[("requested_addr", OWN)]) is DropReason.DHCP_SPOOF
    assert wire.answer("ack", 1.0, xid=8) is Change.RENEWED
    assert wire.ask("release", 1.0, source=OWN, ciaddr=OWN) is DropReason.NONE


@pytest.mark.parametrize("kind", ["request", "inform"])
def test_the_address_it_says_it_has(wire: Wire, kind: str) -> None:
    """Before we know of a lease any; then its own, lest the server gives it another behind our back."""
    assert wire.ask(kind, ciaddr="192.168.0.9") is DropReason.NONE
    wire.lease()
    assert wire.ask(kind, 1.0, ciaddr="192.168.0.9") is DropReason.DHCP_SPOOF
    assert wire.ask(kind, 1.0, ciaddr=OWN) is DropReason.NONE
    wire.binding.bind(pack("192.168.0.9"))
    assert wire.ask(kind, 1.0, ciaddr="192.168.0.9") is DropReason.NONE


def test_nak_ends_the_lease(wire: Wire) -> None:
    wire.lease()
    wire.ask("request", 1.0, source=OWN)
    assert wire.answer("nak", 1.0, to=ALL, seconds=None) is Change.WITHDRAWN
    assert wire.binding.state(1.0) is LeaseState.NONE


def test_after_release_the_address_is_no_longer_the_guests(wire: Wire) -> None:
    wire.lease()
    assert wire.ask("release", 1.0, source=OWN, ciaddr=OWN) is DropReason.NONE
    assert wire.binding.state(1.0) is LeaseState.NONE
    assert wire.ask("request", 1.0, source=OWN) is DropReason.SOURCE_NOT_GUEST


def test_after_decline_the_address_is_no_longer_the_guests(wire: Wire) -> None:
    wire.lease()
    assert wire.ask("decline", 1.0, options=[("requested_addr", OWN)]) is DropReason.NONE
    assert wire.binding.state(1.0) is LeaseState.NONE


def test_what_is_not_its_own_cannot_be_given_back(wire: Wire) -> None:
    assert wire.ask("release", 0.0, ciaddr=OWN) is DropReason.DHCP_SPOOF
    wire.lease()
    assert wire.ask("release", 1.0, source=OWN, ciaddr="192.168.0.9") is DropReason.DHCP_SPOOF
    assert wire.ask("decline", 1.0, options=[("requested_addr", "192.168.0.9")]) is DropReason.DHCP_SPOOF
    assert wire.ask("decline", 1.0) is DropReason.DHCP_SPOOF
    assert wire.binding.state(1.0) is LeaseState.LEASED


def test_few_addresses_are_declined(wire: Wire) -> None:
    """Each is out of use at the server for a while."""
    for number in range(6):
        address = f"192.168.0.{10 + number}"
        wire.ask("request", float(number))
        wire.answer("ack", float(number), yiaddr=address)
        told = wire.ask("decline", float(number), options=[("requested_addr", address)])
        assert told is (DropReason.NONE if number < 4 else DropReason.DHCP_STARVATION)


@pytest.mark.parametrize(
    ("code", "data"), [(53, b"\x03\0"), (50, bytes(5)), (51, bytes(3)), (54, bytes(8)), (80, b"\0"), (82, b"\1\1a"),
                       (118, bytes(4))],
)  # fmt: skip
def test_what_servers_could_read_otherwise(wire: Wire, code: int, data: bytes) -> None:
    """An odd length of what decides; what only a relay may say."""
    raw = b"\x63\x82\x53\x63" + (b"" if code == 53 else b"\x35\1\x03") + bytes((code, len(data))) + data + b"\xff"
    layers = BOOTP(xid=7, chaddr=CHADDR) / Raw(raw)
    frame = view(Ether(src=MAC) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / layers)
    assert wire.snoop.from_guest(frame, 0.0) == DropReason.DHCP_SPOOF


def identity(number: int) -> dict[str, Any]:
    return {"options": [("client_id", bytes([0, number]))]}


def test_a_guest_has_few_client_identifiers(wire: Wire) -> None:
    for number in range(4):
        assert wire.ask("discover", 0.0, **identity(number)) is DropReason.NONE
    for number in range(4, 9):
        assert wire.ask("discover", 1.0, **identity(number)) is DropReason.DHCP_STARVATION
        assert wire.ask("request", 1.0, **identity(number)) is DropReason.DHCP_STARVATION
        assert wire.ask("inform", 1.0, **identity(number)) is DropReason.DHCP_STARVATION
    assert wire.ask("discover", 1.0) is DropReason.DHCP_STARVATION, "to have none is one more"
    assert wire.ask("discover", 599.0, **identity(3)) is DropReason.NONE
    assert wire.ask("discover", 601.0, **identity(8)) is DropReason.NONE, "three are forgotten"
    assert wire.ask("discover", 601.0, **identity(3)) is DropReason.NONE


def test_identifiers_are_remembered_for_the_time_of_a_lease(wire: Wire) -> None:
    wire.ask("request")
    assert wire.answer("ack", seconds=86400) is Change.LEASED
    for number in range(3):
        assert wire.ask("discover", 10.0, **identity(number)) is DropReason.NONE
    for number in range(3, 5):  # the first identity was noted before the lease was known to be long
        wire.ask("discover", 700.0, **identity(number))
    assert wire.ask("discover", 80000.0, **identity(9)) is DropReason.DHCP_STARVATION


def test_a_request_that_no_server_could_read(wire: Wire) -> None:
    layers = BOOTP(xid=7, chaddr=CHADDR) / Raw(b"\x63\x82\x53\x63\x35\x09\x01")
    frame = view(Ether(src=MAC) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / layers)
    assert wire.snoop.from_guest(frame, 0.0) == DropReason.DHCP_SPOOF


@pytest.mark.parametrize("identity", [b"\x01" + CHADDR, b"\xff\0\0\0\1\0\3\0\1" + bytes(6), b"\x01" + bytes(5)])
def test_identifiers_it_may_have(wire: Wire, identity: bytes) -> None:
    assert wire.ask("request", options=[("client_id", identity)]) is DropReason.NONE


@pytest.mark.parametrize("kind", ["discover", "request", "release"])
def test_an_identifier_that_is_another_mac_address(wire: Wire, kind: str) -> None:
    """dnsmasq gives whoever says it the lease of the other."""
    wire.lease()
    other = ("client_id", b"\x01" + bytes(5) + b"\7")
    assert wire.ask(kind, ciaddr=OWN, options=[other]) is DropReason.DHCP_SPOOF
    assert wire.binding.leased == pack(OWN)


AMBIGUOUS: dict[str, list[Any]] = {
    "another kind of message": [("message-type", "inform")],
    "an identifier in two parts": [("client_id", b"\0ab"), ("client_id", b"c")],
    "an empty identifier first": [("client_id", b""), ("client_id", b"c")],
    "two addresses": [("requested_addr", OWN), ("requested_addr", GATEWAY)],
    "two servers": [("server_id", GATEWAY), ("server_id", GATEWAY)],
    "more in other fields": [(52, b"\1")],
    "more in other fields, or not": [(52, b"\1"), (52, b"\0")],
}


@pytest.mark.parametrize("name", AMBIGUOUS)
@pytest.mark.parametrize("kind", ["request", "release"])
def test_a_request_that_servers_read_in_two_ways(wire: Wire, kind: str, name: str) -> None:
    wire.lease()
    assert wire.ask(kind, ciaddr=OWN, options=AMBIGUOUS[name]) is DropReason.DHCP_SPOOF
    assert wire.binding.leased == pack(OWN)


def test_an_option_in_parts_that_decides_nothing(wire: Wire) -> None:
    assert wire.ask("request", options=[(43, b"a"), "pad", (43, b"b")]) is DropReason.NONE


def test_what_is_no_dhcp_is_none_of_its_business(wire: Wire) -> None:
    frame = view(Ether(src=MAC) / IP(src=OWN) / UDP(sport=1, dport=2) / Raw(b"x"))
    assert wire.snoop.from_guest(frame, 0.0) == 0
    assert wire.snoop.to_guest(frame, 0.0) is Change.NONE
    assert wire.snoop.to_guest(view(Ether(src=MAC, type=0x0806) / Raw(bytes(28))), 0.0) is Change.NONE


def test_three_renewals_and_a_lease_that_runs_out(wire: Wire) -> None:
    wire.lease(0.0)
    for turn in range(1, 4):
        now = 300.0 * turn
        assert wire.ask("request", now, source=OWN, xid=turn + 10) is DropReason.NONE
        assert wire.answer("ack", now, xid=turn + 10) is Change.RENEWED
    assert wire.binding.holds(pack(OWN), 1499.0)
    assert wire.ask("request", 1500.0, source=OWN) is DropReason.LEASE_EXPIRED
    wire.lease(1501.0)
    assert wire.binding.holds(pack(OWN), 2100.0)


@given(st.binary(max_size=300))
def test_any_request_is_judged(payload: bytes) -> None:
    wire = Wire()
    head = b"\x01\x01\x06\0" + bytes(24) + CHADDR + bytes(202) + b"\x63\x82\x53\x63"
    frame = Frame(memoryview(bytearray(head + payload)))
    frame.topic = DHCP_REQUEST
    frame.ip.payload_at, frame.udp_end = -8, len(head) + len(payload)
    assert DropReason(wire.snoop.from_guest(frame, 0.0)).label
