"""`bucatini attach [OPTIONS] PID | --netns NAME|PATH`: a network for a namespace that exists already."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bucatini.cli import options

__all__ = ["main", "make_parser"]

_USAGE = "bucatini attach [OPTIONS] PID | --netns NAME|PATH"

_DESCRIPTION = """\
Serve an existing network namespace: give it an interface with a complete IPv4 and IPv6 network and stay until the
namespace is gone, or until SIGINT or SIGTERM. It is that of process PID, with the process's user namespace, or one by
name (below /run/netns) or path. As root, or as the user who made the namespace.
"""

_EPILOG = """\
TARGET is an address, a CIDR such as 10.0.0.0/8, or a group: public private loopback link-local metadata
multicast host. The longest prefix wins; deny wins a tie.

exit status:
  0 when the namespace is gone or a signal ended us; 2 if the options or this host do not allow it; 1 for a failure
  while serving

examples:
  unshare -Urn sleep 1d &  bucatini attach $!           a network for the sleeping process's namespace
  ip netns add box;        bucatini attach --netns box -p 8080:80
  bucatini attach --netns /run/user/1000/netns/x --mirror-host --no-config-net    for a DHCP client in there
  bucatini attach --control /run/user/1000/box.sock $PID  then: bucatini forward --control ... add -t 8080
"""


def main(words: Sequence[str]) -> int:
    """Serve what `words` name and return the exit status. Raises ConfigError and HostError before the network is up."""
    parsed = options.parse(make_parser(), words)
    if parsed is None:
        return 0
    from bucatini.config.arguments import attach_config

    config = attach_config(*parsed)
    from bucatini import api

    return api.attach(config)


def make_parser() -> argparse.ArgumentParser:
    """The options of `attach`."""
    parser = options.make_parser("attach", _USAGE, _DESCRIPTION, _EPILOG)
    group = parser.add_argument_group("namespace")
    add = group.add_argument
    add("--netns", metavar="NAME|PATH", help="network namespace, below /run/netns or by path")
    add("--userns", metavar="PATH", help="user namespace to join first (default: that of PID; none with --netns)")
    add("--netns-only", action="store_true", help="join no user namespace")
    add("--no-netns-quit", action="store_true", help="stay when the namespace is gone")
    options.add_guest_options(parser)
    return parser
