"""The command `softnet`: its command line, in front of our engine."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bucatini.cli.compat_main import compat_main

if TYPE_CHECKING:
    from bucatini.config.softnet import SoftnetConfig

__all__ = ["main"]

MISUSED = 2


def main(argv: Sequence[str] | None = None) -> int:
    """See `cli.compat_main`. Words that are no command line of softnet's end with status 2, an interrupt with 0."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    from bucatini.config.softnet_arguments import parse_softnet, softnet_usage

    return compat_main("softnet", argv, parse_softnet, softnet_usage, _serve, misused=MISUSED)


def _serve(config: SoftnetConfig) -> int:
    from bucatini.api.softnet import softnet
    from bucatini.api.vm import end_quietly
    from bucatini.host.descriptors import keep_only

    end_quietly()
    # The program that starts us may hold open what it must see the end of.
    keep_only({config.vm_fd} if config.control_fd is None else {config.vm_fd, config.control_fd})
    return softnet(config)


if __name__ == "__main__":
    sys.exit(main())
