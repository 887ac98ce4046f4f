"""The command `slirp4netns`: its command line, its messages and exit statuses, in front of our engine."""

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
    from bucatini.config.slirp_arguments import parse_slirp, slirp_usage

    fill_standard_streams()
    try:
        config = parse_slirp(list(sys.argv[1:] if argv is None else argv))
        if isinstance(config, Answer):
            print_text(config.text)
            return 0
        from bucatini.api.slirp import slirp

        return slirp(config)
    except UsageError as error:
        print_error("slirp4netns", str(error))
        sys.stderr.write(slirp_usage())
    except (ConfigError, HostError) as error:
        print_error("slirp4netns", str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
