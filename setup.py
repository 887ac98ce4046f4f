"""Compiles what the table `[tool.bucatini]` of pyproject.toml names; everything else about the build stands there.

All or nothing: a compiled module reads its neighbours' C structures, so a half-compiled set cannot be imported. When
one module fails to compile, none is installed and the package runs interpreted; `bucatini --version` says which it is.

BUCATINI_BUILD=pure skips compiling, BUCATINI_BUILD=require turns a failure to compile into a failure to install.
"""

from __future__ import annotations

import os
import sys
import tomllib
from hashlib import sha256
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

SOURCE = Path("src")
SHARED = "bucatini._cython"
MODE = os.environ.get("BUCATINI_BUILD", "auto")

UNSAFE = {"language_level": "3"}
"""Directives of native/*.pyx: each file states its own."""

SAFE = UNSAFE | {
    # Types of the compiled form stand in the .pxd alone: annotations mean the same to every reader and to both forms.
    "annotation_typing": False,
    # A bad index, an unset view or None raises in the compiled form too. Unsafe is a package, not a build flag.
    "boundscheck": True,
    "initializedcheck": True,
    "nonecheck": True,
    # -1 counts from the end only where Python itself looks the item up; on a typed buffer it raises IndexError.
    "wraparound": False,
    # Division and remainder as Python defines them.
    "cdivision": False,
}


def compiled_sources() -> list[Path]:
    """Sources to compile, relative to this folder, in a stable order."""
    table = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["bucatini"]
    pairs = [
        declared.with_suffix(".py")
        for package in table["pairs"]
        for declared in sorted((SOURCE / "bucatini" / package).rglob("*.pxd"))
        if declared.with_suffix(".py").exists()
    ]
    unsafe = [path for package in table["unsafe"] for path in sorted((SOURCE / "bucatini" / package).rglob("*.pyx"))]
    return pairs + unsafe


def extensions() -> list[Extension]:
    names = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in compiled_sources()}
    # What Cython itself brings along is generated once and imported by the others: less than half the size and time.
    names[SHARED] = SOURCE / (SHARED.replace(".", "/") + ".c")
    options = {"extra_compile_args": ["-O3", "-g0"], "depends": ["setup.py"]}
    return [Extension(name, [str(path)], **options) for name, path in names.items()]


class BuildModules(build_py):
    """Copies modules; what an earlier build left in build/ and no longer has a source is not shipped."""

    def run(self) -> None:
        compiled = {ext.name.replace(".", "/") for ext in self.distribution.ext_modules or []}
        for old in Path(self.build_lib).rglob("*"):
            stem = str(old.relative_to(self.build_lib)).partition(".")[0]
            if old.is_file() and not (old.suffix == ".so" and stem in compiled):
                old.unlink()
        super().run()


class BuildExtensions(build_ext):
    """Compiles all modules of the table or none."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        try:
            self._translate()
            super().run()
        except Exception as error:
            if MODE == "require":
                raise
            for ext in self.extensions:
                Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
                Path(self.build_lib, self.get_ext_filename(ext.name)).unlink(missing_ok=True)
            self.extensions = []
            print(f"bucatini: not compiled, runs interpreted: {error}", file=sys.stderr)

    def _translate(self) -> None:
        import Cython
        from Cython.Build import cythonize

        # C of other directives or of another Cython is never taken for ours.
        made_by = sha256(Path("setup.py").read_bytes() + Cython.__version__.encode()).hexdigest()[:12]
        for suffixes, directives in (((".py", ".c"), SAFE), ((".pyx",), UNSAFE)):
            chosen = {ext.name: ext for ext in self.extensions if ext.sources[0].endswith(suffixes)}
            translated = cythonize(
                [Extension(name, ext.sources) for name, ext in chosen.items()],
                build_dir=str(Path(self.build_temp, f"cython-{made_by}")),
                compiler_directives=directives,
                force=bool(self.force),
                include_path=[str(SOURCE)],
                nthreads=os.cpu_count() or 1,
                shared_utility_qualified_name=SHARED,
            )
            for ext in translated:
                chosen[ext.name].sources = ext.sources


if MODE not in ("auto", "pure", "require"):
    sys.exit(f"bucatini: BUCATINI_BUILD={MODE!r}: expected auto, pure or require")

setup(
    ext_modules=[] if MODE == "pure" else extensions(),
    cmdclass={"build_py": BuildModules, "build_ext": BuildExtensions},
)
