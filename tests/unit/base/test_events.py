"""Events are plain immutable values."""

from __future__ import annotations

import pytest

from bucatini.base.address import Endpoint, pack
from bucatini.base.events import TCP, Ending, FlowClosed, FlowOpened, FlowRefused, Refusal
from bucatini.base.verdict import EGRESS

GUEST = Endpoint(pack("172.16.0.2"), 40000)
PEER = Endpoint(pack("192.0.2.1"), 443)


@pytest.mark.parametrize(
    "event",
    [
        FlowOpened(1, TCP, EGRESS, GUEST, PEER, None, "public"),
        FlowRefused(TCP, EGRESS, GUEST, PEER, "private", Refusal.POLICY),
        FlowClosed(1, TCP, EGRESS, GUEST, PEER, None, "public", 10, 20, 0.5, Ending.CLOSED),
    ],
)
def test_events_cannot_be_changed_and_carry_no_dict(event: FlowOpened | FlowRefused | FlowClosed) -> None:
    assert not hasattr(event, "__dict__")
    with pytest.raises(AttributeError):
        event.rule = "other"  # type: ignore[misc]
    assert event.peer == PEER


def test_words_read_as_text() -> None:
    assert f"{Ending.PEER_RESET}" == "reset by peer"
    assert f"{Refusal.TABLE_FULL}" == "flow table full"
