"""guard.snoop6: what an advertisement and a reply must be to give the guest an address, and how long it has it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp6 import (
    DUID_EN,
    DUID_LL,
    DUID_LLT,
    DHCP6_Advertise,
    DHCP6_Decline,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptIA_PD,
    DHCP6OptIA_TA,
    DHCP6OptIAAddress,
    DHCP6OptRapidCommit,
    DHCP6OptServerId,
)
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from bucatini.base.address import pack, text
from bucatini.base.reasons import DropReason
from bucatini.guard.admit import admit, admit_to_guest
from bucatini.guard.binding import MAXIMUM_LEARNED, Binding
from bucatini.guard.frame import DHCPV6_REQUEST, ROUTER, Frame
from bucatini.guard.snoop6 import Snoop6

MAC, HOST_MAC, OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:fe", "02:00:00:00:00:02"
ROUTER6, NEIGHBOUR6, OWN6 = "fe80::fe", "fe80::66", "fe80::ff:fe00:1"
PREFIX, MADE, LEASED = "fd55::", "fd55::ff:fe00:1", "fd55::1:7"
RESOLVER, OTHER_RESOLVER = "fd55::53", "fd55::54"
HOUR = 3600


def duid(number: int = 1) -> DUID_EN:
    return DUID_EN(enterprisenum=1, id=number.to_bytes(4, "big"))


def view(layer: Any) -> Frame:
    frame = bytes(layer)
    made = Frame(memoryview(bytearray(frame)))
    made.parse(0, len(frame))
    return made


class Wire:
    """One guest and its snooper; what is sent goes through `admit` first, as on the data path."""

    def __init__(self) -> None:
        gateways = [pack("192.168.0.1"), pack(ROUTER6), pack("fd55::1")]
        self.binding = Binding(bytes.fromhex(MAC.replace(":", "")), gateways)
        self.snoop = Snoop6(self.binding)

    def ask(self, message: Any, *options: Any, now: float = 0.0, client: Any = None) -> DropReason:
        message /= DHCP6OptClientId(duid=client or duid())
        for option in options:
            message /= option
        packet = IPv6(src=OWN6, dst="ff02::1:2") / UDP(sport=546, dport=547) / message
        frame = view(Ether(src=MAC, dst="33:33:00:01:00:02") / packet)
        return DropReason(admit(frame, self.binding, None, now) or self.snoop.from_guest(frame, now))

    def answer(self, *options: Any, now: float = 0.0, **changed: Any) -> None:
        message = changed.get("message", DHCP6_Reply(trid=changed.get("trid", 7)))
        message /= DHCP6OptClientId(duid=changed.get("client", duid()))
        message /= DHCP6OptServerId(duid=DUID_LL(lladdr=HOST_MAC))
        for option in options:
            message /= option
        packet = IPv6(src=changed.get("source", ROUTER6), dst=OWN6) / UDP(sport=changed.get("port", 547), dport=546)
        self.hear(Ether(src=HOST_MAC, dst=MAC) / packet / message, now)

    def announce(self, *options: Any, now: float = 0.0, **changed: Any) -> None:
        packet = IPv6(src=changed.get("source", ROUTER6), dst="ff02::1", hlim=changed.get("hop_limit", 255))
        if changed.get("fragment"):
            packet /= IPv6ExtHdrFragment()
        packet /= ICMPv6ND_RA()
        for option in options:
            packet /= option
        self.hear(Ether(src=HOST_MAC, dst="33:33:00:00:00:01") / packet, now)

    def hear(self, layer: Any, now: float) -> None:
        frame = view(layer)
        assert not admit_to_guest(frame, self.binding, None)
        self.snoop.to_guest(frame, now)

    def lease(self, address: str = LEASED, seconds: int = 600, now: float = 0.0) -> None:
        assert self.ask(DHCP6_Request(trid=7), DHCP6OptIA_NA(iaid=1), now=now) is DropReason.NONE
        self.answer(association(address, seconds), now=now)

    def speaks(self, address: str, now: float = 0.0) -> DropReason:
        """What becomes of the guest's packet from there."""
        frame = view(Ether(src=MAC, dst=HOST_MAC) / IPv6(src=address, dst="fd55::1") / UDP(sport=1, dport=2))
        return DropReason(admit(frame, self.binding, None, now))


def association(address: str = LEASED, seconds: int = 600, **fields: Any) -> DHCP6OptIA_NA:
    leaf = DHCP6OptIAAddress(addr=address, preflft=seconds, validlft=seconds)
    return DHCP6OptIA_NA(iaid=1, ianaopts=[leaf], **fields)


def prefix(seconds: int = 4 * HOUR, network: str = PREFIX, length: int = 64, autonomous: int = 1) -> Any:
    return ICMPv6NDOptPrefixInfo(
        prefix=network, prefixlen=length, A=autonomous, validlifetime=seconds, preferredlifetime=seconds
    )


@pytest.fixture
def wire() -> Wire:
    return Wire()


class TestAnnounced:
    def test_the_address_that_the_mac_makes(self, wire: Wire) -> None:
        assert wire.speaks(MADE) is DropReason.SOURCE_NOT_GUEST
        wire.announce(prefix())
        assert wire.speaks(MADE) is DropReason.NONE
        assert wire.speaks(MADE, 4 * HOUR - 1) is DropReason.NONE
        assert wire.speaks(MADE, 4 * HOUR) is DropReason.LEASE_EXPIRED

    def test_no_other_of_the_prefix(self, wire: Wire) -> None:
        wire.announce(prefix())
        for address in ("fd55::ff:fe00:2", "fd55::7", "fd55::1", "fd55::"):
            assert wire.speaks(address) is DropReason.SOURCE_NOT_GUEST

    def test_for_ever(self, wire: Wire) -> None:
        wire.announce(prefix(0xFFFFFFFF))
        assert wire.speaks(MADE, 1e12) is DropReason.NONE

    @pytest.mark.parametrize(
        "changed",
        [{"source": NEIGHBOUR6}, {"source": "fd55::2"}, {"hop_limit": 254}, {"fragment": True}],
        ids=["neighbour", "global", "routed", "fragment"],
    )
    def test_not_believed(self, wire: Wire, changed: dict[str, Any]) -> None:
        wire.announce(prefix(), ICMPv6NDOptRDNSS(dns=[RESOLVER], lifetime=600), **changed)
        assert wire.speaks(MADE) is DropReason.SOURCE_NOT_GUEST
        assert not wire.binding.dns

    @pytest.mark.parametrize(
        "option",
        [prefix(autonomous=0), prefix(length=65), prefix(length=48), prefix(0), prefix(network="fe80::"),
         prefix(network="ff05::"), prefix(network="64:ff9b::")],
        ids=["not autonomous", "/65", "/48", "no time", "link-local", "group", "nat64"],
    )  # fmt: skip
    def test_makes_no_address(self, wire: Wire, option: Any) -> None:
        wire.announce(option)
        assert not wire.binding._learned

    def test_hosts_believe_no_less_than_two_hours(self, wire: Wire) -> None:
        """RFC 4862 5.5.3 e: from four hours to two; then a shorter time changes nothing; a longer one does."""
        wire.announce(prefix(4 * HOUR))
        wire.announce(prefix(0), now=60.0)
        assert wire.binding.until_of(pack(MADE)) == 60.0 + 2 * HOUR
        wire.announce(prefix(60), now=120.0)
        assert wire.binding.until_of(pack(MADE)) == 60.0 + 2 * HOUR
        wire.announce(prefix(3 * HOUR), now=180.0)
        assert wire.binding.until_of(pack(MADE)) == 180.0 + 3 * HOUR

    def test_bound(self, wire: Wire) -> None:
        """As many as the binding learns; more have to wait until others are over."""
        for number in range(MAXIMUM_LEARNED + 4):
            wire.announce(prefix(HOUR if number else 60, f"fd55:{number:x}::"))
        assert len(wire.binding._learned) == MAXIMUM_LEARNED
        assert wire.speaks(f"fd55:{MAXIMUM_LEARNED:x}::ff:fe00:1") is DropReason.SOURCE_NOT_GUEST
        wire.announce(prefix(HOUR, "fd56::"), now=61.0)
        assert wire.speaks("fd56::ff:fe00:1", 62.0) is DropReason.NONE
        assert len(wire.binding._learned) == MAXIMUM_LEARNED

    def test_resolvers(self, wire: Wire) -> None:
        wire.announce(ICMPv6NDOptRDNSS(dns=[RESOLVER, OTHER_RESOLVER], lifetime=600))
        assert wire.binding.dns == {pack(RESOLVER), pack(OTHER_RESOLVER)}
        wire.announce(prefix())
        assert len(wire.binding.dns) == 2, "nothing was said of them"
        wire.announce(ICMPv6NDOptRDNSS(dns=[RESOLVER], lifetime=600))
        assert wire.binding.dns == {pack(RESOLVER)}
        wire.binding.lease(pack("192.168.0.7"), 600, 0.0, [pack("192.168.0.1")])
        assert wire.binding.dns == {pack(RESOLVER), pack("192.168.0.1")}

    def test_what_was_bound_stays(self, wire: Wire) -> None:
        wire.binding.bind(pack(MADE))
        wire.announce(prefix(60))
        assert wire.speaks(MADE, 1e6) is DropReason.NONE


class TestLeased:
    def test_a_lease(self, wire: Wire) -> None:
        assert wire.speaks(LEASED) is DropReason.SOURCE_NOT_GUEST
        wire.lease()
        assert wire.speaks(LEASED, 599.0) is DropReason.NONE
        assert wire.speaks(LEASED, 600.0) is DropReason.LEASE_EXPIRED
        wire.lease(now=601.0)
        assert wire.speaks(LEASED, 602.0) is DropReason.NONE

    def test_ends_earlier_by_the_margin(self, wire: Wire) -> None:
        wire.binding.margin = 0.5
        wire.lease(seconds=600)
        assert wire.speaks(LEASED, 599.4) is DropReason.NONE
        assert wire.speaks(LEASED, 599.5) is DropReason.LEASE_EXPIRED

    def test_temporary(self, wire: Wire) -> None:
        leaf = DHCP6OptIAAddress(addr=LEASED, preflft=60, validlft=60)
        assert wire.ask(DHCP6_Request(trid=7), DHCP6OptIA_TA(iaid=1)) is DropReason.NONE
        wire.answer(DHCP6OptIA_TA(iaid=1, iataopts=[leaf]))
        assert wire.speaks(LEASED) is DropReason.NONE

    @pytest.mark.parametrize("message", [DHCP6_Release, DHCP6_Decline])
    def test_given_back(self, wire: Wire, message: Any) -> None:
        wire.lease()
        assert wire.ask(message(trid=8), association("fd55::1:8")) is DropReason.DHCP_SPOOF, "that is not its own"
        assert wire.ask(message(trid=8), DHCP6OptIA_NA(iaid=1)) is DropReason.DHCP_SPOOF, "that says nothing"
        assert wire.speaks(LEASED) is DropReason.NONE
        assert wire.ask(message(trid=9), association()) is DropReason.NONE
        assert wire.speaks(LEASED) is DropReason.SOURCE_NOT_GUEST
        wire.answer(trid=9)

    @pytest.mark.parametrize("message", [DHCP6_Release, DHCP6_Decline])
    def test_not_given_back_while_an_answer_is_awaited(self, wire: Wire, message: Any) -> None:
        wire.lease()
        assert wire.ask(DHCP6_Renew(trid=8), association()) is DropReason.NONE
        assert wire.ask(message(trid=9), association()) is DropReason.DHCP_SPOOF
        wire.answer(association(), trid=8)
        assert wire.ask(message(trid=9), association()) is DropReason.NONE

    def test_few_addresses_are_declined(self, wire: Wire) -> None:
        for number in range(6):
            address = f"fd55::1:{number:x}"
            wire.lease(address)
            told = wire.ask(DHCP6_Decline(trid=9), association(address))
            assert told is (DropReason.NONE if number < 4 else DropReason.DHCP_STARVATION)

    def test_a_shorter_life_that_was_asked_for(self, wire: Wire) -> None:
        """Its REPLY may go another way; until it has come the lease is taken for that short."""
        wire.lease(seconds=3600)
        assert wire.ask(DHCP6_Renew(trid=8), association(seconds=120), now=10.0) is DropReason.NONE
        assert wire.binding.until_of(pack(LEASED)) == 130.0
        wire.answer(association(seconds=600), now=10.0, trid=8)
        assert wire.binding.until_of(pack(LEASED)) == 610.0
        assert wire.ask(DHCP6_Renew(trid=9), association(seconds=0), now=20.0) is DropReason.NONE
        assert wire.binding.until_of(pack(LEASED)) == 610.0, "0: the client does not mind"

    @pytest.mark.parametrize("tail", [b"\0\0", b"\0\5\0\4aaaa"], ids=["stray bytes", "short address"])
    @pytest.mark.parametrize("message", [DHCP6_Release, DHCP6_Request])
    def test_what_servers_could_read_otherwise(self, wire: Wire, message: Any, tail: bytes) -> None:
        wire.lease()
        body = bytes(association())[4:] + tail
        odd = Raw(b"\0\3" + len(body).to_bytes(2, "big") + body)
        assert wire.ask(message(trid=8), odd) is DropReason.DHCP_SPOOF
        assert wire.speaks(LEASED) is DropReason.NONE

    def test_taken_back(self, wire: Wire) -> None:
        """A lifetime of 0 in a REPLY, RFC 8415 18.2.10.1."""
        wire.lease()
        wire.lease(seconds=0, now=60.0)
        assert wire.speaks(LEASED, 61.0) is DropReason.SOURCE_NOT_GUEST

    @pytest.mark.parametrize(
        "changed",
        [{"trid": 8}, {"client": duid(2)}, {"source": NEIGHBOUR6}, {"message": DHCP6_Solicit(trid=7)}, {"port": 1547},
         {"now": 121.0}],
        ids=["transaction", "client", "neighbour", "no reply", "port", "late"],
    )  # fmt: skip
    def test_not_believed(self, wire: Wire, changed: dict[str, Any]) -> None:
        assert wire.ask(DHCP6_Request(trid=7), DHCP6OptIA_NA(iaid=1)) is DropReason.NONE
        wire.answer(association(), DHCP6OptDNSServers(dnsservers=[RESOLVER]), **changed)
        assert not wire.binding._learned
        assert not wire.binding.dns

    def test_nobody_asked(self, wire: Wire) -> None:
        wire.answer(association())
        assert not wire.binding._learned

    def test_an_answer_counts_once(self, wire: Wire) -> None:
        wire.lease()
        wire.answer(association(seconds=6000))
        assert wire.binding.until_of(pack(LEASED)) == 600.0

    @pytest.mark.parametrize("address", ["fe80::7", "ff05::7", "::1", "::", "::ffff:10.0.0.1", "64:ff9b::a00:1"])
    def test_what_no_host_has(self, wire: Wire, address: str) -> None:
        wire.lease(address)
        assert not wire.binding._learned

    def test_not_the_gateways(self, wire: Wire) -> None:
        wire.lease("fd55::1")
        assert wire.speaks("fd55::1") is DropReason.SOURCE_NOT_GUEST

    def test_resolvers(self, wire: Wire) -> None:
        wire.announce(ICMPv6NDOptRDNSS(dns=[RESOLVER], lifetime=600))
        assert wire.ask(DHCP6_Request(trid=7)) is DropReason.NONE
        wire.answer(DHCP6OptDNSServers(dnsservers=[OTHER_RESOLVER] * 20))
        assert wire.binding.dns == {pack(RESOLVER), pack(OTHER_RESOLVER)}

    def test_delegated_prefixes_are_not_taken(self, wire: Wire) -> None:
        assert wire.ask(DHCP6_Request(trid=7), DHCP6OptIA_PD(iaid=1)) is DropReason.NONE
        wire.answer(DHCP6OptIA_PD(iaid=1))
        assert not wire.binding._learned

    def test_transactions_are_few(self, wire: Wire) -> None:
        """Behind them none begins, until one is answered."""
        told = [wire.ask(DHCP6_Request(trid=number)) for number in range(100)]
        assert told == [DropReason.NONE] * 8 + [DropReason.DHCP_STARVATION] * 92
        assert wire.ask(DHCP6_Solicit(trid=200)) is DropReason.NONE, "gives nothing"
        wire.answer(association(), trid=9)
        assert not wire.binding._learned
        wire.answer(association(), trid=7)
        assert [text(address) for address in wire.binding._learned] == [LEASED]
        assert wire.ask(DHCP6_Request(trid=9)) is DropReason.NONE

    def test_rapid_commit(self, wire: Wire) -> None:
        assert wire.ask(DHCP6_Solicit(trid=7), DHCP6OptRapidCommit(), DHCP6OptIA_NA(iaid=1)) is DropReason.NONE
        wire.answer(association())
        assert wire.speaks(LEASED) is DropReason.NONE

    def test_rapid_commit_of_a_server_that_has_none(self, wire: Wire) -> None:
        assert wire.ask(DHCP6_Solicit(trid=6), DHCP6OptRapidCommit(), DHCP6OptIA_NA(iaid=1)) is DropReason.NONE
        wire.answer(association(), message=DHCP6_Advertise(trid=6))
        assert not wire.binding._learned
        wire.lease()
        assert wire.ask(DHCP6_Decline(trid=9), association()) is DropReason.NONE

    def test_a_solicit_gives_nothing(self, wire: Wire) -> None:
        assert wire.ask(DHCP6_Solicit(trid=7), DHCP6OptIA_NA(iaid=1)) is DropReason.NONE
        wire.answer(association())
        assert not wire.binding._learned


class TestIdentities:
    def test_asking_again_costs_nothing(self, wire: Wire) -> None:
        for _ in range(100):
            assert wire.ask(DHCP6_Solicit(), DHCP6OptIA_NA(iaid=1), DHCP6OptIA_PD(iaid=1)) is DropReason.NONE

    @pytest.mark.parametrize("by", ["client", "association"])
    def test_few(self, wire: Wire, by: str) -> None:
        if by == "client":
            told = [wire.ask(DHCP6_Solicit(), DHCP6OptIA_NA(iaid=1), client=duid(number)) for number in range(100)]
        else:
            told = [wire.ask(DHCP6_Solicit(), DHCP6OptIA_NA(iaid=number)) for number in range(100)]
        assert told == [DropReason.NONE] * 4 + [DropReason.DHCP_STARVATION] * 96
        assert wire.ask(DHCP6_Solicit(), DHCP6OptIA_NA(iaid=1000), now=601.0) is DropReason.NONE

    def test_few_in_one_message(self, wire: Wire) -> None:
        associations = [DHCP6OptIA_NA(iaid=number) for number in range(5)]
        assert wire.ask(DHCP6_Solicit(), *associations) is DropReason.DHCP_STARVATION

    def test_two_identifiers_are_none(self, wire: Wire) -> None:
        assert wire.ask(DHCP6_Solicit(), DHCP6OptClientId(duid=duid())) is DropReason.DHCP_SPOOF

    @pytest.mark.parametrize("made", [DUID_LL, DUID_LLT])
    def test_made_of_a_mac_address(self, wire: Wire, made: Any) -> None:
        """The guest's own, in whatever message: a RELEASE in another's name would do as well."""
        assert wire.ask(DHCP6_Solicit(), client=made(lladdr=MAC)) is DropReason.NONE
        assert wire.ask(DHCP6_Solicit(), client=made(lladdr=OTHER_MAC)) is DropReason.DHCP_SPOOF
        assert wire.ask(DHCP6_Release(), association(), client=made(lladdr=OTHER_MAC)) is DropReason.DHCP_SPOOF
        assert wire.ask(DHCP6_Solicit(), client=made(hwtype=32, lladdr=OTHER_MAC)) is DropReason.NONE, "not Ethernet"


@given(st.binary(max_size=300), st.booleans())
def test_anything_is_judged(payload: bytes, asked: bool) -> None:
    wire = Wire()
    head = bytes((1, 0, 0, 7)) if asked else bytes((7, 0, 0, 7))
    frame = Frame(memoryview(bytearray(pack(ROUTER6) + head + payload)))
    frame.topic = DHCPV6_REQUEST
    frame.ip.payload_at, frame.udp_end = 8, 20 + len(payload)
    assert DropReason(wire.snoop.from_guest(frame, 0.0)).label
    frame.topic, frame.source_port, frame.destination_port = 4, 547, 546
    wire.snoop.to_guest(frame, 0.0)
    frame.topic, frame.ip.hop_limit, frame.ip.end, frame.ip.fragment_header_at = ROUTER, 255, frame.udp_end, -1
    frame.buf[16:18] = b"\x86\0"
    frame.ip.payload_at = 16
    wire.snoop.to_guest(frame, 0.0)
    assert len(wire.binding._learned) <= MAXIMUM_LEARNED
