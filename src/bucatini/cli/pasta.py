"""The command `pasta`: its command line, in front of our engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bucatini.cli.compat_main import compat_main

if TYPE_CHECKING:
    from bucatini.config.pasta import PastaConfig

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """See `cli.compat_main`."""
    from bucatini.config.pasta_arguments import parse_pasta
    from bucatini.config.pasta_options import pasta_usage

    return compat_main("pasta", argv, parse_pasta, pasta_usage, _serve)


def _serve(config: PastaConfig) -> int:
    from bucatini.api.pasta import pasta

    return pasta(config)


if __name__ == "__main__":
    sys.exit(main())
