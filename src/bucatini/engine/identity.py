"""What the guest of a translator may call itself: the binding that its network makes.

The guest is alone on its link and has networks of its own, so its addresses are bound for as long as it lives: those it
was given, and of IPv6 every address of the prefixes it is told to make its own in (RFC 4862) and of fe80::/64, since
many systems make such an address without the MAC (RFC 7217). Where addresses come from a pool that others share
(`leased`), the IPv4 address is the lease's and comes and goes with it.

Of a guest that has yet to show its MAC address (`unmet`) no frame is its own, whatever MAC address it is from: else the
one it is taken for until then would be one more that it may use.

When the network is replaced, what the guest was given before stays bound until the next time: it is in use.
"""

from __future__ import annotations

from bucatini.base.address import LINK_LOCAL_PREFIX
from bucatini.guard.binding import Binding
from bucatini.stack.settings import StackSettings

__all__ = ["NOBODY", "bind"]

LINK_LOCAL = LINK_LOCAL_PREFIX + bytes(8)
NOBODY = bytes(6)
"""The MAC address of a binding that has none."""
NO_MAC = -2
"""Equal to no frame's, not even one that is too short to have any."""


def bind(
    settings: StackSettings, *, leased: bool = False, before: StackSettings | None = None, unmet: bool = False
) -> Binding:
    """The binding of `settings.guest_mac`. `before`: the settings that these replace."""
    servers = () if settings.gateway_ipv4 is None else (settings.gateway_ipv4,)
    routers = () if settings.router is None else (settings.router.link_local,)
    binding = Binding(settings.guest_mac, (*settings.gateways, *routers), servers=servers)
    for each in (settings,) if before is None else (settings, before):
        for address in (*each.guests, *each.given):
            if len(address) == 16 or not leased:
                binding.bind(address)
        for prefix in each.router.prefixes if each.router is not None else ():
            binding.bind_prefix(prefix.prefix, prefix.length)
    binding.bind_prefix(LINK_LOCAL, 64)
    if unmet:
        binding.mac, binding.mac_high = NOBODY, NO_MAC
    return binding
