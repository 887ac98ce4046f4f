"""host.resolvers: what a resolv.conf means, and that changes of the file are seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import Endpoint, pack
from bucatini.host.resolvers import HostResolvers, Resolver, ResolverConfig, parse


def zone_index(zone: str) -> int:
    if zone != "wlan0":
        raise OSError
    return 7


def addresses(content: str) -> list[str]:
    return [str(one.endpoint) for one in parse(content, zone_index=zone_index).resolvers]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("nameserver 192.0.2.1\n", ["192.0.2.1:53"]),
        ("nameserver 192.0.2.1", ["192.0.2.1:53"]),
        ("nameserver\t 192.0.2.1 # home\r\nnameserver 2001:db8::1;work\n", ["192.0.2.1:53", "[2001:db8::1]:53"]),
        ("# nameserver 192.0.2.9\n;nameserver 192.0.2.8\nnameserver 192.0.2.1\n", ["192.0.2.1:53"]),
        ("  nameserver 192.0.2.9\nnameservers 192.0.2.8\nNAMESERVER 192.0.2.7\n", ["127.0.0.1:53"]),
        ("nameserver\nnameserver dns.example\nnameserver 192.0.2.300\nnameserver 192.0.2.1", ["192.0.2.1:53"]),
        ("".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 6)), [f"192.0.2.{n}:53" for n in (1, 2, 3)]),
        ("nameserver ::ffff:192.0.2.1\n", ["192.0.2.1:53"]),
        ("search example.org\n", ["127.0.0.1:53"]),
        ("", ["127.0.0.1:53"]),
        ("\x00\x01\xff\nnameserver 192.0.2.1\n", ["192.0.2.1:53"]),
    ],
)
def test_nameservers(content: str, expected: list[str]) -> None:
    assert addresses(content) == expected


def test_zone_of_a_link_local_nameserver() -> None:
    config = parse("nameserver fe80::1%wlan0\nnameserver fe80::2%none\nnameserver fe80::3%12\n", zone_index=zone_index)
    assert config.resolvers == (
        Resolver(Endpoint(pack("fe80::1"), 53), 7),
        Resolver(Endpoint(pack("fe80::3"), 53), 12),
    )
    assert config.resolvers[0].sockaddr == ("fe80::1", 53, 0, 7)


def test_sockaddr_of_ipv4() -> None:
    assert parse("nameserver 192.0.2.1", port=5300).resolvers[0].sockaddr == ("192.0.2.1", 5300)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", (None, 2, False, False)),
        ("timeout:3 attempts:4 rotate use-vc edns0 ndots:5", (3, 4, True, True)),
        ("timeout:0 attempts:0", (1, 1, False, False)),
        ("timeout:99 attempts:99", (30, 5, False, False)),
        ("timeout: attempts:x", (None, 2, False, False)),
        ("timeout:" + "9" * 5000, (None, 2, False, False)),
    ],
)
def test_options(options: str, expected: tuple[int | None, int, bool, bool]) -> None:
    config = parse(f"options {options}\nnameserver 192.0.2.1\n")
    assert config[1:5] == expected


def test_later_option_lines_add() -> None:
    assert parse("options timeout:3 rotate\noptions timeout:4\n")[1:5] == (4, 2, True, False)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("", ()),
        ("search corp.example  example.org.\n", ("corp.example", "example.org")),
        ("search one.example\nsearch two.example three.example # not four\n", ("two.example", "three.example")),
        ("search one.example\ndomain two.example three.example\n", ("two.example",)),
        ("domain one.example\nsearch two.example\n", ("two.example",)),
        ("search one.example\nsearch\ndomain\n", ("one.example",)),
        ("search one.example\nsearch .\n", ()),
        (" search one.example\nSEARCH two.example\n", ()),
    ],
)
def test_search(content: str, names: tuple[str, ...]) -> None:
    assert parse(content).search == names


def test_what_is_written_is_kept_beside_what_is_used() -> None:
    """Three of each family for guests, three in all for us; a zone that is gone concerns us only."""
    lines = ["192.0.2.1", "fe80::1%none", "192.0.2.2", "::ffff:192.0.2.3", "192.0.2.4", "2001:db8::1", "192.0.2.1"]
    config = parse("".join(f"nameserver {line}\n" for line in lines), zone_index=zone_index)
    assert [str(one.endpoint) for one in config.resolvers] == ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"]
    expected = ("192.0.2.1", "fe80::1", "192.0.2.2", "192.0.2.3", "2001:db8::1")
    assert config.nameservers_written == tuple(map(pack, expected))
    assert not config.fallback


def test_fallback_says_that_the_file_names_nobody(tmp_path: Path) -> None:
    for content in ("", "nameserver x\n", "search example.org\n"):
        assert parse(content).fallback
        assert parse(content).nameservers_written == ()
    assert HostResolvers(str(tmp_path / "none"))().fallback


@given(st.text(max_size=300) | st.from_regex(r"(nameserver [0-9a-f:.%]*\n|options [a-z:0-9]*\n)*"))
def test_any_text_gives_one_to_three_resolvers(content: str) -> None:
    assert 1 <= len(parse(content, zone_index=zone_index).resolvers) <= 3


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def first(config: ResolverConfig) -> str:
    return str(config.resolvers[0].endpoint)


def test_a_change_is_seen_at_the_next_look_and_not_before(tmp_path: Path) -> None:
    path, clock = tmp_path / "resolv.conf", Clock()
    path.write_text("nameserver 192.0.2.1\n")
    resolvers = HostResolvers(str(path), clock=clock)
    assert first(resolvers()) == "192.0.2.1:53"
    path.write_text("nameserver 192.0.2.22\n")
    clock.now += 0.9
    assert first(resolvers()) == "192.0.2.1:53"
    clock.now += 0.1
    assert first(resolvers()) == "192.0.2.22:53"


def test_a_replacement_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    path, clock = tmp_path / "resolv.conf", Clock()
    path.write_text("nameserver 192.0.2.1\n")
    resolvers = HostResolvers(str(path), clock=clock)
    other = tmp_path / "new"
    other.write_text("nameserver 192.0.2.2\n")
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    clock.now += 1
    assert first(resolvers()) == "192.0.2.2:53"


def test_a_symlink_that_moves_is_seen(tmp_path: Path) -> None:
    for n in (1, 2):
        (tmp_path / f"{n}.conf").write_text(f"nameserver 192.0.2.{n}\n")
    path, clock = tmp_path / "resolv.conf", Clock()
    path.symlink_to("1.conf")
    resolvers = HostResolvers(str(path), clock=clock)
    path.unlink()
    path.symlink_to("2.conf")
    clock.now += 1
    assert first(resolvers()) == "192.0.2.2:53"


def test_a_file_that_vanishes_leaves_the_last_list(tmp_path: Path) -> None:
    path, clock = tmp_path / "resolv.conf", Clock()
    path.write_text("nameserver 192.0.2.1\n")
    resolvers = HostResolvers(str(path), clock=clock)
    path.unlink()
    clock.now += 1
    assert first(resolvers()) == "192.0.2.1:53"
    path.write_text("nameserver 192.0.2.2\n")
    clock.now += 1
    assert first(resolvers()) == "192.0.2.2:53"


def test_without_a_file_the_machine_itself_is_asked(tmp_path: Path) -> None:
    assert first(HostResolvers(str(tmp_path / "none"))()) == "127.0.0.1:53"
    assert first(HostResolvers(str(tmp_path))()) == "127.0.0.1:53"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert first(HostResolvers(str(tmp_path / "pipe"), port=5353)()) == "127.0.0.1:5353"
