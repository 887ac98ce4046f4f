"""Nothing is observed unless asked for."""

from __future__ import annotations

import msgspec
import pytest

from bucatini.observe.settings import ObserveSettings


def test_defaults_observe_nothing() -> None:
    settings = ObserveSettings()
    assert (settings.pcap, settings.events) == (None, None)
    assert (settings.summary, settings.verbose, settings.quiet) == (False, False, False)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"colour": "red"}, ObserveSettings)
