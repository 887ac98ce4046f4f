"""Properties of the port grammar: every text is a table or an error that names its part; generated specs mean what a
second, slower reading of them says.
"""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from bucatini.base.address import pack, text, unmap
from bucatini.base.errors import ConfigError
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.forward.port_grammar import PortTable, parse_port_specs
from bucatini.forward.portspec import Forward

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")

low_ports = st.integers(1, 40)
ports = low_ports | st.integers(1, 65535) | st.sampled_from([1, 65535])
ephemerals = st.sampled_from([range(30, 65536), range(1000, 65000), range(2, 65500)])
"""Wide, so that a sweep of all other ports is a short list."""
packed = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
unicast = packed.filter(lambda a: (a[0] < 224 if len(a) == 4 else a[0] < 255) and unmap(a) == a)
devices = st.text("abcdefghijklmnop0123456789.-_@", min_size=1, max_size=15).filter(lambda n: n not in (".", ".."))


class Item(NamedTuple):
    """Listening ports, and where the first of them leads; a target of None is an exclusion."""

    first: int
    width: int
    target: int | None

    def text(self, *, long: bool) -> str:
        def ranged(first: int) -> str:
            return f"{first}-{first + self.width - 1}" if long or self.width > 1 else str(first)

        if self.target is None:
            return f"~{ranged(self.first)}"
        return ranged(self.first) + (f":{ranged(self.target)}" if long or self.target != self.first else "")


class Spec(NamedTuple):
    address: bytes | None
    device: str
    brackets: bool
    items: list[Item]
    long: bool

    def text(self) -> str:
        address = "" if self.address is None else text(self.address)
        bind = (f"[{address}]" if self.brackets and address else address) + (f"%{self.device}" if self.device else "")
        return (f"{bind}/" if bind else "") + ",".join(item.text(long=self.long) for item in self.items)


@st.composite
def mapped_items(draw: st.DrawFn) -> Item:
    width = draw(st.integers(1, 12) | st.integers(1, 300))
    first, target = (draw(ports.filter(lambda port: port + width <= 65536)) for _ in range(2))
    return Item(first, width, first if draw(st.booleans()) else target)


@st.composite
def disjoint_exclusions(draw: st.DrawFn) -> list[Item]:
    edges = sorted(draw(st.sets(ports, max_size=6)))
    return [Item(low, high - low, None) for low, high in zip(edges[::2], edges[1::2], strict=False)]


@st.composite
def specs(draw: st.DrawFn, direction: str = INGRESS) -> Spec:
    items = draw(st.lists(mapped_items(), max_size=3)) + draw(disjoint_exclusions())
    if not items:
        items = [draw(mapped_items())]
    address = draw(st.none() | unicast) if direction == INGRESS else None
    device = draw(st.just("") | devices) if direction == INGRESS else ""
    return Spec(address, device, draw(st.booleans()), draw(st.permutations(items)), draw(st.booleans()))


def reference(written: list[Spec], ephemeral: range) -> dict[tuple[bytes | None, str, int], tuple[int, bool]] | None:
    """Target and optionality of every place, one port at a time; None where a sweep leaves no port."""
    meaning: dict[tuple[bytes | None, str, int], tuple[int, bool]] = {}
    for spec in written:
        excluded = {
            port for item in spec.items if item.target is None for port in range(item.first, item.first + item.width)
        }
        targets: dict[int, tuple[int, bool]] = {}
        if all(item.target is None for item in spec.items):
            targets = {
                port: (port, True)
                for port in (*range(1, ephemeral.start), *range(ephemeral.stop, 65536))
                if port not in excluded
            }
            if not targets:
                return None
        for item in spec.items:
            for step in range(item.width):
                if item.target is not None and item.first + step not in excluded:
                    targets[item.first + step] = (item.target + step, False)
        meaning |= {(spec.address, spec.device, port): target for port, target in targets.items()}
    return meaning


def parse(direction: str, ephemeral: range, *written: str) -> PortTable | str | None:
    """The table, or the text of the error."""
    try:
        return parse_port_specs(
            "-u", written, protocol=17, direction=direction, ephemeral=ephemeral, allow_all=True, allow_auto=True
        )
    except ConfigError as error:
        return str(error)


def check(written: str, answer: PortTable | str | None) -> None:
    """`answer` is a table of legal forwards, or a line that quotes the spec and a part of it."""
    if isinstance(answer, PortTable):
        assert answer.mode in ("none", "auto", "all", "specific")
        assert answer.forwards or answer.mode in ("none", "auto") or answer.notes
        assert all(1 <= f.host_port <= 65535 and 1 <= f.guest_port <= 65535 for f in answer.forwards)
        return
    assert isinstance(answer, str)
    assert answer.isprintable()
    opening = f"-u {written!r}: "
    assert answer.startswith(opening)
    cause, accepted, _ = answer.removeprefix(opening).rpartition("; accepted: ")
    assert accepted
    parts = [ast.literal_eval(quoted) for quoted in QUOTED.findall(cause)]
    assert parts, answer
    assert parts[0] in written


of_linux = example(
    written=[
        Spec(None, "", False, [Item(22, 1, None), Item(60999, 2, None)], False),
        Spec(None, "", False, [Item(1, 3000, 2000)], False),
    ],
    ephemeral=range(32768, 61000),
)
"""Tens of thousands of ports, some of them mapped again."""
no_ephemerals = example(written=[Spec(None, "", False, [Item(22, 1, None)], False)], ephemeral=range(1, 2))
directions = st.sampled_from([INGRESS, EGRESS])
grammar_like = st.text("0123456789-:,~/%.[]afeh noutl", max_size=40) | st.lists(
    st.sampled_from(
        [*"-:,~/%[]", "0", "1", "22", "80", "1023", "65535", "65536", "::1", "127.0.0.1", "eth0", "all", "none", "auto"]
    ),
    max_size=12,
).map("".join)


@given(st.text() | grammar_like, directions, ephemerals)
def test_every_text_is_a_table_or_an_error_naming_its_part(written: str, direction: str, ephemeral: range) -> None:
    check(written, parse(direction, ephemeral, written))


@given(st.data(), specs().map(Spec.text), directions, ephemerals)
def test_so_is_every_valid_spec_with_a_few_characters_changed(
    data: st.DataObject, written: str, direction: str, ephemeral: range
) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(written)))
        kept = data.draw(st.integers(0, 1))
        inserted = data.draw(st.sampled_from(["", *"0159-:,~/%.[]a \n\0"]))
        written = written[:at] + inserted + written[at + kept :]
    check(written, parse(direction, ephemeral, written))


@given(written=st.lists(specs(), min_size=1, max_size=4), ephemeral=ephemerals)
@of_linux
@no_ephemerals
def test_inwards_specs_mean_what_a_slower_reading_says(written: list[Spec], ephemeral: range) -> None:
    expected = reference(written, ephemeral)
    answer = parse(INGRESS, ephemeral, *(spec.text() for spec in written))
    if expected is None:
        assert isinstance(answer, str)
        assert "leaves no port" in answer
        return
    assert isinstance(answer, PortTable), answer
    assert answer.mode == "specific"
    assert len(answer.forwards) == len(expected)
    assert {(f.address, f.device, f.host_port): (f.guest_port, f.optional) for f in answer.forwards} == expected


@given(written=st.lists(specs(EGRESS), min_size=1, max_size=4), ephemeral=ephemerals)
@of_linux
@no_ephemerals
def test_outwards_too(written: list[Spec], ephemeral: range) -> None:
    expected = reference(written, ephemeral)
    answer = parse(EGRESS, ephemeral, *(spec.text() for spec in written))
    if expected is None:
        assert isinstance(answer, str)
        return
    assert isinstance(answer, PortTable), answer
    pairs = {(None, "", f.guest_port): (f.host_port, f.optional) for f in answer.forwards}
    assert pairs == expected
    assert all(f.direction == EGRESS and f.address is None and not f.device for f in answer.forwards)


@given(specs(), st.permutations(range(8)), ephemerals)
def test_exclusions_may_stand_anywhere(spec: Spec, order: list[int], ephemeral: range) -> None:
    """Moving them about changes nothing, as long as the mappings keep their order."""
    mapped = [item for item in spec.items if item.target is not None]
    left_out = [item for item in spec.items if item.target is None]
    shuffled = [left_out[at] for at in order if at < len(left_out)] + mapped
    first, second = parse(INGRESS, ephemeral, spec.text()), parse(
        INGRESS, ephemeral, spec._replace(items=shuffled).text()
    )
    if isinstance(first, PortTable) and isinstance(second, PortTable):
        assert first.forwards == second.forwards
    else:
        assert "leaves no port" in str(first)
        assert "leaves no port" in str(second)


@given(specs().filter(lambda spec: any(item.target is not None for item in spec.items)))
def test_writing_a_list_twice_changes_nothing_and_is_noted(spec: Spec) -> None:
    once, twice = (parse(INGRESS, range(32768, 61000), *[spec.text()] * times) for times in (1, 2))
    assert isinstance(once, PortTable)
    assert isinstance(twice, PortTable)
    assert set(twice.forwards) == set(once.forwards)
    if once.forwards:
        assert len(twice.notes) > len(once.notes)
        assert "maps again" in twice.notes[-1]


@given(unicast, devices, ports)
def test_addresses_read_back(address: bytes, device: str, port: int) -> None:
    answer = parse(INGRESS, range(0), f"{text(address)}%{device}/{port}")
    assert isinstance(answer, PortTable)
    assert answer.forwards == (Forward(17, address, port, port, INGRESS, device),)
    assert pack(text(address)) == address
