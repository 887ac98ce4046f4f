"""Which addresses a pool may give: one network that many guests share, or a network cut out of a larger one for each.

Of a network for each guest the gateway is the first host and the guest the second, in a /30 that is all there is. What
is taken or reserved is left out once, at the start, so that what remains are runs of addresses in equal steps: a /8 cut
into /30 takes no more room than one /30, and a /64 of IPv6 none more than a /24.

Does not: know who has an address (`pool` does), or look at the host's networks; they are handed in.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bucatini.base.address import text
from bucatini.base.errors import ConfigError

__all__ = ["AddressPlan", "LeaseRange", "Network", "Place"]

Network = tuple[bytes, int]
"""Packed address and prefix length; bits behind the prefix are ignored."""


@dataclass(frozen=True, slots=True)
class LeaseRange:
    """Addresses to give: of one network that its guests share, or a network for each guest.

    All addresses are packed and of one family. `guest_length` is the prefix length of each guest's own network, None
    for a shared one. `gateway` (default: the first host), `first` and `last` (default: all hosts) are of a shared one
    only.
    """

    network: bytes
    prefix_length: int
    guest_length: int | None = None
    gateway: bytes | None = None
    first: bytes | None = None
    last: bytes | None = None


class Place(NamedTuple):
    """An address of the pool and the network around it."""

    address: bytes
    prefix_length: int
    gateway: bytes


class _Run(NamedTuple):
    """Addresses in equal steps. Numbers are those of the packed addresses."""

    first: int
    step: int
    size: int
    prefix_length: int
    gateway: int | None
    """None: the address before each."""


class AddressPlan:
    """All addresses to give, in order. Raises ConfigError for ranges that cannot be, or when no address is left.

    No network that overlaps one of `taken` is used, and none of the `reserved` addresses; of networks for each guest,
    none that holds one. Those of the other family are ignored.
    """

    def __init__(
        self, ranges: Sequence[LeaseRange], taken: Sequence[Network] = (), reserved: Iterable[bytes] = ()
    ) -> None:
        self.length = len(ranges[0].network) if ranges else 4
        """Bytes of an address."""
        runs: list[_Run] = []
        single = [(address, 8 * len(address)) for address in reserved]
        for block in ranges:
            _check_range(block, self.length)
            runs.extend(_runs(block, taken, single))
        self._runs = sorted(runs, key=lambda run: run.first)
        for one, other in zip(self._runs, self._runs[1:], strict=False):
            if one.first + one.step * (one.size - 1) >= other.first:
                raise ConfigError(f"lease pool: two of its ranges overlap at {text(self._packed(other.first))}")
        self._firsts = [run.first for run in self._runs]
        self._starts = [0]
        for run in self._runs:
            self._starts.append(self._starts[-1] + run.size)
        self.size = self._starts[-1]
        """How many there are."""
        self._gateways = {run.gateway for run in self._runs if run.gateway is not None}
        if not self.size:
            raise ConfigError("lease pool: no address is left in its ranges")

    def at(self, index: int) -> Place:
        """The address at `index`, 0 to `size` - 1."""
        which = bisect_right(self._starts, index) - 1
        run = self._runs[which]
        return self._place(run, run.first + run.step * (index - self._starts[which]))

    def place(self, address: bytes) -> Place | None:
        """The address, if it is one to give."""
        number = int.from_bytes(address, "big")
        run = self._run(number) if len(address) == self.length else None
        return None if run is None else self._place(run, number)

    def is_gateway(self, address: bytes) -> bool:
        """Whether it is the gateway of an address to give."""
        if len(address) != self.length:
            return False
        number = int.from_bytes(address, "big")
        run = self._run(number + 1)
        return number in self._gateways or (run is not None and run.gateway is None)

    def _run(self, number: int) -> _Run | None:
        which = bisect_right(self._firsts, number) - 1
        if which < 0:
            return None
        run = self._runs[which]
        index, beside = divmod(number - run.first, run.step)
        return run if not beside and index < run.size else None

    def _place(self, run: _Run, number: int) -> Place:
        gateway = number - 1 if run.gateway is None else run.gateway
        return Place(self._packed(number), run.prefix_length, self._packed(gateway))

    def _packed(self, number: int) -> bytes:
        return number.to_bytes(self.length, "big")


def _runs(block: LeaseRange, taken: Sequence[Network], reserved: Sequence[Network]) -> Iterator[_Run]:
    """The addresses of a range without what is taken or reserved."""
    bits = 8 * len(block.network)
    base, end = _span(block.network, block.prefix_length)
    used = [_span(*each) for each in taken if len(each[0]) * 8 == bits]
    single = [_span(*each) for each in reserved if len(each[0]) * 8 == bits]
    step, length, gateway = 1, block.prefix_length, None
    if block.guest_length is None:
        if any(low <= end and high >= base for low, high in used):
            return
        gateway = base + 1 if block.gateway is None else int.from_bytes(block.gateway, "big")
        last = end - 1 if bits == 32 else end  # IPv6 has no broadcast
        first = max(base + 1, base if block.first is None else int.from_bytes(block.first, "big"))
        count = min(last, last if block.last is None else int.from_bytes(block.last, "big")) - first + 1
        holes = [(low - first, high - first) for low, high in (*single, (gateway, gateway))]
    else:
        length = block.guest_length
        step = 1 << bits - length
        first, count = base + 2, (end - base + 1) // step
        holes = [((low - base) // step, (high - base) // step) for low, high in (*used, *single)]
    at = 0
    for low, high in (*sorted(holes), (count, count)):
        stop = min(low, count)
        if stop > at:
            yield _Run(first + step * at, step, stop - at, length, gateway)
        at = max(at, high + 1)


def _span(network: bytes, prefix_length: int) -> tuple[int, int]:
    """First and last number of a network."""
    host_bits = 8 * len(network) - prefix_length
    base = int.from_bytes(network, "big") >> host_bits << host_bits
    return base, base + (1 << host_bits) - 1


def _check_range(block: LeaseRange, length: int) -> None:
    if len(block.network) not in (4, 16) or len(block.network) != length:
        raise ConfigError("lease pool: all its ranges must be of one address family")
    bits = 8 * length
    what = f"lease pool {text(block.network)}/{block.prefix_length}"
    if not 0 < block.prefix_length <= bits - 2:
        raise ConfigError(f"{what}: expected a prefix length of 1 to {bits - 2}")
    base, end = _span(block.network, block.prefix_length)
    top = base >> bits - 8
    if top == 0xFF or (length == 4 and (top in (0, 127) or top >= 224)):
        raise ConfigError(f"{what}: not a network of hosts")
    shared = (block.gateway, block.first, block.last)
    if block.guest_length is None:
        for address in shared:
            if address is not None and not (len(address) == length and base < int.from_bytes(address, "big") <= end):
                raise ConfigError(f"{what}: {_described(address)} is not a host of it")
    elif not block.prefix_length <= block.guest_length <= bits - 2:
        raise ConfigError(
            f"{what}: networks of guests have prefix lengths of {block.prefix_length} to {bits - 2}, "
            f"not {block.guest_length}"
        )
    elif shared != (None, None, None):
        raise ConfigError(f"{what}: in a network for each guest the gateway is the first host, the guest the second")


def _described(address: bytes) -> str:
    return text(address) if len(address) in (4, 16) else address.hex()
