"""Sockets through which a running engine is changed: ours (`server`, `forwards`, `links`, `client`), slirp4netns's
(`slirp`) and Softnet's (`softnet`).

The servers are imported when they are asked for: the client does without asyncio and the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bucatini.engine.control.forwards import forward_methods
    from bucatini.engine.control.server import ControlServer

__all__ = ["ControlServer", "forward_methods"]


def __getattr__(name: str) -> Any:
    if name == "ControlServer":
        from bucatini.engine.control.server import ControlServer

        return ControlServer
    if name == "forward_methods":
        from bucatini.engine.control.forwards import forward_methods

        return forward_methods
    raise AttributeError(name)
