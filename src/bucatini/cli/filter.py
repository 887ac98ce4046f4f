"""`bucatini filter LINK --mac MAC --bridge BRIDGE [OPTIONS]`: a guest on a bridge of this host, and only as itself."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from bucatini.base.errors import ConfigError
from bucatini.cli import options

__all__ = ["main", "make_parser"]

_USAGE = "bucatini filter LINK --mac MAC --bridge BRIDGE [OPTIONS]"

_DESCRIPTION = """\
Put a virtual machine on a bridge of this host, whose DHCP server, address translation and names are the host's own. Its
frames pass unchanged or are dropped: it speaks under its own MAC address and the address it was leased, while the lease
lasts, and reaches public addresses, the gateway and the lease's DNS servers. Needs CAP_NET_ADMIN for set-up and gives
it up then. Serves until SIGINT or SIGTERM, or until the guest behind --fd is gone.
"""

_EPILOG = """\
RULE is [in|out ]TARGET[:PORT|:A-B]. TARGET is an address, a CIDR, or @host, the gateway; IPv6 in brackets before ports.
The longest prefix wins, a block wins a tie, and rules with ports win over those without. A rule with in or out makes
all rules follow flows: who answers needs no rule. A bare --allow 0.0.0.0/0 also ends the isolation from other guests.

exit status:
  0 when a signal ended us or the guest is gone; 2 if the options or this host do not allow it; 1 for a failure while
  serving

examples (5 is a descriptor from the program that starts us):
  bucatini filter --fd 5 --mac 02:00:00:00:00:07 --bridge br0
  bucatini filter --socket net.sock --mac 02:00:00:00:00:07 --bridge br0 --allow 192.168.1.0/24 --expose 2222:22
  bucatini filter --dgram net.sock,vm.sock --mac 02:00:00:00:00:07 --bridge br0 --block 0.0.0.0/0 --allow 1.1.1.1:53
"""


def main(words: Sequence[str]) -> int:
    """Filter as `words` say and return the exit status. Raises ConfigError and HostError before the guest is heard."""
    arguments = options.parse_machine(make_parser(), words)
    if arguments is None:
        return 0
    from bucatini.config.filter import filter_config

    config = filter_config(arguments)
    from bucatini.api.filter import filter as serve

    return serve(config)


def make_parser() -> argparse.ArgumentParser:
    """The options of `filter`."""
    parser = options.make_parser("filter", _USAGE, _DESCRIPTION, _EPILOG)
    _add_guest(parser.add_argument_group("the guest"))
    _add_network(parser.add_argument_group("the host's side"))
    _add_policy(parser.add_argument_group("policy"))
    _add_reports(parser.add_argument_group("reports"))
    return parser


def _add_guest(group: argparse._ArgumentGroup) -> None:
    for name, metavar, help_text in (
        ("fd", "N", "LINK: a connected socket or an open TAP, inherited as descriptor N"),
        ("dgram", "LOCAL[,REMOTE]", "LINK: UNIX datagram socket, bare frames, at LOCAL; the guest is at REMOTE "
         "(default: where its first frame comes from)"),
        ("socket", "PATH", "LINK: UNIX stream socket, frames behind their length (QEMU's stream netdev, libkrun)"),
        ("seqpacket", "PATH", "LINK: UNIX seqpacket socket, bare frames"),
        ("vhost-user", "PATH", "LINK: vhost-user back end, in the guest's own memory"),
    ):  # fmt: skip
        group.add_argument(f"--{name}", metavar=metavar, dest="link", action=_Link, const=name, help=help_text)
    group.add_argument("--mac", metavar="MAC", action=_Mac, help="the guest's MAC address; it is heard under no other")
    group.add_argument(
        "--address", metavar="ADDR", action="append", default=[],
        help="an address that is the guest's without a lease, such as an IPv6 one that it makes up; "
        "repeatable",
    )  # fmt: skip


def _add_network(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--bridge", metavar="BRIDGE", help="the bridge, which exists")
    add("--host-tap", metavar="NAME", help="name of the TAP that is made and made its port (default: bucatiniPID)")
    add(
        "--vm-net-type", metavar="TYPE", default="nat",
        help="nat: the world sees the guest under this host's address (default); host: it reaches this host only",
    )  # fmt: skip
    add(
        "--gateway", metavar="ADDR", action="append", default=[],
        help="router, DHCP or DHCPv6 server of the guest, which @host means; repeatable "
        "(default: the bridge's addresses)",
    )  # fmt: skip
    add(
        "--expose", metavar="EXTERNAL:INTERNAL", action="append", default=[],
        help="TCP port EXTERNAL of this host leads to port INTERNAL of the guest while its lease lasts; repeatable",
    )  # fmt: skip
    add("--user", metavar="NAME", help="user to become after set-up (default: who started us)")
    add("--group", metavar="NAME", help="group to become (default: the user's)")


def _add_policy(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--allow", metavar="RULE", action="append", default=[], help="also let the guest reach RULE; repeatable")
    add("--block", metavar="RULE", action="append", default=[], help="keep it from RULE; repeatable")
    add("--faithful", action="store_true", help="decide exactly as Softnet 0.19.0 does, holes included")
    add("--control", metavar="PATH", help="control socket: softnet.policy.get and .set while the guest runs")
    add("--control-fd", metavar="N", help="the same over a connected UNIX stream socket, inherited as descriptor N")


def _add_reports(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--pcap", metavar="FILE", help="write a pcapng capture of the guest's side, with drop reasons")
    add("--events", metavar="FILE", help="append a JSON line now and then for the guest's frames that are dropped")
    add("--summary", action="store_true", help="print at the end what was dropped, and why")
    add("-v", "--verbose", action="store_true", help="print a line for these events, and frames passed at the end")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    add("-h", "--help", action="help", help="show this help")


class _Mac(argparse.Action):
    """The guest's MAC address, once."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if namespace.mac not in (None, values):
            raise ConfigError(f"--mac {values!r}: the guest has {namespace.mac!r} already")
        namespace.mac = values


class _Link(argparse.Action):
    """The guest's link, once."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if namespace.link is not None:
            kind, where = namespace.link
            raise ConfigError(f"--{self.const} {values!r}: --{kind} {where} is the link already; one guest is served")
        namespace.link = (self.const, values)
