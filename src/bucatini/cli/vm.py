"""`bucatini vm LINK... [OPTIONS]`: virtual machines on networks of their own.

Each link is one guest; ports given behind a link are that guest's, those before the first link the first guest's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from bucatini.base.errors import ConfigError
from bucatini.cli import options

__all__ = ["Port", "add_links", "main", "make_parser", "set_once"]

_USAGE = "bucatini vm LINK [LINK...] [OPTIONS]"

_DESCRIPTION = """\
Give virtual machines a complete IPv4 and IPv6 network, without root. Each LINK is one guest, with addresses of its
own slot, which it gets by DHCP, DHCPv6 or router advertisements; guests do not reach each other. Serves until SIGINT
or SIGTERM; guests may come, go and come again.
"""

_EPILOG = """\
Ports (-p -t -u) given behind a LINK are that guest's.

TARGET is an address, a CIDR such as 10.0.0.0/8, or a group: public private loopback link-local metadata
multicast host. The longest prefix wins; deny wins a tie. 'host' is this machine's loopback, at the gateway.

exit status:
  0 when a signal ended us or the last guest is gone; 2 if the options or this host do not allow it; 1 for a failure
  while serving

examples:
  bucatini vm --socket net.sock -p 2222:22
      qemu-system-x86_64 ... -device virtio-net-pci,netdev=n
          -netdev stream,id=n,server=off,addr.type=unix,addr.path=net.sock
  bucatini vm --vhost-user net.sock                      the fastest: superframes in the guest's own memory
      qemu-system-x86_64 ... -object memory-backend-memfd,id=m,size=1G,share=on -machine memory-backend=m
          -chardev socket,id=c,path=net.sock -netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n
  bucatini vm --dgram net.sock,qemu.sock                 QEMU's dgram netdev, vfkit, krunkit
  bucatini vm --socket a.sock -p 8080:80 --socket b.sock -p 8081:80
"""

def main(words: Sequence[str]) -> int:
    """Serve what `words` name and return the exit status. Raises ConfigError and HostError before a guest can come."""
    arguments = options.parse_machine(make_parser(), words)
    if arguments is None:
        return 0
    from bucatini.config.arguments import vm_config

    config = vm_config(arguments)
    from bucatini import api

    return api.vm(config)


def make_parser() -> argparse.ArgumentParser:
    """The options of `vm`."""
    parser = options.make_parser("vm", _USAGE, _DESCRIPTION, _EPILOG)
    add_links(parser)
    options.add_guest_options(parser, namespace=False, port_action=Port)
    return parser


def add_links(parser: argparse.ArgumentParser) -> None:
    """The options that name links, and what belongs to one."""
    group = parser.add_argument_group("links, each one guest")
    for name, metavar, help_text in (
        ("socket", "PATH", "UNIX stream socket, frames behind their length (QEMU's stream netdev, libkrun)"),
        ("vhost-user", "PATH", "vhost-user back end, in the guest's own memory (QEMU, cloud-hypervisor)"),
        ("dgram", "LOCAL[,REMOTE]", "UNIX datagram socket, bare frames, at LOCAL; the guest is at REMOTE (default: "
         "where its first frame comes from)"),
        ("seqpacket", "PATH", "UNIX seqpacket socket, bare frames"),
        ("fd", "N", "a connected socket or an open TAP, inherited as descriptor N"),
        ("tap", "NAME", "the interface NAME of a TAP that the hypervisor opens (Firecracker); needs CAP_NET_RAW"),
    ):  # fmt: skip
        group.add_argument(
            f"--{name}", metavar=metavar, dest="guests", action=_Link, const=name, default=[], help=help_text
        )
    group.add_argument("--one-off", action="store_true", help="end when the guest disconnects, or the last of them")
    group.add_argument(
        "--mac",
        metavar="MAC",
        action=_Mac,
        help="MAC address of the LINK's guest, who is heard under no other (default: the first that its frames show)",
    )


class _Link(argparse.Action):
    """Another guest: a dictionary of its link, which its ports are added to."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.guests = [*namespace.guests, {"kind": self.const, "where": values}]


class _Mac(argparse.Action):
    """The MAC address of the guest named last."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if not namespace.guests:
            raise ConfigError(f"--mac {values!r}: belongs behind the LINK of its guest")
        set_once(namespace.guests[-1], "mac", values)


def set_once(guest: dict[str, Any], what: str, value: str) -> None:
    """What a guest has one of. Raises ConfigError for another."""
    if guest.setdefault(what, value) != value:
        raise ConfigError(f"--{what} {value!r}: the guest of --{guest['kind']} {guest['where']} has {guest[what]!r}")


class Port(argparse.Action):
    """A port of the guest named last; before any, in a list of its own."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """See `argparse.Action`."""
        owner = namespace.guests[-1] if namespace.guests else vars(namespace)
        owner[self.dest] = [*owner.get(self.dest, []), values]
