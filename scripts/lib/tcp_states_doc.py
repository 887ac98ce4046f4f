"""Writes docs/tcp-states.md from `bucatini.flows.tcp_states`; run it with PYTHONPATH=src when the table changes.

A test compares the page with what this makes.
"""

from __future__ import annotations

import re
from pathlib import Path

from bucatini.flows import tcp_states
from bucatini.flows.tcp_states import CLOSED, CONNECTING, NAMES, TRANSITIONS

TARGET = Path(__file__).resolve().parents[2] / "docs" / "tcp-states.md"

HEAD = """# States of a TCP flow

Made by `scripts/lib/tcp_states_doc.py` from `src/bucatini/flows/tcp_states.py`; do not edit it here.

Towards the guest the engine is an ordinary TCP endpoint, so these are the states of
[RFC 9293, section 3.3.2](https://www.rfc-editor.org/rfc/rfc9293#section-3.3.2), seen from the engine's end, and one
more: CONNECTING. A move that is not listed raises `BugError`; each listed one is walked by a script in
`tests/playbook/test_playbook_transitions.py`.
"""


def meanings() -> dict[str, str]:
    """State and meaning, from the module's docstring."""
    block = re.search(r"^```text\n(.*?)^```", tcp_states.__doc__ or "", re.MULTILINE | re.DOTALL)
    if block is None:
        raise SystemExit("flows/tcp_states.py: the docstring has no list of states")
    return dict(re.findall(r"^(\w+) +(.+)$", block[1], re.MULTILINE))


def page() -> str:
    """The whole page."""
    known = meanings()
    moves = [(NAMES[old], NAMES[new], cause) for (old, new), cause in TRANSITIONS.items()]
    resets = [(old, cause) for old, new, cause in moves if new == NAMES[CLOSED] and cause == "reset"]
    return "\n".join(
        [
            HEAD,
            "## States",
            "",
            "| state | meaning |",
            "|---|---|",
            *(f"| {name} | {known[name]} |" for name in NAMES),
            "",
            "## Diagram",
            "",
            f"A reset leads from {', '.join(old for old, _ in resets)} to CLOSED too; these arrows are left out.",
            "",
            "```mermaid",
            "stateDiagram-v2",
            f"    [*] --> {NAMES[CONNECTING]}",
            *(
                # A semicolon ends a statement in this notation.
                f"    {old} --> {new}: {cause.replace(';', ',')}"
                for old, new, cause in moves
                if (old, cause) not in resets
            ),
            f"    {NAMES[CLOSED]} --> [*]",
            "```",
            "",
            "## Moves",
            "",
            "| from | to | when |",
            "|---|---|---|",
            *(f"| {old} | {new} | {cause} |" for old, new, cause in moves),
            "",
        ]
    )


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
