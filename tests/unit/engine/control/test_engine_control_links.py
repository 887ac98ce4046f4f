"""engine.control.links: parameters read strictly, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bucatini.base.errors import ConfigError
from bucatini.engine.control.links import link_methods
from support.segment_bench import Bench


class Desk:
    def __init__(self, bench: Bench) -> None:
        self.methods = link_methods(bench.segment)

    def add(self, *rules: str) -> Any:
        return self.methods["link.add"]({"rules": list(rules)})

    def remove(self, *rules: str) -> Any:
        return self.methods["link.remove"]({"rules": list(rules)})

    def rules(self) -> list[str]:
        return [each["rule"] for each in self.methods["link.list"]({})]


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Bench() as bench:
        yield Desk(bench)


def test_there_and_back(desk: Desk) -> None:
    assert desk.add("a:b:tcp:81,80", "b:c") == {"added": 2, "notes": []}
    assert desk.methods["link.list"]({}) == [
        {"rule": "a:b:tcp:80-81", "source": "a", "target": "b", "protocol": "tcp", "ports": ((80, 81),)},
        {"rule": "b:c", "source": "b", "target": "c", "protocol": "any", "ports": ()},
    ]
    assert desk.remove("a:b:tcp:80-81") == {"removed": 1, "notes": []}
    assert desk.rules() == ["b:c"]


def test_what_is_there_already_or_is_not_is_said(desk: Desk) -> None:
    desk.add("a:b")
    assert desk.add("a:b:any", "a:c", "a:c") == {"added": 1, "notes": ["a:b is there already"]}
    assert desk.add("a:b") == {"added": 0, "notes": ["a:b is there already"]}
    assert desk.remove("a:b", "b:a") == {"removed": 1, "notes": ["b:a is not in force"]}
    with pytest.raises(ConfigError, match="^link.remove a:b, b:a: no such rule is in force$"):
        desk.remove("a:b", "b:a")
    assert desk.rules() == ["a:c"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "rules is no array of texts"),
        ({"rules": "a:b"}, "rules is no array of texts"),
        ({"rules": ["a:b", 1]}, "rule 1 is no text"),
        ({"rules": []}, "no rule is named"),
        ({"rules": ["a:b"], "rule": 1}, "unknown parameter 'rule'; accepted: rules"),
        ({"rules": ["a:b", "a:x"]}, "a:x: no guest is called 'x'; there are a, b, c"),
        ({"rules": ["a:b", "a:c:sctp"]}, "'a:c:sctp': protocol 'sctp'; accepted"),
        ({"rules": ["a:b", "a:c:tcp:0"]}, "'a:c:tcp:0': port '0'"),
        ({"rules": ["a:b", "a:a"]}, "a:a: a guest reaches itself"),
    ],
)
@pytest.mark.parametrize("method", ["link.add", "link.remove"])
def test_strictly_read_and_nothing_by_halves(desk: Desk, method: str, params: dict[str, Any], message: str) -> None:
    desk.add("b:c")
    with pytest.raises(ConfigError) as caught:
        desk.methods[method](params)
    assert str(caught.value).startswith(f"{method}: " if message[0] in "rnu" else f"{method} ")
    assert message in str(caught.value)
    assert desk.rules() == ["b:c"]


def test_the_list_takes_no_parameters(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="takes no parameters"):
        desk.methods["link.list"]({"rules": []})


def test_the_bound(desk: Desk) -> None:
    rules = [f"a:b:tcp:{port}" for port in range(1, 4097)]
    for start in range(0, 4096, 1024):
        desk.add(*rules[start : start + 1024])
    with pytest.raises(ConfigError, match="^link.add: 4097 rules, each range of ports counted; at most 4096"):
        desk.add("a:c")
    assert desk.add(rules[0])["added"] == 0, "one that is there is none more"
    assert desk.rules() == rules
