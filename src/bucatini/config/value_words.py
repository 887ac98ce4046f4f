"""Values of options as the commands that stand in for others write them: addresses, MACs, names, numbers.

Each reader takes the option's name for the error, and the text. Stricter than the C library where its laxness makes
two readings possible: no signs, blanks, octal or hexadecimal numbers, and addresses only as inet_pton(3) takes them.
All raise ConfigError naming the option, the text and what is accepted. Does not: look at the host.
"""

from __future__ import annotations

import re
from collections.abc import Container

from bucatini.base.address import pack, unmap
from bucatini.base.errors import ConfigError

__all__ = [
    "kind_of",
    "read_address",
    "read_interface",
    "read_mac",
    "read_netmask",
    "read_number",
    "read_path",
    "read_socket_path",
]

_MAX_NAME = 15
"""IFNAMSIZ less the byte that ends it."""

_ADDRESS_TEXT = 45
"""INET6_ADDRSTRLEN less the byte that ends it: nothing longer is an address, and errors need not repeat it."""

_MAX_SOCKET_PATH = 107
"""sun_path less the byte that ends it (unix(7))."""


def read_number(option: str, written: str, low: int, high: int) -> int:
    """A decimal number from `low` to `high`."""
    if written.isascii() and written.isdigit() and len(written) <= 20 and low <= int(written) <= high:
        return int(written)
    raise ConfigError(f"{option} {written!r}: must be a number from {low} to {high}")


def read_address(option: str, written: str, refused: Container[str] = ()) -> bytes:
    """A packed IPv4 or IPv6 address, without zone or prefix length, of none of the kinds in `refused` (`kind_of`)."""
    try:
        if len(written) > _ADDRESS_TEXT or not written.isascii() or "\0" in written:
            raise ValueError
        address = pack(written)
    except ValueError:
        raise ConfigError(f"{option} {written!r}: must be an IPv4 or IPv6 address") from None
    if kind_of(address) in refused:
        raise ConfigError(f"{option} {written!r}: must be an address of one host, this one is {kind_of(address)}")
    return address


def kind_of(address: bytes) -> str:
    """What a packed address stands for: `unicast`, or a word that `read_address` can refuse.

    `IPv4 in IPv6` is IPv4-mapped or the deprecated IPv4-compatible form (RFC 4291 section 2.5.5).
    """
    if not any(address):
        return "unspecified"
    if len(address) == 4:
        if address == b"\xff\xff\xff\xff":
            return "broadcast"
        return "loopback" if address[0] == 127 else "multicast" if 224 <= address[0] < 240 else "unicast"
    if address[0] == 0xFF:
        return "multicast"
    if address == bytes(15) + b"\x01":
        return "loopback"
    return "IPv4 in IPv6" if unmap(address) != address or not any(address[:12]) else "unicast"


def read_netmask(option: str, written: str) -> int:
    """Prefix length 0..32, from a number of bits or a contiguous dotted mask."""
    accepted = "must be a number of bits from 0 to 32, or a mask such as 255.255.255.0"
    if "." not in written:
        try:
            return read_number(option, written, 0, 32)
        except ConfigError:
            raise ConfigError(f"{option} {written!r}: {accepted}") from None
    try:
        mask = int.from_bytes(read_address(option, written), "big")
    except ConfigError:
        raise ConfigError(f"{option} {written!r}: {accepted}") from None
    length = mask.bit_count()
    if mask != (1 << 32) - (1 << 32 - length):
        raise ConfigError(f"{option} {written!r}: {accepted}")
    return length


def read_mac(option: str, written: str) -> bytes:
    """Six bytes of a unicast MAC address."""
    if not re.fullmatch(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}", written):
        raise ConfigError(f"{option} {written!r}: must be six two-digit hexadecimal groups such as 9a:55:9a:55:9a:55")
    mac = bytes.fromhex(written.replace(":", ""))
    if mac[0] & 1 or not any(mac):
        raise ConfigError(f"{option} {written!r}: must be the address of one interface, not a group's and not zero")
    return mac


def read_interface(option: str, written: str) -> str:
    """A name Linux accepts for an interface (dev_valid_name)."""
    if (
        not 1 <= len(written.encode("utf-8", "surrogateescape")) <= _MAX_NAME
        or written in (".", "..")
        or re.search(r"[/:\s\0]", written)
    ):
        raise ConfigError(f"{option} {written!r}: must be the name of an interface, 1 to {_MAX_NAME} bytes")
    return written


def read_path(option: str, written: str) -> str:
    """A path that could exist."""
    if not written or "\0" in written:
        raise ConfigError(f"{option} {written!r}: must be a path")
    return written


def read_socket_path(option: str, written: str) -> str:
    """A path that a UNIX socket could have."""
    size = len(read_path(option, written).encode("utf-8", "surrogateescape"))
    if size > _MAX_SOCKET_PATH:
        raise ConfigError(f"{option} {written!r}: must be a path of at most {_MAX_SOCKET_PATH} bytes, it has {size}")
    return written
