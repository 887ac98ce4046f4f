"""Numbers as people read them."""

from __future__ import annotations

import pytest

from bucatini.base.address import Endpoint, pack
from bucatini.observe.words import duration_text, endpoint_text, plural, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (1024**5, "1.0 PiB"),
        (2**63, "8192.0 PiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0124, "12 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7380, "2 h 03 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_endpoints() -> None:
    assert endpoint_text(Endpoint(pack("192.0.2.1"), 443)) == "192.0.2.1:443"
    assert endpoint_text(Endpoint(pack("2001:db8::1"), 443)) == "[2001:db8::1]:443"
    assert endpoint_text(Endpoint(pack("2001:db8::1"), 0)) == "2001:db8::1"


def test_plural() -> None:
    assert (plural(0, "flow"), plural(1, "flow"), plural(2, "flow")) == ("0 flows", "1 flow", "2 flows")
