"""bucatini.forward.portspec: the grammar of --publish."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import pack, unmap
from bucatini.base.errors import ConfigError
from bucatini.forward.portspec import Forward, parse_publish, parse_publish_all

TCP, UDP = 6, 17


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("8080:80", Forward(TCP, None, 8080, 80)),
        ("8080", Forward(TCP, None, 8080, 8080)),
        ("8080:80/tcp", Forward(TCP, None, 8080, 80)),
        ("5353:53/udp", Forward(UDP, None, 5353, 53)),
        ("53/UDP", Forward(UDP, None, 53, 53)),
        ("127.0.0.1:8080:80", Forward(TCP, pack("127.0.0.1"), 8080, 80)),
        ("127.0.0.1:8080", Forward(TCP, pack("127.0.0.1"), 8080, 8080)),
        ("0.0.0.0:1:65535", Forward(TCP, bytes(4), 1, 65535)),
        ("[::1]:8080:80", Forward(TCP, pack("::1"), 8080, 80)),
        ("[::]:8080/udp", Forward(UDP, bytes(16), 8080, 8080)),
        ("[fe80::1]:8080:80", Forward(TCP, pack("fe80::1"), 8080, 80)),
    ],
)
def test_one_port(written: str, expected: Forward) -> None:
    assert parse_publish(written) == (expected,)


def test_ranges_of_equal_width() -> None:
    assert parse_publish("8000-8002:9000-9002/udp") == tuple(Forward(UDP, None, 8000 + i, 9000 + i) for i in range(3))
    assert parse_publish("[::1]:8000-8001") == tuple(Forward(TCP, pack("::1"), p, p) for p in (8000, 8001))
    assert parse_publish("7-7:9") == (Forward(TCP, None, 7, 9),)
    assert len(parse_publish("1-65535")) == 65535


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ("", "host port '' is not a number from 1 to 65535"),
        ("0:80", "host port '0'"),
        ("80:0", "guest port '0'"),
        ("65536:80", "host port '65536'"),
        ("80:99999", "guest port '99999'"),
        ("+80:80", r"host port '+80'"),
        ("080:80", "host port '080'"),
        (" 80:80", "host port ' 80'"),
        ("8_0:80", "host port '8_0'"),
        ("٨٠:80", "host port '٨٠'"),
        ("80:", "guest port ''"),
        (":80", "host port ''"),
        (":8080:80", "address '' is not an IP address"),
        ("80-:80", "host port ''"),
        ("-80:80", "host port ''"),
        ("80-90-100", "host port '90-100'"),
        ("90-80:90-80", "host port range '90-80' runs backwards"),
        ("80-90:80", "'80-90' is 11 ports and '80' is 1"),
        ("80:80-81", "'80' is 1 ports and '80-81' is 2"),
        ("8080:80/sctp", "protocol 'sctp' is not tcp or udp"),
        ("8080:80/", "protocol '' is not tcp or udp"),
        ("8080:80/tcp/udp", "protocol 'tcp/udp'"),
        ("localhost:8080:80", "write 127.0.0.1 or [::1]"),
        ("localhost:8080", "names are not accepted"),
        ("example.com:8080:80", "address 'example.com' is not an IP address"),
        ("127.0.1:8080:80", "address '127.0.1' is not an IP address"),
        ("[127.0.0.1]:80:80", "address '127.0.0.1' in brackets is not IPv6"),
        ("[::1]80:80", "has no ']:'"),
        ("[::1:80:80", "has no ']:'"),
        ("[::1]:", "host port ''"),
        ("[::1]:1:2:3", "'1:2:3' has too many ':'"),
        ("::1:8080:80", "an IPv6 address goes in brackets"),
        ("[fe80::1%eth0]:80:80", "has a zone"),
        ("[::ffff:127.0.0.1]:80:80", "write 127.0.0.1"),
        ("224.0.0.1:80:80", "not a unicast address"),
        ("255.255.255.255:80:80", "not a unicast address"),
        ("[ff02::1]:80:80", "not a unicast address"),
        ("1.2.3.4\0:80:80", "is not an IP address"),
    ],
)
def test_errors_name_the_part_at_fault(written: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_publish(written)
    message = str(caught.value)
    assert message.startswith(f"--publish {written!r}: ")
    assert part in message
    assert "accepted: [ADDR:]HOST:GUEST[/tcp|/udp]" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("8080:80", "8080:81"),
        ("8080:80", "127.0.0.1:8080:80"),
        ("0.0.0.0:8080:80", "127.0.0.1:8080:80"),
        ("[::1]:8080:80", "[::]:8000-8100:8000-8100"),
        ("127.0.0.1:8080:80", "127.0.0.1:8080:80"),
    ],
)
def test_the_same_host_port_twice_is_refused_naming_both(first: str, second: str) -> None:
    for one, other in ((first, second), (second, first)):
        with pytest.raises(ConfigError) as caught:
            parse_publish_all([one, other])
        assert str(caught.value) == f"--publish {other!r}: {one!r} already publishes host port 8080"


def test_what_does_not_clash_is_kept_in_order() -> None:
    specs = ["8080:80", "8080:80/udp", "127.0.0.1:1:1", "127.0.0.2:1:1", "[::]:1:1", "8081:80"]
    forwards = parse_publish_all(specs)
    assert [forward.host_port for forward in forwards] == [8080, 8080, 1, 1, 1, 8081]
    assert parse_publish_all([]) == ()


def test_the_total_is_bounded() -> None:
    with pytest.raises(ConfigError, match="more than 65535 published ports"):
        parse_publish_all(["1-65535", "1/udp"])


def test_an_option_name_of_the_caller_is_used() -> None:
    with pytest.raises(ConfigError, match=r"^-p 'x'"):
        parse_publish("x", "-p")


spec_like = st.text("0123456789:-/[].tcpud %", max_size=30) | st.text(max_size=20)


@given(spec_like)
def test_every_text_parses_or_is_a_config_error_naming_it(written: str) -> None:
    message = ""
    try:
        forwards = parse_publish(written)
    except ConfigError as error:
        message = str(error)
    else:
        assert forwards
        assert all(1 <= f.host_port <= 65535 and 1 <= f.guest_port <= 65535 for f in forwards)
    assert not message or repr(written) in message


ports = st.integers(1, 65535)
packed = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
unicast = packed.filter(lambda a: (a[0] < 224 if len(a) == 4 else a[0] < 255) and unmap(a) == a)


@given(st.sampled_from([TCP, UDP]), st.none() | unicast, ports, ports)
def test_text_of_a_forward_reads_back(protocol: int, address: bytes | None, host: int, guest: int) -> None:
    forward = Forward(protocol, address, host, guest)
    assert parse_publish(str(forward)) == (forward,)
