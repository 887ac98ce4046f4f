"""host.netchange: what is packed is unpacked, anything else is refused, and the bound holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.errors import HostError
from bucatini.host.channel import MAX_PAYLOAD
from bucatini.host.netchange import NetChange, pack_change, unpack_change
from bucatini.host.settings import Route


def packed(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


def of_one_family(length: int) -> tuple[st.SearchStrategy[tuple[bytes, int]], st.SearchStrategy[Route]]:
    prefix_lengths = st.integers(0, 8 * length)
    gateways = st.none() | packed(length)
    return st.tuples(packed(length), prefix_lengths), st.builds(Route, packed(length), prefix_lengths, gateways)


ADDRESS4, ROUTE4 = of_one_family(4)
ADDRESS6, ROUTE6 = of_one_family(16)
CHANGES = st.builds(
    NetChange,
    st.lists(ADDRESS4 | ADDRESS6, max_size=20).map(tuple),
    st.lists(packed(4) | packed(16), max_size=8).map(tuple),
    st.lists(ROUTE4 | ROUTE6, max_size=60).map(tuple),
)


@given(change=CHANGES)
def test_there_and_back(change: NetChange) -> None:
    assert unpack_change(pack_change(change)) == change


@given(change=CHANGES, cut=st.integers(min_value=1), more=st.binary(min_size=1))
def test_neither_cut_nor_longer(change: NetChange, cut: int, more: bytes) -> None:
    message = pack_change(change)
    with pytest.raises(ValueError, match="cut short"):
        unpack_change(message[: -1 - cut % len(message)] if len(message) > 1 else b"")
    with pytest.raises(ValueError, match="too long"):
        unpack_change(message + more)


@given(message=st.binary(max_size=200))
def test_anything_is_a_change_or_refused(message: bytes) -> None:
    try:
        change = unpack_change(message)
    except ValueError:
        return
    assert pack_change(change) == message


@pytest.mark.parametrize("wrong", [b"\x05\x00" + bytes(5), b"\x04\x21" + bytes(4), b"\x10\x81" + bytes(16)])
def test_numbers_out_of_range(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="where one of"):
        unpack_change(b"\0\1\0\0\0\0" + wrong)


def test_bound() -> None:
    routes = tuple(Route(bytes([10, number >> 8, number & 255, 0]), 24, bytes(4)) for number in range(1000))
    fits = (MAX_PAYLOAD - 6) // 11
    assert len(pack_change(NetChange((), (), routes[:fits]))) <= MAX_PAYLOAD
    with pytest.raises(HostError, match="0 addresses, 0 gateways and 1000 routes are 11006 bytes, 4096 fit"):
        pack_change(NetChange((), (), routes))
    with pytest.raises(HostError, match="70000 routes"):
        pack_change(NetChange((), (), routes * 70))
