"""`scripts/check docs`: links in Markdown resolve, names follow the glossary, every test file mirrors a source file.

Prints one line for each finding; exit status 1 when there is any.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "src" / "bucatini"
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MIRRORED = ("unit",)


def documents() -> list[Path]:
    return sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")])


def anchors(document: Path) -> set[str]:
    """Anchors of a document's headings, as forges make them."""
    prose = FENCE.sub("", document.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links() -> Iterator[str]:
    for document in documents():
        for target in LINK.findall(FENCE.sub("", document.read_text(encoding="utf-8"))):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            goal = (document.parent / path).resolve() if path else document
            if not goal.exists():
                yield f"{document.relative_to(TOP)}: no such file: {target}"
            elif anchor and goal.suffix == ".md" and anchor not in anchors(goal):
                yield f"{document.relative_to(TOP)}: no such heading: {target}"


def forbidden_words() -> dict[str, str]:
    """Words that no name of ours holds, each with the word to use; both from the glossary's last table."""
    rows = re.findall(
        r"^\| *`(\w+)` *\| *([\w ,]+?) *\|$", (TOP / "docs/glossary.md").read_text(encoding="utf-8"), re.M
    )
    if not rows:
        raise SystemExit("docs/glossary.md: the table of words not used in names is gone")
    return dict(rows)


def named(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every function, class and parameter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def foreign_words() -> Iterator[str]:
    instead = forbidden_words()
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, name in named(ast.parse(path.read_text(encoding="utf-8"))):
            for word in re.findall(r"[A-Z]?[a-z0-9]+", name):
                if word.lower() in instead:
                    yield f"{path.relative_to(TOP)}:{line}: {name}: the word here is {instead[word.lower()]}"


def orphan_tests() -> Iterator[str]:
    """tests/unit/PACKAGE/test_MODULE.py, test_PACKAGE_MODULE.py, or either with _ASPECT behind."""
    listed = set(
        tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["bucatini"]["tests-without-source"]
    )
    for kind in MIRRORED:
        for test in sorted((TOP / "tests" / kind).rglob("test_*.py")):
            folder = test.parent.relative_to(TOP / "tests" / kind)
            name = str(test.relative_to(TOP))
            if name in listed:
                listed.remove(name)
                continue
            sources = (PACKAGE / folder).glob("*.py*")
            stems = {source.stem.lstrip("_") for source in sources if source.stem != "__init__"}
            subject = test.stem.removeprefix("test_")
            short = subject.removeprefix("_".join(folder.parts) + "_")
            if not any(f"{tried}_".startswith(f"{stem}_") for stem in stems for tried in (subject, short)):
                yield f"{name}: mirrors no file of src/bucatini/{folder}"
    for name in sorted(listed):
        yield f"pyproject.toml: tests-without-source names {name}, which is not there"


def main() -> int:
    findings = [*broken_links(), *foreign_words(), *orphan_tests()]
    print("\n".join(findings), end="\n" if findings else "")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
