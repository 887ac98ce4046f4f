"""An independent implementation agrees: scapy asks with whatever fields, and reads in our answers what was set."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DUID_LL,
    DUID_LLT,
    DUID_UUID,
    DHCP6_Advertise,
    DHCP6_InfoRequest,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptDNSDomains,
    DHCP6OptDNSServers,
    DHCP6OptElapsedTime,
    DHCP6OptIA_NA,
    DHCP6OptIAAddress,
    DHCP6OptOptReq,
    DHCP6OptServerId,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether

from bucatini.base.address import pack, text
from bucatini.services.dhcp import DhcpSettings, answer_dhcp
from bucatini.services.dhcpv6 import Dhcp6Settings, answer_dhcpv6
from bucatini.services.router import RouterSettings, answer_solicitation
from bucatini.wire.dhcp import DhcpMessage, emit_dhcp, parse_dhcp
from bucatini.wire.dhcpv6 import Dhcp6Message, duid_llt, emit_dhcpv6, parse_dhcpv6
from bucatini.wire.domain_names import encode_names
from bucatini.wire.ethernet import mac_text
from bucatini.wire.ndp import Prefix

MANY = settings(max_examples=80)
OUR_MAC = bytes.fromhex("9a559a559a55")
BYTE, WORD, LONG = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
MAC = st.binary(min_size=6, max_size=6).map(lambda mac: bytes((mac[0] & 0xFE | 2,)) + mac[1:])
FOUR = st.binary(min_size=4, max_size=4).map(lambda a: bytes((a[0] % 99 + 11,)) + a[1:])
SIX = st.binary(min_size=15, max_size=15).map(lambda a: b"\x20" + a)
NAME = st.lists(st.text("abcz09-", min_size=1, max_size=12), min_size=1, max_size=3).map(".".join)
NAMES = st.lists(NAME, max_size=4).map(tuple)


def whole(frame: bytes | None, *fields: tuple[Any, str]) -> Ether:
    """The frame, dissected; its lengths and checksums are what scapy makes them."""
    assert frame is not None
    packet = Ether(frame)
    again = packet.copy()
    for layer, field in fields:
        delattr(again[layer], field)
    assert bytes(again) == frame
    return packet


LEASES = st.builds(
    DhcpSettings,
    mac=st.just(OUR_MAC),
    server=FOUR,
    address=FOUR,
    prefix_length=st.integers(1, 32),
    router=FOUR,
    mtu=st.integers(576, 65535),
    dns=st.lists(FOUR, min_size=1, max_size=3).map(tuple),
    lease=LONG,
    hostname=st.text("abc-9", min_size=1, max_size=20),
)


@MANY
@given(LEASES, MAC, LONG, WORD, st.booleans(), st.binary(min_size=1, max_size=30), st.permutations([1, 3, 6, 12, 26]))
def test_dhcp(
    told: DhcpSettings, mac: bytes, xid: int, secs: int, broadcast: bool, identifier: bytes, wanted: list[int]
) -> None:
    bootp = BOOTP(chaddr=mac, xid=xid, secs=secs, flags="B" if broadcast else 0)
    options = [("message-type", "discover"), ("client_id", identifier), ("param_req_list", wanted), "end"]
    asked = Ether(src=mac_text(mac)) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / bootp
    answer = answer_dhcp(bytes(asked / DHCP(options=options)), told)
    assert answer is not None
    fields = ((IP, "len"), (IP, "chksum"), (UDP, "len"), (UDP, "chksum"))
    reply = whole(answer.frame, *fields)
    assert reply.dst == ("ff:ff:ff:ff:ff:ff" if broadcast else mac_text(mac))
    assert reply[IP].dst == ("255.255.255.255" if broadcast else text(told.address))
    assert (reply[IP].src, reply[BOOTP].xid, reply[BOOTP].yiaddr) == (text(told.server), xid, text(told.address))
    found = {option[0]: option[1:] for option in reply[DHCP].options if isinstance(option, tuple)}
    assert found["message-type"] == (2,)
    assert found["server_id"] == (text(told.server),)
    assert found["lease_time"] == (told.lease,)
    assert found["client_id"] == (identifier,)
    mask = (0xFFFFFFFF << 32 - told.prefix_length & 0xFFFFFFFF).to_bytes(4, "big")
    assert found["subnet_mask"] == (text(mask),)
    assert told.router is not None
    assert found["router"] == (text(told.router),)
    assert found["name_server"] == tuple(map(text, told.dns))
    assert found["interface-mtu"] == (told.mtu,)
    assert found["hostname"] == (told.hostname.encode(),)
    names = {1: "subnet_mask", 3: "router", 6: "name_server", 12: "hostname", 26: "interface-mtu"}
    assert [name for name in found if name in names.values()] == [names[code] for code in wanted]
    near = not any((a ^ b) & c for a, b, c in zip(told.router, told.address, mask, strict=True))
    routes = [] if near else [f"{text(told.router)}/32:0.0.0.0", f"0.0.0.0/0:{text(told.router)}"]
    assert found.get("classless_static_routes", ([],)) == (routes,)


@MANY
@given(
    BYTE, BYTE, st.integers(0, 16), BYTE, LONG, WORD, st.lists(FOUR, min_size=4, max_size=4),
    st.binary(min_size=16, max_size=16), st.binary(max_size=40),
)  # fmt: skip
def test_the_fields_of_dhcp(
    op: int, htype: int, hlen: int, hops: int, xid: int, secs: int, addresses: list[bytes], chaddr: bytes, data: bytes
) -> None:
    theirs = BOOTP(
        op=op, htype=htype, hlen=hlen, hops=hops, xid=xid, secs=secs, flags="B", ciaddr=text(addresses[0]),
        yiaddr=text(addresses[1]), siaddr=text(addresses[2]), giaddr=text(addresses[3]), chaddr=chaddr,
    ) / DHCP(options=[("message-type", 3), (43, data), "end"])  # fmt: skip
    ours = DhcpMessage(op, xid, htype, hlen, hops, secs, 0x8000, *addresses, chaddr, {53: b"\x03", 43: data})
    assert parse_dhcp(bytes(theirs)) == ours
    assert emit_dhcp(ours) == bytes(theirs).ljust(300, b"\0")


DUIDS = st.one_of(
    st.builds(DUID_LL, lladdr=MAC.map(mac_text)),
    st.builds(DUID_LLT, lladdr=MAC.map(mac_text), timeval=st.integers(1 << 30, (1 << 32) - 1)),
    st.builds(DUID_UUID, uuid=st.uuids()),
)


@MANY
@given(
    DUIDS, SIX, SIX, MAC, st.integers(0, 0xFFFFFF), LONG, st.lists(SIX, max_size=4), NAMES, LONG, LONG, st.booleans()
)
def test_dhcpv6(
    duid: Any, address: bytes, source: bytes, mac: bytes, trid: int, iaid: int, dns: list[bytes],
    search: tuple[str, ...], preferred: int, valid: int, asking: bool,
) -> None:  # fmt: skip
    ours = duid_llt(OUR_MAC, preferred)
    told = Dhcp6Settings(OUR_MAC, ours, pack("fe80::1"), address, tuple(dns), search, preferred, valid)
    message = DHCP6_Request(trid=trid) if asking else DHCP6_Solicit(trid=trid)
    packet = Ether(src=mac_text(mac)) / IPv6(src=text(source), dst="ff02::1:2") / UDP(sport=546, dport=547) / message
    packet = packet / DHCP6OptElapsedTime() / DHCP6OptClientId(duid=duid) / DHCP6OptOptReq(reqopts=[24, 23])
    if asking:
        packet = packet / DHCP6OptServerId(duid=DUID_LLT(ours))
    frame = answer_dhcpv6(bytes(packet / DHCP6OptIA_NA(iaid=iaid)), told)
    reply = whole(frame, (IPv6, "plen"), (UDP, "len"), (UDP, "chksum"))
    assert (reply.src, reply.dst, reply[IPv6].dst) == (mac_text(OUR_MAC), mac_text(mac), text(source))
    answer = reply[DHCP6_Reply if asking else DHCP6_Advertise]
    assert answer.trid == trid
    assert bytes(answer[DHCP6OptClientId].duid) == bytes(duid)
    assert bytes(answer[DHCP6OptServerId].duid) == ours
    given_one = answer[DHCP6OptIA_NA]
    assert (given_one.iaid, len(given_one.ianaopts)) == (iaid, 1)
    inner = given_one.ianaopts[0]
    assert isinstance(inner, DHCP6OptIAAddress)
    assert (inner.addr, inner.validlft) == (text(address), valid)
    assert inner.preflft <= inner.validlft, "RFC 8415 21.6"
    assert given_one.T1 <= given_one.T2, "RFC 8415 21.4"
    assert inner.preflft >= given_one.T2
    assert (DHCP6OptDNSServers in answer) == bool(dns)
    assert (DHCP6OptDNSDomains in answer) == bool(search)
    if dns:
        assert answer[DHCP6OptDNSServers].dnsservers == list(map(text, dns))
    if search:
        assert answer[DHCP6OptDNSDomains].dnsdomains == [name + "." for name in search]


@MANY
@given(st.integers(0, 0xFFFFFF), DUIDS, st.lists(st.integers(0, 200), max_size=20))
def test_the_fields_of_dhcpv6(trid: int, duid: Any, wanted: list[int]) -> None:
    theirs = DHCP6_InfoRequest(trid=trid) / DHCP6OptClientId(duid=duid) / DHCP6OptOptReq(reqopts=wanted)
    codes = b"".join(code.to_bytes(2, "big") for code in wanted)
    ours = Dhcp6Message(11, trid, ((1, bytes(duid)), (6, codes)))
    assert parse_dhcpv6(bytes(theirs)) == ours
    assert emit_dhcpv6(ours) == bytes(theirs)


PREFIXES = st.lists(st.builds(Prefix, SIX, st.integers(0, 128), st.booleans(), st.booleans(), LONG, LONG), max_size=3)


@MANY
@given(PREFIXES, st.integers(1280, 65535), st.lists(SIX, max_size=4), NAMES, WORD, st.booleans(), st.booleans(), MAC)
def test_router(
    prefixes: list[Prefix], mtu: int, dns: list[bytes], search: tuple[str, ...], lifetime: int, managed: bool,
    other: bool, mac: bytes,
) -> None:  # fmt: skip
    told = RouterSettings(OUR_MAC, pack("fe80::1"), tuple(prefixes), mtu, tuple(dns), search, lifetime, managed, other)
    asked = Ether(src="02:00:00:00:00:01") / IPv6(src="fe80::2", dst="ff02::2", hlim=255) / ICMPv6ND_RS()
    frame = answer_solicitation(bytes(asked / ICMPv6NDOptSrcLLAddr(lladdr=mac_text(mac))), told)
    packet = whole(frame, (IPv6, "plen"), (ICMPv6ND_RA, "cksum"))
    assert (packet.dst, packet[IPv6].dst) == (mac_text(mac), "fe80::2")
    says = packet[ICMPv6ND_RA]
    assert (says.M, says.O, says.routerlifetime) == (managed, other, lifetime)
    assert packet[ICMPv6NDOptSrcLLAddr].lladdr == mac_text(OUR_MAC)
    assert packet[ICMPv6NDOptMTU].mtu == mtu
    layer = says.payload
    for prefix in prefixes:
        assert isinstance(layer, ICMPv6NDOptPrefixInfo)
        assert (layer.prefixlen, layer.L, layer.A) == (prefix.length, prefix.on_link, prefix.autonomous)
        assert (layer.validlifetime, layer.preferredlifetime) == (prefix.valid, prefix.preferred)
        kept = int.from_bytes(prefix.prefix, "big") >> 128 - prefix.length << 128 - prefix.length
        assert int.from_bytes(pack(layer.prefix), "big") == kept
        layer = layer.payload
    assert (ICMPv6NDOptRDNSS in packet) == bool(dns)
    assert (ICMPv6NDOptDNSSL in packet) == bool(search)
    if dns:
        assert packet[ICMPv6NDOptRDNSS].dns == list(map(text, dns))
    if search:
        assert packet[ICMPv6NDOptDNSSL].searchlist == [name + "." for name in search]


@MANY
@given(NAMES)
def test_names(names: tuple[str, ...]) -> None:
    theirs = DHCP6OptDNSDomains(dnsdomains=list(names))
    assert encode_names(names) == bytes(theirs)[4:]
