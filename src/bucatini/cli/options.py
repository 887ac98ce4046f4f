"""The options that the verbs which serve a guest have in common, and their parsing.

Options end at the first word that is none, so a command keeps its own. What an option means is decided in `config/` and
below; here is only which options there are, and their words.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from bucatini.base.errors import ConfigError
from bucatini.cli.printing import print_text

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

__all__ = ["add_guest_options", "make_parser", "parse", "split_command"]


class _Parser(argparse.ArgumentParser):
    """argparse that raises ConfigError in place of printing a usage and leaving."""

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Help on stdout, also into a pipe that is closed early."""
        print_text(self.format_help())

    def error(self, message: str) -> NoReturn:
        """Raise `message` in our words."""
        raise ConfigError(f"{message.removeprefix('argument ')}; see '{self.prog} --help'")


def make_parser(verb: str, usage: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser for `verb` without options yet. All values stay text; `config.arguments` reads them."""
    return _Parser(
        prog=f"bucatini {verb}",
        usage=usage,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]] | None:
    """Options, and the words after them; None when help was asked for and printed. Raises ConfigError."""
    options, rest = split_command(parser, words)
    try:
        arguments, extra = parser.parse_known_args(options)
    except SystemExit:  # --help has been printed
        return None
    if extra:
        raise ConfigError(_unknown_option(parser, extra[0]))
    return arguments, rest


def parse_machine(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace | None:
    """The same for a verb that serves virtual machines: there are no words after the options."""
    parsed = parse(parser, words)
    if parsed is None:
        return None
    arguments, rest = parsed
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}; a virtual machine is started by its hypervisor")
    return arguments


def add_guest_options(
    parser: argparse.ArgumentParser,
    *,
    namespace: bool = True,
    segment: bool = False,
    port_action: type[argparse.Action] | str = "append",
) -> None:
    """Everything that the verbs share which serve guests; with `namespace` also what needs the guest to be one, with
    `segment` without what a segment of several decides.

    `port_action` takes each published or forwarded port.
    """
    _add_network(parser.add_argument_group("network"), namespace, segment)
    _add_ports(parser.add_argument_group("ports"), namespace, segment, port_action)
    parser.set_defaults(lease_time=None)
    if segment:
        parser.set_defaults(
            mirror_host=False, interface=None, no_guard=False, control=None, address=[], prefix_length=None,
            gateway=[], map_guest_addr=[],
        )  # fmt: skip
    if not namespace:
        parser.set_defaults(ifname=None, no_config_net=True, tcp_ns=[], udp_ns=[], no_splice=True)
    _add_policy(parser.add_argument_group("policy"))
    _add_mapping(parser.add_argument_group("addresses and names"), segment)
    _add_services(parser.add_argument_group("protocols and services"))
    _add_reports(parser.add_argument_group("reports"))


def split_command(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options and command: the command starts after `--` or at the first word that is neither option nor value."""
    valued = {option for action in _actions(parser) if action.nargs != 0 for option in action.option_strings}
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            return list(words[:position]), list(words[position + 1 :])
        if not word.startswith("-") or word == "-":
            break
        position += 2 if _wants_next(word, valued) else 1
    return list(words[:position]), list(words[position:])


def _wants_next(word: str, valued: set[str]) -> bool:
    """Whether the value of option `word` is the word after it, and not part of it as in `--mtu=9000` and `-p80:80`."""
    if word.startswith("--"):
        return word in valued
    for index, letter in enumerate(word[1:], start=1):
        if f"-{letter}" in valued:
            return index == len(word) - 1
    return False


def _add_network(group: argparse._ArgumentGroup, namespace: bool, segment: bool) -> None:
    add = group.add_argument
    add("--slot", metavar="N", help="derive MAC and IP addresses from N, 0 to 65535 (default 0)")
    if not segment:
        add("--mirror-host", action="store_true", help="use the addresses, routes and MTU of this host instead")
        add("--interface", metavar="IF", help="mirror this interface of the host (default: that of the default route)")
    add("-4", dest="ipv4_only", action="store_true", help="IPv4 only (default: IPv4 and IPv6)")
    add("-6", dest="ipv6_only", action="store_true", help="IPv6 only")
    default = "1500" if namespace else "65520, with offloads 1500"
    add("--mtu", metavar="N", help=f"largest IP packet in bytes, 68 (1280 with IPv6) to 65521 (default {default})")
    if not segment:
        add("--no-guard", action="store_true", help="let the guest speak under MAC and IP addresses not its own")
    if not namespace:
        add("--lease-time", metavar="SECONDS", help="how long DHCP leases last, or infinite (default 600)")
    if namespace:
        add("--ifname", metavar="NAME", help="name of the guest's interface (default eth0)")
        add("--no-config-net", action="store_true", help="leave the interface to DHCP and router advertisements")


def _add_ports(
    group: argparse._ArgumentGroup, namespace: bool, segment: bool, action: type[argparse.Action] | str
) -> None:
    add = group.add_argument
    add(
        "-p",
        "--publish",
        metavar="SPEC",
        action=action,
        default=[],
        help="[ADDR:]HOST:GUEST[/tcp|/udp], ports or ranges: who connects to port HOST of this host reaches port GUEST "
        "of the guest, which sees the real client; repeatable",
    )
    auto = "auto, " if namespace else ""
    to_guest = (
        ("-t", "--tcp-ports", f"TCP ports of this host that lead to the guest, in pasta's grammar: none, all, {auto}or "
         "[ADDR[%%IF]/]PORTS[:PORTS],... with ~PORTS to leave some out; repeatable (default: none)"),
        ("-u", "--udp-ports", "the same for UDP"),
    )  # fmt: skip
    from_guest = (
        ("-T", "--tcp-ns", "TCP ports on the guest's own loopback that lead to this host's loopback: none, auto, or "
         "PORTS[:PORTS],...; repeatable (default: none)"),
        ("-U", "--udp-ns", "the same for UDP"),
    )  # fmt: skip
    for short, name, help_text in to_guest + (from_guest if namespace else ()):
        add(short, name, metavar="SPEC", action=action, default=[], help=help_text)
    if namespace:
        add("--no-splice", action="store_true", help="do not shortcut loopback: every connection crosses the link")
    add("--freebind", action="store_true", help="let forwarded ports listen on addresses this host does not have yet")
    if segment:
        return
    add("--control", metavar="PATH", help="control socket: 'bucatini forward' changes ports while the guest runs")


def _add_policy(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--policy",
        metavar="NAME",
        help="public: public destinations and DNS (default); open: everything, this host included; none: nothing",
    )
    add("--allow", metavar="TARGET", action="append", default=[], help="also allow TARGET; repeatable")
    add("--deny", metavar="TARGET", action="append", default=[], help="refuse TARGET; repeatable")


def _add_mapping(group: argparse._ArgumentGroup, segment: bool) -> None:
    add = group.add_argument

    def several(name: str, metavar: str, help_text: str) -> None:
        add(name, metavar=metavar, action="append", default=[], help=help_text)

    if not segment:
        several("--address", "ADDR", "address of the guest; one per family")
        add("--prefix-length", metavar="N", help="of the guest's IPv4 address, 1 to 32")
        several("--gateway", "ADDR", "the guest's default router; one per family")
    several("--map-host-loopback", "ADDR", "the guest reaches this host's loopback at ADDR (default: the gateway), or "
            "with none nowhere; one per family; policy still decides")  # fmt: skip
    add("--no-map-gw", action="store_true", help="the gateway does not lead to this host's loopback")
    if not segment:
        several(
            "--map-guest-addr", "ADDR", "the guest reaches this host at ADDR, where both have one address; one a family"
        )
    several("--dns", "ADDR", "name server the guest is told; repeatable (default: the gateway, which asks the host's)")
    several("--dns-forward", "ADDR", "our name service answers at ADDR instead of the gateway; one per family")
    several("--dns-host", "ADDR", "which name server it asks (default: those of this host, as they change)")
    several("--search", "NAME", "search domain the guest is told; repeatable (default: those of this host)")
    several("--outbound", "ADDR", "source address of the host's sockets; one per family")
    add("--outbound-if4", metavar="IF", help="interface that IPv4 leaves this host by")
    add("--outbound-if6", metavar="IF", help="interface that IPv6 leaves this host by")


def _add_services(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    for name, help_text in (
        ("--no-tcp", "drop TCP"),
        ("--no-udp", "drop UDP"),
        ("--no-icmp", "drop ICMP echo"),
        ("--no-dhcp", "no DHCP server on the guest's link"),
        ("--no-dhcpv6", "no DHCPv6 server"),
        ("--no-ndp", "no neighbour or router advertisements"),
        ("--no-ra", "no router advertisements"),
    ):
        add(name, action="store_true", help=help_text)


def _add_reports(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--pcap", metavar="FILE", help="write a pcapng capture of all frames, with verdicts and drop reasons")
    add(
        "--events",
        metavar="FILE",
        help="append a JSON line for each flow opened, refused or closed, and now and then for frames that are dropped",
    )
    add("--summary", action="store_true", help="print a table of flows at the end")
    add("-v", "--verbose", action="store_true", help="print a line for each flow")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    add("-h", "--help", action="help", help="show this help")


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions  # noqa: SLF001  argparse has no public way to ask


def _verbs_with(name: str) -> tuple[str, ...]:
    """The verbs that serve guests and take this option."""
    from importlib import import_module

    found = []
    for verb in ("run", "attach", "vm", "switch", "filter"):
        parser = import_module(f"bucatini.cli.{verb}").make_parser()
        if any(name in action.option_strings for action in _actions(parser)):
            found.append(verb)
    return tuple(found)


def _unknown_option(parser: argparse.ArgumentParser, written: str) -> str:
    import difflib

    name = written.partition("=")[0]
    known = [option for action in _actions(parser) for option in action.option_strings]
    if elsewhere := _verbs_with(name):
        return f"unknown option {name}; it is one of {', '.join(elsewhere)}"
    close = difflib.get_close_matches(name, known, n=1) if name.startswith("--") else []
    hint = f"did you mean {close[0]}?" if close else f"see '{parser.prog} --help'"
    return f"unknown option {name}; {hint}"
