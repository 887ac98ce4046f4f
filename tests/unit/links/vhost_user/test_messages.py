"""links.vhost_user.messages: headers and bodies as they lie on the socket, and what is too short or too long."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.links.vhost_user.messages import (
    HEADER_LENGTH,
    MAX_BODY,
    Header,
    Region,
    Request,
    answer,
    parse_header,
    parse_region,
    parse_regions,
    parse_state,
    parse_u64,
    parse_vring_address,
)

NUMBERS = {
    "GET_FEATURES": 1, "SET_FEATURES": 2, "SET_OWNER": 3, "RESET_OWNER": 4, "SET_MEM_TABLE": 5, "SET_VRING_NUM": 8,
    "SET_VRING_ADDR": 9, "SET_VRING_BASE": 10, "GET_VRING_BASE": 11, "SET_VRING_KICK": 12, "SET_VRING_CALL": 13,
    "SET_VRING_ERR": 14, "GET_PROTOCOL_FEATURES": 15, "SET_PROTOCOL_FEATURES": 16, "GET_QUEUE_NUM": 17,
    "SET_VRING_ENABLE": 18, "GET_MAX_MEM_SLOTS": 36, "ADD_MEM_REG": 37, "REM_MEM_REG": 38,
}  # fmt: skip


def test_requests_have_the_numbers_of_the_specification() -> None:
    assert {each.name: int(each) for each in Request} == NUMBERS


def test_a_header() -> None:
    assert parse_header(struct.pack("=III", 5, 9, 264)) == Header(5, 9, 264)
    assert parse_header(struct.pack("=III", 1 << 31, 0xFFFFFFFD, MAX_BODY)) == Header(1 << 31, 0xFFFFFFFD, MAX_BODY)


@pytest.mark.parametrize(("flags", "size"), [(0, 0), (2, 0), (3, 0), (8, 0), (1, MAX_BODY + 1), (1, 0xFFFFFFFF)])
def test_a_header_that_cannot_be(flags: int, size: int) -> None:
    assert parse_header(struct.pack("=III", 1, flags, size)) is None


def test_an_answer() -> None:
    assert answer(15, b"12345678") == struct.pack("=III", 15, 5, 8) + b"12345678"
    assert len(answer(1, b"")) == HEADER_LENGTH


def test_bodies() -> None:
    assert parse_u64(struct.pack("=Q", (1 << 64) - 2)) == (1 << 64) - 2
    assert parse_state(struct.pack("=II", 1, 256)) == (1, 256)
    assert parse_region(struct.pack("=QQQQQ", 77, 1, 2, 3, 4)) == Region(1, 2, 3, 4)
    table = struct.pack("=II", 2, 77) + struct.pack("=QQQQQQQQ", *range(8))
    assert parse_regions(table) == [Region(0, 1, 2, 3), Region(4, 5, 6, 7)]
    assert parse_regions(struct.pack("=II", 0, 0)) == []
    address = parse_vring_address(struct.pack("=IIQQQQ", 1, 77, 100, 200, 300, 88))
    assert address is not None
    assert address[0] == 1
    assert (address.descriptors, address.used, address.available) == (100, 200, 300)


def test_a_body_may_be_longer_than_it_has_to_be() -> None:
    assert parse_u64(struct.pack("=Q", 5) + b"more") == 5
    assert parse_state(struct.pack("=II", 1, 2) + bytes(100)) == (1, 2)


@pytest.mark.parametrize(
    ("parse", "whole"),
    [
        (parse_u64, 8),
        (parse_state, 8),
        (parse_vring_address, 40),
        (parse_region, 40),
    ],
)
def test_a_body_that_is_too_short(parse: object, whole: int) -> None:
    assert callable(parse)
    assert [length for length in range(whole + 1) if parse(bytes(length)) is not None] == [whole]


@pytest.mark.parametrize(("count", "length"), [(1, 8), (1, 39), (2, 71), (8, 263), (9, 4096), (0xFFFFFFFF, 4096)])
def test_a_table_that_is_too_short_or_has_too_many(count: int, length: int) -> None:
    assert parse_regions((struct.pack("=II", count, 0) + bytes(length))[:length]) is None


def test_a_table_of_all_that_there_may_be() -> None:
    table = parse_regions(struct.pack("=II", 8, 0) + bytes(8 * 32))
    assert table is not None
    assert len(table) == 8
    assert parse_regions(b"") is None


@given(st.binary(max_size=300))
def test_any_bytes_are_something_or_nothing(body: bytes) -> None:
    for parse in (parse_u64, parse_state, parse_vring_address, parse_region, parse_regions):
        parse(body)
    parse_header((body + bytes(12))[:12])
