"""A fresh view says nothing, and says so consistently."""

from __future__ import annotations

from bucatini.wire.ip_fields import IpFields


def test_a_fresh_view_names_no_extension_and_no_fragment() -> None:
    fields = IpFields()
    assert (fields.extension_at, fields.fragment_header_at) == (-1, -1)
    assert (fields.version, fields.end, fields.fragment, fields.source_route) == (0, 0, False, False)
