"""The only unsafe code of the program: memory that frames live in, and the system calls that act on it.

Pairs of twins stand behind one interface: `fast` and `fast_*` (Cython: pointers, `msghdr` arrays, no exception for
EAGAIN), `slow` and `slow_*` (plain Python, same results). The first that is there is taken; `FORM` says which.
`BUCATINI_PURE=1` takes the second. Each test of this package runs against both.

Results follow one rule: a count of bytes or frames when it is zero or more, `-errno` when the kernel refused. Nothing
here raises for what a peer or a full buffer can cause; a position outside the arena is a bug of ours and raises
`ValueError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bucatini.native.slow import Arena, checksum
    from bucatini.native.slow_outbox import Outbox
    from bucatini.native.slow_poller import Poller
    from bucatini.native.slow_rings import GuestMemory, Ring
    from bucatini.native.slow_splices import CLOSED, FAILED, FAR_RESET, NEAR_RESET, Pair, Splicer

    FORM: str
else:
    try:
        from bucatini.native.fast import Arena, checksum
        from bucatini.native.fast_outbox import Outbox
        from bucatini.native.fast_poller import Poller
        from bucatini.native.fast_rings import GuestMemory, Ring
        from bucatini.native.fast_splices import CLOSED, FAILED, FAR_RESET, NEAR_RESET, Pair, Splicer

        FORM = "compiled"
    except ImportError:
        from bucatini.native.slow import Arena, checksum
        from bucatini.native.slow_outbox import Outbox
        from bucatini.native.slow_poller import Poller
        from bucatini.native.slow_rings import GuestMemory, Ring
        from bucatini.native.slow_splices import CLOSED, FAILED, FAR_RESET, NEAR_RESET, Pair, Splicer

        FORM = "pure"

__all__ = [
    "CLOSED",
    "FAILED",
    "FAR_RESET",
    "FORM",
    "NEAR_RESET",
    "Arena",
    "GuestMemory",
    "Outbox",
    "Pair",
    "Poller",
    "Ring",
    "Splicer",
    "checksum",
]
