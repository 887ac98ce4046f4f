"""The grammar of pasta's port options, `-t`, `-u`, `-T` and `-U`.

    SPEC  = "none" | "all" | "auto" | [BIND "/"] ("all" | ITEM {"," ITEM})
    BIND  = ADDR ["%" IF] | "%" IF                 where the host listens; not for ports of the guest's own loopback
    ADDR  = IPv4 | IPv6 | "[" (IPv4 | IPv6) "]"    only that family; both where left out
    ITEM  = RANGE [":" RANGE] | "~" RANGE          listening ports and their targets, of equal width; "~": leave out
    RANGE = PORT ["-" PORT]                        1..65535, first <= last; "~" takes 0 too, which leaves out nothing

The specs of one option add up. `none`, `auto` and `all` stand alone. Exclusions hold within their spec, wherever they
stand in it; a spec of nothing else means every port they leave, but for port 0 and the ports the host hands out by
itself (`ephemeral`), and so do `all` and `ADDR/all`. Those forwards are `optional`: one that cannot be bound is left
out. The same place written twice is a note, and what was written last holds.

Two readers must never take one text for two things: no names, no signs, blanks or leading zeros, no port 0.

Does not: bind anything, read the range of ephemeral ports, or decide which ports `auto` means (see `forward.auto`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from bucatini.base.address import pack, text, unmap
from bucatini.base.errors import ConfigError
from bucatini.base.verdict import INGRESS
from bucatini.forward.portspec import Forward

__all__ = ["DEFAULT_EPHEMERAL", "MAX_WRITTEN", "PortTable", "parse_ephemeral", "parse_port_specs"]

DEFAULT_EPHEMERAL = range(49152, 65536)
"""RFC 6335 section 6, for where the host does not say."""

MAX_WRITTEN = 4 * 65535
"""Ports that the specs of one option may name in all, repetitions counted: every port on four addresses."""

_WORDS = ("none", "auto", "all")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)
_IFNAMSIZ = 16
"""Bytes of an interface's name with its closing zero (netdevice(7))."""
_NOTED_RANGES = 8
"""Ranges that a note names before it says "and more"."""

_Place = tuple[bytes | None, str, int]
"""Where a forward listens: address, device, port."""


class PortTable(NamedTuple):
    """What all specs of one option mean."""

    mode: str
    """`none`, `auto`, `all` or `specific`."""
    forwards: tuple[Forward, ...]
    """In the order written; of `none` and `auto` empty."""
    notes: tuple[str, ...] = ()
    """Warnings, a line each, that name the option and the spec."""


class _Spec(NamedTuple):
    """One spec that is not a word: where it listens, and its pairs of listening port and target in order."""

    address: bytes | None
    device: str
    pairs: list[tuple[int, int]]
    optional: bool


class _Rules(NamedTuple):
    """What holds for all specs of an option."""

    protocol: int
    direction: str
    ephemeral: range
    allow_all: bool
    allow_auto: bool

    @property
    def accepted(self) -> str:
        """The end of every error."""
        words = ["none"] + ["auto"] * self.allow_auto + ["all"] * self.allow_all
        bind = "[ADDR[%IF]/]" if self.direction == INGRESS else ""
        example = "127.0.0.1/8080:80,~8081" if bind else "8080:80,9000-9010,~9005"
        return f"accepted: {', '.join(words)} or {bind}PORTS[:PORTS],~PORTS,..., for example {example}"


def parse_port_specs(
    option: str,
    written: Iterable[str],
    *,
    protocol: int,
    direction: str,
    ephemeral: range,
    allow_all: bool,
    allow_auto: bool,
) -> PortTable | None:
    """The table of `written`, all occurrences of `option` in order; None when there are none.

    `protocol` is 6 or 17. For INGRESS the host listens, for EGRESS the guest's loopback does. `ephemeral` holds the
    ports that `all` and pure exclusions leave alone. Raises ConfigError: one line with option, spec and part at fault.
    """
    rules = _Rules(protocol, direction, ephemeral, allow_all, allow_auto)
    table: dict[_Place, Forward] = {}
    notes: list[str] = []
    mode, before, total = "", "", 0
    for spec in written:
        try:
            word = _word(spec, rules)
            if mode and (word != "specific" or mode != "specific"):
                raise ValueError(f"{spec!r} conflicts with {before!r} before it")
            if word not in ("none", "auto"):
                meant = _sweep(None, "", "all", set(), rules) if word == "all" else _parse(spec, rules)
                total += len(meant.pairs)
                if total > MAX_WRITTEN:
                    raise ValueError(f"{spec!r} makes it more than {MAX_WRITTEN} ports in all")
                notes.extend(f"{option} {spec!r}: {note}" for note in _add(table, meant, rules))
        except ValueError as error:
            raise ConfigError(f"{option} {spec!r}: {error}; {rules.accepted}") from None
        mode, before = word, spec
    return PortTable(mode, tuple(table.values()), tuple(notes)) if mode else None


def parse_ephemeral(content: str) -> range | None:
    """The ports that the content of `/proc/sys/net/ipv4/ip_local_port_range` names; None when it names none."""
    words = content.split()
    if len(words) != 2 or not all(_PORT.fullmatch(word) for word in words):
        return None
    low, high = int(words[0]), int(words[1])
    return range(low, high + 1) if 1 <= low <= high <= 65535 else None


def _word(spec: str, rules: _Rules) -> str:
    """The mode that `spec` asks for."""
    if spec not in _WORDS:
        return "specific"
    if (spec == "all" and not rules.allow_all) or (spec == "auto" and not rules.allow_auto):
        raise ValueError(f"{spec!r} is not available here")
    return spec


def _add(table: dict[_Place, Forward], spec: _Spec, rules: _Rules) -> list[str]:
    """Put the forwards of `spec` into `table`. Returns what is worth a warning."""
    again: list[int] = []
    for listening, target in spec.pairs:
        place = (spec.address, spec.device, listening)
        if table.pop(place, None) is not None:  # popped, so that the order stays that of writing
            again.append(listening)
        inwards = rules.direction == INGRESS
        table[place] = Forward(
            rules.protocol,
            spec.address,
            listening if inwards else target,
            target if inwards else listening,
            rules.direction,
            spec.device,
            spec.optional,
        )
    if again:
        return [f"maps again what was mapped before, and replaces it: port {_ranges_text(again)}"]
    return [] if spec.pairs else ["its exclusions leave no port"]


def _parse(spec: str, rules: _Rules) -> _Spec:
    bind, slash, items = spec.partition("/")
    address, device = None, ""
    if not slash:
        items = spec
    elif rules.direction != INGRESS:
        raise ValueError(f"{bind + slash!r} says where to listen; these ports listen on the guest's loopback")
    else:
        address, device = _parse_bind(bind)
        if items == "all":
            if not rules.allow_all:
                raise ValueError("'all' is not available here")
            return _sweep(address, device, items, set(), rules)
    excluded: set[int] = set()
    mapped: list[tuple[range, range]] = []
    for item in items.split(","):
        if item.startswith("~"):
            _exclude(excluded, item)
        else:
            mapped.append(_parse_item(item))
    if not mapped:
        return _sweep(address, device, items, excluded, rules)
    pairs = [pair for both in mapped for pair in zip(*both, strict=True) if pair[0] not in excluded]
    return _Spec(address, device, pairs, optional=False)


def _sweep(address: bytes | None, device: str, items: str, excluded: set[int], rules: _Rules) -> _Spec:
    """Every port that is neither excluded nor ephemeral."""
    ports = [port for port in range(1, 65536) if port not in excluded and port not in rules.ephemeral]
    if not ports:
        raise ValueError(f"{items!r} leaves no port")
    return _Spec(address, device, [(port, port) for port in ports], optional=True)


def _parse_bind(bind: str) -> tuple[bytes | None, str]:
    """Packed address and interface name."""
    written, percent, device = bind.partition("%")
    if percent:
        _check_device(device)
        if not written:
            return None, device
    bare = written[1:-1] if written.startswith("[") and written.endswith("]") else written
    try:
        address = pack(bare)
    except ValueError:
        raise ValueError(f"address {written!r} is not an IP address") from None
    if unmap(address) != address:
        raise ValueError(f"address {written!r} is IPv4 in IPv6 clothes: write {text(unmap(address))}")
    if address[0] >= 224 if len(address) == 4 else address[0] == 0xFF:
        raise ValueError(f"address {written!r} is not a unicast address")
    return address, device


def _check_device(name: str) -> None:
    """What the kernel takes for the name of an interface, less what no terminal can show."""
    shown = name.isprintable() and name not in ("", ".", "..") and ":" not in name and " " not in name
    if not shown or len(name.encode()) >= _IFNAMSIZ:
        raise ValueError(f"interface {name!r} is not a name of 1 to {_IFNAMSIZ - 1} bytes")


def _exclude(excluded: set[int], item: str) -> None:
    """Add the ports of `item`, which begins with "~"."""
    if ":" in item:
        raise ValueError(f"{item!r}: an exclusion has no target")
    ports = _parse_range(item[1:], lowest=0)
    twice = excluded.intersection(ports)
    if twice:
        raise ValueError(f"{item!r} excludes port {_ranges_text(sorted(twice))} a second time")
    excluded.update(ports)


def _parse_item(item: str) -> tuple[range, range]:
    """Listening ports and targets."""
    first, colon, second = item.partition(":")
    if ":" in second:
        raise ValueError(f"{item!r} has more than one ':'")
    listening = _parse_range(first, lowest=1)
    targets = _parse_range(second, lowest=1) if colon else listening
    if len(listening) != len(targets):
        raise ValueError(f"{item!r} maps {len(listening)} to {len(targets)} ports")
    return listening, targets


def _parse_range(written: str, lowest: int) -> range:
    first, dash, last = written.partition("-")
    low = _parse_port(first, lowest)
    high = _parse_port(last, lowest) if dash else low
    if high < low:
        raise ValueError(f"range {written!r} runs backwards")
    return range(low, high + 1)


def _parse_port(written: str, lowest: int) -> int:
    if _PORT.fullmatch(written) and lowest <= int(written) <= 65535:
        return int(written)
    raise ValueError(f"port {written!r} is not a number from {lowest} to 65535")


def _ranges_text(ports: list[int]) -> str:
    """Ports in order as `22, 80-90`; of many, the first."""
    ranges: list[list[int]] = []
    for port in ports:
        if ranges and port == ranges[-1][1] + 1:
            ranges[-1][1] = port
        else:
            ranges.append([port, port])
    named = [str(low) if low == high else f"{low}-{high}" for low, high in ranges[:_NOTED_RANGES]]
    return ", ".join(named) + (" and more" if len(ranges) > _NOTED_RANGES else "")
