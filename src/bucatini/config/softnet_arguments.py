"""From a command line of softnet to a checked configuration.

The grammar is that of the option parser it was written with: long options in full, `--option VALUE` or
`--option=VALUE`, each once, and no other words. A value that begins with a dash needs the `=`. Lists are split at
commas and nowhere trimmed; an empty item is an error. Rules are Softnet's of 0.19.0, and what later versions take in
the same place: `in` or `out` in front, ports of the peer behind.

Everything that cannot be is a UsageError: Softnet's parser reads values itself, so they all end with its status 2.

Does not: look at the host, at descriptors or at users.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from bucatini import __version__
from bucatini.base.errors import ConfigError
from bucatini.config.getopt_words import Answer, Given, Option, UsageError, option_lines
from bucatini.config.softnet import DEFAULT_LEASE, NET_TYPES, NetType, SoftnetConfig
from bucatini.config.value_words import read_interface, read_number
from bucatini.forward.portspec import Forward
from bucatini.guard.rule_grammar import Pattern, parse_compat_list, parse_rule, shown

__all__ = ["parse_softnet", "softnet_usage"]

_Value = TypeVar("_Value")

_MAX_DESCRIPTOR = (1 << 31) - 1
_MAX_LEASE = (1 << 32) - 1
_MAX_PORT = (1 << 16) - 1
_TCP = 6
_EVERY_IPV4 = bytes(4)
_LATER_RULE = re.compile(r"(?:(?:in|out) +)?(?P<target>[^ :]*)(?::[0-9]+(?:-[0-9]+)?)?")

_OPTIONS = (
    Option("vm-fd", value="N", help="descriptor of the virtual machine's socket, 0 to 2 included"),
    Option("vm-mac-address", value="MAC", help="the only MAC address the virtual machine is heard under"),
    Option("vm-net-type", value="TYPE", help="nat, or host: nothing but this host is reached (default=nat)"),
    Option("bootpd-lease-time", value="SECONDS", help=f"how long the guest's lease is (default={DEFAULT_LEASE})"),
    Option("user", value="NAME", help="user to become, where root starts us"),
    Option("group", value="NAME", help="group to become with it"),
    Option("allow", value="LIST", help="rules for what the guest may reach, e.g. 10.0.0.0/8,@host\n"
           "RULE: [in |out ]TARGET[:PORT[-PORT]], TARGET an IPv4 CIDR or @host\n"
           "the longest prefix wins, --block where two are the same"),
    Option("block", value="LIST", help="rules for what it may not reach"),
    Option("expose", value="LIST", help="TCP ports of this host that lead to the guest, e.g. 2222:22,8080:80"),
    Option("control-fd", value="N", help="UNIX stream socket over which the rules are changed (JSON-RPC 2.0)"),
    Option("bridge", value="NAME", help="filter between the guest and this bridge, in place of translating; needs\n"
           "CAP_NET_ADMIN, or sudo without a password"),
    Option("sudo-escalation-probing"),
    Option("sudo-escalation-done"),
    Option("help", "h", help="show this help"),
    Option("version", "V", help="show the version"),
)  # fmt: skip
_BY_NAME = {f"--{option.long}": option for option in _OPTIONS} | {f"-{o.short}": o for o in _OPTIONS if o.short}

_HELP = """\
usage: softnet --vm-fd N --vm-mac-address MAC [OPTION]...
Give a virtual machine an isolated network: it speaks as itself only, and reaches what is public and what is allowed.

"""


def parse_softnet(words: Sequence[str]) -> SoftnetConfig | Answer:
    """The configuration that `words` (without the program's name) make, or the text of `--help` or `--version`; the
    answer to sudo's probe is an empty one. Raises UsageError.
    """
    given: dict[str, str] = {}
    for option in _read(words):
        if option.name == "help":
            return Answer(_HELP + option_lines(_OPTIONS, joint="=", column=31))
        if option.name == "version":
            return Answer(f"softnet 0.19.0\nbucatini {__version__}\n")
        if option.name in given:
            raise UsageError(f"--{option.name}: may be given once, a list has commas")
        given[option.name] = option.value
    try:
        config = _config(_Values(given), tuple(words))
    except ConfigError as error:
        raise UsageError(str(error)) from None
    return Answer("") if "sudo-escalation-probing" in given else config


def softnet_usage() -> str:
    """What goes to stderr behind a usage error."""
    return "usage: softnet --vm-fd N --vm-mac-address MAC [OPTION]...; see 'softnet --help'\n"


def _read(words: Sequence[str]) -> Iterator[Given]:
    waiting = iter(words)
    for word in waiting:
        name, equals, value = word.partition("=")
        option = _BY_NAME.get(name)
        if option is None:
            raise UsageError(f"unknown option or superfluous word {shown(word)}")
        if not option.value:
            if equals:
                raise UsageError(f"option {name} takes no value, not {shown(value)}")
        elif not equals:
            value = next(waiting, "-")
            if value.startswith("-"):
                raise UsageError(f"option {name} needs a value: {option.value}; one that begins with '-' needs '='")
        yield Given(option.long, value)


class _Values:
    """The texts of options that were given, each read once it is asked for."""

    __slots__ = ("_given",)

    def __init__(self, given: dict[str, str]) -> None:
        self._given = given

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def get(self, name: str, read: Callable[[str, str], _Value]) -> _Value | None:
        return read(f"--{name}", self._given[name]) if name in self._given else None

    def need(self, name: str, read: Callable[[str, str], _Value]) -> _Value:
        if name not in self._given:
            raise UsageError(f"--{name} is missing")
        return read(f"--{name}", self._given[name])


def _config(values: _Values, words: tuple[str, ...]) -> SoftnetConfig:
    if "control-fd" in values and values.get("control-fd", _descriptor) == values.get("vm-fd", _descriptor):
        raise ConfigError("--control-fd: must be another descriptor than --vm-fd")
    lease = values.get("bootpd-lease-time", _lease)
    exposed = values.get("expose", _exposed) or ()
    usable = tuple(forward for forward in exposed if forward.host_port and forward.guest_port)
    notes = [
        f"--expose {forward.host_port}:{forward.guest_port}: left out, nothing listens on port 0"
        for forward in exposed
        if forward not in usable
    ]
    if lease == 0:
        notes.append(f"--bootpd-lease-time 0: a lease of no time is none, it is {DEFAULT_LEASE} s")
    return SoftnetConfig(
        vm_fd=values.need("vm-fd", _descriptor),
        mac=values.need("vm-mac-address", _mac),
        net_type=values.get("vm-net-type", _net_type) or "nat",
        lease=lease or DEFAULT_LEASE,
        allow=values.get("allow", _rules) or (),
        block=values.get("block", _rules) or (),
        expose=usable,
        control_fd=values.get("control-fd", _descriptor),
        user=values.get("user", _name),
        group=values.get("group", _name),
        bridge=values.get("bridge", read_interface),
        escalated="sudo-escalation-done" in values,
        words=words,
        notes=tuple(notes),
    )


def _descriptor(option: str, written: str) -> int:
    return read_number(option, written, 0, _MAX_DESCRIPTOR)


def _lease(option: str, written: str) -> int:
    return read_number(option, written, 0, _MAX_LEASE)


def _name(option: str, written: str) -> str:
    if not written or not written.isprintable():
        raise ConfigError(f"{option} {shown(written)}: must be a name")
    return written


def _net_type(option: str, written: str) -> NetType:
    for each in NET_TYPES:
        if written == each:
            return each
    raise ConfigError(f"{option} {shown(written)}: must be nat or host")


def _mac(option: str, written: str) -> bytes:
    """Groups of one or two digits, as macOS prints them, between colons or dashes."""
    if not re.fullmatch(r"[0-9A-Fa-f]{1,2}([:-][0-9A-Fa-f]{1,2}){5}", written):
        raise ConfigError(f"{option} {shown(written)}: must be six hexadecimal groups such as 52:54:00:12:34:56")
    mac = bytes(int(group, 16) for group in re.split("[:-]", written))
    if mac[0] & 1 or not any(mac):
        raise ConfigError(f"{option} {shown(written)}: must be one interface's, not a group's and not zero")
    return mac


def _rules(option: str, written: str) -> tuple[Pattern, ...]:
    return tuple(_one_rule(option, item) for item in written.split(","))


def _one_rule(option: str, item: str) -> Pattern:
    """Targets are those of 0.19.0 everywhere: IPv4 CIDRs with a slash, and @host."""
    later = _LATER_RULE.fullmatch(item)
    parse_compat_list(later["target"] if later else item, option)
    return parse_rule(item, option)


def _exposed(option: str, written: str) -> tuple[Forward, ...]:
    forwards = tuple(_one_exposed(option, item) for item in written.split(","))
    seen: dict[int, int] = {}
    for forward in forwards:
        external, internal = forward.host_port, forward.guest_port
        if external and seen.setdefault(external, internal) != internal:
            raise ConfigError(f"{option} {external}:{internal}: port {external} leads to {seen[external]} already")
    return forwards


def _one_exposed(option: str, item: str) -> Forward:
    parts = item.split(":")
    try:
        external, internal = (read_number(option, part, 0, _MAX_PORT) for part in parts)
    except (ConfigError, ValueError):
        raise ConfigError(
            f"{option} {shown(item)}: must be EXTERNAL:INTERNAL, two port numbers up to {_MAX_PORT}"
        ) from None
    return Forward(_TCP, _EVERY_IPV4, external, internal)
