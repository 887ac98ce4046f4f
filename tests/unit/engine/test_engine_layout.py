"""engine.layout: the parts of the arena do not overlap, and each is large enough for what is put there."""

from __future__ import annotations

from bucatini.engine import layout
from bucatini.engine.datagrams import MAX_TRAIN_BYTES
from bucatini.flows.tcp_flow import MAX_PAYLOAD

LARGEST_FRAME = 12 + 14 + 40 + 65535


def test_parts_follow_each_other() -> None:
    assert layout.TRANSMIT_AT >= layout.BATCH * layout.STRIDE
    assert layout.REASSEMBLY_AT >= layout.TRANSMIT_AT + layout.STRIDE
    assert layout.DATAGRAM_AT >= layout.REASSEMBLY_AT + layout.STRIDE
    assert layout.ARENA_SIZE >= layout.DATAGRAM_AT + layout.HEADROOM + layout.DATAGRAM_BATCH * layout.STRIDE


def test_a_slot_holds_the_largest_frame() -> None:
    assert layout.STRIDE >= LARGEST_FRAME
    assert layout.STRIDE >= 12 + 14 + 40 + 60 + MAX_PAYLOAD
    assert layout.STRIDE - layout.HEADROOM >= MAX_TRAIN_BYTES


def test_headroom_holds_the_headers() -> None:
    assert layout.HEADROOM >= 12 + 14 + 40 + 8
    assert layout.BATCH <= 64
    assert layout.DATAGRAM_BATCH <= 64
