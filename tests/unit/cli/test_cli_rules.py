"""cli.rules: which words mean which request; the verb against an engine is in the interop tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bucatini.base.errors import ConfigError, HostError
from bucatini.cli import rules
from bucatini.cli.control import CONTROL_VARIABLE

POLICY = {"allow": ["10.0.0.0/8"], "block": [], "desiredRevision": None, "ruleCount": 1, "bridgeIsolation": True}
ANSWERS: dict[str, Any] = {"softnet.policy.get": POLICY, "softnet.policy.set": POLICY}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
    requests: list[tuple[str, str, dict[str, Any]]] = []

    def ask(path: str, method: str, params: dict[str, Any]) -> Any:
        requests.append((path, method, params))
        return ANSWERS[method]

    monkeypatch.setattr("bucatini.engine.control.client.ask", ask)
    monkeypatch.delenv(CONTROL_VARIABLE, raising=False)
    return requests


def test_show(asked: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONTROL_VARIABLE, "E")
    assert rules.main(["show"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "revision      (that of the command line)",
        "other guests  isolated",
        "allow         10.0.0.0/8",
        "block         (nothing)",
    ]
    assert rules.main(["--control", "S", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == POLICY
    assert asked == [("E", "softnet.policy.get", {}), ("S", "softnet.policy.get", {})]


def test_set(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--allow", "10.0.0.0/8", "--block", "out @host:22", "--allow", "1.1.1.1", "--revision", "7"]
    assert rules.main(["--control", "S", "set", *words]) == 0
    assert capsys.readouterr() == ("", "")
    change = {"allow": ["10.0.0.0/8", "1.1.1.1"], "block": ["out @host:22"], "desiredRevision": "7"}
    assert asked == [("S", "softnet.policy.set", change)]
    assert rules.main(["--control", "S", "set", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == POLICY


def test_a_revision_is_made_up(asked: list[Any]) -> None:
    for _ in range(2):
        assert rules.main(["--control", "S", "set"]) == 0
    one, other = (params["desiredRevision"] for _, _, params in asked)
    assert one != other
    assert rules.main(["--control", "S", "set", "--revision", ""]) == 0
    assert asked[-1][2]["desiredRevision"] == "", "the engine says what is wrong with that"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "say show or set"),
        ("get", "'get' is not one of show, set"),
        ("--control S show x", "show: 'x' means nothing here"),
        ("--control S set 10.0.0.0/8", "set: '10.0.0.0/8' means nothing here"),
        ("--control S set --allow", "--allow: expected one argument"),
        ("--control S set --alow 1.1.1.1", "unknown option --alow; did you mean --allow?"),
        ("show", "--control PATH is missing, and BUCATINI_CONTROL is not set"),
    ],
)
def test_words_that_mean_nothing(asked: list[Any], words: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rules.main(words.split())
    assert message in str(caught.value)
    assert asked == []


def test_an_engine_that_cannot_is_one_line(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*_: Any) -> Any:
        raise HostError("no answer")

    monkeypatch.setattr("bucatini.engine.control.client.ask", ask)
    assert rules.main(["--control", "S", "show"]) == 1
    assert capsys.readouterr().err == "bucatini rules: no answer\n"


@pytest.mark.parametrize("words", ["--help", "show --help", "set -h"])
def test_help(asked: list[Any], capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert rules.main(words.split()) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: bucatini rules")
    assert "--revision" in said or "show" in words
