"""The only unsafe code of the program: memory that frames live in, and the system calls that act on it.

Two twins stand behind one interface: `fast` (Cython: pointers, `msghdr` arrays, no exception for EAGAIN) and `slow`
(plain Python, same results). `Arena` and `checksum` come from the first that is there; `FORM` says which.
`BUCATINI_PURE=1` takes the second. Each test of this package runs against both.

Results follow one rule: a count of bytes or frames when it is zero or more, `-errno` when the kernel refused. Nothing
here raises for what a peer or a full buffer can cause; a position outside the arena is a bug of ours and raises
`ValueError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bucatini.native.slow import Arena, checksum, splice

    FORM: str
else:
    try:
        from bucatini.native.fast import Arena, checksum, splice

        FORM = "compiled"
    except ImportError:
        from bucatini.native.slow import Arena, checksum, splice

        FORM = "pure"

__all__ = ["FORM", "Arena", "checksum", "splice"]
