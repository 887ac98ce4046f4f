"""Whatever a guest sends, the services of its link answer with a well-formed frame to that guest, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DUID_LL,
    DUID_LLT,
    DHCP6_Confirm,
    DHCP6_InfoRequest,
    DHCP6_Rebind,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptIA_NA,
    DHCP6OptIA_PD,
    DHCP6OptIA_TA,
    DHCP6OptIAAddress,
    DHCP6OptOptReq,
    DHCP6OptRapidCommit,
    DHCP6OptServerId,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether

from bucatini.base.address import pack
from bucatini.services.dhcp import DhcpSettings, answer_dhcp
from bucatini.services.dhcpv6 import Dhcp6Settings, answer_dhcpv6
from bucatini.services.router import RouterSettings, advertisement, answer_solicitation
from bucatini.wire.checksum import transport_ok
from bucatini.wire.dhcp import BOOTREPLY, DhcpMessage, emit_dhcp, parse_dhcp
from bucatini.wire.dhcpv6 import (
    ADVERTISE,
    REPLY,
    Dhcp6Message,
    duid_llt,
    emit_dhcpv6,
    parse_association,
    parse_dhcpv6,
)
from bucatini.wire.domain_names import decode_names
from bucatini.wire.ip import IpView
from bucatini.wire.ndp import DNSSL, Prefix, RouterAdvertisement, parse_ndp
from bucatini.wire.octets import load_bytes
from bucatini.wire.udp import UdpView

OUR_MAC = bytes.fromhex("9a559a559a55")
MAC = "02:00:00:00:00:01"
RAW_MAC = bytes.fromhex("020000000001")
SERVER, GUEST, OTHER = "192.0.2.1", "192.0.2.2", "192.0.2.77"
GUEST6, OTHER6 = "2001:db8::2", "2001:db8:ffff::77"
SEARCH = ("eng.example.com", "example.com")
DUID = duid_llt(OUR_MAC, 1)
FOUR = DhcpSettings(
    OUR_MAC, pack(SERVER), pack(GUEST), 24, pack("198.51.100.1"), 1500, (pack("192.0.2.53"),), SEARCH, 3600, "guest",
    ((pack("10.0.0.0"), 8, None),),
)  # fmt: skip
SIX = Dhcp6Settings(OUR_MAC, DUID, pack("fe80::1"), pack(GUEST6), (pack("fe80::53"),), SEARCH, 100, 200)
ROUTER = RouterSettings(
    OUR_MAC, pack("fe80::1"), (Prefix(pack(GUEST6), 64, True, True, 9, 9),), 1500, (pack("fe80::53"),), SEARCH
)
MANY = settings(max_examples=300)


def dhcp(*options: Any, **fields: Any) -> bytes:
    ip = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    bootp = BOOTP(chaddr=RAW_MAC, xid=5, **fields)
    return bytes(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / ip / bootp / DHCP(options=[*options, "end"]))


WISHES = ("param_req_list", [1, 121, 3, 6, 119, 26, 12, 51, 58])
MESSAGES4 = [
    dhcp(("message-type", "discover"), WISHES, ("client_id", b"\x01abc"), ("max_dhcp_size", 1472)),
    dhcp(("message-type", "discover"), (80, b""), WISHES, flags="B"),
    dhcp(("message-type", "request"), ("requested_addr", GUEST), ("server_id", SERVER), WISHES),
    dhcp(("message-type", "request"), ("requested_addr", OTHER), WISHES, giaddr="192.0.2.9"),
    dhcp(("message-type", "request"), ciaddr=GUEST),
    dhcp(("message-type", "inform"), WISHES, ciaddr=GUEST),
    dhcp(("message-type", "release"), ("server_id", SERVER), ciaddr=GUEST),
    dhcp(("message-type", "decline"), ("requested_addr", GUEST)),
    dhcp((52, b"\x03"), ("message-type", "discover"), sname=b"\x37\x02\x01\x03\xff", file=b"\x39\x02\x05\xdc\xff"),
    dhcp(("hostname", b"old")),
]


def dhcpv6(kind: Any, *options: Any) -> bytes:
    packet = Ether(src=MAC) / IPv6(src="fe80::2", dst="ff02::1:2") / UDP(sport=546, dport=547) / kind(trid=77)
    for option in (DHCP6OptClientId(duid=DUID_LL(lladdr=MAC)), *options):
        packet = packet / option.copy()
    return bytes(packet)


ASSOCIATION = DHCP6OptIA_NA(iaid=1, ianaopts=[DHCP6OptIAAddress(addr=GUEST6), DHCP6OptIAAddress(addr=OTHER6)])
OTHERS = (DHCP6OptIA_NA(iaid=2), DHCP6OptIA_TA(iaid=3), DHCP6OptIA_PD(iaid=4), DHCP6OptOptReq(reqopts=[23, 24]))
NAMED = DHCP6OptServerId(duid=DUID_LLT(DUID))
MESSAGES6 = [
    dhcpv6(DHCP6_Solicit, ASSOCIATION, *OTHERS),
    dhcpv6(DHCP6_Solicit, DHCP6OptRapidCommit(), ASSOCIATION),
    dhcpv6(DHCP6_Request, NAMED, ASSOCIATION, *OTHERS),
    dhcpv6(DHCP6_Renew, NAMED, ASSOCIATION, *OTHERS),
    dhcpv6(DHCP6_Rebind, ASSOCIATION, *OTHERS),
    dhcpv6(DHCP6_Confirm, ASSOCIATION),
    dhcpv6(DHCP6_Release, NAMED, ASSOCIATION),
    dhcpv6(DHCP6_InfoRequest),
]
SOLICITATIONS = [
    bytes(Ether(src=MAC) / IPv6(src=source, dst="ff02::2", hlim=255) / ICMPv6ND_RS() / option)
    for source, option in (("fe80::2", ICMPv6NDOptSrcLLAddr(lladdr=MAC)), ("fe80::2", b""), ("::", b""))
]


@st.composite
def mutated(draw: st.DrawFn, frames: list[bytes]) -> bytes:
    """A frame with some bytes changed, taken out or put in; most often behind the headers, or nothing is read."""
    frame = bytearray(draw(st.sampled_from(frames)))
    low = draw(st.sampled_from([0, 14, 42, 62, 282]))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(min(low, len(frame)), len(frame)))
        change = draw(st.integers(0, 3))
        if change == 0:
            frame[at:at] = draw(st.binary(max_size=8))
        elif change == 1:
            del frame[at : at + draw(st.integers(1, 20))]
        else:
            frame[at : at + 1] = bytes((draw(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 50, 53, 54, 254, 255])),))
    return mended(frame) if draw(st.integers(0, 9)) else bytes(frame)


def mended(frame: bytearray) -> bytes:
    """Lengths made to fit, the header checksum of IPv4 made right, so that what is inside is read."""
    if frame[12:14] == b"\x08\x00" and len(frame) >= 42:
        frame[16:18] = (len(frame) - 14).to_bytes(2, "big")
        frame[38:40] = (len(frame) - 34).to_bytes(2, "big")
        frame[40:42] = bytes(2)
        frame[24:26] = bytes(2)
        total = sum(int.from_bytes(frame[i : i + 2], "big") for i in range(14, 34, 2))
        frame[24:26] = (~(total % 0xFFFF) & 0xFFFF).to_bytes(2, "big")
    elif frame[12:14] == b"\x86\xdd" and len(frame) >= 62 and frame[20] == 17:
        frame[18:20] = (len(frame) - 54).to_bytes(2, "big")
        frame[58:60] = (len(frame) - 54).to_bytes(2, "big")
    return bytes(frame)


def udp_payload(frame: bytes, version: int, ports: tuple[int, ...]) -> bytes:
    """The payload of a frame of ours, all of its headers checked."""
    assert frame[6:12] == OUR_MAC
    assert frame[12:14] == (b"\x08\x00" if version == 4 else b"\x86\xdd")
    buf, view, udp = memoryview(bytearray(frame)), IpView(), UdpView()
    assert view.parse(buf, 14, len(buf)) == 0
    assert (view.version, view.protocol, view.end, view.fragment) == (version, 17, len(frame), False)
    assert udp.parse(buf, view.payload_at, view.end)
    assert udp.end == len(frame)
    assert udp.checksum != 0
    assert transport_ok(buf, view.source_at, view.destination_at, view.address_length, 17, view.payload_at, view.end)
    assert udp.source_port == (67 if version == 4 else 547)
    assert udp.destination_port in ports
    return load_bytes(buf, udp.payload_at, udp.end - udp.payload_at)


def check_dhcp(frame: bytes) -> str:
    """Answers a frame and checks what comes; returns the event."""
    answer = answer_dhcp(frame, FOUR, verified=True)
    if answer is None:
        return "none"
    assert len(answer.client_mac) == 6
    assert not answer.client_mac[0] & 1
    assert answer.address is None or len(answer.address) == 4
    if answer.frame is None:
        assert answer.event in ("release", "decline")
        return answer.event
    payload = udp_payload(answer.frame, 4, (68, 67))
    assert 300 <= len(payload) <= 1500 - 28
    message = parse_dhcp(payload)
    assert message is not None
    assert message.op == BOOTREPLY
    expected = {"offer": b"\x02", "ack": b"\x05", "nak": b"\x06", "inform": b"\x05", "": None}
    assert message.options.get(53) == expected[answer.event]
    assert message.yiaddr == (bytes(4) if answer.event in ("nak", "inform") else pack(GUEST))
    assert (51 in message.options) == (answer.event in ("offer", "ack"))
    assert decode_names(message.options.get(119, b"")) in ((), SEARCH)
    return answer.event


def check_dhcpv6(frame: bytes) -> int:
    """Answers a frame and checks what comes; returns the type of the answer."""
    answer = answer_dhcpv6(frame, SIX, verified=True)
    if answer is None:
        return 0
    message = parse_dhcpv6(udp_payload(answer, 6, (546,)))
    assert message is not None
    assert message.kind in (ADVERTISE, REPLY)
    assert message.first(2) == DUID
    assert decode_names(message.first(24) or b"") in ((), SEARCH)
    granted = 0
    for code, data in message.options:
        association = parse_association(code, data)
        if association is not None:
            granted += pack(GUEST6) in association.addresses()
    assert granted <= 1
    return message.kind


def check_router(frame: bytes) -> bool:
    """Answers a frame and checks what comes; returns whether there was an answer."""
    answer = answer_solicitation(frame, ROUTER)
    if answer is None:
        return False
    buf, view = memoryview(bytearray(answer)), IpView()
    assert view.parse(buf, 14, len(buf)) == 0
    assert (view.protocol, view.hop_limit, view.end) == (58, 255, len(answer))
    assert transport_ok(buf, view.source_at, view.destination_at, 16, 58, view.payload_at, view.end)
    told = parse_ndp(buf, view.payload_at, view.end)
    assert isinstance(told, RouterAdvertisement)
    assert (told.source_mac, told.mtu, len(told.prefixes)) == (OUR_MAC, 1500, 1)
    assert [decode_names(o.body[6:]) for o in told.others if o.kind == DNSSL] == [SEARCH]
    return True


@MANY
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes(frame: bytes, verified: bool) -> None:
    answer_dhcp(frame, FOUR, verified=verified)
    answer_dhcpv6(frame, SIX, verified=verified)
    answer_solicitation(frame, ROUTER)


@MANY
@given(mutated(MESSAGES4))
def test_dhcp(frame: bytes) -> None:
    check_dhcp(frame)


@MANY
@given(mutated(MESSAGES6))
def test_dhcpv6(frame: bytes) -> None:
    check_dhcpv6(frame)


@MANY
@given(mutated(SOLICITATIONS))
def test_router(frame: bytes) -> None:
    check_router(frame)


OPTIONS4 = st.dictionaries(
    st.sampled_from([1, 12, 43, 50, 51, 52, 53, 54, 55, 57, 60, 61, 80, 82, 119, 121, 255, 0]).filter(
        lambda code: code not in (0, 52, 255)
    ),
    st.one_of(
        st.binary(max_size=300),
        st.sampled_from([b"", b"\x01", b"\x03", b"\x08", pack(GUEST), pack(SERVER), pack(OTHER), b"\x02\x40"]),
    ),
    max_size=8,
)
ADDRESS4 = st.sampled_from([bytes(4), pack(GUEST), pack(OTHER), b"\xff" * 4])


@MANY
@given(st.integers(0, 9), OPTIONS4, ADDRESS4, ADDRESS4, st.integers(0, 0xFFFF), st.integers(0, 17))
def test_dhcp_by_fields(
    kind: int, options: dict[int, bytes], ciaddr: bytes, giaddr: bytes, flags: int, hlen: int
) -> None:
    if kind:
        options = {**options, 53: bytes((kind,))}
    message = DhcpMessage(
        1, 7, 1, hlen, flags=flags, ciaddr=ciaddr, giaddr=giaddr, chaddr=RAW_MAC.ljust(16, b"\0"), options=options
    )
    head = MESSAGES4[0][:42]
    check_dhcp(mended(bytearray(head + emit_dhcp(message))))


INNER = st.lists(
    st.one_of(
        st.tuples(st.just(5), st.sampled_from([pack(GUEST6), pack(OTHER6), bytes(16)]).map(lambda a: a + bytes(8))),
        st.tuples(st.integers(0, 30), st.binary(max_size=30)),
    ),
    max_size=4,
).map(lambda options: b"".join(c.to_bytes(2, "big") + len(d).to_bytes(2, "big") + d for c, d in options))
OPTIONS6 = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([3, 25]), INNER.map(lambda inner: bytes(12) + inner)),
        st.tuples(st.just(4), INNER.map(lambda inner: bytes(4) + inner)),
        st.tuples(st.just(1), st.binary(max_size=135)),
        st.tuples(st.just(2), st.sampled_from([DUID, b"x"])),
        st.tuples(st.integers(0, 40), st.binary(max_size=20)),
    ),
    max_size=8,
)


@MANY
@given(st.integers(0, 13), st.booleans(), st.booleans(), OPTIONS6)
def test_dhcpv6_by_fields(kind: int, client: bool, server: bool, options: list[tuple[int, bytes]]) -> None:
    head = ([(1, b"abc")] if client else []) + ([(2, DUID)] if server else [])
    payload = emit_dhcpv6(Dhcp6Message(kind, 7, (*head, *options)))
    check_dhcpv6(mended(bytearray(MESSAGES6[0][:62] + payload)))


def test_the_largest_messages_get_no_larger_answers() -> None:
    """Associations by the dozen, some of whose answers are longer than the question; the last would pass the bound."""
    held = b"\0\5\0\x18" + pack(OTHER6) + bytes(8)
    empty = ((3, bytes(12)),)
    answered = []
    for kind in range(1, 12):
        server = ((2, DUID),) if kind in (3, 5, 8, 9) else ()
        for many in (empty * 55, ((3, bytes(12) + held),) * 55, ((25, bytes(12)),) * 55, ((4, bytes(4) + held),) * 55):
            message = Dhcp6Message(kind, 7, ((1, bytes(130)), *server, *many))
            answered.append(check_dhcpv6(mended(bytearray(MESSAGES6[0][:62] + emit_dhcpv6(message)))))
    assert set(answered) == {0, ADVERTISE, REPLY}
    for count, kind in ((1, REPLY), (20, 0)):
        options = ((1, b"abc"), (2, DUID), *((3, bytes(12) + held * 63),) * 2, *empty * count)
        frame = mended(bytearray(MESSAGES6[0][:62] + emit_dhcpv6(Dhcp6Message(5, 7, options))))
        assert check_dhcpv6(frame) == kind


class TestTheseTestsReachTheServices:
    """The messages that are mutated are answered when they are whole."""

    @pytest.mark.parametrize(
        ("frame", "event"),
        list(
            zip(
                MESSAGES4,
                ["offer", "ack", "ack", "nak", "ack", "inform", "release", "decline", "offer", ""],
                strict=True,
            )
        ),
    )
    def test_dhcp(self, frame: bytes, event: str) -> None:
        assert check_dhcp(frame) == event
        assert mended(bytearray(frame))[:40] == frame[:40]

    @pytest.mark.parametrize(("frame", "kind"), list(zip(MESSAGES6, [2, 7, 7, 7, 7, 7, 7, 7], strict=True)))
    def test_dhcpv6(self, frame: bytes, kind: int) -> None:
        assert check_dhcpv6(frame) == kind
        assert mended(bytearray(frame)) == frame

    @pytest.mark.parametrize("frame", SOLICITATIONS)
    def test_router(self, frame: bytes) -> None:
        assert check_router(frame)


PREFIX = st.builds(
    Prefix, st.binary(min_size=16, max_size=16), st.integers(0, 128), st.booleans(), st.booleans(),
    st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF),
)  # fmt: skip


@given(
    st.lists(PREFIX, max_size=20),
    st.one_of(st.none(), st.integers(0, 70000)),
    st.lists(st.one_of(st.binary(min_size=16, max_size=16), st.binary(min_size=4, max_size=4)), max_size=40),
    st.lists(st.text(max_size=70), max_size=40),
    st.integers(0, 100000),
)
def test_no_settings_break_an_advertisement(
    prefixes: list[Prefix], mtu: int | None, dns: list[bytes], search: list[str], lifetime: int
) -> None:
    frame = advertisement(
        RouterSettings(OUR_MAC, pack("fe80::1"), tuple(prefixes), mtu, tuple(dns), tuple(search), lifetime)
    )
    assert len(frame) <= 14 + 1280
    buf = memoryview(bytearray(frame))
    assert isinstance(parse_ndp(buf, 54, len(buf)), RouterAdvertisement)


ROUTE = st.tuples(
    st.binary(min_size=4, max_size=4), st.integers(0, 32), st.one_of(st.none(), st.binary(min_size=4, max_size=4))
)


@given(
    st.integers(0, 32),
    st.one_of(st.none(), st.binary(min_size=4, max_size=4)),
    st.one_of(st.none(), st.integers(0, 70000)),
    st.lists(st.binary(min_size=4, max_size=4), max_size=80),
    st.lists(st.text(max_size=70), max_size=60),
    st.integers(0, 0xFFFFFFFF),
    st.text(max_size=300),
    st.lists(ROUTE, max_size=40),
    st.sampled_from([0, 576, 1500, 65535]),
)
def test_no_settings_break_a_lease(
    length: int, router: bytes | None, mtu: int | None, dns: list[bytes], search: list[str], lease: int, name: str,
    routes: list[Any], size: int,
) -> None:  # fmt: skip
    told = DhcpSettings(
        OUR_MAC, pack(SERVER), pack(GUEST), length, router, mtu, tuple(dns), tuple(search), lease, name, tuple(routes)
    )
    for frame in (dhcp(("message-type", "discover"), WISHES, ("max_dhcp_size", size)), dhcp()):
        answer = answer_dhcp(frame, told)
        assert answer is not None
        assert answer.frame is not None
        assert len(answer.frame) <= 14 + max(576, min(size, mtu or 1500))
        assert parse_dhcp(udp_payload(answer.frame, 4, (68,))) is not None


@given(
    st.binary(min_size=1, max_size=130),
    st.lists(st.one_of(st.binary(min_size=16, max_size=16), st.binary(min_size=4, max_size=4)), max_size=40),
    st.lists(st.text(max_size=70), max_size=40),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from(MESSAGES6[:2]),
)
def test_no_settings_break_an_association(
    duid: bytes, dns: list[bytes], search: list[str], preferred: int, valid: int, frame: bytes
) -> None:
    told = Dhcp6Settings(OUR_MAC, duid, pack("fe80::1"), pack(GUEST6), tuple(dns), tuple(search), preferred, valid)
    answer = answer_dhcpv6(frame, told)
    assert answer is not None
    assert len(answer) <= 14 + 1280
    message = parse_dhcpv6(udp_payload(answer, 6, (546,)))
    assert message is not None
    assert decode_names(message.first(24) or b"") is not None
