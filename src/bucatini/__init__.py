"""A user-mode network engine: a guest sees a complete network, the host sees the ordinary sockets of one process.

The folders of this package are its layers; docs/architecture.md names them in order. Importing this module loads
nothing else: what is expensive is imported where it is used.

When the environment holds BUCATINI_PURE=1, every module is loaded from its Python source, compiled or not.
"""

from __future__ import annotations

import os

__all__ = ["__version__"]

__version__ = "0.1.0.dev0"

if os.environ.get("BUCATINI_PURE", "0") not in ("", "0"):
    from bucatini._build import load_only_source

    load_only_source()
