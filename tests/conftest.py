"""What holds for every test: what needs root is skipped without it; property tests have no deadline per example; a
worker gets whole files, whose fixtures are then made once, but for tests that say in which group they run.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# What pytest makes of the tests' files takes longest of all that it does before the first test: the second form and the
# next run find it. Programs that the tests start write none, whatever their user.
sys.dont_write_bytecode = False
settings.register_profile("bucatini", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "bucatini"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root")
    for item in items:
        if "root" in item.keywords:
            item.add_marker(skip)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadgroup`, whose own way makes a group of each test that names none: slow work over thousands."""
    from xdist.scheduler import LoadGroupScheduling

    class ByFileOrGroup(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope: str = super()._split_scope(nodeid)
            return scope.partition("::")[0] if scope == nodeid else scope

    return ByFileOrGroup(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_report_header() -> str:
    import bucatini
    from bucatini import _build

    return f"bucatini {bucatini.__version__} ({_build.form()}) from {os.path.dirname(bucatini.__file__)}"
