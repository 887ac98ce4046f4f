"""Methods of the control socket that change who may begin what on a running segment.

    link.list                              the rules in force, in the order they came
    link.add     {"rules": [RULE...]}      as `--link` says it, beside those in force
    link.remove  {"rules": [RULE...]}      the same, no longer; what no other rule permits ends

A change is made as a whole or not at all, and counts from the next packet on. A rule is removed as it was added: one of
many ports is one rule. What is there already, or is not there, is a note; it is an error where nothing was removed.
"""

from __future__ import annotations

from typing import Any

from bucatini.base.errors import ConfigError
from bucatini.engine.control.server import Method
from bucatini.engine.link_rules import LinkRule, check_number, check_rule, read_rule
from bucatini.engine.segment import Segment

__all__ = ["link_methods"]


def link_methods(segment: Segment) -> dict[str, Method]:
    """The methods, by name, for `ControlServer`."""
    return {
        "link.list": lambda params: _list(segment, params),
        "link.add": lambda params: _add(segment, params),
        "link.remove": lambda params: _remove(segment, params),
    }


def _list(segment: Segment, params: dict[str, Any]) -> list[dict[str, Any]]:
    if params:
        raise ConfigError("link.list takes no parameters")
    return [{"rule": str(rule), **rule._asdict()} for rule in segment.rules]


def _add(segment: Segment, params: dict[str, Any]) -> dict[str, Any]:
    rules, before = _read("link.add", segment, params), set(segment.rules)
    check_number((*segment.rules, *(rule for rule in rules if rule not in before)), "link.add")
    segment.change((*segment.rules, *rules))
    there = [rule for rule in rules if rule in before]
    return {"added": len(rules) - len(there), "notes": [f"{rule} is there already" for rule in there]}


def _remove(segment: Segment, params: dict[str, Any]) -> dict[str, Any]:
    rules, before = _read("link.remove", segment, params), set(segment.rules)
    missing = [rule for rule in rules if rule not in before]
    if len(missing) == len(rules):
        raise ConfigError(f"link.remove {', '.join(map(str, rules))}: no such rule is in force")
    gone = set(rules)
    segment.change(rule for rule in segment.rules if rule not in gone)
    return {"removed": len(rules) - len(missing), "notes": [f"{rule} is not in force" for rule in missing]}


def _read(method: str, segment: Segment, params: dict[str, Any]) -> list[LinkRule]:
    """The rules of a change, each once, checked. Raises ConfigError."""
    unknown = sorted(set(params) - {"rules"})
    if unknown:
        raise ConfigError(f"{method}: unknown parameter {unknown[0]!r}; accepted: rules")
    written = params.get("rules")
    if not isinstance(written, list):
        raise ConfigError(f"{method}: rules is no array of texts such as 'web:db:tcp:5432'")
    for each in written:
        if not isinstance(each, str):
            raise ConfigError(f"{method}: rule {each!r} is no text such as 'web:db:tcp:5432'")
    if not written:
        raise ConfigError(f"{method}: no rule is named")
    names = [member.name for member in segment.members]
    rules = list(dict.fromkeys(read_rule(each, method) for each in written))
    for rule in rules:
        check_rule(rule, names, method)
    return rules
