"""bucatini.forward.port_grammar: a table of what is accepted and what it means, and one of what is refused and why."""

from __future__ import annotations

import pytest

from bucatini.base.address import pack
from bucatini.base.errors import ConfigError
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.forward.port_grammar import (
    DEFAULT_EPHEMERAL,
    MAX_WRITTEN,
    PortTable,
    parse_ephemeral,
    parse_port_specs,
)
from bucatini.forward.portspec import Forward

TCP, UDP = 6, 17
EPHEMERAL = range(32768, 61000)
SWEPT = [port for port in range(1, 65536) if port not in EPHEMERAL]


def parse(
    *written: str, direction: str = INGRESS, protocol: int = TCP, allow_all: bool = True, allow_auto: bool = True
) -> PortTable | None:
    return parse_port_specs(
        "-t",
        written,
        protocol=protocol,
        direction=direction,
        ephemeral=EPHEMERAL,
        allow_all=allow_all,
        allow_auto=allow_auto,
    )


def table(*written: str, **how: str) -> PortTable:
    parsed = parse(*written, **how)  # type: ignore[arg-type]
    assert parsed is not None
    return parsed


def pairs(parsed: PortTable) -> list[tuple[int, int]]:
    return [(forward.host_port, forward.guest_port) for forward in parsed.forwards]


def error_of(*written: str, **how: object) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(*written, **how)  # type: ignore[arg-type]
    return str(caught.value)


# -- accepted


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("80", [(80, 80)]),
        ("8080:80", [(8080, 80)]),
        ("1", [(1, 1)]),
        ("65535:1", [(65535, 1)]),
        ("22,80", [(22, 22), (80, 80)]),
        ("80,22", [(80, 80), (22, 22)]),
        ("10-12", [(10, 10), (11, 11), (12, 12)]),
        ("10-12:20-22", [(10, 20), (11, 21), (12, 22)]),
        ("20-21:10-11", [(20, 10), (21, 11)]),
        ("7-7:9", [(7, 9)]),
        ("7:9-9", [(7, 9)]),
        ("10-12,~11", [(10, 10), (12, 12)]),
        ("~11,10-12", [(10, 10), (12, 12)]),
        ("10-12:20-22,~11", [(10, 20), (12, 22)]),
        ("10-13,~11,~12", [(10, 10), (13, 13)]),
        ("10-13,~9-12", [(13, 13)]),
        ("10-12,~0-10", [(11, 11), (12, 12)]),
        ("40000", [(40000, 40000)]),
        ("0.0.0.0/80", [(80, 80)]),
    ],
)
def test_ports_and_their_targets(written: str, expected: list[tuple[int, int]]) -> None:
    parsed = table(written)
    assert parsed.mode == "specific"
    assert pairs(parsed) == expected
    assert parsed.notes == ()
    assert not any(forward.optional for forward in parsed.forwards)


@pytest.mark.parametrize(
    ("written", "address", "device"),
    [
        ("80", None, ""),
        ("192.0.2.1/80", "192.0.2.1", ""),
        ("[192.0.2.1]/80", "192.0.2.1", ""),
        ("0.0.0.0/80", "0.0.0.0", ""),
        ("127.0.0.1/80", "127.0.0.1", ""),
        ("::/80", "::", ""),
        ("::1/80", "::1", ""),
        ("[::1]/80", "::1", ""),
        ("2001:db8::1/80", "2001:db8::1", ""),
        ("%eth0/80", None, "eth0"),
        ("192.0.2.1%eth0/80", "192.0.2.1", "eth0"),
        ("fe80::1%eth0/80", "fe80::1", "eth0"),
        ("[fe80::1]%eth0/80", "fe80::1", "eth0"),
        ("%enp0s31f6.4094/80", None, "enp0s31f6.4094"),
        ("%123456789012345/80", None, "123456789012345"),
        ("%a%b/80", None, "a%b"),
        ("%étage/80", None, "étage"),
    ],
)
def test_where_the_host_listens(written: str, address: str | None, device: str) -> None:
    packed = None if address is None else pack(address)
    assert table(written).forwards == (Forward(TCP, packed, 80, 80, INGRESS, device),)


@pytest.mark.parametrize(
    ("written", "address", "left_out"),
    [
        ("all", None, ()),
        ("192.0.2.1/all", "192.0.2.1", ()),
        ("[::1]/all", "::1", ()),
        ("~22", None, (22,)),
        ("~1-1023", None, range(1, 1024)),
        ("~0-1023", None, range(1, 1024)),
        ("~22,~80", None, (22, 80)),
        ("127.0.0.1/~22", "127.0.0.1", (22,)),
        ("~40000", None, ()),
    ],
)
def test_everything_but_ephemeral_ports_and_exclusions(
    written: str, address: str | None, left_out: tuple[int, ...]
) -> None:
    parsed = table(written)
    assert parsed.mode == ("all" if written == "all" else "specific")
    packed = None if address is None else pack(address)
    ports = [port for port in SWEPT if port not in left_out]
    assert parsed.forwards == tuple(Forward(TCP, packed, port, port, optional=True) for port in ports)


@pytest.mark.parametrize("word", ["none", "auto"])
def test_words_without_ports(word: str) -> None:
    assert parse(word) == PortTable(word, (), ())


def test_nothing_written_is_no_table() -> None:
    assert parse() is None


def test_specs_add_up_and_keep_their_order() -> None:
    parsed = table("80", "127.0.0.1/22:2222", "5-6")
    assert pairs(parsed) == [(80, 80), (22, 2222), (5, 5), (6, 6)]


def test_protocol_is_handed_through() -> None:
    parsed = parse("53", protocol=UDP)
    assert parsed is not None
    assert parsed.forwards == (Forward(UDP, None, 53, 53),)


def test_outwards_the_first_range_is_what_the_guest_listens_on() -> None:
    parsed = table("5213-5214:80-81", direction=EGRESS)
    assert parsed.forwards == (Forward(TCP, None, 80, 5213, EGRESS), Forward(TCP, None, 81, 5214, EGRESS))
    swept = table("~22", direction=EGRESS)
    assert swept.forwards[0] == Forward(TCP, None, 1, 1, EGRESS, optional=True)
    assert len(swept.forwards) == len(SWEPT) - 1


def test_exclusions_hold_in_their_own_spec_only() -> None:
    assert pairs(table("10-12,~11", "11:99")) == [(10, 10), (12, 12), (11, 99)]


# -- notes


def test_a_port_mapped_again_is_a_note_and_the_last_holds() -> None:
    parsed = table("80-82", "81:8081")
    assert pairs(parsed) == [(80, 80), (82, 82), (81, 8081)]
    assert parsed.notes == ("-t '81:8081': maps again what was mapped before, and replaces it: port 81",)


def test_also_within_one_spec_and_over_an_optional_one() -> None:
    assert pairs(table("80,80:90")) == [(80, 90)]
    parsed = table("~1-79,~81-65535", "80:90")
    assert parsed.forwards == (Forward(TCP, None, 80, 90),)
    assert len(parsed.notes) == 1


def test_another_address_or_interface_is_another_place() -> None:
    specs = ("80", "127.0.0.1/80", "127.0.0.2/80:81", "::1/80", "%eth0/80", "%eth1/80")
    parsed = table(*specs)
    assert len(parsed.forwards) == len(specs)
    assert parsed.notes == ()


def test_a_note_stays_short() -> None:
    odd = ",".join(str(port) for port in range(1, 100, 2))
    (note,) = table(odd, odd).notes
    assert note.endswith("port 1, 3, 5, 7, 9, 11, 13, 15 and more")
    (note,) = table("1-20000", "10-20000").notes
    assert note.endswith("port 10-20000")


def test_exclusions_that_leave_nothing_of_a_list_are_a_note() -> None:
    parsed = table("80,~80")
    assert parsed.forwards == ()
    assert parsed.notes == ("-t '80,~80': its exclusions leave no port",)


# -- refused

REFUSED = [
    ("", "port ''"),
    (",", "port ''"),
    ("80,", "port ''"),
    (",80", "port ''"),
    ("80,,81", "port ''"),
    (":", "port ''"),
    ("80:", "port ''"),
    (":80", "port ''"),
    ("-", "port ''"),
    ("80-", "port ''"),
    ("-80", "port ''"),
    ("~", "port ''"),
    ("~80-", "port ''"),
    ("80:90:100", "'80:90:100' has more than one ':'"),
    ("0", "port '0' is not a number from 1 to 65535"),
    ("0-10", "port '0'"),
    ("80:0", "port '0'"),
    ("0:80", "port '0'"),
    ("65536", "port '65536'"),
    ("80-65536", "port '65536'"),
    ("80:65536", "port '65536'"),
    ("~65536", "port '65536' is not a number from 0 to 65535"),
    ("99999999999999999999", "port '99999999999999999999'"),
    ("+80", "port '+80'"),
    ("~+80", "port '+80'"),
    (" 80", "port ' 80'"),
    ("80 ", "port '80 '"),
    ("80\n", r"port '80\n'"),
    ("80, 81", "port ' 81'"),
    ("080", "port '080'"),
    ("~00", "port '00'"),
    ("0x50", "port '0x50'"),
    ("8_0", "port '8_0'"),
    ("٨٠", "port '٨٠'"),
    ("80x", "port '80x'"),
    ("http", "port 'http'"),
    ("80;81", "port '80;81'"),
    ("10-20-30", "port '20-30'"),
    ("20-10", "range '20-10' runs backwards"),
    ("~20-10", "range '20-10' runs backwards"),
    ("10-20:30-20", "range '30-20' runs backwards"),
    ("10-20:30", "'10-20:30' maps 11 to 1 ports"),
    ("10:20-30", "'10:20-30' maps 1 to 11 ports"),
    ("10-20:30-41", "maps 11 to 12 ports"),
    ("~80:90", "'~80:90': an exclusion has no target"),
    ("80:~90", "port '~90'"),
    ("80-~90", "port '~90'"),
    ("~~80", "port '~80'"),
    ("80,~80,~80", "'~80' excludes port 80 a second time"),
    ("~10-20,~15-30", "'~15-30' excludes port 15-20 a second time"),
    ("~1-65535", "'~1-65535' leaves no port"),
    ("~1-32767,~61000-65535", "leaves no port"),
    ("NONE", "port 'NONE'"),
    ("none,80", "port 'none'"),
    ("80,all", "port 'all'"),
    ("all,80", "port 'all'"),
    ("~all", "port 'all'"),
    ("all,~22", "port 'all'"),
    ("/", "address '' is not an IP address"),
    ("/80", "address '' is not an IP address"),
    ("/all", "address '' is not an IP address"),
    ("127.0.0.1/", "port ''"),
    ("127.0.0.1/auto", "port 'auto'"),
    ("127.0.0.1/none", "port 'none'"),
    ("127.0.0.1/all,80", "port 'all'"),
    ("127.0.0.1/80/tcp", "port '80/tcp'"),
    ("80/tcp", "address '80' is not an IP address"),
    ("127.0.0.1:80", "port '127.0.0.1'"),
    ("127.0.1/80", "address '127.0.1'"),
    ("localhost/80", "address 'localhost'"),
    ("1.2.3.4.5/80", "address '1.2.3.4.5'"),
    ("01.2.3.4/80", "address '01.2.3.4'"),
    ("192.0.2.0/24/80", "port '24/80'"),
    ("[]/80", "address '[]'"),
    ("[::1/80", "address '[::1'"),
    ("::1]/80", "address '::1]'"),
    ("[[::1]]/80", "address '[[::1]]'"),
    ("[fe80::1%eth0]/80", "address '[fe80::1'"),
    ("::ffff:1.2.3.4/80", "write 1.2.3.4"),
    ("224.0.0.1/80", "address '224.0.0.1' is not a unicast address"),
    ("255.255.255.255/80", "not a unicast address"),
    ("ff02::1/80", "not a unicast address"),
    ("1.2.3.4\0/80", r"address '1.2.3.4\x00'"),
    ("\udc80/80", r"address '\udc80'"),
    ("%/80", "interface '' is not a name of 1 to 15 bytes"),
    ("127.0.0.1%/80", "interface ''"),
    ("%1234567890123456/80", "interface '1234567890123456'"),
    ("%éééééééé/80", "interface 'éééééééé'"),
    ("%a b/80", "interface 'a b'"),
    ("%a:1/80", "interface 'a:1'"),
    ("%./80", "interface '.'"),
    ("%../80", "interface '..'"),
    ("%a\n/80", r"interface 'a\n'"),
    ("%\udc80/80", r"interface '\udc80'"),
    ("%eth0", "port '%eth0'"),
    ("eth0%127.0.0.1/80", "address 'eth0'"),
]


@pytest.mark.parametrize(("written", "part"), REFUSED)
def test_errors_name_option_spec_and_part(written: str, part: str) -> None:
    message = error_of(written)
    assert message.startswith(f"-t {written!r}: ")
    assert part in message.removeprefix(f"-t {written!r}: ")
    assert message.endswith(
        "accepted: none, auto, all or [ADDR[%IF]/]PORTS[:PORTS],~PORTS,..., for example 127.0.0.1/8080:80,~8081"
    )
    assert "\n" not in message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("none", "80"),
        ("80", "none"),
        ("all", "80"),
        ("80", "all"),
        ("auto", "80"),
        ("80", "auto"),
        ("none", "none"),
        ("auto", "auto"),
        ("all", "all"),
        ("none", "all"),
        ("auto", "none"),
        ("~80", "all"),
        ("all", "127.0.0.1/all"),
        ("all", "nonsense"),
    ],
)
def test_words_stand_alone(first: str, second: str) -> None:
    message = error_of(first, second)
    assert message.startswith(f"-t {second!r}: {second!r} conflicts with {first!r} before it; accepted: ")


def test_words_that_the_mode_does_not_have() -> None:
    for written in ("all", "127.0.0.1/all"):
        message = error_of(written, allow_all=False)
        assert message.startswith(f"-t {written!r}: 'all' is not available here; accepted: none, auto or ")
    message = error_of("auto", allow_auto=False)
    assert message.startswith("-t 'auto': 'auto' is not available here; accepted: none, all or ")
    assert table("~22", allow_all=False).mode == "specific"  # type: ignore[arg-type]


@pytest.mark.parametrize("written", ["127.0.0.1/80", "%lo/80", "::1/all", "/80", "nonsense/80"])
def test_outwards_there_is_no_place_to_choose(written: str) -> None:
    message = error_of(written, direction=EGRESS)
    assert f"{written.partition('/')[0] + '/'!r} says where to listen" in message
    assert message.endswith(
        "accepted: none, auto, all or PORTS[:PORTS],~PORTS,..., for example 8080:80,9000-9010,~9005"
    )


def test_what_one_option_may_name_is_bounded() -> None:
    everywhere = [f"127.0.0.{last}/1-65535" for last in range(1, 5)]
    assert len(table(*everywhere).forwards) == MAX_WRITTEN
    assert f"makes it more than {MAX_WRITTEN} ports" in error_of(*everywhere, "127.0.0.5/80")


# -- the range of ephemeral ports


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("32768\t60999\n", range(32768, 61000)),
        ("1 65535", range(1, 65536)),
        ("1024 1024", range(1024, 1025)),
        ("", None),
        ("32768", None),
        ("60999 32768", None),
        ("0 10", None),
        ("1 65536", None),
        ("a b", None),
        ("1 2 3", None),
    ],
)
def test_the_range_of_ephemeral_ports(content: str, expected: range | None) -> None:
    assert parse_ephemeral(content) == expected


def test_the_default_range_is_that_of_the_rfc() -> None:
    assert (DEFAULT_EPHEMERAL[0], DEFAULT_EPHEMERAL[-1]) == (49152, 65535)
