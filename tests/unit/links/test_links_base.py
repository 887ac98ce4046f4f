"""links.base: whatever is a link has its methods, with the same parameters in the same order."""

from __future__ import annotations

import inspect

import pytest

from bucatini.links.base import Link
from bucatini.links.tap import TapLink
from bucatini.links.unix_dgram import UnixDatagramLink, UnixSeqpacketLink
from bucatini.links.unix_stream import UnixStreamLink
from bucatini.observe.captured import CapturedLink
from support.lossy import LossyLink


@pytest.mark.parametrize(
    "kind", [TapLink, UnixStreamLink, UnixSeqpacketLink, UnixDatagramLink, CapturedLink, LossyLink]
)
@pytest.mark.parametrize("name", ["start", "receive", "done", "transmit", "room", "flush", "close"])
def test_methods_are_those_of_the_protocol(kind: type, name: str) -> None:
    wanted = list(inspect.signature(getattr(Link, name)).parameters)
    assert list(inspect.signature(getattr(kind, name)).parameters) == wanted
