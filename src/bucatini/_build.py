"""Which form of the per-packet modules runs: compiled or interpreted (docs/adr/0002).

Both come from the same `.py`: where a `.pxd` stands beside it, the build compiles the pair to an extension module that
lies next to the source and that Python prefers on import. All modules are compiled or none is (setup.py sees to it).

Does not: choose between `native.fast` and its slow twin; `native/__init__.py` does, by trying the import that this
module's finder refuses in the interpreted form.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from types import ModuleType

__all__ = ["compiled_modules", "form", "load_only_source"]

_PACKAGE = "bucatini"


class _SourceFinder:
    """Meta path finder: our modules come from source files or not at all."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Spec of our module `name`; None for others. Raises ModuleNotFoundError for ours without a source."""
        if not name.startswith(_PACKAGE + "."):
            return None
        for folder in path or ():
            spec = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name, target)
            if spec is not None and spec.loader is not None:
                return spec
        raise ModuleNotFoundError(f"No module named {name!r} in the interpreted form", name=name)


def load_only_source() -> None:
    """From now on import our modules from their sources, whatever is compiled. Doing it twice is doing it once."""
    if _SourceFinder not in sys.meta_path:
        sys.meta_path.insert(0, _SourceFinder)


def compiled_modules() -> dict[str, bool]:
    """Dotted names of the modules meant to be compiled, each with whether an extension module lies beside its source.

    Reads the folders of the installed package; imports none of them.
    """
    root = os.path.dirname(__file__)
    found: dict[str, bool] = {}
    for folder, _, files in os.walk(root):
        present = set(files)
        dotted = ".".join([_PACKAGE, *os.path.relpath(folder, root).split(os.sep)]).removesuffix("..")
        for stem in sorted({name[:-4] for name in files if name.endswith((".pxd", ".pyx"))}):
            if f"{stem}.py" in present or f"{stem}.pyx" in present:
                found[f"{dotted}.{stem}"] = any(stem + suffix in present for suffix in EXTENSION_SUFFIXES)
    return found


def form() -> str:
    """`compiled`, or `pure: ` and the reason, for `--version` and the first line of a verbose start."""
    if _SourceFinder in sys.meta_path:
        return "pure: BUCATINI_PURE is set"
    built = compiled_modules().values()
    if built and all(built):
        return "compiled"
    return "pure: not compiled when it was installed; install gcc and python3-dev, then install bucatini again"
