"""Single values of options: what is accepted, and that an error names the option, the value and what is accepted."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.errors import ConfigError
from bucatini.config.value_words import (
    kind_of,
    read_address,
    read_interface,
    read_mac,
    read_netmask,
    read_number,
    read_path,
)


@pytest.mark.parametrize(("written", "length"), [("24", 24), ("0", 0), ("32", 32), ("255.255.255.0", 24)])
def test_netmask(written: str, length: int) -> None:
    assert read_netmask("-n", written) == length


@given(st.integers(0, 32))
def test_netmask_in_both_forms(length: int) -> None:
    network = ipaddress.IPv4Network((0, length))
    assert read_netmask("-n", str(network.netmask)) == read_netmask("-n", str(length)) == length


@pytest.mark.parametrize(
    "written", ["33", "-1", "+8", " 8", "", "255.0.255.0", "255.255.255", "0.0.0.255", "1.2.3.4", "::", "٢٤"]
)
def test_no_netmask(written: str) -> None:
    with pytest.raises(ConfigError, match="--netmask .*: must be a number of bits from 0 to 32, or a mask"):
        read_netmask("--netmask", written)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("127.1.2.3", "loopback"),
        ("::1", "loopback"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("240.0.0.1", "unicast"),
        ("10.0.2.2", "unicast"),
        ("fe80::1", "unicast"),
        ("2001:db8::1", "unicast"),
        ("::ffff:10.0.0.1", "IPv4 in IPv6"),
        ("::10.0.0.1", "IPv4 in IPv6"),
    ],
)
def test_kinds_of_addresses(address: str, kind: str) -> None:
    packed = read_address("-a", address)
    assert packed == ipaddress.ip_address(address).packed
    assert kind_of(packed) == kind
    with pytest.raises(ConfigError, match=rf"-a '{address}': must be an address of one host, this one is {kind}"):
        read_address("-a", address, (kind,))


@pytest.mark.parametrize(
    "written", ["", "x", "1.2.3", "1.2.3.4/24", "01.2.3.4", " 1.2.3.4", "fe80::1%eth0", "[::1]", "1.2.3.4\0", "1" * 99]
)
def test_no_address(written: str) -> None:
    with pytest.raises(ConfigError, match="-a .*: must be an IPv4 or IPv6 address"):
        read_address("-a", written)


def test_mac() -> None:
    assert read_mac("-M", "9A:55:9a:55:9a:00") == bytes.fromhex("9a559a559a00")


@pytest.mark.parametrize(
    "written",
    [
        *(
            "",
            "xx",
            "1:2:3:4:5:6",
            "9a-55-9a-55-9a-55",
            "9a:55:9a:55:9a",
            "9a:55:9a:55:9a:55:01",
            "9a:55:9a:55:9a:55\n",
        ),
        *("01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"),
    ],
)
def test_no_mac(written: str) -> None:
    with pytest.raises(ConfigError, match="^-M .*: must be "):
        read_mac("-M", written)


@pytest.mark.parametrize("written", ["eth0", "a" * 15, "wlan-0.1@x", "é"])
def test_interface(written: str) -> None:
    assert read_interface("-i", written) == written


@pytest.mark.parametrize("written", ["", ".", "..", "a" * 16, "é" * 8, "a b", "a/b", "a:b", "a\n"])
def test_no_interface(written: str) -> None:
    with pytest.raises(ConfigError, match="1 to 15 bytes"):
        read_interface("-i", written)


@pytest.mark.parametrize("written", ["", "-1", "+1", " 1", "1 ", "1_0", "0x1", "١", "11", "1" * 5000])
def test_no_number(written: str) -> None:
    with pytest.raises(ConfigError, match="must be a number from 0 to 10"):
        read_number("-e", written, 0, 10)


@given(st.integers(0, 1 << 63))
def test_number(number: int) -> None:
    assert read_number("-e", str(number), 0, 1 << 63) == number


def test_path() -> None:
    assert read_path("-P", "a b") == "a b"
    for written in ("", "a\0b"):
        with pytest.raises(ConfigError, match="must be a path"):
            read_path("-P", written)


@pytest.mark.parametrize("read", [read_address, read_netmask, read_mac, read_interface, read_path])
@given(written=st.text())
def test_anything_is_read_or_refused(read: Callable[[str, str], object], written: str) -> None:
    said = ""
    try:
        read("--option", written)
    except ConfigError as error:
        said = str(error)
    assert not said or said.startswith(f"--option {written!r}: must be ")
