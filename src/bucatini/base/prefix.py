"""Address prefixes and a longest-prefix table over both families (RFC 4632 section 3.1, RFC 4291 section 2.3).

A table is built once and never changes; a new policy is a new table. Nested prefixes are flattened into ranges that do
not overlap, so a look-up is one bisect: packed addresses of one family have one length, and bytes of one length compare
as the numbers they are. Does not: merge neighbours, delete, or look at time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from bucatini.base.address import pack, text

__all__ = ["Prefix", "PrefixTable", "parse_prefix", "truncated"]

V = TypeVar("V")


class Prefix(NamedTuple):
    """All addresses that share their first `length` bits with `address` (packed, the other bits zero)."""

    address: bytes
    length: int

    @property
    def is_full(self) -> bool:
        """True when the prefix is one address."""
        return self.length == 8 * len(self.address)

    def __str__(self) -> str:
        return text(self.address) if self.is_full else f"{text(self.address)}/{self.length}"


def truncated(address: bytes, length: int) -> Prefix:
    """The prefix of `length` bits, 0 to all of them, that holds `address`."""
    spare = 8 * len(address) - length
    number = int.from_bytes(address, "big") >> spare << spare
    return Prefix(number.to_bytes(len(address), "big"), length)


def parse_prefix(written: str, *, host_bits: bool = False) -> Prefix:
    """An address (the prefix of that one address) or a CIDR. Raises ValueError with a reason fit for a user.

    Stricter than most: no netmask after the slash, no zone, no leading zeros, and no host bits (`host_bits`: they are
    ignored). What is refused is what two readers could take for different things.
    """
    head, slash, tail = written.partition("/")
    address = pack(head)
    bits = 8 * len(address)
    if not slash:
        return Prefix(address, bits)
    if not _is_number(tail) or int(tail) > bits:
        raise ValueError(f"prefix length {tail!r} is not a number from 0 to {bits}")
    network = truncated(address, int(tail))
    if network.address != address and not host_bits:
        raise ValueError(f"host bits are set: write {text(network.address)}/{network.length} or {text(address)}")
    return network


def _is_number(digits: str) -> bool:
    return digits.isascii() and digits.isdigit() and len(digits) <= 3 and str(int(digits)) == digits


class PrefixTable(Generic[V]):
    """Immutable longest-prefix match. `default` answers where no prefix does. Of equal prefixes the last given wins."""

    __slots__ = ("_four", "_six")

    def __init__(self, entries: Iterable[tuple[Prefix, V]], default: V) -> None:
        kept = list(entries)
        self._four = _flatten(4, kept, default)
        self._six = _flatten(16, kept, default)

    def find(self, address: bytes) -> V:
        """The value of the longest prefix that holds `address` (packed, 4 or 16 bytes), or the default."""
        starts, values = self._four if len(address) == 4 else self._six
        return values[bisect_right(starts, address) - 1]


def _flatten(size: int, entries: Iterable[tuple[Prefix, V]], default: V) -> tuple[list[bytes], list[V]]:
    """Starts of ranges in order, and the value of each. Prefixes nest or are apart, so a stack is enough."""
    limit = 1 << 8 * size
    starts: list[bytes] = []
    values: list[V] = []

    def begin(start: int, value: V) -> None:
        if start == limit:
            return
        packed = start.to_bytes(size, "big")
        if starts and starts[-1] == packed:
            values[-1] = value
        else:
            starts.append(packed)
            values.append(value)

    begin(0, default)
    enclosing: list[tuple[int, V]] = [(limit, default)]

    def leave() -> None:
        end, _ = enclosing.pop()
        begin(end, enclosing[-1][1])

    # A prefix sorts before those inside it: same or smaller address, shorter length. The sort is stable.
    for prefix, value in sorted((e for e in entries if len(e[0].address) == size), key=lambda e: e[0]):
        start = int.from_bytes(prefix.address, "big")
        while enclosing[-1][0] <= start:
            leave()
        begin(start, value)
        enclosing.append((start + (1 << 8 * size - prefix.length), value))
    while len(enclosing) > 1:
        leave()
    return starts, values
