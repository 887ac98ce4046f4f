"""The tree is what docs/architecture.md says, and both forms of it can be imported."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bucatini
from bucatini import _build

TOP = Path(__file__).resolve().parents[2]
SOURCES = TOP / "src" / "bucatini"
TABLE = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["bucatini"]
FORM = os.environ.get("BUCATINI_TEST_FORM")

IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys, bucatini
for found in pkgutil.walk_packages(bucatini.__path__, "bucatini."):
    if not found.name.endswith(("__main__", "._cython")) and not found.name.startswith("bucatini.native.fast"):
        importlib.import_module(found.name)
files = {name: module.__file__ for name, module in sys.modules.items() if name.startswith("bucatini.")}
print(json.dumps(files))
"""


def documented_folders() -> dict[str, str]:
    """Folder and sentence of each line of the layout in docs/architecture.md, in order."""
    text = (TOP / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"^```text\nsrc/bucatini/\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block
    return dict(re.findall(r"^  (\w+)/ +(.+)$", block[1], re.MULTILINE))


def source_folders() -> list[str]:
    return sorted(path.parent.name for path in SOURCES.glob("*/__init__.py"))


def imported_files(**environment: str) -> dict[str, str]:
    """Import every module of the package in a fresh interpreter; name and file of each."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)
    assert isinstance(files, dict)
    return files


def test_folders_are_those_of_the_document() -> None:
    assert sorted(documented_folders()) == source_folders()


@pytest.mark.parametrize("folder", source_folders())
def test_package_opens_with_the_sentence_of_the_document(folder: str) -> None:
    docstring = ast.get_docstring(ast.parse((SOURCES / folder / "__init__.py").read_text(encoding="utf-8")))
    assert docstring
    assert docstring.split("\n\n")[0].replace("\n", " ") == documented_folders()[folder]


def test_order_of_the_document_is_the_order_of_the_import_contract() -> None:
    contracts = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    assert list(documented_folders()) == [name for layer in layers for name in layer.split(" | ")]


def test_declarations_stand_only_where_the_build_looks_for_them() -> None:
    compiled = {source.parent.relative_to(SOURCES).parts[0] for source in SOURCES.rglob("*.pxd")}
    unsafe = {source.parent.relative_to(SOURCES).parts[0] for source in SOURCES.rglob("*.pyx")}
    assert compiled <= {*TABLE["pairs"], *TABLE["unsafe"]}
    assert unsafe <= set(TABLE["unsafe"])


def test_every_module_imports_interpreted() -> None:
    files = imported_files(BUCATINI_PURE="1")
    assert len(files) > len(source_folders())
    assert [file for file in files.values() if not file.endswith(".py")] == []


@pytest.mark.skipif(FORM != "compiled", reason="the form under test is not the compiled one")
def test_every_module_of_the_table_imports_compiled() -> None:
    files = imported_files(BUCATINI_PURE="")
    expected = {name for name in _build.compiled_modules() if ".native." not in name}
    assert {name for name, file in files.items() if file.endswith(".so")} >= expected
    assert _build.form() == "compiled"


@pytest.mark.skipif(FORM is None, reason="no form asked for: not run by scripts/test")
def test_form_under_test_is_the_one_asked_for() -> None:
    assert _build.form().partition(":")[0] == FORM


def test_interpreted_form_has_no_module_without_a_source() -> None:
    code = "import bucatini.native as n, importlib; print(n.__name__); importlib.import_module('bucatini.native.fast')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "BUCATINI_PURE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "bucatini.native\n"
    assert "ModuleNotFoundError: No module named 'bucatini.native.fast' in the interpreted form" in done.stderr


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import bucatini; print(*set(sys.modules) - before)"
    environment = {name: value for name, value in os.environ.items() if name != "BUCATINI_PURE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert set(done.stdout.split()) <= {"bucatini", "__future__"}


def test_version_is_that_of_the_installed_distribution() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("bucatini")
    except PackageNotFoundError:
        pytest.skip("runs from the source tree")
    assert bucatini.__version__ == installed


def declared(source: str) -> dict[str, tuple[str, set[str]]]:
    """Of the extension types in a .pxd: base, and the attributes that instances have room for."""
    found: dict[str, tuple[str, set[str]]] = {}
    for name, base, body in re.findall(r"^cdef class (\w+)(?:\((\w+)\))?:\n((?:(?: .*)?\n)+)", source, re.MULTILINE):
        lines = re.findall(r"^    cdef (?:public |readonly )?[^(\n]+$", body, re.MULTILINE)
        found[name] = base, {word for line in lines for word in re.findall(r"(\w+)(?=,|$)", line)}
    return found


def test_compiled_classes_have_room_for_their_attributes() -> None:
    """An instance of an extension type has what its .pxd names, and an interpreted one whatever is assigned."""
    types: dict[str, tuple[str, set[str]]] = {}
    for path in SOURCES.rglob("*.pxd"):
        types |= declared(path.read_text(encoding="utf-8"))
    assert types["Binding"][1] >= {"mac", "until", "dns"}
    missing = []
    for path in SOURCES.rglob("*.pxd"):
        if not path.with_suffix(".py").exists():
            continue
        own = declared(path.read_text(encoding="utf-8"))
        tree = ast.parse(path.with_suffix(".py").read_text(encoding="utf-8"))
        for kind in (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in own):
            room: set[str] = set()
            name = kind.name
            while name in types:
                room |= types[name][1]
                name = types[name][0]
            assigned = {
                node.attr
                for node in ast.walk(kind)
                if isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            }
            missing += [f"{path.name}: {kind.name}.{each}" for each in sorted(assigned - room)]
    assert missing == []
