"""Addresses of one guest and its gateway, derived from a slot number: the same slot always gives the same network.

Formulas, pools and texts of errors are a contract shared with microsandbox, so that snapshots and firewall rules
written for one serve the other. A slot owns a /30 of the IPv4 pool (base + 4*slot: network, gateway, guest,
broadcast) and a /64 of the IPv6 pool (base + slot * 2**64, gateway ::1, guest ::2), and two locally administered MAC
addresses `02:6d:73:hi:lo:01|02`.

An address given explicitly takes the place of the derived one; its gateway is then the address before it (IPv4) or
::1 of its /64. Does not: look at the host (`--mirror-host` replaces what is derived here, in the part that
configures).
"""

from __future__ import annotations

from typing import NamedTuple

from bucatini.base.address import pack, text
from bucatini.base.errors import ConfigError

__all__ = [
    "DEFAULT_IPV4_POOL",
    "DEFAULT_IPV6_POOL",
    "HOST_ALIAS",
    "IPV4_PREFIX",
    "IPV6_PREFIX",
    "MAX_SLOT",
    "Addressing",
    "derive",
    "guest_environment",
    "mac_text",
]

MAX_SLOT = 0xFFFF
"""MAC addresses and IPv6 prefixes hold 16 bits of slot."""

DEFAULT_IPV4_POOL = "172.16.0.0/12"
DEFAULT_IPV6_POOL = "fd42:6d73:62::/48"

IPV4_PREFIX = 30
IPV6_PREFIX = 64

HOST_ALIAS = "host.microsandbox.internal"
"""The gateway's name in the environment of a microsandbox guest."""

INTERFACE = "eth0"

_OUI = b"\x02\x6d\x73"


class Addressing(NamedTuple):
    """MAC addresses (6 bytes) and packed addresses of both ends of the link; None for a family that is off."""

    guest_mac: bytes
    gateway_mac: bytes
    guest_ipv4: bytes | None
    gateway_ipv4: bytes | None
    guest_ipv6: bytes | None
    gateway_ipv6: bytes | None


def derive(
    slot: int,
    *,
    ipv4: bool = True,
    ipv6: bool = True,
    ipv4_pool: str = DEFAULT_IPV4_POOL,
    ipv6_pool: str = DEFAULT_IPV6_POOL,
    ipv4_address: str | None = None,
    ipv6_address: str | None = None,
    mac: bytes | None = None,
) -> Addressing:
    """Addressing of `slot`. A pool is looked at only where its family is on and no address is given.

    An explicit address switches its family on. `mac` (6 bytes, unicast) replaces the guest's, never the gateway's.
    Raises ConfigError for a slot, pool or address that cannot be.
    """
    if not 0 <= slot <= MAX_SLOT:
        raise ConfigError(f"slot {slot} exceeds address pool capacity (max {MAX_SLOT})")
    if mac is not None and (len(mac) != 6 or mac[0] & 1 or not any(mac)):
        raise ConfigError(f"MAC address {mac_text(mac)}: must be 6 bytes, unicast and not all zero")
    guest4 = gateway4 = guest6 = gateway6 = None
    if ipv4_address is not None:
        guest4, gateway4 = _explicit_ipv4(ipv4_address)
    elif ipv4:
        guest4, gateway4 = _pooled_ipv4(ipv4_pool, slot)
    if ipv6_address is not None:
        guest6, gateway6 = _explicit_ipv6(ipv6_address)
    elif ipv6:
        guest6, gateway6 = _pooled_ipv6(ipv6_pool, slot)
    stem = _OUI + slot.to_bytes(2, "big")
    return Addressing(mac or stem + b"\x02", stem + b"\x01", guest4, gateway4, guest6, gateway6)


def mac_text(mac: bytes) -> str:
    """Lower-case hexadecimal octets joined by colons."""
    return mac.hex(":")


def guest_environment(addressing: Addressing, mtu: int) -> list[tuple[str, str]]:
    """Names and values that tell a microsandbox guest its network, in the order of the contract."""
    variables = [
        ("MSB_NET", f"iface={INTERFACE},mac={mac_text(addressing.guest_mac)},mtu={mtu}"),
        ("MSB_HOST_ALIAS", HOST_ALIAS),
    ]
    for name, guest, gateway, prefix in (
        ("MSB_NET_IPV4", addressing.guest_ipv4, addressing.gateway_ipv4, IPV4_PREFIX),
        ("MSB_NET_IPV6", addressing.guest_ipv6, addressing.gateway_ipv6, IPV6_PREFIX),
    ):
        if guest is not None and gateway is not None:
            variables.append((name, f"addr={text(guest)}/{prefix},gw={text(gateway)},dns={text(gateway)}"))
    return variables


def _pooled_ipv4(pool: str, slot: int) -> tuple[bytes, bytes]:
    base, prefix = _parse_pool(pool, 4)
    if prefix > IPV4_PREFIX:
        raise ConfigError(f"invalid IPv4 pool {pool}: must be large enough to contain at least one /30 block")
    blocks = 1 << (IPV4_PREFIX - prefix)
    if slot >= blocks:
        raise ConfigError(f"slot {slot} exceeds IPv4 pool {pool} capacity ({blocks} /30 blocks)")
    network = base + 4 * slot
    return (network + 2).to_bytes(4, "big"), (network + 1).to_bytes(4, "big")


def _pooled_ipv6(pool: str, slot: int) -> tuple[bytes, bytes]:
    base, prefix = _parse_pool(pool, 16)
    if prefix > IPV6_PREFIX:
        raise ConfigError(f"invalid IPv6 pool {pool}: must be large enough to contain at least one /64 prefix")
    prefixes = 1 << (IPV6_PREFIX - prefix)
    if slot >= prefixes:
        raise ConfigError(f"slot {slot} exceeds IPv6 pool {pool} capacity ({prefixes} /64 prefixes)")
    network = base + (slot << 64)
    return (network + 2).to_bytes(16, "big"), (network + 1).to_bytes(16, "big")


def _parse_pool(pool: str, size: int) -> tuple[int, int]:
    """Base as a number, host bits cleared, and prefix length of `pool`, whose addresses have `size` bytes."""
    address, slash, length = pool.partition("/")
    base = _parse_address(address, size, f"invalid IPv{4 if size == 4 else 6} pool {pool}")
    if not slash or not length.isascii() or not length.isdecimal() or int(length) > size * 8:
        raise ConfigError(f"invalid IPv{4 if size == 4 else 6} pool {pool}: must be ADDRESS/PREFIX")
    shift = size * 8 - int(length)
    return int.from_bytes(base, "big") >> shift << shift, int(length)


def _explicit_ipv4(address: str) -> tuple[bytes, bytes]:
    guest = _parse_address(address, 4, f"IPv4 address {address}")
    number = int.from_bytes(guest, "big")
    if (
        number <= 1 or guest[0] == 127 or guest[0] >= 224
    ):  # 0.0.0.0 has nothing before it, and 0.0.0.1 no usable gateway
        raise ConfigError(f"IPv4 address {address}: must be a unicast address")
    return guest, (number - 1).to_bytes(4, "big")


def _explicit_ipv6(address: str) -> tuple[bytes, bytes]:
    guest = _parse_address(address, 16, f"IPv6 address {address}")
    gateway = guest[:8] + bytes(7) + b"\x01"
    if guest[0] == 0xFF or not any(guest[:15]):
        raise ConfigError(f"IPv6 address {address}: must be a unicast address")
    if guest == gateway:
        raise ConfigError(f"IPv6 address {address}: ::1 of its /64 is the gateway")
    return guest, gateway


def _parse_address(address: str, size: int, what: str) -> bytes:
    try:
        packed = pack(address)
    except ValueError:
        packed = b""
    if len(packed) != size:
        raise ConfigError(f"{what}: {address!r} is not an IPv{4 if size == 4 else 6} address")
    return packed
