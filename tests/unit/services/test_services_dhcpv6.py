"""The DHCPv6 server by the rules of RFC 8415 sections 16 and 18.3, messages built and answers read by scapy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.dhcp6 import (
    DUID_LL,
    DUID_LLT,
    DHCP6_Advertise,
    DHCP6_Confirm,
    DHCP6_Decline,
    DHCP6_InfoRequest,
    DHCP6_Rebind,
    DHCP6_RelayForward,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptDNSDomains,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptIA_PD,
    DHCP6OptIA_TA,
    DHCP6OptIAAddress,
    DHCP6OptIAPrefix,
    DHCP6OptOptReq,
    DHCP6OptPref,
    DHCP6OptRapidCommit,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from bucatini.base.address import pack
from bucatini.services.dhcpv6 import Dhcp6Settings, answer_dhcpv6
from bucatini.wire.dhcpv6 import duid_llt

OUR_MAC, MAC = "9a:55:9a:55:9a:55", "02:00:00:00:00:01"
OUR_LINK_LOCAL, LINK_LOCAL = "fe80::1", "fe80::ff:fe00:1"
GUEST, OTHER = "2001:db8::2", "2001:db8:ffff::77"
EVERYBODY = "ff02::1:2"
INFINITE = 0xFFFFFFFF
NO_ADDRESSES, NO_BINDING, NOT_ON_LINK, USE_MULTICAST, NO_PREFIX = 2, 3, 4, 5, 6
SETTINGS = Dhcp6Settings(
    mac=bytes.fromhex("9a559a559a55"),
    duid=duid_llt(bytes.fromhex("9a559a559a55"), 849312000),
    link_local=pack(OUR_LINK_LOCAL),
    address=pack(GUEST),
    dns=(pack("2001:db8::53"), pack("fe80::53")),
    search=("eng.example.com", "example.com"),
)
CLIENT = DHCP6OptClientId(duid=DUID_LL(lladdr=MAC))
SERVER = DHCP6OptServerId(duid=DUID_LLT(SETTINGS.duid))
STRANGER = DHCP6OptServerId(duid=DUID_LL(lladdr="02:00:00:00:00:99"))


def holds(*addresses: str) -> list[Packet]:
    return [DHCP6OptIAAddress(addr=address, preflft=1000, validlft=2000) for address in addresses]


def na(iaid: int, *addresses: str) -> Packet:
    return DHCP6OptIA_NA(iaid=iaid, T1=5, T2=6, ianaopts=holds(*addresses))


def ask(
    kind: type[Packet], *options: Packet, destination: str = EVERYBODY, source: str = LINK_LOCAL, port: int = 547
) -> bytes:
    packet = Ether(src=MAC, dst="33:33:00:01:00:02") / IPv6(src=source, dst=destination)
    packet = packet / UDP(sport=546, dport=port) / kind(trid=0xABCDEF)
    for option in options:
        packet = packet / option.copy()
    return bytes(packet)


def answered(frame: bytes, kind: type[Packet] = DHCP6_Reply, settings: Dhcp6Settings = SETTINGS) -> Packet:
    """The message of the answer, its frame and identifiers checked."""
    answer = answer_dhcpv6(frame, settings)
    assert answer is not None
    reply = Ether(answer)
    again = reply.copy()
    del again[IPv6].plen, again[UDP].len, again[UDP].chksum
    assert bytes(again) == answer
    asked = Ether(frame)
    assert (reply.src, reply.dst) == (OUR_MAC, MAC)
    assert (reply[IPv6].src, reply[IPv6].dst) == (OUR_LINK_LOCAL, asked[IPv6].src)
    assert (reply[UDP].sport, reply[UDP].dport) == (547, 546)
    message = reply[UDP].payload
    assert type(message) is kind
    assert message.trid == 0xABCDEF
    assert bytes(message[DHCP6OptServerId].duid) == SETTINGS.duid
    if DHCP6OptClientId in asked:
        assert bytes(message[DHCP6OptClientId].duid) == bytes(asked[DHCP6OptClientId].duid)
    return message


def silent(frame: bytes, settings: Dhcp6Settings = SETTINGS) -> bool:
    return answer_dhcpv6(frame, settings) is None


def layers(message: Packet, kind: type[Packet]) -> list[Packet]:
    found = []
    while message:
        if type(message) is kind:
            found.append(message)
        message = message.payload
    return found


def associations(message: Packet) -> list[tuple[int, list[tuple[str, int, int]], list[int]]]:
    """IAID, addresses with preferred and valid lifetimes, and status codes of every association, IA_NA first."""
    found = []
    for kind, field in ((DHCP6OptIA_NA, "ianaopts"), (DHCP6OptIA_TA, "iataopts"), (DHCP6OptIA_PD, "iapdopt")):
        for option in layers(message, kind):
            inner = getattr(option, field)
            addresses = [(o.addr, o.preflft, o.validlft) for o in inner if isinstance(o, DHCP6OptIAAddress)]
            statuses = [o.statuscode for o in inner if isinstance(o, DHCP6OptStatusCode)]
            assert len(addresses) + len(statuses) == len(inner)
            found.append((option.iaid, addresses, statuses))
    return found


def status(message: Packet) -> int | None:
    found = layers(message, DHCP6OptStatusCode)
    return found[0].statuscode if found else None


OURS = [(GUEST, INFINITE, INFINITE)]


class TestSolicit:
    def test_advertise(self) -> None:
        message = answered(ask(DHCP6_Solicit, CLIENT, na(7)), DHCP6_Advertise)
        assert associations(message) == [(7, OURS, [])]
        assert (message[DHCP6OptIA_NA].T1, message[DHCP6OptIA_NA].T2) == (INFINITE, INFINITE)
        assert message[DHCP6OptPref].prefval == 255, "or clients wait a second for other servers"
        assert status(message) is None

    def test_rapid_commit(self) -> None:
        message = answered(ask(DHCP6_Solicit, CLIENT, DHCP6OptRapidCommit(), na(7)))
        assert associations(message) == [(7, OURS, [])]
        assert DHCP6OptRapidCommit in message
        assert DHCP6OptPref not in message

    def test_rapid_commit_of_nothing_is_an_advertise(self) -> None:
        message = answered(ask(DHCP6_Solicit, CLIENT, DHCP6OptRapidCommit(), DHCP6OptIA_PD(iaid=1)), DHCP6_Advertise)
        assert DHCP6OptRapidCommit not in message

    @pytest.mark.parametrize("hint", [OTHER, "::", GUEST])
    def test_a_hint_is_a_wish(self, hint: str) -> None:
        assert associations(answered(ask(DHCP6_Solicit, CLIENT, na(7, hint)), DHCP6_Advertise)) == [(7, OURS, [])]

    def test_two_associations_do_not_share_the_address(self) -> None:
        message = answered(ask(DHCP6_Solicit, CLIENT, na(1), na(2)), DHCP6_Advertise)
        assert associations(message) == [(1, OURS, []), (2, [], [NO_ADDRESSES])]

    def test_who_lists_the_address_gets_it(self) -> None:
        message = answered(ask(DHCP6_Solicit, CLIENT, na(1), na(2, GUEST)), DHCP6_Advertise)
        assert associations(message) == [(1, [], [NO_ADDRESSES]), (2, OURS, [])]

    def test_temporary_addresses_and_prefixes_are_refused(self) -> None:
        options = (na(1), DHCP6OptIA_TA(iaid=2), DHCP6OptIA_PD(iaid=3, T1=9, T2=9))
        message = answered(ask(DHCP6_Solicit, CLIENT, *options), DHCP6_Advertise)
        assert associations(message) == [(1, OURS, []), (2, [], [NO_ADDRESSES]), (3, [], [NO_PREFIX])]
        assert (message[DHCP6OptIA_PD].T1, message[DHCP6OptIA_PD].T2) == (0, 0)

    @pytest.mark.parametrize(
        ("preferred", "valid", "t1", "t2", "sent"),
        [
            (1000, 2000, 500, 800, 1000),
            (2000, 1000, 500, 800, 1000),
            (INFINITE, INFINITE, INFINITE, INFINITE, INFINITE),
            (INFINITE, 1000, 500, 800, 1000),
            (100, INFINITE, 50, 80, 100),
        ],
    )
    def test_times(self, preferred: int, valid: int, t1: int, t2: int, sent: int) -> None:
        settings = replace(SETTINGS, preferred=preferred, valid=valid)
        message = answered(ask(DHCP6_Solicit, CLIENT, na(7)), DHCP6_Advertise, settings)
        assert (t1, t2) == (message[DHCP6OptIA_NA].T1, message[DHCP6OptIA_NA].T2)
        assert associations(message) == [(7, [(GUEST, sent, valid)], [])]


class TestRequest:
    @pytest.mark.parametrize("addresses", [(), (GUEST,), ("::",)])
    def test_reply(self, addresses: tuple[str, ...]) -> None:
        message = answered(ask(DHCP6_Request, CLIENT, SERVER, na(7, *addresses)))
        assert associations(message) == [(7, OURS, [])]
        assert status(message) is None

    @pytest.mark.parametrize("addresses", [(OTHER,), (GUEST, OTHER), ("2001:db8::3",)])
    def test_a_foreign_address_is_not_on_link(self, addresses: tuple[str, ...]) -> None:
        message = answered(ask(DHCP6_Request, CLIENT, SERVER, na(7, *addresses)))
        assert associations(message) == [(7, [], [NOT_ON_LINK])]
        assert status(message) is None, "it stands in the association"

    def test_one_wrong_association_does_not_hurt_the_other(self) -> None:
        message = answered(ask(DHCP6_Request, CLIENT, SERVER, na(1, OTHER), na(2, GUEST), DHCP6OptIA_PD(iaid=3)))
        assert associations(message) == [(1, [], [NOT_ON_LINK]), (2, OURS, []), (3, [], [NO_PREFIX])]


@pytest.mark.parametrize(("kind", "server"), [(DHCP6_Renew, (SERVER,)), (DHCP6_Rebind, ())])
class TestRenewAndRebind:
    def test_our_address(self, kind: type[Packet], server: tuple[Packet, ...]) -> None:
        assert associations(answered(ask(kind, CLIENT, *server, na(7, GUEST)))) == [(7, OURS, [])]

    def test_a_foreign_address_is_withdrawn_and_ours_comes_with_it(
        self, kind: type[Packet], server: tuple[Packet, ...]
    ) -> None:
        message = answered(ask(kind, CLIENT, *server, na(1), na(7, OTHER), na(8, OTHER, "2001:db8::9")))
        assert associations(message) == [
            (1, OURS, []), (7, [(OTHER, 0, 0)], []), (8, [(OTHER, 0, 0), ("2001:db8::9", 0, 0)], [])
        ]  # fmt: skip
        assert [(ia.T1, ia.T2) for ia in layers(message, DHCP6OptIA_NA)] == [(INFINITE, INFINITE), (0, 0), (0, 0)]
        message = answered(ask(kind, CLIENT, *server, na(7, OTHER)))
        assert associations(message) == [(7, [*OURS, (OTHER, 0, 0)], [])]

    def test_other_associations(self, kind: type[Packet], server: tuple[Packet, ...]) -> None:
        options = (na(1, OTHER), na(2, GUEST), na(3), DHCP6OptIA_TA(iaid=4), DHCP6OptIA_PD(iaid=5))
        assert associations(answered(ask(kind, CLIENT, *server, *options))) == [
            (1, [(OTHER, 0, 0)], []),
            (2, OURS, []),
            (3, [], [NO_BINDING]),
            (4, [], [NO_BINDING]),
            (5, [], [NO_BINDING]),
        ]

    def test_a_prefix_we_never_gave(self, kind: type[Packet], server: tuple[Packet, ...]) -> None:
        prefix = DHCP6OptIA_PD(iaid=5, iapdopt=[DHCP6OptIAPrefix(prefix="2001:db8:1::", plen=56)])
        assert associations(answered(ask(kind, CLIENT, *server, prefix))) == [(5, [], [NO_BINDING])]


class TestConfirm:
    def test_our_address(self) -> None:
        message = answered(ask(DHCP6_Confirm, CLIENT, na(7, GUEST)))
        assert status(message) == 0
        assert associations(message) == []

    @pytest.mark.parametrize("addresses", [(OTHER,), (GUEST, OTHER)])
    def test_any_other(self, addresses: tuple[str, ...]) -> None:
        message = answered(ask(DHCP6_Confirm, CLIENT, na(7, *addresses)))
        assert status(message) == NOT_ON_LINK
        assert associations(message) == []

    def test_temporary_addresses_count(self) -> None:
        temporary = DHCP6OptIA_TA(iaid=2, iataopts=holds(OTHER))
        assert status(answered(ask(DHCP6_Confirm, CLIENT, na(7, GUEST), temporary))) == NOT_ON_LINK

    @pytest.mark.parametrize("options", [(), (na(7),)])
    def test_without_addresses_there_is_nothing_to_say(self, options: tuple[Packet, ...]) -> None:
        assert silent(ask(DHCP6_Confirm, CLIENT, *options))


@pytest.mark.parametrize("kind", [DHCP6_Release, DHCP6_Decline])
class TestReleaseAndDecline:
    def test_ours(self, kind: type[Packet]) -> None:
        message = answered(ask(kind, CLIENT, SERVER, na(7, GUEST)))
        assert (status(message), associations(message)) == (0, [])

    def test_others(self, kind: type[Packet]) -> None:
        temporary = DHCP6OptIA_TA(iaid=4, iataopts=holds(GUEST))
        message = answered(ask(kind, CLIENT, SERVER, na(1, GUEST), na(2, OTHER), temporary, DHCP6OptIA_PD(iaid=3)))
        assert associations(message) == [(2, [], [NO_BINDING]), (4, [], [NO_BINDING]), (3, [], [NO_BINDING])]
        assert status(message) == 0


class TestInformationRequest:
    def test_reply(self) -> None:
        message = answered(ask(DHCP6_InfoRequest, CLIENT))
        assert message[DHCP6OptDNSServers].dnsservers == ["2001:db8::53", "fe80::53"]
        assert message[DHCP6OptDNSDomains].dnsdomains == ["eng.example.com.", "example.com."]
        assert associations(message) == []

    def test_without_an_identifier(self) -> None:
        assert DHCP6OptClientId not in answered(ask(DHCP6_InfoRequest))

    def test_naming_us(self) -> None:
        assert DHCP6OptDNSServers in answered(ask(DHCP6_InfoRequest, CLIENT, SERVER))

    def test_without_an_address_of_the_guest(self) -> None:
        settings = replace(SETTINGS, address=None)
        assert DHCP6OptDNSServers in answered(ask(DHCP6_InfoRequest, CLIENT), DHCP6_Reply, settings)


class TestOptions:
    @pytest.mark.parametrize(
        ("wanted", "servers", "domains"),
        [
            ([23, 24], 1, 1),
            ([23], 1, 0),
            ([24], 0, 1),
            ([], 0, 0),
            ([82, 59], 0, 0),
            ([24, 99, 23], 1, 1),
            (None, 1, 1),
        ],
    )
    def test_only_what_was_asked_for(self, wanted: list[int] | None, servers: int, domains: int) -> None:
        wish = [] if wanted is None else [DHCP6OptOptReq(reqopts=wanted)]
        for kind, answer, options in (
            (DHCP6_Solicit, DHCP6_Advertise, [na(7)]),
            (DHCP6_Request, DHCP6_Reply, [SERVER, na(7)]),
            (DHCP6_Renew, DHCP6_Reply, [SERVER, na(7, GUEST)]),
            (DHCP6_InfoRequest, DHCP6_Reply, []),
        ):
            message = answered(ask(kind, CLIENT, *options, *wish), answer)
            found = len(layers(message, DHCP6OptDNSServers)), len(layers(message, DHCP6OptDNSDomains))
            assert found == (servers, domains)

    def test_empty_values_are_not_sent(self) -> None:
        settings = replace(SETTINGS, dns=(pack("192.0.2.1"),), search=(".",))
        message = answered(ask(DHCP6_InfoRequest, CLIENT), DHCP6_Reply, settings)
        assert DHCP6OptDNSServers not in message
        assert DHCP6OptDNSDomains not in message

    def test_the_reply_fits_the_smallest_mtu(self) -> None:
        settings = replace(
            SETTINGS,
            dns=tuple(pack(f"2001:db8::{i:x}") for i in range(40)),
            search=tuple(f"department-{i}.example" for i in range(100)),
        )
        client = DHCP6OptClientId(duid=Raw(bytes(130)))
        answer = answer_dhcpv6(ask(DHCP6_Solicit, client, na(1), DHCP6OptIA_PD(iaid=2)), settings)
        assert answer is not None
        assert len(answer) <= 14 + 1280


def damaged(frame: bytes) -> bytes:
    data = bytearray(frame)
    data[14 + 40 + 6] ^= 1
    return bytes(data)


def without_checksum(frame: bytes) -> bytes:
    return frame[: 14 + 40 + 6] + bytes(2) + frame[14 + 40 + 8 :]


class TestValidity:
    """RFC 8415 section 16."""

    @pytest.mark.parametrize("kind", [DHCP6_Solicit, DHCP6_Confirm, DHCP6_Rebind])
    def test_must_not_name_a_server(self, kind: type[Packet]) -> None:
        assert not silent(ask(kind, CLIENT, na(7, GUEST)))
        assert silent(ask(kind, CLIENT, SERVER, na(7, GUEST)))
        assert silent(ask(kind, CLIENT, STRANGER, na(7, GUEST)))

    @pytest.mark.parametrize("kind", [DHCP6_Request, DHCP6_Renew, DHCP6_Release, DHCP6_Decline])
    def test_must_name_us(self, kind: type[Packet]) -> None:
        assert not silent(ask(kind, CLIENT, SERVER, na(7, GUEST)))
        assert silent(ask(kind, CLIENT, na(7, GUEST)))
        assert silent(ask(kind, CLIENT, STRANGER, na(7, GUEST)))

    @pytest.mark.parametrize(
        ("kind", "server"),
        [
            (DHCP6_Solicit, ()), (DHCP6_Confirm, ()), (DHCP6_Rebind, ()),
            (DHCP6_Request, (SERVER,)), (DHCP6_Renew, (SERVER,)),
            (DHCP6_Release, (SERVER,)), (DHCP6_Decline, (SERVER,)),
        ],
    )  # fmt: skip
    def test_must_name_the_client(self, kind: type[Packet], server: tuple[Packet, ...]) -> None:
        assert silent(ask(kind, *server, na(7, GUEST)))

    @pytest.mark.parametrize("kind", [DHCP6_Solicit, DHCP6_Confirm, DHCP6_Rebind, DHCP6_InfoRequest])
    def test_never_by_unicast(self, kind: type[Packet]) -> None:
        options = () if kind is DHCP6_InfoRequest else (na(7, GUEST),)
        assert silent(ask(kind, CLIENT, *options, destination=OUR_LINK_LOCAL))

    @pytest.mark.parametrize("kind", [DHCP6_Request, DHCP6_Renew, DHCP6_Release, DHCP6_Decline])
    def test_by_unicast_without_leave(self, kind: type[Packet]) -> None:
        frame = ask(kind, CLIENT, SERVER, na(7, GUEST), destination=OUR_LINK_LOCAL)
        message = answered(frame)
        assert (status(message), associations(message)) == (USE_MULTICAST, [])
        assert silent(frame, replace(SETTINGS, address=None))

    @pytest.mark.parametrize("option", [na(7), DHCP6OptIA_TA(iaid=1), DHCP6OptIA_PD(iaid=1)])
    def test_an_information_request_has_no_association(self, option: Packet) -> None:
        assert silent(ask(DHCP6_InfoRequest, CLIENT, option))

    def test_an_information_request_to_another_server(self) -> None:
        assert silent(ask(DHCP6_InfoRequest, CLIENT, STRANGER))

    @pytest.mark.parametrize(("length", "fine"), [(0, False), (1, True), (130, True), (131, False)])
    def test_length_of_an_identifier(self, length: int, fine: bool) -> None:
        frame = ask(DHCP6_Solicit, DHCP6OptClientId(duid=Raw(bytes(length))), na(7))
        assert silent(frame) != fine

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            (DHCP6_Solicit, (CLIENT, na(7))), (DHCP6_Request, (CLIENT, SERVER, na(7))),
            (DHCP6_Confirm, (CLIENT, na(7, GUEST))), (DHCP6_Renew, (CLIENT, SERVER, na(7, GUEST))),
            (DHCP6_Rebind, (CLIENT, na(7, GUEST))), (DHCP6_Release, (CLIENT, SERVER, na(7, GUEST))),
        ],
    )  # fmt: skip
    def test_without_an_address_of_the_guest(self, kind: type[Packet], options: tuple[Packet, ...]) -> None:
        assert silent(ask(kind, *options), replace(SETTINGS, address=None))


class TestFrames:
    FRAME = ask(DHCP6_Solicit, CLIENT, na(7))

    def test_a_wrong_checksum_is_not_read_unless_the_link_vouches(self) -> None:
        for frame in (damaged(self.FRAME), without_checksum(self.FRAME)):
            assert silent(frame)
            assert answer_dhcpv6(frame, SETTINGS, verified=True) == answer_dhcpv6(self.FRAME, SETTINGS)

    def test_padding_makes_no_difference(self) -> None:
        assert answer_dhcpv6(self.FRAME + bytes(9), SETTINGS) == answer_dhcpv6(self.FRAME, SETTINGS)

    def test_a_bound_client_may_ask_from_its_address(self) -> None:
        answered(ask(DHCP6_Renew, CLIENT, SERVER, na(7, GUEST), source=GUEST))

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer(self, kind: Any) -> None:
        assert not silent(kind(self.FRAME))

    @pytest.mark.parametrize(
        "frame",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(FRAME[:70], id="cut"),
            pytest.param(ask(DHCP6_Solicit, CLIENT, na(7), port=546), id="port"),
            pytest.param(ask(DHCP6_Solicit, CLIENT, na(7), destination="ff05::1:3"), id="to servers behind relays"),
            pytest.param(ask(DHCP6_Solicit, CLIENT, na(7), destination="2001:db8::99"), id="to another host"),
            pytest.param(ask(DHCP6_Solicit, CLIENT, na(7), source="::"), id="from nowhere"),
            pytest.param(ask(DHCP6_Solicit, CLIENT, na(7), source="ff02::1"), id="from a group"),
            pytest.param(FRAME[:6] + b"\x03" + FRAME[7:], id="from a multicast hardware address"),
            pytest.param(FRAME[:20] + b"\x88" + FRAME[21:], id="not UDP"),
            pytest.param(
                bytes(Ether(src=MAC) / IP(dst="224.0.0.1") / UDP(sport=546, dport=547) / Ether(FRAME)[UDP].payload),
                id="IPv4",
            ),
            pytest.param(ask(DHCP6_Advertise, CLIENT, SERVER, na(7)), id="advertise"),
            pytest.param(ask(DHCP6_Reply, CLIENT, SERVER, na(7)), id="reply"),
            pytest.param(
                bytes(
                    Ether(src=MAC) / IPv6(src=LINK_LOCAL, dst=EVERYBODY) / UDP(sport=547, dport=547)
                    / DHCP6_RelayForward()
                ),
                id="relay",
            ),
            pytest.param(
                bytes(
                    Ether(src=MAC) / IPv6(src=LINK_LOCAL, dst=EVERYBODY) / IPv6ExtHdrFragment(m=1)
                    / Ether(FRAME)[UDP]
                ),
                id="first fragment, though all is in it",
            ),
            pytest.param(ask(DHCP6_Solicit, CLIENT, na(7), Raw(b"\0\1\0")), id="option cut"),
        ],
    )  # fmt: skip
    def test_no_answer(self, frame: bytes) -> None:
        assert silent(frame)

    def test_a_malformed_association_is_left_out(self) -> None:
        message = answered(ask(DHCP6_Solicit, CLIENT, Raw(b"\0\3\0\4abcd"), na(7)), DHCP6_Advertise)
        assert associations(message) == [(7, OURS, [])]
