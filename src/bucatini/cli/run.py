"""`bucatini run [OPTIONS] [--] [COMMAND [ARG...]]`: a command on a network of its own.

Options end at the first word that is none, so the command keeps its own (`cli.options`). Everything the engine needs is
imported after they were read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from bucatini.cli import options

__all__ = ["main", "make_parser"]

_USAGE = "bucatini run [OPTIONS] [--] [COMMAND [ARG...]]"

_DESCRIPTION = """\
Run COMMAND (default: your shell) in a network namespace of its own, as root or as an ordinary user.
It sees a complete IPv4 and IPv6 network on eth0; each of its connections is decided by a policy, made by
an ordinary socket of this host, counted, and explained when it is refused. Its exit status is ours.
"""

_EPILOG = """\
TARGET is an address, a CIDR such as 10.0.0.0/8, or a group: public private loopback link-local metadata
multicast host. The longest prefix wins; deny wins a tie. 'host' is this machine's loopback, which the command
reaches under the name host.bucatini.internal.

exit status:
  that of COMMAND; 128+N if it died of signal N; 127 if it was not found, 126 if it could not be started;
  2 if the options or this host do not allow the run

examples:
  bucatini run                                          a shell on its own network
  bucatini run -- curl https://example.org/             public destinations only (the default policy)
  bucatini run --allow host -- curl http://host.bucatini.internal:8000/
  bucatini run --policy none --allow 192.0.2.10 --summary -- ./agent
  bucatini run -p 8080:80 -- python3 -m http.server 80  reachable on port 8080 of this host
  bucatini run --pcap out.pcapng --events out.jsonl -- make test
"""


def main(words: Sequence[str]) -> int:
    """Run what `words` ask for and return the exit status. Raises ConfigError and HostError before the command runs."""
    parsed = options.parse(make_parser(), words)
    if parsed is None:
        return 0
    from bucatini.config.arguments import run_config

    arguments, command = parsed
    config = run_config(arguments, command or [os.environ.get("SHELL") or "/bin/sh"])
    from bucatini import api

    return api.run(config)


def make_parser() -> argparse.ArgumentParser:
    """The options of `run`."""
    parser = options.make_parser("run", _USAGE, _DESCRIPTION, _EPILOG)
    options.add_guest_options(parser)
    return parser
