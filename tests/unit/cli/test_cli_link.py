"""cli.link: which words mean which request; the verb against an engine is in the interop tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bucatini.base.errors import ConfigError, HostError
from bucatini.cli import link
from bucatini.cli.control import CONTROL_VARIABLE

RULES = [
    {"rule": "web:db:tcp:80-81,90", "source": "web", "target": "db", "protocol": "tcp", "ports": [[80, 81], [90, 90]]},
    {"rule": "db:web", "source": "db", "target": "web", "protocol": "any", "ports": []},
]
ANSWERS: dict[str, Any] = {
    "link.list": RULES,
    "link.add": {"added": 1, "notes": ["a:b is there already"]},
    "link.remove": {"removed": 1, "notes": []},
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
    requests: list[tuple[str, str, dict[str, Any]]] = []

    def ask(path: str, method: str, params: dict[str, Any]) -> Any:
        requests.append((path, method, params))
        return ANSWERS[method]

    monkeypatch.setattr("bucatini.engine.control.client.ask", ask)
    monkeypatch.delenv(CONTROL_VARIABLE, raising=False)
    return requests


@pytest.mark.parametrize(("verb", "method"), [("add", "link.add"), ("rm", "link.remove")])
@pytest.mark.parametrize(
    "words", ["a:b c:d:tcp:1", "--json a:b c:d:tcp:1", "a:b --json c:d:tcp:1", "a:b c:d:tcp:1 --json"]
)
def test_one_request_for_all_rules(
    asked: list[Any], capsys: pytest.CaptureFixture[str], verb: str, method: str, words: str
) -> None:
    assert link.main(["--control", "S", verb, *words.split()]) == 0
    assert asked == [("S", method, {"rules": ["a:b", "c:d:tcp:1"]})]
    said = capsys.readouterr()
    if "--json" in words:
        assert json.loads(said.out) == ANSWERS[method]
        assert said.err == ""
    else:
        assert said.err.splitlines() == [f"bucatini link: {note}" for note in ANSWERS[method]["notes"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "say ls, add or rm"),
        ("list", "'list' is not one of ls, add, rm"),
        ("--control S add", "add: no rule is named"),
        ("add a:b", "--control PATH is missing, and BUCATINI_CONTROL is not set"),
        ("--control S ls a:b", "ls: 'a:b' means nothing here"),
        ("--control S add a:b --jsn", "unknown option --jsn; did you mean --json?"),
        ("--control", "expected one argument"),
    ],
)
def test_words_that_mean_nothing(asked: list[Any], words: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        link.main(words.split())
    assert message in str(caught.value)
    assert asked == []


def test_list(asked: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(CONTROL_VARIABLE, "E")
    assert link.main(["ls"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "from  to   protocol  ports     rule",
        "web   db   tcp       80-81,90  web:db:tcp:80-81,90",
        "db    web  any       all       db:web",
    ]
    assert link.main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == RULES
    monkeypatch.setitem(ANSWERS, "link.list", [])
    assert link.main(["ls"]) == 0
    assert capsys.readouterr().out == "nobody may begin anything\n"
    assert asked == [("E", "link.list", {})] * 3


def test_an_engine_that_cannot_is_one_line(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*_: Any) -> Any:
        raise HostError("no method 'link.add'")

    monkeypatch.setattr("bucatini.engine.control.client.ask", ask)
    assert link.main(["--control", "S", "add", "a:b"]) == 1
    assert capsys.readouterr().err == "bucatini link: no method 'link.add'\n"


@pytest.mark.parametrize("words", ["--help", "add --help", "ls -h", "rm -h"])
def test_help(asked: list[Any], capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert link.main(words.split()) == 0
    assert capsys.readouterr().out.startswith("usage: bucatini link")
