"""What of a running guest's interface can be replaced, as a message from the engine to the agent.

```text
counts      addresses, gateways, routes: 2 bytes each, network order
address     length (4 or 16), prefix length, the address
gateway     length, the address
route       length, prefix length, 1 or 0, the destination, and the gateway after a 1
```

The whole must fit one message of the channel, 4096 bytes: some 400 IPv4 or 120 IPv6 routes through a gateway.

Does not: know what is there now (`netconf.py` does).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from bucatini.base.errors import HostError
from bucatini.host.channel import MAX_PAYLOAD
from bucatini.host.settings import Route

__all__ = ["NetChange", "pack_change", "unpack_change"]

_COUNTS = struct.Struct("!HHH")
_MOST = 0xFFFF


class NetChange(NamedTuple):
    """The new addresses, gateways and routes, with the meaning they have in `NetSettings`."""

    addresses: tuple[tuple[bytes, int], ...]
    gateways: tuple[bytes, ...]
    routes: tuple[Route, ...]


def pack_change(change: NetChange) -> bytes:
    """The message, at most 4096 bytes. Raises HostError when it would be longer."""
    counts = [len(items) for items in change]
    parts = [_COUNTS.pack(*(min(count, _MOST) for count in counts))]
    parts += [bytes([len(address), prefix_length]) + address for address, prefix_length in change.addresses]
    parts += [bytes([len(gateway)]) + gateway for gateway in change.gateways]
    for destination, prefix_length, gateway in change.routes:
        parts.append(bytes([len(destination), prefix_length, gateway is not None]) + destination + (gateway or b""))
    message = b"".join(parts)
    if len(message) > MAX_PAYLOAD:
        raise HostError(
            f"too much to change at once: {counts[0]} addresses, {counts[1]} gateways and {counts[2]} routes are"
            f" {len(message)} bytes, {MAX_PAYLOAD} fit"
        )
    return message


def unpack_change(message: bytes) -> NetChange:
    """The reverse. Raises ValueError for anything `pack_change` does not make."""
    reader = _Reader(message)
    addresses, gateways, routes = _COUNTS.unpack(reader.take(_COUNTS.size))
    change = NetChange(
        tuple(reader.address() for _ in range(addresses)),
        tuple(reader.take(reader.length()) for _ in range(gateways)),
        tuple(reader.route() for _ in range(routes)),
    )
    reader.end()
    return change


class _Reader:
    """A position in a message."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._position = 0

    def take(self, length: int) -> bytes:
        """The next bytes."""
        found = self._message[self._position : self._position + length]
        if len(found) < length:
            raise ValueError("cut short")
        self._position += length
        return found

    def length(self) -> int:
        """Of the address that follows."""
        return self._number((4, 16))

    def address(self) -> tuple[bytes, int]:
        """An address behind its prefix length."""
        length = self.length()
        prefix_length = self._number(range(8 * length + 1))
        return self.take(length), prefix_length

    def route(self) -> Route:
        """A route; both its addresses are of one family."""
        length = self.length()
        prefix_length = self._number(range(8 * length + 1))
        has_gateway = self._number((0, 1))
        return Route(self.take(length), prefix_length, self.take(length) if has_gateway else None)

    def end(self) -> None:
        """Nothing may follow."""
        if self._position != len(self._message):
            raise ValueError("too long")

    def _number(self, accepted: range | tuple[int, ...]) -> int:
        number = self.take(1)[0]
        if number not in accepted:
            raise ValueError(f"{number} where one of {accepted} is expected")
        return number
