"""The command `pasta`: its command line, its messages and exit statuses, in front of our engine.

Exit statuses are pasta's: 1 for whatever cannot be, 0 when the namespace is gone or the background is reached, else the
command's own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bucatini.base.errors import ConfigError, HostError
from bucatini.cli.printing import fill_standard_streams, print_error, print_text

__all__ = ["main"]

FAILED = 1
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name; default: the process's) and return the exit status."""
    from bucatini.config.getopt_words import Answer, UsageError
    from bucatini.config.pasta_arguments import parse_pasta
    from bucatini.config.pasta_options import pasta_usage

    fill_standard_streams()
    try:
        config = parse_pasta(list(sys.argv[1:] if argv is None else argv))
        if isinstance(config, Answer):
            print_text(config.text)
            return 0
        from bucatini.api.pasta import pasta

        return pasta(config)
    except UsageError as error:
        print_error("pasta", str(error))
        sys.stderr.write(pasta_usage())
    except (ConfigError, HostError) as error:
        print_error("pasta", str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
