"""The gateway's DNS forwarder at work: sockets to the host's resolvers, streams from the guest, on one loop.

What is decided, and the messages made here, are in `services.dns`; this package owns descriptors, timers and bounds.
All of it is callbacks of one asyncio loop: no tasks, no threads. Does not: listen anywhere, import dnspython.
"""

from __future__ import annotations

from bucatini.engine.dns.forwarder import Counters, Forwarder, Settings

__all__ = ["Counters", "Forwarder", "Settings"]
