"""cli.forward: which words mean which request; the verb against an engine is in the interop tests."""

from __future__ import annotations

from typing import Any

import pytest

from bucatini.base.errors import ConfigError, HostError
from bucatini.cli import forward
from bucatini.cli.control import CONTROL_VARIABLE


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
    requests: list[tuple[str, str, dict[str, Any]]] = []

    def ask(path: str, method: str, params: dict[str, Any]) -> Any:
        requests.append((path, method, params))
        return [] if method == "forward.list" else {"notes": ["a note"]}

    monkeypatch.setattr("bucatini.engine.control.client.ask", ask)
    monkeypatch.delenv(CONTROL_VARIABLE, raising=False)
    return requests


def change(protocol: str, direction: str, spec: str) -> dict[str, str]:
    return {"protocol": protocol, "direction": direction, "spec": spec}


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("80", [("tcp", "in", "80")]),
        ("80 81", [("tcp", "in", "80"), ("tcp", "in", "81")]),
        ("-t 80", [("tcp", "in", "80")]),
        ("-t80 -u=81", [("tcp", "in", "80"), ("udp", "in", "81")]),
        ("--tcp-ports=80 --udp-ns 81", [("tcp", "in", "80"), ("udp", "out", "81")]),
        ("80 -T 81 82 -U 83", [("tcp", "in", "80"), ("tcp", "out", "81"), ("tcp", "in", "82"), ("udp", "out", "83")]),
        ("-u auto -- 80", [("udp", "in", "auto"), ("tcp", "in", "80")]),
    ],
)
@pytest.mark.parametrize(("verb", "method"), [("add", "forward.add"), ("rm", "forward.remove")])
def test_changes_in_the_order_written(
    asked: list[Any], capsys: pytest.CaptureFixture[str], words: str, changes: list[Any], verb: str, method: str
) -> None:
    assert forward.main(["--control", "S", verb, *words.split()]) == 0
    assert asked == [("S", method, change(*each)) for each in changes]
    assert capsys.readouterr().err.splitlines() == ["bucatini forward: a note"] * len(changes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "say ls, add or rm"),
        ("list", "'list' is not one of ls, add, rm"),
        ("--control S add", "add: no port is named"),
        ("add 80", "--control PATH is missing, and BUCATINI_CONTROL is not set"),
        ("--control S ls 80", "ls: '80' means nothing here"),
        ("--control S add --udp 80", "unknown option --udp; did you mean --udp-"),
        ("--control S add -t", "expected one argument"),
        ("--contol S add 80", "unknown option --contol; did you mean --control?"),
    ],
)
def test_words_that_mean_nothing(asked: list[Any], words: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        forward.main(words.split())
    assert message in str(caught.value)
    assert asked == []


def test_the_path_may_stand_in_the_environment(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONTROL_VARIABLE, "E")
    forward.main(["ls"])
    forward.main(["--control", "S", "ls", "--json"])
    assert [path for path, _, _ in asked] == ["E", "S"]


def test_a_failure_of_the_host_is_one_line(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*_: Any) -> Any:
        raise HostError("no descriptors")

    monkeypatch.setattr("bucatini.engine.control.client.ask", ask)
    assert forward.main(["--control", "S", "add", "80"]) == 1
    assert capsys.readouterr().err == "bucatini forward: no descriptors\n"


@pytest.mark.parametrize("words", ["--help", "add --help", "ls -h", "rm -h"])
def test_help(asked: list[Any], capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert forward.main(words.split()) == 0
    assert capsys.readouterr().out.startswith("usage: bucatini forward")


def test_table() -> None:
    plain = {"direction": "in", "protocol": "tcp", "address": None, "device": None, "port": 80, "target": 8080}
    rows = [
        forward._row({**plain, "automatic": True}),
        forward._row({**plain, "address": "::1", "device": "lo", "automatic": False}),
        forward._row({**plain, "direction": "out", "automatic": False}),
    ]
    assert forward._table(rows).splitlines() == [
        "direction  protocol  listens              leads to",
        "in         tcp       *:80                 guest:8080            auto",
        "in         tcp       [::1]%lo:80          guest:8080",
        "out        tcp       guest's loopback:80  host's loopback:8080",
    ]
    assert forward._table([]) == "nothing is forwarded\n"
