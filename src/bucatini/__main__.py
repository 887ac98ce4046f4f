"""`python -m bucatini` is the `bucatini` command."""

from __future__ import annotations

import sys

from bucatini.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
