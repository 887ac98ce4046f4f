"""What the compat commands' mains have in common: words to a configuration, errors to one line and status 1.

Exit statuses are those of the programs we stand in for: 1 for whatever cannot be, 0 when the namespace is gone or the
background is reached, else the command's own.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from bucatini.base.errors import ConfigError, HostError
from bucatini.cli.printing import fill_standard_streams, print_error, print_text
from bucatini.config.getopt_words import Answer, UsageError

__all__ = ["compat_main"]

FAILED = 1
INTERRUPTED = 130

Config = TypeVar("Config")


def compat_main(
    name: str,
    argv: Sequence[str] | None,
    parse: Callable[[Sequence[str]], Config | Answer],
    usage: Callable[[], str],
    serve: Callable[[Config], int],
    *,
    misused: int = FAILED,
) -> int:
    """Run the command line `argv` (without the program's name; default: the process's) and return the exit status,
    `misused` for words that are no command line.
    """
    fill_standard_streams()
    try:
        config = parse(list(sys.argv[1:] if argv is None else argv))
        if isinstance(config, Answer):
            print_text(config.text)
            return 0
        return serve(config)
    except UsageError as error:
        print_error(name, str(error))
        sys.stderr.write(usage())
        return misused
    except (ConfigError, HostError) as error:
        print_error(name, str(error))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        print_error(name, f"{error.strerror}; raise the limit (ulimit -n) or free memory")
    except KeyboardInterrupt:
        return INTERRUPTED
    return FAILED
