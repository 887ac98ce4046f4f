"""What holds for every test: what needs root is skipped without it; property tests have no deadline per example."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("bucatini", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "bucatini"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root")
    for item in items:
        if "root" in item.keywords:
            item.add_marker(skip)


def pytest_report_header() -> str:
    import bucatini
    from bucatini import _build

    return f"bucatini {bucatini.__version__} ({_build.form()}) from {os.path.dirname(bucatini.__file__)}"
