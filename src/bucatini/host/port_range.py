"""The ports the kernel hands out by itself, which nobody forwards by the thousand (ip(7), ip_local_port_range)."""

from __future__ import annotations

from bucatini.forward.port_grammar import DEFAULT_EPHEMERAL, parse_ephemeral

__all__ = ["ephemeral_ports"]

_PATH = "/proc/sys/net/ipv4/ip_local_port_range"


def ephemeral_ports() -> range:
    """Of the network namespace the caller is in; what RFC 6335 says where the kernel does not."""
    try:
        with open(_PATH, "rb") as entry:
            return parse_ephemeral(entry.read().decode("ascii", "replace")) or DEFAULT_EPHEMERAL
    except OSError:
        return DEFAULT_EPHEMERAL
