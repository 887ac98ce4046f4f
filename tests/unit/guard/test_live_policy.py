"""guard.live_policy: every request has its answer, every refusal its code, and a change is whole or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bucatini.base.address import pack
from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.guard.live_policy import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    ISOLATION_CONFLICT,
    MAX_LINE,
    MAX_TARGETS,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    REVISION_CONFLICT,
    LivePolicy,
    PolicyError,
)
from bucatini.guard.reach import ALLOW, BLOCK, NO_RULE
from bucatini.guard.rule_grammar import parse_rule
from bucatini.guard.rules import RuleTable

GATEWAY = "192.168.0.1"


def policy(*allow: str, block: tuple[str, ...] = ()) -> LivePolicy:
    return LivePolicy(map(parse_rule, allow), map(parse_rule, block), [pack(GATEWAY)])


def ask(live: LivePolicy, method: str = "softnet.policy.get", **members: Any) -> dict[str, Any]:
    """The answer to a request, `params` or other members as they are given."""
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, **members}).encode()
    answer = live.answer(line)
    assert b"\n" not in answer
    found: dict[str, Any] = json.loads(answer)
    assert found["jsonrpc"] == "2.0"
    assert len(found) == 3
    return found


def change(live: LivePolicy, revision: Any = "1", allow: Any = (), block: Any = ()) -> dict[str, Any]:
    return ask(live, "softnet.policy.set", params={"allow": allow, "block": block, "desiredRevision": revision})


def code(answer: dict[str, Any]) -> int:
    """Of an error, whose text is one line."""
    assert "\n" not in answer["error"]["message"]
    return int(answer["error"]["code"])


class TestGet:
    def test_at_the_beginning(self) -> None:
        live = policy("@host", "10.1.2.3/8", "10.0.0.0/8", block=("0.0.0.0/0",))
        assert ask(live)["result"] == {
            "allow": ["10.0.0.0/8", "@host"],
            "block": ["0.0.0.0/0"],
            "desiredRevision": None,
            "ruleCount": 3,
            "bridgeIsolation": True,
        }

    def test_without_isolation(self) -> None:
        assert ask(policy("0.0.0.0/0"))["result"]["bridgeIsolation"] is False

    @pytest.mark.parametrize("members", [{}, {"params": None}, {"params": {}}])
    def test_no_parameters(self, members: dict[str, Any]) -> None:
        assert "result" in ask(policy(), **members)

    @pytest.mark.parametrize("params", [{"allow": []}, [], [1], "x", 0, False])
    def test_parameters_are_refused(self, params: Any) -> None:
        assert code(ask(policy(), params=params)) == INVALID_PARAMS


class TestSet:
    def test_the_answer_is_what_is_in_force(self) -> None:
        live = policy("172.16.0.0/12")
        answer = change(live, "a", ["out 10.1.2.3/8:443", "@host", "host"], ["[2001:db8::/32]:1-2"])
        assert answer["result"] == ask(live)["result"]
        assert answer["result"] == {
            "allow": ["@host", "out 10.0.0.0/8:443"],
            "block": ["[2001:db8::/32]:1-2"],
            "desiredRevision": "a",
            "ruleCount": 5,
            "bridgeIsolation": True,
        }
        assert live.rules.decide(EGRESS, pack("10.0.0.1"), 443) == ALLOW
        assert live.rules.decide(INGRESS, pack("2001:db8::1"), 2) == BLOCK
        assert live.rules.decide(EGRESS, pack(GATEWAY), 1) == ALLOW, "the host's addresses stay known"
        assert live.rules.decide(EGRESS, pack("172.16.0.1"), 1) == NO_RULE

    def test_who_uses_the_table_is_told_of_each_new_one(self) -> None:
        seen: list[RuleTable] = []
        live = policy()
        live.on_change = seen.append
        change(live, "1", ["10.0.0.0/8"])
        change(live, "2", ["10.0.0.0/8"])
        change(live, "2", ["11.0.0.0/8"])
        change(live, "3", ["x"])
        assert seen == [live.rules]

    def test_the_same_revision_with_the_same_policy_is_a_repetition(self) -> None:
        live = policy()
        first = change(live, "1", ["10.0.0.0/8", "@host"], ["1.1.1.1"])
        rules = live.rules
        assert change(live, "1", ["@host", "10.9.9.9/8", "host"], ["1.1.1.1/32"]) == first
        assert live.rules is rules

    def test_the_same_revision_with_another_policy_is_a_conflict(self) -> None:
        live = policy()
        before = change(live, "1", ["10.0.0.0/8"])
        for allow, block in ((["10.0.0.0/9"], []), ([], ["10.0.0.0/8"]), ([], []), (["10.0.0.0/8"], ["@host"])):
            assert code(change(live, "1", allow, block)) == REVISION_CONFLICT
        assert ask(live) == before

    def test_another_revision_of_the_same_policy_is_taken_down(self) -> None:
        live = policy("10.0.0.0/8")
        for revision in ("1", "2", "1"):
            assert change(live, revision, ["10.0.0.0/8"])["result"]["desiredRevision"] == revision

    def test_only_the_last_revision_counts(self) -> None:
        live = policy()
        for revision, rule in (("1", "10.0.0.0/8"), ("2", "11.0.0.0/8"), ("1", "12.0.0.0/8")):
            assert change(live, revision, [rule])["result"]["allow"] == [rule]

    @pytest.mark.parametrize(
        ("now", "then"), [([], ["0.0.0.0/0"]), (["0.0.0.0/0"], []), ([], ["1.2.3.4/0"]), (["0.0.0.0/0"], ["::/0"])]
    )
    def test_isolation_stays_what_it_is(self, now: list[str], then: list[str]) -> None:
        live = policy(*now)
        before = ask(live)
        assert code(change(live, "1", then)) == ISOLATION_CONFLICT
        assert ask(live) == before

    def test_isolation_is_about_allow_alone(self) -> None:
        assert "result" in change(policy("0.0.0.0/0"), "1", ["0.0.0.0/0"], ["0.0.0.0/0"])
        assert "result" in change(policy(), "1", ["out 0.0.0.0/0", "0.0.0.0/0:80", "::/0"])

    @pytest.mark.parametrize("revision", ["", "x" * 257, "ä" * 129, "\ud800", None, 1, 1.5, True, ["1"], {}])
    def test_what_is_no_revision(self, revision: Any) -> None:
        live = policy()
        answer = change(live, revision)
        assert code(answer) == INVALID_PARAMS
        assert "text of 1 to 256 bytes is accepted" in answer["error"]["message"]
        assert live.revision is None

    @pytest.mark.parametrize("revision", ["x", "x" * 256, "ä" * 128, " ", "\n", "\0"])
    def test_what_is_one(self, revision: str) -> None:
        assert change(policy(), revision)["result"]["desiredRevision"] == revision

    @pytest.mark.parametrize(
        "params",
        [
            None,
            [],
            "x",
            {},
            {"allow": [], "block": []},
            {"allow": [], "desiredRevision": "1"},
            {"allow": [], "block": [], "desiredRevision": "1", "force": True},
        ],
    )
    def test_members_are_all_wanted_and_no_others(self, params: Any) -> None:
        answer = ask(policy(), "softnet.policy.set", params=params)
        assert code(answer) == INVALID_PARAMS
        assert "allow, block, desiredRevision are wanted" in answer["error"]["message"]

    @pytest.mark.parametrize("field", ["allow", "block"])
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("10.0.0.0/8", "{}: a string; an array of rules is accepted"),
            (None, "{}: a null; an array"),
            ({}, "{}: a object; an array"),
            (1, "{}: a number; an array"),
            (True, "{}: a boolean; an array"),
            (["10.0.0.0/8", 5], "{}[1]: a number; a rule as text is accepted"),
            ([["10.0.0.0/8"]], "{}[0]: a array; a rule"),
            (["10.0.0.0/8", "1.1.1.1", "10.0.0.0/33"], "{}[2] '10.0.0.0/33': prefix length '33'"),
            (["\ud800"], "{}[0] '\\ud800': "),
        ],
    )
    def test_a_bad_rule_leaves_the_old_ones(self, field: str, value: Any, text: str) -> None:
        live = policy("172.16.0.0/12")
        before = change(live, "1", ["10.0.0.0/8"])
        answer = change(live, "2", **{field: value})
        assert code(answer) == INVALID_PARAMS
        assert text.format(field) in answer["error"]["message"]
        assert ask(live) == before

    def test_how_many_rules(self) -> None:
        live = policy()
        half = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(MAX_TARGETS // 2)]
        assert change(live, "1", half, half)["result"]["ruleCount"] == MAX_TARGETS // 2
        assert "result" in change(live, "2", ["10.0.0.0/8"] * MAX_TARGETS)
        answer = change(live, "3", half, [*half, "1.1.1.1"])
        assert code(answer) == INVALID_PARAMS
        assert "4097 rules; at most 4096 are accepted" in answer["error"]["message"]
        assert live.revision == "2"

    def test_called_by_ourselves(self) -> None:
        with pytest.raises(PolicyError, match="desiredRevision") as caught:
            policy().set({"allow": [], "block": [], "desiredRevision": ""})
        assert caught.value.code == INVALID_PARAMS


class TestRequests:
    @pytest.mark.parametrize("number", ["", "a", "x" * 256, "ä" * 128, 0, -1, 1 << 63, -(1 << 63), (1 << 64) - 1])
    def test_an_id_is_repeated(self, number: Any) -> None:
        assert ask(policy(), id=number)["id"] == number
        assert ask(policy(), "x", id=number)["id"] == number

    @pytest.mark.parametrize(
        "number", [None, True, False, 1.0, 1.5, [], {}, "x" * 257, "ä" * 129, "\ud800", 1 << 64, -(1 << 63) - 1]
    )
    def test_what_is_no_id(self, number: Any) -> None:
        live = policy()
        params = {"allow": [], "block": [], "desiredRevision": "1"}
        answer = ask(live, "softnet.policy.set", id=number, params=params)
        assert code(answer) == INVALID_REQUEST
        assert answer["id"] is None
        assert live.revision is None

    def test_a_notification_changes_nothing(self) -> None:
        live = policy()
        line = (
            b'{"jsonrpc":"2.0","method":"softnet.policy.set",'
            b'"params":{"allow":[],"block":[],"desiredRevision":"1"}}'
        )
        answer = json.loads(live.answer(line))
        assert (code(answer), answer["id"], live.revision) == (INVALID_REQUEST, None, None)

    @pytest.mark.parametrize(
        "members",
        [{"jsonrpc": "1.0"}, {"jsonrpc": 2.0}, {"jsonrpc": None}, {"method": None}, {"method": 1}, {"extra": 1}],
    )
    def test_what_is_no_request(self, members: dict[str, Any]) -> None:
        answer = ask(policy(), **{"method": "softnet.policy.get", **members})
        assert (code(answer), answer["id"]) == (INVALID_REQUEST, 1)

    @pytest.mark.parametrize("line", [b"[]", b"1", b'"x"', b"null", b'[{"jsonrpc":"2.0","id":1,"method":"x"}]', b"{}"])
    def test_what_is_no_object(self, line: bytes) -> None:
        assert code(json.loads(policy().answer(line))) == INVALID_REQUEST

    @pytest.mark.parametrize("method", ["", "softnet.policy", "softnet.policy.Get", "__init__", "x" * 10_000])
    def test_no_such_method(self, method: str) -> None:
        answer = ask(policy(), method)
        assert (code(answer), answer["id"]) == (METHOD_NOT_FOUND, 1)
        assert answer["error"]["message"].endswith("accepted: softnet.policy.get, softnet.policy.set")
        assert len(answer["error"]["message"]) < 300

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"\r",
            b"{",
            b"{} {}",
            b"\xff",
            b"\xef\xbb\xbf{}",
            b'{"id":NaN}',
            b'{"id":-Infinity}',
            b"[" * 100_000,
            b'{"id":' + b"9" * 5000 + b"}",
            b" " * (MAX_LINE + 1),
        ],
        ids=lambda line: repr(line[:20]),
    )
    def test_what_is_no_json(self, line: bytes) -> None:
        answer = json.loads(policy().answer(line))
        assert (code(answer), answer["id"]) == (PARSE_ERROR, None)

    def test_the_longest_line(self) -> None:
        line = b'{"jsonrpc":"2.0","id":1,"method":"softnet.policy.get"}'
        assert "result" in json.loads(policy().answer(line.ljust(MAX_LINE)))
        assert policy().answer(line.ljust(MAX_LINE + 1)) == policy().too_long()

    def test_space_and_a_carriage_return_are_json(self) -> None:
        assert "result" in json.loads(policy().answer(b' {"jsonrpc":"2.0", "id":1,"method":"softnet.policy.get"}\r'))


def test_a_faithful_filter_takes_no_directions() -> None:
    live = LivePolicy([parse_rule("10.0.0.0/8")], directions=False)
    assert code(change(live, allow=["out 10.0.0.0/8"])) == INVALID_PARAMS
    assert ask(live)["result"]["allow"] == ["10.0.0.0/8"]
    assert change(live, allow=["10.1.0.0/16:80"])["result"]["allow"] == ["10.1.0.0/16:80"]
