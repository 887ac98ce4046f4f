"""Install this working tree into a virtual environment that the ordinary user of the benchmark can read.

The source is copied first, so that no build product appears in the working tree. Debian's own Python is preferred: a
Python under a home directory of mode 0700 cannot be run by another user.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.lab import BenchError

_IGNORED = (".git", ".venv", "build", "__pycache__", "*.so", "*.egg-info", ".*_cache")


def install(repository: Path, work: Path, venv: Path | None) -> Path:
    """Return the Python of a virtual environment with bucatini in it; an existing `venv` is used as it is.

    Raises BenchError with the last line of pip's output."""
    target = venv or work / "venv"
    python = target / "bin" / "python"
    if not python.exists():
        system = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
        _run([system, "-m", "venv", str(target)], work)
        copy = work / "source"
        shutil.copytree(repository, copy, ignore=shutil.ignore_patterns(*_IGNORED))
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(copy)], work)
    return python


def _run(command: list[str], work: Path) -> None:
    try:
        done = subprocess.run(command, check=False, cwd=work, capture_output=True, text=True, timeout=1800, umask=0o022)
    except subprocess.TimeoutExpired:
        raise BenchError(f"installing bucatini: {command[1]} did not end within 1800 s") from None
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise BenchError(f"installing bucatini: {lines[-1]}")
