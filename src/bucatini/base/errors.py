"""The one exception tree, split by whose fault it is.

```text
BucatiniError
├── ConfigError    the user asked for something that cannot be (exit status 2)
├── HostError      the kernel or our privileges refused (exit status 2 before the guest runs, 1 after)
├── PeerError      the guest or the far end broke a protocol at stream level (DNS over TCP, control socket)
└── BugError       we did; please report it
```

A malformed frame is none of these: it is a `DropReason`.
"""

from __future__ import annotations

__all__ = ["BucatiniError", "BugError", "ConfigError", "HostError", "PeerError"]


class BucatiniError(Exception):
    """Base of all; its text is one line fit for a terminal."""


class ConfigError(BucatiniError):
    """An option, a field or a combination of them is not acceptable.

    The text names the option or field, the value given, and what is accepted.
    """


class HostError(BucatiniError):
    """The host kernel refused what we need: a device, a namespace, a port."""


class PeerError(BucatiniError):
    """The other end of a stream we terminate ourselves broke its protocol."""


class BugError(BucatiniError):
    """An invariant of our own does not hold."""
