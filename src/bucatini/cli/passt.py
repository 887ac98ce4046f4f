"""The command `passt`: its command line, in front of our engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bucatini.cli.compat_main import compat_main

if TYPE_CHECKING:
    from bucatini.config.passt import PasstConfig

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """See `cli.compat_main`."""
    from bucatini.config.passt_arguments import parse_passt
    from bucatini.config.passt_options import passt_usage

    return compat_main("passt", argv, parse_passt, passt_usage, _serve)


def _serve(config: PasstConfig) -> int:
    from bucatini.api.passt import passt
    from bucatini.host.descriptors import keep_only

    # The program that starts us may hold open what it must see the end of.
    keep_only(set() if config.fd is None else {config.fd})
    return passt(config)


if __name__ == "__main__":
    sys.exit(main())
