"""Router advertisements: what a host may ask with (RFC 4861 6.1.1), what it is told, and to whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from bucatini.base.address import pack
from bucatini.services.router import RouterSettings, advertisement, answer_solicitation
from bucatini.wire.ndp import INFINITE, Prefix

MAC, OUR_MAC = "02:00:00:00:00:01", "9a:55:9a:55:9a:55"
GUEST, ROUTER = "fe80::ff:fe00:1", "fe80::1"
SETTINGS = RouterSettings(
    mac=bytes.fromhex("9a559a559a55"),
    link_local=pack(ROUTER),
    prefixes=(Prefix(pack("2001:db8::2"), 64, True, True, INFINITE, INFINITE),),
    mtu=65520,
    dns=(pack("2001:db8::53"), pack("fe80::53")),
    search=("eng.example.com", "example.com"),
)


def solicit(
    source: str = GUEST, *options: Packet, destination: str = "ff02::2", hlim: int = 255, code: int = 0
) -> Ether:
    packet = Ether(src=MAC, dst="33:33:00:00:00:02") / IPv6(src=source, dst=destination, hlim=hlim)
    packet = packet / ICMPv6ND_RS(code=code)
    for option in options:
        packet = packet / option
    return packet


def read(frame: bytes | None) -> Ether:
    """The advertisement; its lengths and checksum are what scapy makes them."""
    assert frame is not None
    packet = Ether(frame)
    again = packet.copy()
    del again[IPv6].plen, again[ICMPv6ND_RA].cksum
    assert bytes(again) == frame
    assert (packet.src, packet[IPv6].src, packet[IPv6].hlim) == (OUR_MAC, ROUTER, 255)
    return packet


def kinds(packet: Packet) -> list[type[Packet]]:
    layer, found = packet[ICMPv6ND_RA].payload, []
    while layer:
        found.append(type(layer))
        layer = layer.payload
    return found


def test_everything_in_order() -> None:
    packet = read(answer_solicitation(bytes(solicit()), SETTINGS))
    told = packet[ICMPv6ND_RA]
    assert (told.chlim, told.M, told.O, told.prf, told.routerlifetime) == (255, 1, 0, 0, 65535)
    assert (told.reachabletime, told.retranstimer) == (0, 0)
    assert kinds(packet) == [
        ICMPv6NDOptPrefixInfo, ICMPv6NDOptSrcLLAddr, ICMPv6NDOptMTU, ICMPv6NDOptRDNSS, ICMPv6NDOptDNSSL
    ]  # fmt: skip
    prefix = packet[ICMPv6NDOptPrefixInfo]
    assert (prefix.prefix, prefix.prefixlen, prefix.L, prefix.A) == ("2001:db8::", 64, 1, 1)
    assert (prefix.validlifetime, prefix.preferredlifetime) == (INFINITE, INFINITE)
    assert packet[ICMPv6NDOptSrcLLAddr].lladdr == OUR_MAC
    assert packet[ICMPv6NDOptMTU].mtu == 65520
    assert packet[ICMPv6NDOptRDNSS].dns == ["2001:db8::53", "fe80::53"]
    assert packet[ICMPv6NDOptRDNSS].lifetime == INFINITE
    assert packet[ICMPv6NDOptDNSSL].searchlist == ["eng.example.com.", "example.com."]
    assert packet[ICMPv6NDOptDNSSL].lifetime == INFINITE


class TestWhereTo:
    def test_the_host_that_asked(self) -> None:
        packet = read(answer_solicitation(bytes(solicit()), SETTINGS))
        assert (packet.dst, packet[IPv6].dst) == (MAC, GUEST)

    def test_its_hardware_address_as_it_says(self) -> None:
        frame = bytes(solicit(GUEST, ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:55")))
        assert read(answer_solicitation(frame, SETTINGS)).dst == "02:00:00:00:00:55"

    def test_all_nodes_when_the_host_has_no_address(self) -> None:
        frame = answer_solicitation(bytes(solicit("::")), SETTINGS)
        packet = read(frame)
        assert (packet.dst, packet[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
        assert frame == advertisement(SETTINGS)

    def test_unsolicited(self) -> None:
        packet = read(advertisement(SETTINGS))
        assert (packet.dst, packet[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
        assert len(kinds(packet)) == 5


class TestSettings:
    def told(self, **changes: Any) -> Packet:
        return read(advertisement(replace(SETTINGS, **changes)))

    def test_bare(self) -> None:
        packet = self.told(prefixes=(), mtu=None, dns=(), search=())
        assert kinds(packet) == [ICMPv6NDOptSrcLLAddr]

    @pytest.mark.parametrize(("lifetime", "sent"), [(0, 0), (1800, 1800), (65535, 65535), (70000, 65535)])
    def test_lifetime(self, lifetime: int, sent: int) -> None:
        assert self.told(lifetime=lifetime)[ICMPv6ND_RA].routerlifetime == sent

    @pytest.mark.parametrize(("managed", "other"), [(True, False), (False, True), (False, False), (True, True)])
    def test_flags(self, managed: bool, other: bool) -> None:
        told = self.told(managed=managed, other=other)[ICMPv6ND_RA]
        assert (managed, other) == (told.M, told.O)

    @pytest.mark.parametrize(("mtu", "sent"), [(1279, False), (1280, True), (1500, True), (65520, True)])
    def test_an_mtu_that_hosts_refuse_is_not_sent(self, mtu: int, sent: bool) -> None:
        assert (ICMPv6NDOptMTU in self.told(mtu=mtu)) == sent

    @pytest.mark.parametrize(
        ("address", "length", "prefix"),
        [
            ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::"),
            ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"),
            ("2001:db8:1:2:3:4:5:6", 0, "::"),
            ("2001:db8:1:2:ffff::", 65, "2001:db8:1:2:8000::"),
        ],
    )
    def test_bits_behind_the_prefix_are_zero(self, address: str, length: int, prefix: str) -> None:
        told = self.told(prefixes=(Prefix(pack(address), length, False, True, 7200, 3600),))[ICMPv6NDOptPrefixInfo]
        assert (told.prefix, told.prefixlen, told.L, told.A) == (prefix, length, 0, 1)
        assert (told.validlifetime, told.preferredlifetime) == (7200, 3600)

    def test_several_prefixes(self) -> None:
        prefixes = tuple(Prefix(pack(f"2001:db8:{i}::"), 64, True, True, 1, 1) for i in range(3))
        assert kinds(self.told(prefixes=prefixes))[:4] == [ICMPv6NDOptPrefixInfo] * 3 + [ICMPv6NDOptSrcLLAddr]

    def test_only_ipv6_servers(self) -> None:
        assert self.told(dns=(pack("192.0.2.1"), pack("fe80::53")))[ICMPv6NDOptRDNSS].dns == ["fe80::53"]
        assert ICMPv6NDOptRDNSS not in self.told(dns=(pack("192.0.2.1"),))

    def test_names_that_are_none_are_left_out(self) -> None:
        assert self.told(search=(".", "a..b", "x.example"))[ICMPv6NDOptDNSSL].searchlist == ["x.example."]

    def test_it_fits_the_smallest_mtu(self) -> None:
        frame = advertisement(
            replace(
                SETTINGS,
                prefixes=SETTINGS.prefixes * 40,
                dns=SETTINGS.dns * 40,
                search=tuple(f"department-{i}.example" for i in range(100)),
            )
        )
        packet = read(frame)
        assert 1200 < len(frame) <= 14 + 1280
        assert kinds(packet)[-1] is ICMPv6NDOptDNSSL
        assert packet[ICMPv6NDOptDNSSL].searchlist[-1].endswith(".example.")


def damaged(frame: Ether) -> bytes:
    data = bytearray(bytes(frame))
    data[-1] ^= 1
    return bytes(data)


def test_extension_headers_options_and_padding_make_no_difference() -> None:
    plain = answer_solicitation(bytes(solicit()), SETTINGS)
    extended = Ether(src=MAC) / IPv6(src=GUEST, dst="ff02::2", hlim=255) / IPv6ExtHdrDestOpt() / ICMPv6ND_RS()
    assert answer_solicitation(bytes(extended), SETTINGS) == plain
    assert answer_solicitation(bytes(solicit()) + bytes(6), SETTINGS) == plain
    assert answer_solicitation(bytes(solicit(GUEST, Raw(b"\x0e\x01" + bytes(6)))), SETTINGS) == plain
    assert answer_solicitation(bytes(solicit(destination=ROUTER)), SETTINGS) == plain


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(bytes(solicit(hlim=254)), id="came through a router"),
        pytest.param(bytes(solicit(code=1)), id="code"),
        pytest.param(damaged(solicit()), id="checksum"),
        pytest.param(bytes(solicit())[:60], id="cut"),
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(solicit("::", ICMPv6NDOptSrcLLAddr(lladdr=MAC))), id="unspecified, with a hardware address"),
        pytest.param(bytes(solicit())[:20] + b"\x3b" + bytes(solicit())[21:], id="not ICMPv6 by its next header"),
        pytest.param(bytes(solicit("ff02::1")), id="from a group"),
        pytest.param(bytes(solicit(ROUTER)), id="from us"),
        pytest.param(bytes(solicit(GUEST, Raw(b"\x0e\x00" + bytes(6)))), id="option of length zero"),
        pytest.param(bytes(solicit(GUEST, Raw(b"\x0e\x02" + bytes(6)))), id="option cut"),
        pytest.param(
            bytes(solicit(GUEST, ICMPv6NDOptSrcLLAddr(lladdr="03:00:00:00:00:01"))), id="multicast hardware address"
        ),
        pytest.param(
            bytes(Ether(src=MAC) / IPv6(src=GUEST, dst="ff02::2", hlim=255) / IPv6ExtHdrFragment() / ICMPv6ND_RS()),
            id="fragment",
        ),
        pytest.param(bytes(Ether(src=MAC) / IPv6(src=GUEST, dst="ff02::2", hlim=255) / ICMPv6ND_RA()), id="another RA"),
        pytest.param(
            bytes(Ether(src=MAC) / IPv6(src=GUEST, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=ROUTER)), id="NS"
        ),
    ],
)
def test_no_answer(frame: bytes) -> None:
    assert answer_solicitation(frame, SETTINGS) is None
