"""The command `slirp4netns`: its command line, in front of our engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bucatini.cli.compat_main import compat_main

if TYPE_CHECKING:
    from bucatini.config.slirp import SlirpConfig

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """See `cli.compat_main`."""
    from bucatini.config.slirp_arguments import parse_slirp, slirp_usage

    return compat_main("slirp4netns", argv, parse_slirp, slirp_usage, _serve)


def _serve(config: SlirpConfig) -> int:
    from bucatini.api.slirp import slirp

    return slirp(config)


if __name__ == "__main__":
    sys.exit(main())
