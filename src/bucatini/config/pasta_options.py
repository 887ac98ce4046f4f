"""The options of pasta(1): the union of what Debian's build of 2023 and the later ones take.

Options that only passt has are known, so that they are refused by name. Does not: say what an option does with its
value (`config.pasta_arguments`).
"""

from __future__ import annotations

from bucatini.config import passt_options
from bucatini.config.getopt_words import option_lines
from bucatini.config.passt_options import COLUMN, GUEST_PORTS, NAMESPACE_PORTS, PASST_ONLY, PASTA_ONLY, ports_help

__all__ = ["COMMON", "PASST_ONLY", "PORTS", "pasta_usage"]

COMMON = (*passt_options.COMMON, *PASTA_ONLY)
"""All but the forwarded ports."""

PORTS = (*GUEST_PORTS, *NAMESPACE_PORTS)


def pasta_usage() -> str:
    """What --help prints, and what goes to stderr behind an unknown option."""
    return (
        "usage: pasta [OPTION]... [COMMAND [ARG]...]\n"
        "       pasta [OPTION]... PID\n"
        "       pasta [OPTION]... --netns PATH|NAME\n\n"
        "Connect a network namespace to the host's network: that of COMMAND (default: a shell) which is made for it,\n"
        "that of process PID, or a named one. With COMMAND in the foreground, else in the background.\n\n"
        + option_lines(COMMON, column=COLUMN)
        + "\nports:\n"
        + option_lines(PORTS, column=COLUMN)
        + ports_help("none; auto (default), the ports bound on the other side", " (-t and -u)")
    )
