"""The rules of a running guest, changed by JSON-RPC 2.0 as Softnet's control channel has it (spec section 13.1).

    softnet.policy.get   no parameters
    softnet.policy.set   {"allow": [RULE...], "block": [RULE...], "desiredRevision": TEXT}

Both answer {"allow", "block": normalised, sorted, each once; "desiredRevision": null until the first change;
"ruleCount", "bridgeIsolation"}. RULE is that of `rule_grammar.parse_rule`, which holds Softnet's.

A change is made whole or not at all: the new table is built beside the old one and takes its place in one assignment.
The same revision with the same policy is a repetition and changes nothing; with another policy it is a conflict. Each
change wants an acknowledgment, so what has no id (a notification) is refused, and so are batches.

    -32700  no JSON, or a longer line than MAX_LINE
    -32600  no request: members, version, or an id that is neither text of up to 256 bytes nor an integer of 64 bits
    -32601  no such method
    -32602  parameters: unknown, missing, more than MAX_TARGETS rules, a revision not of 1 to 256 bytes, a bad rule
    -32001  this revision was another policy
    -32002  bridge isolation would change, and it cannot while the guest runs

A set of 4096 rules takes some tens of milliseconds, in which the engine does nothing else. Does not: read or write
(`engine.control.softnet` does), keep a policy for the next start, or let anybody wait for a change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from bucatini.base.errors import ConfigError
from bucatini.guard.rule_grammar import BARE, Pattern, normalised, parse_rule, shown
from bucatini.guard.rules import RuleTable, isolates

__all__ = ["MAX_LINE", "MAX_TARGETS", "LivePolicy", "PolicyError"]

MAX_LINE = 1 << 20
"""Bytes of a request, without its newline."""
MAX_TARGETS = 4096
"""Of `allow` and `block` together, repetitions included."""
MAX_WORD = 256
"""Bytes of a revision or an id."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
REVISION_CONFLICT = -32001
ISOLATION_CONFLICT = -32002

REQUEST_MEMBERS = frozenset(("jsonrpc", "id", "method", "params"))
SET_MEMBERS = frozenset(("allow", "block", "desiredRevision"))


class PolicyError(ConfigError):
    """A change that cannot be made; `code` is that of JSON-RPC."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class LivePolicy:
    """One guest's rules, and the only way to change them. `on_change` is called with each new table, once it is in
    force; it must not raise. `hosts` are the packed addresses that `@host` means.
    """

    def __init__(
        self,
        allow: Iterable[Pattern] = (),
        block: Iterable[Pattern] = (),
        hosts: Iterable[bytes] = (),
        on_change: Callable[[RuleTable], None] | None = None,
        *,
        directions: bool = True,
    ) -> None:
        self.rules = RuleTable(allow, block, hosts)
        """Those in force."""
        self.revision: str | None = None
        """Of the last change."""
        self.isolated = isolates(self.rules.allow)
        """Whether the bridge port is; decided once."""
        self.on_change = on_change
        self._directions = directions
        """Whether rules may say `in` or `out`."""
        self._methods: dict[str, Callable[[Any], dict[str, Any]]] = {
            "softnet.policy.get": self.get,
            "softnet.policy.set": self.set,
        }

    def get(self, params: Any = None) -> dict[str, Any]:
        """The policy in force. Raises PolicyError for parameters."""
        if params is not None and params != {}:
            raise PolicyError(INVALID_PARAMS, "softnet.policy.get: no parameters are accepted")
        return {
            "allow": [str(pattern) for pattern in self.rules.allow],
            "block": [str(pattern) for pattern in self.rules.block],
            "desiredRevision": self.revision,
            "ruleCount": len(self.rules),
            "bridgeIsolation": self.isolated,
        }

    def set(self, params: Any) -> dict[str, Any]:
        """Change the policy, whole; what is then in force. Raises PolicyError, and nothing has changed."""
        revision, allow, block = _read(params)
        if not self._directions and any(pattern.direction != BARE for pattern in (*allow, *block)):
            raise PolicyError(INVALID_PARAMS, "allow, block: a faithful filter accepts no rules with in or out")
        is_same = (allow, block) == (self.rules.allow, self.rules.block)
        if revision == self.revision and not is_same:
            raise PolicyError(REVISION_CONFLICT, f"desiredRevision {shown(revision)}: it was another policy")
        if isolates(allow) != self.isolated:
            text = "allow: 0.0.0.0/0 comes or goes, and bridge isolation with it, which cannot be while the guest runs"
            raise PolicyError(ISOLATION_CONFLICT, text)
        if not is_same:
            self.rules = RuleTable(allow, block, self.rules.hosts)
        self.revision = revision
        if not is_same and self.on_change is not None:
            self.on_change(self.rules)
        return self.get()

    def answer(self, line: bytes) -> bytes:
        """The answer to one request, both without newline. Never raises for what the line says."""
        if len(line) > MAX_LINE:
            return self.too_long()
        try:
            request = json.loads(line.decode(), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return _error(None, PARSE_ERROR, "not JSON")
        if not isinstance(request, dict):
            return _error(None, INVALID_REQUEST, "not an object")
        number = request.get("id")
        if not _is_id(number):
            text = f"id: text of up to {MAX_WORD} bytes or an integer is accepted, and wanted"
            return _error(None, INVALID_REQUEST, text)
        if unknown := request.keys() - REQUEST_MEMBERS:
            return _error(number, INVALID_REQUEST, f"unknown member {shown(min(unknown))}")
        name = request.get("method")
        if request.get("jsonrpc") != "2.0" or not isinstance(name, str):
            return _error(number, INVALID_REQUEST, "no JSON-RPC 2.0 request: jsonrpc or method is missing")
        method = self._methods.get(name)
        if method is None:
            text = f"no method {shown(name)}; accepted: {', '.join(self._methods)}"
            return _error(number, METHOD_NOT_FOUND, text)
        try:
            return _written({"jsonrpc": "2.0", "id": number, "result": method(request.get("params"))})
        except PolicyError as error:
            return _error(number, error.code, str(error))

    def too_long(self) -> bytes:
        """The answer to a line of more than `MAX_LINE` bytes."""
        return _error(None, PARSE_ERROR, f"longer than {MAX_LINE} bytes")


def _read(params: Any) -> tuple[str, tuple[Pattern, ...], tuple[Pattern, ...]]:
    """Revision, allow and block of a change."""
    if not isinstance(params, dict) or params.keys() != SET_MEMBERS:
        text = f"softnet.policy.set: {', '.join(sorted(SET_MEMBERS))} are wanted, and nothing else is accepted"
        raise PolicyError(INVALID_PARAMS, text)
    revision, allow, block = params["desiredRevision"], params["allow"], params["block"]
    if not isinstance(revision, str) or not 1 <= _size(revision) <= MAX_WORD:
        value = shown(revision) if isinstance(revision, str) else f"a {_kind(revision)}"
        raise PolicyError(INVALID_PARAMS, f"desiredRevision {value}: text of 1 to {MAX_WORD} bytes is accepted")
    for field in ("allow", "block"):
        if not isinstance(params[field], list):
            raise PolicyError(INVALID_PARAMS, f"{field}: a {_kind(params[field])}; an array of rules is accepted")
    if (number := len(allow) + len(block)) > MAX_TARGETS:
        raise PolicyError(INVALID_PARAMS, f"allow, block: {number} rules; at most {MAX_TARGETS} are accepted")
    return revision, _patterns("allow", allow), _patterns("block", block)


def _patterns(field: str, values: list[Any]) -> tuple[Pattern, ...]:
    found = []
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise PolicyError(INVALID_PARAMS, f"{field}[{index}]: a {_kind(value)}; a rule as text is accepted")
        try:
            found.append(parse_rule(value, f"{field}[{index}]"))
        except ConfigError as error:
            raise PolicyError(INVALID_PARAMS, str(error)) from None
    return normalised(found)


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return 0 <= _size(value) <= MAX_WORD
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 64


def _size(text: str) -> int:
    """Bytes of UTF-8; -1 when it cannot be said in it: JSON lets half a surrogate pair through."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return -1


def _kind(value: Any) -> str:
    """What JSON calls it."""
    if value is None:
        return "null"
    kinds = ((bool, "boolean"), (dict, "object"), (list, "array"), (str, "string"))
    return next((kind for each, kind in kinds if isinstance(value, each)), "number")


def _refuse(constant: str) -> None:
    """NaN and infinities, which JSON has not."""
    raise ValueError(constant)


def _error(number: Any, code: int, text: str) -> bytes:
    return _written({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": text}})


def _written(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode()
