"""Which test files a second run in the other form can tell something new: those whose imports lead to a module of ours
that has two forms, at once or through others (docs/adr/0002).

`two_forms.py FOLDER...` prints the files, one a line. Imports are read, not run: those inside functions and for types
alone count as well. A file that starts the program with `-m bucatini` leads to all of it. Left out are those of
`tests/unit/native`, which run both twins side by side in one run, and a conversation with the kernel whose frames other
tests have as bytes.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
ROOTS = {"bucatini": TOP / "src", "support": TOP / "tests"}
CHOOSERS = (("bucatini", "_build.py"), ("native", "__init__.py"))
UNIT = TOP / "tests" / "unit"
LEFT_OUT = {*UNIT.glob("native/test_*.py"), UNIT / "services" / "test_services_membership_kernel.py"}


def source(name: str) -> Path | None:
    """The file of a module of ours or of the tests' helpers; None of any other name."""
    root, parts = ROOTS.get(name.partition(".")[0]), name.split(".")
    places = [root.joinpath(*parts).with_suffix(".py"), root.joinpath(*parts, "__init__.py")] if root else []
    return next((place for place in places if place.exists()), None)


def has_two_forms(path: Path) -> bool:
    """A pair, or one of the two modules that tell the forms apart."""
    return path.with_suffix(".pxd").exists() or path.parts[-2:] in CHOOSERS


@cache
def imported(path: Path) -> frozenset[Path]:
    """Files of the modules that `path` imports, and of the packages around them."""
    return frozenset(found for name in names(ast.parse(path.read_bytes())) if (found := source(name)))


def names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.List | ast.Tuple):
            words = [item.value for item in node.elts if isinstance(item, ast.Constant)]
            if "-m" in words and "bucatini" in words:
                yield "bucatini.native"


def differs(test: Path) -> bool:
    """Whether `test` reaches a module of two forms."""
    seen, waiting = set[Path](), [test]
    while waiting:
        path = waiting.pop()
        if has_two_forms(path):
            return True
        waiting += imported(path) - seen
        seen |= imported(path)
    return False


for folder in sys.argv[1:]:
    for test in sorted((TOP / folder).rglob("test_*.py")):
        if test not in LEFT_OUT and differs(test):
            print(test.relative_to(TOP))
