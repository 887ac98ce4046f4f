"""`bucatini switch LINK... [OPTIONS]`: virtual machines on one segment, where each reaches only whom it may.

Each link is one guest; what is given behind a link (name, MAC address, ports) is that guest's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from bucatini.base.errors import ConfigError
from bucatini.cli import options, vm

__all__ = ["main", "make_parser"]

_USAGE = "bucatini switch LINK [LINK...] [OPTIONS]"

_DESCRIPTION = """\
Give virtual machines a complete IPv4 and IPv6 network and join them to one segment, without root. Each LINK is one
guest. They share an IPv4 network, from which each gets a lease, and a gateway; of IPv6 each has a /64 of its own.
Guests do not reach each other, nor see each other's frames, unless --link says so. Serves until SIGINT or SIGTERM;
guests may come, go and come again.
"""

_EPILOG = """\
--name, --mac and ports (-p -t -u) given behind a LINK are that guest's.

A:B of --link are names of guests: A may begin conversations with B, and B may answer. PROTO is tcp, udp, icmp or any
(default), PORTS are those of B: N, N-N, or several with commas between. Guests that a --link joins resolve each other's
MAC addresses, and A finds B under the name B.internal. 'bucatini link' changes them while we serve, with --control.

exit status:
  0 when a signal ended us or the last guest is gone; 2 if the options or this host do not allow it; 1 for a failure
  while serving

examples:
  bucatini switch --socket web.sock --name web -p 8080:80 --socket db.sock --name db --link web:db:tcp:5432
  bucatini switch --vhost-user a.sock --vhost-user b.sock --link guest1:guest2 --link guest2:guest1
  bucatini switch --dgram a.sock --dgram b.sock --guest-length 30 --lease-file /var/lib/bucatini/leases
"""


def main(words: Sequence[str]) -> int:
    """Serve what `words` name and return the exit status. Raises ConfigError and HostError before a guest can come."""
    arguments = options.parse_machine(make_parser(), words)
    if arguments is None:
        return 0
    from bucatini.config.arguments import switch_config

    config = switch_config(arguments)
    from bucatini.api.switch import switch

    return switch(config)


def make_parser() -> argparse.ArgumentParser:
    """The options of `switch`."""
    parser = options.make_parser("switch", _USAGE, _DESCRIPTION, _EPILOG)
    vm.add_links(parser)
    group = parser.add_argument_group("segment")
    add = group.add_argument
    add("--name", metavar="NAME", action=_Name, help="what the LINK's guest is called (default guest1, guest2, ...)")
    add("--link", metavar="A:B[:PROTO[:PORTS]]", action="append", default=[], help="A may reach B; repeatable")
    add("--network", metavar="CIDR", help="IPv4 network of the guests (default: 172.16.SLOT.0/24)")
    add("--guest-length", metavar="N", help="cut the network: each guest has one of prefix length N, with its gateway")
    add("--lease-file", metavar="PATH", help="keep leases in this file, so that they outlive us")
    add("--control", metavar="PATH", help="control socket: 'bucatini link' changes the link rules while guests run")
    options.add_guest_options(parser, namespace=False, segment=True, port_action=vm.Port)
    return parser


class _Name(argparse.Action):
    """The name of the guest named last."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if not namespace.guests:
            raise ConfigError(f"--name {values!r}: belongs behind the LINK of its guest")
        vm.set_once(namespace.guests[-1], "name", values)
