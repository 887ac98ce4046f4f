"""The DHCP server by the rules of RFC 2131, each client message built and each answer read by scapy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from bucatini.base.address import pack
from bucatini.services.address_plan import LeaseRange
from bucatini.services.dhcp import INFINITE, DhcpAnswer, DhcpSettings, PoolAnswer, answer_dhcp, answer_from_pool
from bucatini.services.leases import (
    LeaseDeclined,
    LeaseExpired,
    LeaseGranted,
    LeaseRefusal,
    LeaseReleased,
    LeaseRenewed,
    PoolExhausted,
)
from bucatini.services.pool import LeasePool, PoolSettings
from bucatini.stack.gateway import Leasing
from bucatini.wire.domain_names import decode_names
from support.frames import Bench

OUR_MAC = "9a:55:9a:55:9a:55"
MAC = "02:00:00:00:00:01"
RELAY_MAC = "02:00:00:00:00:99"
RAW_MAC = bytes.fromhex("020000000001")
SERVER, GUEST, OTHER = "192.0.2.1", "192.0.2.2", "192.0.2.77"
EVERYBODY = "255.255.255.255"
SETTINGS = DhcpSettings(
    mac=bytes.fromhex("9a559a559a55"),
    server=pack(SERVER),
    address=pack(GUEST),
    prefix_length=24,
    router=pack(SERVER),
    mtu=65520,
    dns=(pack("192.0.2.53"), pack("198.51.100.53")),
    search=("eng.example.com", "example.com"),
)
RAW = {"rapid_commit": 80, "classless_static_routes": 121, 119: 119, "domain_search": 119}
"""Options whose data is compared as bytes, by scapy's name."""
SELECTING = {"server_id": SERVER, "requested_addr": GUEST}


def ask(
    kind: str | int | None,
    *options: Any,
    source: str = "0.0.0.0",
    destination: str = EVERYBODY,
    mac: str = MAC,
    port: int = 67,
    bootp: dict[str, Any] | None = None,
    **named: Any,
) -> bytes:
    """The frame of a client's message; `named` are options by scapy's names, `options` raw ones."""
    fields = {"chaddr": RAW_MAC, "xid": 0x01020304, **(bootp or {})}
    packet = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src=source, dst=destination) / UDP(sport=68, dport=port)
    first = [] if kind is None else [("message-type", kind)]
    return bytes(packet / BOOTP(**fields) / DHCP(options=[*first, *named.items(), *options, "end"]))


def answered(frame: bytes, settings: DhcpSettings = SETTINGS) -> tuple[DhcpAnswer, Ether, dict[Any, Any]]:
    """The answer, its frame dissected and its options by name (by number where scapy has none), in order."""
    answer = answer_dhcp(frame, settings)
    assert answer is not None
    assert answer.frame is not None
    return answer, *dissected(answer.frame)


def dissected(frame: bytes, server: str = SERVER) -> tuple[Ether, dict[Any, Any]]:
    """A frame of ours, and its options as `answered` has them."""
    reply = Ether(frame)
    correct(reply)
    assert reply.src == OUR_MAC
    assert reply[IP].src == server
    assert reply[UDP].sport == 67
    assert reply[BOOTP].op == 2
    assert len(frame) >= 14 + 28 + 300
    raw = raw_options(bytes(reply[DHCP]))
    options: dict[Any, Any] = {}
    for option in reply[DHCP].options:
        if isinstance(option, tuple):
            code = RAW.get(option[0])
            options[code or option[0]] = raw[code] if code else option[1] if len(option) == 2 else option[1:]
    assert len(options) == len(raw), "nothing is lost"
    return reply, options


def raw_options(field: bytes) -> dict[int, bytes]:
    """Code and data of the options; only those longer than 255 bytes come more than once."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while field[at] != 255:
        end = at + 2 + field[at + 1]
        found.setdefault(field[at], []).append(field[at + 2 : end])
        at = end
    assert not field[at + 1 :].strip(b"\0")
    assert all(len(part) == 255 for parts in found.values() for part in parts[:-1])
    return {code: b"".join(parts) for code, parts in found.items()}


def correct(reply: Ether) -> None:
    """Lengths and checksums are what scapy makes them."""
    again = reply.copy()
    for layer, fields in ((IP, ("len", "chksum")), (UDP, ("len", "chksum"))):
        for field in fields:
            delattr(again[layer], field)
    assert bytes(again) == bytes(reply)


def silent(frame: bytes, settings: DhcpSettings = SETTINGS) -> bool:
    return answer_dhcp(frame, settings) is None


class TestDiscover:
    def test_offer(self) -> None:
        answer, reply, options = answered(ask("discover", bootp={"secs": 7, "flags": 0}))
        assert answer[1:] == ("offer", pack(GUEST), RAW_MAC)
        assert (reply.dst, reply[IP].dst, reply[UDP].dport) == (MAC, GUEST, 68)
        bootp = reply[BOOTP]
        assert (bootp.xid, bootp.htype, bootp.hlen, bootp.hops, bootp.secs) == (0x01020304, 1, 6, 0, 0)
        assert (bootp.ciaddr, bootp.yiaddr, bootp.siaddr, bootp.giaddr) == ("0.0.0.0", GUEST, "0.0.0.0", "0.0.0.0")
        assert bootp.chaddr == RAW_MAC.ljust(16, b"\0")
        assert (bootp.sname.strip(b"\0"), bootp.file.strip(b"\0")) == (b"", b"")
        assert options["message-type"] == 2
        assert options["server_id"] == SERVER
        assert options["lease_time"] == INFINITE
        assert options["subnet_mask"] == "255.255.255.0"
        assert options["router"] == SERVER
        assert options["name_server"] == ("192.0.2.53", "198.51.100.53")
        assert options["interface-mtu"] == 65520
        assert decode_names(options[119]) == SETTINGS.search
        assert "renewal_time" not in options
        assert "rebinding_time" not in options
        assert 121 not in options

    def test_a_wish_for_another_address_is_no_reason_to_refuse(self) -> None:
        answer, reply, _ = answered(ask("discover", requested_addr=OTHER))
        assert (answer.event, reply[BOOTP].yiaddr) == ("offer", GUEST)

    def test_rapid_commit(self) -> None:
        answer, _, options = answered(ask("discover", (80, b"")))
        assert answer.event == "ack"
        assert (options["message-type"], options[80]) == (5, b"")

    def test_broadcast_flag(self) -> None:
        _, reply, _ = answered(ask("discover", bootp={"flags": "B"}))
        assert (reply.dst, reply[IP].dst, reply[UDP].dport) == ("ff:ff:ff:ff:ff:ff", EVERYBODY, 68)
        assert reply[BOOTP].flags == "B"

    def test_relay(self) -> None:
        frame = ask(
            "discover", bootp={"giaddr": "192.0.2.9", "hops": 1}, source="192.0.2.9", destination=SERVER, mac=RELAY_MAC
        )
        answer, reply, _ = answered(frame)
        assert (reply.dst, reply[IP].dst, reply[UDP].dport) == (RELAY_MAC, "192.0.2.9", 67)
        assert (reply[BOOTP].giaddr, reply[BOOTP].hops) == ("192.0.2.9", 0)
        assert answer.client_mac == RAW_MAC

    def test_finite_lease(self) -> None:
        _, _, options = answered(ask("discover"), replace(SETTINGS, lease=3600))
        assert (options["lease_time"], options["renewal_time"], options["rebinding_time"]) == (3600, 1800, 3150)

    def test_client_identifier_is_repeated(self) -> None:
        _, _, options = answered(ask("discover", client_id=b"\xff1234"))
        assert options["client_id"] == b"\xff1234"

    def test_a_client_identifier_that_no_option_holds_is_not_repeated(self) -> None:
        _, _, options = answered(ask("discover", (61, bytes(255)), (61, b"x")))
        assert "client_id" not in options
        assert answered(ask("discover", (61, bytes(255))))[2]["client_id"] == bytes(255)

    @pytest.mark.parametrize(("htype", "hlen"), [(32, 0), (1, 0), (6, 6)])
    def test_hardware_other_than_ethernet_is_answered_where_the_frame_came_from(self, htype: int, hlen: int) -> None:
        fields = {"htype": htype, "hlen": hlen, "chaddr": b"\x02\0\0\0\0\x77"}
        answer, reply, _ = answered(ask("discover", bootp=fields))
        assert (answer.client_mac, reply.dst) == (RAW_MAC, MAC)
        assert (reply[BOOTP].htype, reply[BOOTP].hlen) == (htype, hlen)
        assert reply[BOOTP].chaddr[:6] == fields["chaddr"]

    def test_a_client_behind_a_bridge(self) -> None:
        answer, reply, _ = answered(ask("discover", bootp={"chaddr": bytes.fromhex("0200000000aa")}))
        assert reply.dst == "02:00:00:00:00:aa"
        assert answer.client_mac.hex() == "0200000000aa"


class TestRequest:
    """RFC 2131 4.3.2, table 4."""

    @pytest.mark.parametrize(
        ("options", "bootp", "destination"),
        [
            pytest.param(SELECTING, {}, EVERYBODY, id="selecting"),
            pytest.param({"server_id": SERVER}, {}, EVERYBODY, id="selecting, address left out"),
            pytest.param({"requested_addr": GUEST}, {}, EVERYBODY, id="rebooting"),
            pytest.param({}, {"ciaddr": GUEST}, SERVER, id="renewing"),
            pytest.param({}, {"ciaddr": GUEST}, EVERYBODY, id="rebinding"),
            pytest.param({"server_id": SERVER}, {"ciaddr": GUEST}, SERVER, id="renewing, server named"),
        ],
    )
    def test_ack(self, options: dict[str, str], bootp: dict[str, str], destination: str) -> None:
        source = bootp.get("ciaddr", "0.0.0.0")
        answer, reply, found = answered(ask("request", **options, bootp=bootp, source=source, destination=destination))
        assert answer[1:] == ("ack", pack(GUEST), RAW_MAC)
        assert (reply.dst, reply[IP].dst) == (MAC, GUEST)
        assert (reply[BOOTP].yiaddr, reply[BOOTP].ciaddr) == (GUEST, source)
        assert (found["message-type"], found["server_id"], found["lease_time"]) == (5, SERVER, INFINITE)
        assert found["router"] == SERVER

    def test_who_has_an_address_gets_the_answer_there_whatever_the_flag(self) -> None:
        _, reply, _ = answered(ask("request", bootp={"ciaddr": GUEST, "flags": "B"}))
        assert (reply.dst, reply[IP].dst) == (MAC, GUEST)

    @pytest.mark.parametrize(
        ("options", "bootp"),
        [
            pytest.param({"requested_addr": OTHER}, {}, id="rebooting"),
            pytest.param({}, {"ciaddr": OTHER}, id="rebinding"),
            pytest.param({"server_id": SERVER, "requested_addr": OTHER}, {}, id="selecting: it has changed since"),
            pytest.param({"requested_addr": "10.9.9.9"}, {"flags": 0}, id="another network"),
        ],
    )
    def test_nak(self, options: dict[str, str], bootp: dict[str, Any]) -> None:
        answer, reply, found = answered(ask("request", **options, client_id=b"\x01abc", bootp=bootp))
        asked = options.get("requested_addr") or bootp["ciaddr"]
        assert answer[1:] == ("nak", pack(asked), RAW_MAC)
        assert (reply.dst, reply[IP].dst, reply[UDP].dport) == ("ff:ff:ff:ff:ff:ff", EVERYBODY, 68)
        assert (reply[BOOTP].yiaddr, reply[BOOTP].ciaddr, reply[BOOTP].siaddr) == ("0.0.0.0",) * 3
        assert list(found) == ["message-type", "server_id", "client_id", "error_message"]
        assert (found["message-type"], found["server_id"]) == (6, SERVER)

    def test_nak_by_a_relay(self) -> None:
        _, reply, _ = answered(ask("request", requested_addr=OTHER, bootp={"giaddr": "192.0.2.9"}, mac=RELAY_MAC))
        assert (reply.dst, reply[IP].dst, reply[UDP].dport) == (RELAY_MAC, "192.0.2.9", 67)
        assert reply[BOOTP].flags == "B", "the relay shall broadcast it"

    @pytest.mark.parametrize("asked", [GUEST, OTHER])
    def test_a_request_to_another_server_is_left_alone(self, asked: str) -> None:
        assert silent(ask("request", server_id="192.0.2.9", requested_addr=asked))

    def test_a_request_for_nothing_is_left_alone(self) -> None:
        assert silent(ask("request"))

    @pytest.mark.parametrize("data", [b"\xc0\x00\x02", b"\xc0\x00\x02\x02\x02"])
    def test_an_address_of_wrong_length_is_left_alone(self, data: bytes) -> None:
        assert silent(ask("request", (50, data)))


class TestInform:
    def test_ack_without_address_and_lease(self) -> None:
        frame = ask("inform", bootp={"ciaddr": OTHER, "flags": "B"}, source=OTHER)
        answer, reply, options = answered(frame, replace(SETTINGS, lease=60))
        assert answer[1:] == ("inform", pack(OTHER), RAW_MAC)
        assert (reply.dst, reply[IP].dst, reply[UDP].dport) == (MAC, OTHER, 68)
        assert (reply[BOOTP].yiaddr, reply[BOOTP].ciaddr) == ("0.0.0.0", OTHER)
        assert options["message-type"] == 5
        assert options["name_server"] == ("192.0.2.53", "198.51.100.53")
        assert not {"lease_time", "renewal_time", "rebinding_time"} & set(options)

    def test_a_client_that_leaves_out_its_address(self) -> None:
        answer, reply, _ = answered(ask("inform", source=OTHER))
        assert (answer.address, reply[IP].dst, reply[BOOTP].ciaddr) == (pack(OTHER), OTHER, "0.0.0.0")

    def test_the_first_network_there_is(self) -> None:
        assert answered(ask("inform", source="1.0.0.1"))[0].address == pack("1.0.0.1")

    def test_a_client_without_any_address(self) -> None:
        assert silent(ask("inform"))


class TestGivingBack:
    def test_release(self) -> None:
        frame = ask("release", server_id=SERVER, bootp={"ciaddr": GUEST}, source=GUEST, destination=SERVER)
        assert answer_dhcp(frame, SETTINGS) == (None, "release", pack(GUEST), RAW_MAC)

    def test_decline(self) -> None:
        frame = ask("decline", server_id=SERVER, requested_addr=GUEST)
        assert answer_dhcp(frame, SETTINGS) == (None, "decline", pack(GUEST), RAW_MAC)

    @pytest.mark.parametrize("options", [(), ((50, b"abc"),)])
    def test_decline_of_nothing(self, options: tuple[Any, ...]) -> None:
        assert answer_dhcp(ask("decline", *options, server_id=SERVER), SETTINGS) == (None, "decline", None, RAW_MAC)

    @pytest.mark.parametrize("kind", ["release", "decline"])
    def test_to_another_server(self, kind: str) -> None:
        assert silent(ask(kind, server_id="192.0.2.9", requested_addr=GUEST, bootp={"ciaddr": GUEST}))


class TestBootp:
    def test_reply(self) -> None:
        answer, reply, options = answered(ask(None))
        assert answer[1:] == ("", pack(GUEST), RAW_MAC)
        assert (reply[BOOTP].yiaddr, reply.dst, reply[IP].dst) == (GUEST, MAC, GUEST)
        assert list(options)[:2] == ["subnet_mask", "router"]
        assert not {"message-type", "server_id", "lease_time"} & set(options)
        assert len(reply[UDP].payload) == 300

    def test_long_requests_get_long_replies(self) -> None:
        _, reply, options = answered(ask(None, (43, bytes(200))))
        assert decode_names(options[119]) == SETTINGS.search
        assert len(reply[UDP].payload) == 300
        crowded = replace(SETTINGS, search=tuple(f"search-domain-{i}.example" for i in range(5)))
        assert 119 not in answered(ask(None), crowded)[2]
        assert 119 in answered(ask(None, (43, bytes(200))), crowded)[2]

    def test_without_a_cookie(self) -> None:
        packet = Ether(src=MAC) / IP(src="0.0.0.0", dst=EVERYBODY) / UDP(sport=68, dport=67)
        frame = bytes(packet / BOOTP(chaddr=RAW_MAC, options=b"") / bytes(64))
        assert answered(frame)[0].address == pack(GUEST)


class TestOptions:
    def test_the_clients_order_then_the_rest(self) -> None:
        _, _, options = answered(ask("discover", param_req_list=[119, 6, 3, 42, 6, 1]))
        assert list(options) == [
            "message-type", "server_id", "lease_time", 119, "name_server", "router", "subnet_mask", "interface-mtu"
        ]  # fmt: skip

    def test_requested_or_not_the_type_comes_first_and_once(self) -> None:
        _, _, options = answered(ask("discover", param_req_list=[3, 58, 51, 54, 53]), replace(SETTINGS, lease=10))
        assert list(options)[:5] == ["message-type", "server_id", "lease_time", "renewal_time", "rebinding_time"]
        assert list(options)[5] == "router"

    def test_empty_values_are_not_sent(self) -> None:
        bare = replace(SETTINGS, router=None, mtu=None, dns=(), search=())
        _, _, options = answered(ask("discover", param_req_list=[1, 3, 6, 26, 119, 12, 121]), bare)
        assert list(options) == ["message-type", "server_id", "lease_time", "subnet_mask"]

    @pytest.mark.parametrize(("mtu", "sent"), [(67, None), (68, 68), (1500, 1500), (65535, 65535), (70000, 65535)])
    def test_mtu(self, mtu: int, sent: int | None) -> None:
        assert answered(ask("discover"), replace(SETTINGS, mtu=mtu))[2].get("interface-mtu") == sent

    @pytest.mark.parametrize(
        ("length", "mask"),
        [(0, "0.0.0.0"), (1, "128.0.0.0"), (15, "255.254.0.0"), (24, "255.255.255.0"), (32, "255.255.255.255")],
    )
    def test_mask(self, length: int, mask: str) -> None:
        assert answered(ask("discover"), replace(SETTINGS, prefix_length=length))[2]["subnet_mask"] == mask

    def test_host_name(self) -> None:
        assert answered(ask("discover"), replace(SETTINGS, hostname="guest-1"))[2]["hostname"] == b"guest-1"
        assert "hostname" not in answered(ask("discover"), replace(SETTINGS, hostname="gäst"))[2]
        assert answered(ask("discover"), replace(SETTINGS, search=(), hostname="x" * 255))[2]["hostname"] == b"x" * 255
        assert "hostname" not in answered(ask("discover", max_dhcp_size=1500), replace(SETTINGS, hostname="x" * 256))[2]

    def test_as_many_servers_as_one_option_holds(self) -> None:
        settings = replace(SETTINGS, dns=tuple(pack(f"192.0.2.{i}") for i in range(80)))
        _, _, options = answered(ask("discover", max_dhcp_size=1500), settings)
        assert options["name_server"] == tuple(f"192.0.2.{i}" for i in range(63))

    def test_names_that_are_none_are_left_out(self) -> None:
        _, _, options = answered(ask("discover"), replace(SETTINGS, search=(".", "a..b", "good.example")))
        assert decode_names(options[119]) == ("good.example",)

    def test_overloaded_request(self) -> None:
        fields = {"sname": b"\x32\x04" + pack(GUEST) + b"\xff", "file": b"\x36\x04" + pack(SERVER) + b"\xff"}
        answer, reply, _ = answered(ask("request", (52, b"\x03"), bootp=fields))
        assert answer.event == "ack"
        assert reply[BOOTP].sname.strip(b"\0") == b""


class TestRoutes:
    """RFC 3442."""

    ROUTER = "198.51.100.1"
    OUTSIDE = replace(SETTINGS, router=pack(ROUTER))
    NEAR_AND_DEFAULT = bytes.fromhex("20c6336401 00000000 00c6336401")

    def test_router_outside_the_subnet(self) -> None:
        _, _, options = answered(ask("discover", param_req_list=[1, 121, 3, 33]), self.OUTSIDE)
        assert options[121] == self.NEAR_AND_DEFAULT
        assert "router" not in options, "who asks for 121 gets no option 3"

    def test_for_a_client_that_does_not_ask_for_121(self) -> None:
        _, _, options = answered(ask("discover", param_req_list=[1, 3]), self.OUTSIDE)
        assert options["router"] == self.ROUTER
        assert options[121] == self.NEAR_AND_DEFAULT

    def test_prefix_of_32_bits(self) -> None:
        _, _, options = answered(ask("discover"), replace(SETTINGS, prefix_length=32))
        assert options[121] == bytes.fromhex("20c0000201 00000000 00c0000201")

    def test_asking_for_121_in_vain(self) -> None:
        _, _, options = answered(ask("discover", param_req_list=[121, 3, 1]))
        assert options["router"] == SERVER
        assert 121 not in options

    def test_further_routes_and_the_default_route(self) -> None:
        routes = ((pack("10.0.0.0"), 8, pack(SERVER)), (pack("172.16.0.0"), 12, None))
        _, _, options = answered(ask("discover", param_req_list=[121]), replace(SETTINGS, routes=routes))
        assert options[121] == bytes.fromhex("080ac0000201 0cac1000000000 00c0000201")

    def test_gateways_outside_the_subnet_are_made_reachable_once(self) -> None:
        gateway = pack("198.51.100.9")
        routes = ((pack("10.0.0.0"), 8, gateway), (pack("11.0.0.0"), 8, gateway))
        _, _, options = answered(ask("discover"), replace(SETTINGS, routes=routes))
        assert options[121] == bytes.fromhex("20c633640900000000 080ac6336409 080bc6336409 00c0000201")

    def test_a_default_route_among_them_is_the_one(self) -> None:
        routes = ((bytes(4), 0, pack("192.0.2.9")),)
        _, _, options = answered(ask("discover"), replace(SETTINGS, routes=routes))
        assert options[121] == bytes.fromhex("00c0000209")

    def test_without_a_router(self) -> None:
        routes = ((pack("10.0.0.0"), 8, None),)
        _, _, options = answered(ask("discover"), replace(SETTINGS, router=None, routes=routes))
        assert options[121] == bytes.fromhex("080a00000000")
        assert "router" not in options


class TestSize:
    SEARCH = tuple(f"department-{i}.company-{i}.example" for i in range(20))
    LARGE = replace(SETTINGS, search=SEARCH)

    def size(self, frame: bytes, settings: DhcpSettings) -> int:
        return len(answered(frame, settings)[1][IP])

    def test_576_bytes_unless_the_client_takes_more(self) -> None:
        _, reply, options = answered(ask("discover"), self.LARGE)
        assert len(reply[IP]) <= 576
        assert 119 not in options
        assert "router" in options

    def test_a_client_that_takes_more(self) -> None:
        _, reply, options = answered(ask("discover", max_dhcp_size=1500), self.LARGE)
        assert 576 < len(reply[IP]) <= 1500
        assert decode_names(options[119]) == self.SEARCH

    def test_a_long_option_is_split_and_reads_as_one(self) -> None:
        many = replace(SETTINGS, search=tuple(f"{'x' * 40}{i}.example" for i in range(12)))
        _, _, options = answered(ask("discover", max_dhcp_size=1500), many)
        assert len(options[119]) > 255
        assert decode_names(options[119]) == many.search

    @pytest.mark.parametrize("said", [0, 1, 300, 575])
    def test_less_than_576_means_576(self, said: int) -> None:
        assert "router" in answered(ask("discover", max_dhcp_size=said), self.LARGE)[2]

    def test_nothing_larger_than_the_link(self) -> None:
        small = replace(self.LARGE, mtu=1000)
        assert self.size(ask("discover", max_dhcp_size=65535), small) <= 1000
        assert self.size(ask("discover", max_dhcp_size=65535), replace(self.LARGE, mtu=None)) <= 1500

    def test_to_the_last_byte(self) -> None:
        longest = [
            self.size(ask("discover"), replace(SETTINGS, search=(), dns=(pack(SERVER),) * count, hostname="x" * length))
            for count in (7, 8)
            for length in range(200, 256)
        ]
        assert max(longest) == 576

    def test_more_than_ethernet_has_where_link_and_client_take_it(self) -> None:
        names = tuple(f"{'x' * 40}{i}.example" for i in range(60))
        large = replace(SETTINGS, mtu=4000, search=names, hostname="x" * 255)
        assert 1500 < self.size(ask("discover", max_dhcp_size=4000), large) <= 4000

    def test_the_first_wish_is_first_served(self) -> None:
        tight = replace(SETTINGS, search=tuple(f"{'x' * 30}{i}.org" for i in range(7)), hostname="h" * 200)
        assert 119 in answered(ask("discover", param_req_list=[119, 12]), tight)[2]
        assert "hostname" in answered(ask("discover", param_req_list=[12, 119]), tight)[2]
        for order in ([119, 12], [12, 119]):
            assert len(answered(ask("discover", param_req_list=order), tight)[1][IP]) <= 576


def damaged(frame: bytes, at: int = -1) -> bytes:
    data = bytearray(frame)
    data[at] ^= 1
    return bytes(data)


def altered(frame: bytes, layer: type[Packet], **fields: Any) -> bytes:
    """The frame with other fields in a header, its header checksum right and that of UDP as it was."""
    packet = Ether(frame)
    del packet[IP].chksum
    for name, value in fields.items():
        packet[layer].setfieldval(name, value)
    return bytes(packet)


def without_checksum(frame: bytes) -> bytes:
    packet = Ether(frame)
    packet[UDP].chksum = 0
    return bytes(packet)


class TestFrames:
    def test_no_checksum_is_fine(self) -> None:
        assert not silent(without_checksum(ask("discover")))

    def test_a_wrong_checksum_is_not_unless_the_link_vouches(self) -> None:
        frame = damaged(ask("discover"), 14 + 20 + 6)
        assert silent(frame)
        assert answer_dhcp(frame, SETTINGS, verified=True) is not None

    def test_padding_makes_no_difference(self) -> None:
        assert answer_dhcp(ask("discover") + bytes(9), SETTINGS) == answer_dhcp(ask("discover"), SETTINGS)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer(self, kind: Any) -> None:
        assert not silent(kind(ask("discover")))

    @pytest.mark.parametrize("destination", [SERVER, EVERYBODY, "192.0.2.255"])
    def test_destinations(self, destination: str) -> None:
        assert not silent(ask("request", bootp={"ciaddr": GUEST}, source=GUEST, destination=destination))

    @pytest.mark.parametrize(
        "frame",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(ask("discover")[:200], id="cut"),
            pytest.param(ask("discover", port=68), id="port"),
            pytest.param(ask("discover", bootp={"op": 2}), id="a reply"),
            pytest.param(ask("discover", bootp={"hlen": 17}), id="hardware address too long"),
            pytest.param(ask("discover", bootp={"chaddr": bytes(16)}), id="no hardware address"),
            pytest.param(ask("discover", bootp={"chaddr": b"\x01\0\x5e\0\0\1"}), id="multicast hardware address"),
            pytest.param(ask("discover", mac="ff:ff:ff:ff:ff:ff"), id="from everybody"),
            pytest.param(ask("discover", bootp={"giaddr": "224.0.0.1"}), id="multicast relay"),
            pytest.param(ask("request", bootp={"ciaddr": "255.255.255.255"}), id="client is everybody"),
            pytest.param(ask("request", bootp={"ciaddr": "127.0.0.1"}), id="client is loopback"),
            pytest.param(ask("request", bootp={"ciaddr": "0.0.0.1"}), id="client is in no network"),
            pytest.param(ask("discover", mac="03:00:00:00:00:01"), id="from a group of hardware"),
            pytest.param(ask("discover", destination="203.0.113.10"), id="to another host"),
            pytest.param(ask("discover", destination="224.0.0.1"), id="to a group"),
            pytest.param(ask(0), id="type 0"),
            pytest.param(ask("offer"), id="offer"),
            pytest.param(ask("ack"), id="ack"),
            pytest.param(ask("nak"), id="nak"),
            pytest.param(ask("lease_query"), id="another type"),
            pytest.param(ask(None, (53, b"\x01\x01")), id="type of two bytes"),
            pytest.param(ask(None, (53, b"")), id="type of none"),
            pytest.param(ask("discover")[:14] + b"\x60" + ask("discover")[15:], id="IPv6 by its first byte"),
            pytest.param(altered(ask("discover"), IP, flags="MF"), id="first fragment, though all is in it"),
            pytest.param(altered(ask("discover"), IP, frag=1), id="later fragment"),
            pytest.param(altered(ask("discover"), IP, proto=136), id="not UDP"),
            pytest.param(ask("inform", source="127.0.0.1"), id="inform from loopback"),
            pytest.param(ask("inform", source=EVERYBODY), id="inform from everybody"),
            pytest.param(
                bytes(Ether(src=MAC) / fragment(IP(ask("discover", (43, bytes(250)))[14:]), 256)[0]), id="fragment"
            ),
        ],
    )
    def test_no_answer(self, frame: bytes) -> None:
        assert silent(frame)


def test_nothing_a_client_says_changes_the_settings() -> None:
    before = answer_dhcp(ask("discover"), SETTINGS)
    for kind in ("release", "decline", "inform", "request"):
        answer_dhcp(ask(kind, server_id=SERVER, requested_addr=OTHER, bootp={"ciaddr": OTHER}), SETTINGS)
    assert answer_dhcp(ask("discover"), SETTINGS) == before


NOW = 1_760_000_000.0
LEASE = 600
SHARED = PoolSettings((LeaseRange(pack("192.0.2.0"), 24),))
EACH = PoolSettings((LeaseRange(pack("10.0.0.0"), 24, guest_length=30),))
OUTSIDE = ("10.255.255.1", "192.0.3.7")
LATER = NOW + 100
TOLD = replace(SETTINGS, dns=(pack(SERVER), pack("198.51.100.53")), routes=((pack("10.9.0.0"), 16, pack(SERVER)),))


class Segment:
    """The guests of one pool, who answer each on a link of their own unless said otherwise."""

    def __init__(self, settings: PoolSettings = SHARED, told: DhcpSettings = SETTINGS, **fields: Any) -> None:
        self.pool = LeasePool(replace(settings, **fields))
        self.told = told

    def ask(
        self, kind: str | int | None, *options: Any, who: int = 1, now: float = NOW, link: str = "", **named: Any
    ) -> PoolAnswer:
        chaddr = bytes.fromhex("0200000000") + bytes((who,))
        named["bootp"] = {"chaddr": chaddr, **named.get("bootp", {})}
        named.setdefault("mac", chaddr.hex(":"))
        frame = ask(kind, *options, **named)
        return answer_from_pool(frame, self.told, self.pool, now, link=link or str(who))

    def read(self, *args: Any, server: str = SERVER, **named: Any) -> tuple[str, str, Ether, dict[Any, Any]]:
        """Event and address of an answer that has a frame, its frame and options."""
        answer = self.ask(*args, **named).answer
        assert answer is not None
        assert answer.frame is not None
        reply, options = dissected(answer.frame, server)
        assert (answer.event == "ack") == (options["message-type"] == 5)
        return answer.event, reply[BOOTP].yiaddr, reply, options

    def join(self, who: int = 1, now: float = NOW) -> str:
        event, address, _, options = self.read("discover", who=who, now=now)
        assert event == "offer"
        chosen = {"server_id": options["server_id"], "requested_addr": address}
        event, again, _, _ = self.read("request", who=who, now=now, **chosen)
        assert (event, again) == ("ack", address)
        return address

    def silent(self, *args: Any, **named: Any) -> bool:
        answer = self.ask(*args, **named)
        assert answer.lease is None
        return answer.answer is None


class TestPool:
    def test_an_offer_and_a_lease(self) -> None:
        link = Segment()
        event, address, reply, options = link.read("discover", client_id=b"\xff1234")
        assert (event, address) == ("offer", "192.0.2.2")
        assert (reply.dst, reply[IP].dst) == (MAC, "192.0.2.2")
        assert (options["lease_time"], options["renewal_time"], options["rebinding_time"]) == (600, 300, 525)
        assert (options["subnet_mask"], options["router"], options["server_id"]) == ("255.255.255.0", SERVER, SERVER)
        assert options["client_id"] == b"\xff1234"
        assert link.ask("discover").events == ()
        granted = link.ask("request", now=NOW + 30, server_id=SERVER, requested_addr="192.0.2.2")
        assert granted.events == (LeaseGranted(RAW_MAC, pack("192.0.2.2"), NOW + 30 + LEASE, "1"),)
        assert granted.lease == link.pool.lease_of(RAW_MAC)
        assert granted.lease is not None
        assert granted.answer is not None
        assert granted.answer[1:] == ("ack", pack("192.0.2.2"), RAW_MAC)

    def test_each_guest_its_own(self) -> None:
        link = Segment()
        assert [link.join(who) for who in range(1, 6)] == [f"192.0.2.{host}" for host in range(2, 7)]
        assert link.join(3) == "192.0.2.4"

    def test_a_wish(self) -> None:
        assert Segment().read("discover", requested_addr="192.0.2.77")[1] == "192.0.2.77"
        for wish in (*OUTSIDE, SERVER):
            assert Segment().read("discover", requested_addr=wish)[1] == "192.0.2.2"

    def test_rapid_commit(self) -> None:
        link = Segment()
        answer = link.ask("discover", (80, b""))
        assert answer.lease is not None
        assert [type(event) for event in answer.events] == [LeaseGranted]
        event, address, _, options = link.read("discover", (80, b""))
        assert (event, address, options[80]) == ("ack", "192.0.2.2", b"")

    def test_broadcast_flag(self) -> None:
        _, _, reply, _ = Segment().read("discover", bootp={"flags": "B"})
        assert (reply.dst, reply[IP].dst) == ("ff:ff:ff:ff:ff:ff", EVERYBODY)

    def test_for_ever(self) -> None:
        _, _, _, options = Segment(lease=INFINITE).read("discover")
        assert options["lease_time"] == INFINITE
        assert "renewal_time" not in options

    @pytest.mark.parametrize(
        ("options", "used", "destination"),
        [
            pytest.param({"server_id": SERVER, "requested_addr": GUEST}, False, EVERYBODY, id="selecting"),
            pytest.param({"server_id": SERVER}, False, EVERYBODY, id="selecting, address left out"),
            pytest.param({"requested_addr": GUEST}, False, EVERYBODY, id="rebooting"),
            pytest.param({}, True, SERVER, id="renewing"),
            pytest.param({}, True, EVERYBODY, id="rebinding"),
            pytest.param({}, True, "192.0.2.255", id="rebinding, directed"),
        ],
    )
    def test_request_in_every_state(self, options: dict[str, str], used: bool, destination: str) -> None:
        link = Segment()
        link.join()
        source = GUEST if used else "0.0.0.0"
        fields = {**options, "bootp": {"ciaddr": source}, "source": source, "destination": destination, "now": LATER}
        answer = link.ask("request", **fields)
        assert answer.events == (LeaseRenewed(RAW_MAC, pack(GUEST), LATER + LEASE, "1"),)
        event, address, reply, found = link.read("request", **fields)
        assert (event, address, reply[IP].dst, found["lease_time"]) == ("ack", GUEST, GUEST, LEASE)
        other = link.ask("request", who=2, **fields)
        assert other.lease is None
        if "server_id" not in options or "requested_addr" in options:
            assert other.answer is not None
            assert (other.answer.event, other.answer.address) == ("nak", pack(GUEST))

    @pytest.mark.parametrize("address", [OTHER, *OUTSIDE])
    def test_nak(self, address: str) -> None:
        link = Segment()
        link.join()
        for named in ({"requested_addr": address}, {"bootp": {"ciaddr": address}}):
            event, given, reply, options = link.read("request", client_id=b"\1abc", **named)
            assert (event, given, options["message-type"], options["client_id"]) == ("nak", "0.0.0.0", 6, b"\1abc")
            assert (reply.dst, reply[IP].dst) == ("ff:ff:ff:ff:ff:ff", EVERYBODY)
        assert link.pool.lease_of(RAW_MAC) is not None

    def test_nak_of_another_guests_address(self) -> None:
        link = Segment()
        link.join(1)
        event, _, _, _ = link.read("request", who=2, requested_addr=GUEST)
        assert event == "nak"
        assert link.pool.holder_of(pack(GUEST)) == RAW_MAC

    def test_a_request_to_another_server_takes_the_offer_back(self) -> None:
        link = Segment()
        link.read("discover")
        assert link.silent("request", server_id="192.0.2.9", requested_addr="192.0.2.44")
        assert len(link.pool) == 0

    def test_a_request_for_nothing(self) -> None:
        link = Segment()
        assert link.silent("request")
        assert link.silent("request", (50, b"\xc0\x00\x02"))
        assert link.silent("request", server_id=SERVER), "there was no offer"

    def test_inform_with_ones_own_address_only(self) -> None:
        link = Segment()
        assert link.silent("inform", bootp={"ciaddr": GUEST}, source=GUEST)
        link.join()
        answer = link.ask("inform", bootp={"ciaddr": GUEST}, source=GUEST).answer
        assert answer is not None
        assert answer.frame is not None
        reply, options = dissected(answer.frame)
        assert (reply[BOOTP].yiaddr, options["router"], "lease_time" in options) == ("0.0.0.0", SERVER, False)
        assert link.silent("inform", bootp={"ciaddr": OTHER}, source=OTHER)

    def test_release(self) -> None:
        link = Segment()
        link.join()
        fields = {"server_id": SERVER, "bootp": {"ciaddr": GUEST}, "source": GUEST, "destination": SERVER}
        answer = link.ask("release", now=LATER, **fields)
        assert answer.answer == (None, "release", pack(GUEST), RAW_MAC)
        assert answer.events == (LeaseReleased(RAW_MAC, pack(GUEST), NOW + LEASE, "1"),)
        assert link.ask("release", now=LATER, **fields).events == ()
        assert link.join(2, LATER) == "192.0.2.3"

    def test_decline(self) -> None:
        link = Segment()
        link.join()
        answer = link.ask("decline", server_id=SERVER, requested_addr=GUEST)
        assert answer.answer == (None, "decline", pack(GUEST), RAW_MAC)
        assert answer.events == (LeaseDeclined(RAW_MAC, pack(GUEST), NOW + 600, "1"),)
        assert link.join() == "192.0.2.3"

    @pytest.mark.parametrize("kind", ["release", "decline"])
    def test_giving_back_to_another_server_or_what_is_anothers(self, kind: str) -> None:
        link = Segment()
        link.join()
        fields = {"requested_addr": GUEST, "bootp": {"ciaddr": GUEST}}
        assert link.silent(kind, server_id="192.0.2.9", **fields)
        link.ask(kind, who=2, server_id=SERVER, **fields)
        link.ask(kind, server_id=SERVER, requested_addr=OTHER, bootp={"ciaddr": OTHER})
        assert link.pool.lease_of(RAW_MAC) is not None

    @pytest.mark.parametrize("options", [(), ((50, b"abc"),)])
    def test_decline_of_nothing(self, options: tuple[Any, ...]) -> None:
        assert Segment().silent("decline", *options, server_id=SERVER)

    def test_what_has_ended_is_told_whatever_comes(self) -> None:
        link = Segment()
        link.join()
        expired = (LeaseExpired(RAW_MAC, pack(GUEST), "1"),)
        assert answer_from_pool(b"", SETTINGS, link.pool, NOW + LEASE) == (None, None, expired)
        assert link.ask("request", bootp={"ciaddr": GUEST}, source=GUEST, now=NOW + LEASE).lease is not None
        last = link.ask("discover", who=2, now=NOW + 3 * LEASE)
        assert last.events == expired

    def test_exhaustion_is_silence(self) -> None:
        link = Segment(PoolSettings((LeaseRange(pack("192.0.2.0"), 30),)))
        link.join()
        first = link.ask("discover", who=2)
        assert first == (None, None, (PoolExhausted(bytes.fromhex("020000000002"), "2"),))
        assert link.silent("discover", who=2)
        assert link.ask("discover", (80, b""), who=2) == (None, None, ())
        assert link.pool.counters == {LeaseRefusal.EXHAUSTED: 3}


class TestPoolOfNetworks:
    """A /30 for each guest: its gateway is the server it knows."""

    def test_what_a_guest_is_told(self) -> None:
        link = Segment(EACH, TOLD)
        for who, (gateway, guest) in enumerate((("10.0.0.1", "10.0.0.2"), ("10.0.0.5", "10.0.0.6")), 1):
            event, address, _, options = link.read("discover", who=who, server=gateway, param_req_list=[3, 6, 1])
            assert (event, address, options["server_id"], options["router"]) == ("offer", guest, gateway, gateway)
            assert options["subnet_mask"] == "255.255.255.252"
            assert options["name_server"] == (gateway, "198.51.100.53")
            assert options[121] == bytes.fromhex("100a09") + pack(gateway) + b"\0" + pack(gateway)
            chosen = {"server_id": gateway, "requested_addr": guest}
            assert link.read("request", who=who, server=gateway, **chosen)[:2] == ("ack", guest)
            renewed = {"bootp": {"ciaddr": guest}, "source": guest, "destination": gateway}
            assert link.read("request", who=who, server=gateway, **renewed)[:2] == ("ack", guest)
            link.ask("release", who=who, server_id=gateway, **renewed)
        assert link.pool.leases() == ()

    def test_without_router(self) -> None:
        link = Segment(EACH, replace(TOLD, router=None, routes=()))
        assert "router" not in link.read("discover", server="10.0.0.1")[3]

    def test_an_offer_that_was_lost_in_a_restart(self) -> None:
        """Who is named is one of us, so it is for us to say no, in its name."""
        link = Segment(EACH)
        asked = {"server_id": "10.0.0.13", "requested_addr": "10.0.0.14"}
        event, _, _, options = link.read("request", server="10.0.0.13", **asked)
        assert (event, options["server_id"]) == ("nak", "10.0.0.13")
        assert link.silent("request", server_id="10.0.0.14", requested_addr="10.0.0.14"), "no gateway has it"

    def test_a_lease_that_was_lost_is_refused_at_its_gateway(self) -> None:
        link = Segment(EACH)
        renewed = {"bootp": {"ciaddr": "10.0.0.6"}, "source": "10.0.0.6", "destination": "10.0.0.5"}
        assert link.read("request", **renewed)[0] == "nak"
        assert link.silent("request", **{**renewed, "destination": "10.0.0.7"})


class TestPretenders:
    def test_ten_thousand_hardware_addresses_in_one_guests_frames(self) -> None:
        link = Segment()
        link.join()
        template = bytearray(ask("discover"))
        chaddr = 14 + 28 + 28
        assert template[chaddr : chaddr + 6] == RAW_MAC
        told = 0
        for number in range(10_000):
            template[chaddr : chaddr + 6] = b"\2\1" + number.to_bytes(4, "big")
            told += answer_from_pool(template, SETTINGS, link.pool, NOW, link="1", verified=True) != (None, None, ())
        assert told == 0
        assert len(link.pool) == 1
        assert link.pool.counters == {LeaseRefusal.HARDWARE: 10_000}
        assert link.join(2) == "192.0.2.3"

    def test_ten_thousand_hardware_addresses_in_frames_that_match(self) -> None:
        link = Segment()
        link.join()
        template = bytearray(ask("discover"))
        for number in range(10_000):
            mac = b"\2\1" + number.to_bytes(4, "big")
            template[6:12] = template[70:76] = mac
            assert answer_from_pool(template, SETTINGS, link.pool, NOW, link="1", verified=True).answer is None
        assert (len(link.pool), link.pool.counters) == (1, {LeaseRefusal.IDENTITIES: 10_000})

    def test_client_identifiers_make_nobody(self) -> None:
        link = Segment()
        found = {link.read("discover", client_id=bytes((255, number)))[1] for number in range(200)}
        assert found == {"192.0.2.2"}
        assert len(link.pool) == 1

    def test_anothers_name(self) -> None:
        link = Segment()
        link.join(1)
        link.join(2)
        for kind in ("discover", "request", "release", "decline"):
            fields = {"bootp": {"ciaddr": GUEST}, "server_id": SERVER, "requested_addr": GUEST}
            link.ask(kind, mac="02:00:00:00:00:02", link="2", **fields)
        assert link.pool.counters == {LeaseRefusal.HARDWARE: 4}
        lease = link.pool.lease_of(RAW_MAC)
        assert lease is not None
        assert lease.address == pack(GUEST)

    def test_relays(self) -> None:
        link = Segment()
        assert link.silent("discover", bootp={"giaddr": "192.0.2.9"})
        assert link.silent("discover", bootp={"giaddr": "192.0.2.9"}, mac=RELAY_MAC)
        assert link.pool.counters == {LeaseRefusal.RELAYED: 1, LeaseRefusal.HARDWARE: 1}

    def test_bootp(self) -> None:
        link = Segment()
        assert link.silent(None)
        assert link.pool.counters == {LeaseRefusal.BOOTP: 1}

    @pytest.mark.parametrize("kind", [0, "offer", "ack", "nak", "lease_query"])
    def test_other_messages(self, kind: str | int) -> None:
        assert Segment().silent(kind)
        assert Segment().silent(None, (53, b"\0\1"))
        assert Segment().silent(None, (53, b""))

    def test_ipoib(self) -> None:
        """RFC 4390: no hardware address in the message, so that the frame's is the one."""
        fields = {"htype": 32, "hlen": 0, "chaddr": bytes(16)}
        assert Segment().read("discover", bootp=fields)[1] == "192.0.2.2"


class TestGatewayWithPool:
    def ask(self, bench: Bench, frame: bytes) -> bytes | None:
        assert bench.parse(frame) == 0
        return bench.gateway.dhcp(bench.packet)

    def test_it_asks_the_pool_and_leaves_the_frame_to_whoever_writes(self) -> None:
        bench, pool, heard = Bench(dhcp=SETTINGS), LeasePool(SHARED), []
        frame = ask("discover", (80, b""))
        assert dissected(self.ask(bench, frame) or b"")[0][BOOTP].yiaddr == GUEST, "as without a pool"
        clock = iter((NOW, NOW + 1))

        def commit(answer: PoolAnswer) -> bytes | None:
            heard.append(answer)
            return answer.answer.frame if answer.answer is not None and answer.lease is None else None

        bench.gateway.leasing = Leasing(pool, "a", clock.__next__, commit)
        assert self.ask(bench, frame) is None, "it waits for the disk"
        assert [type(event) for event in heard[0].events] == [LeaseGranted]
        assert heard[0].lease.since == NOW
        assert self.ask(bench, ask("discover")) is not None
        assert heard[1].answer.event == "offer"
