"""`bucatini compat install DIR [NAME...]`, `bucatini compat list [DIR]`: our commands under the names of others.

Each name becomes a small executable that runs the same interpreter and the same package as this command, whoever calls
it from wherever: container engines run such commands with an environment and a folder of their own. The interpreter is
therefore started isolated (`-I`: no PYTHON* variables, no current folder, no user's site-packages), and where it would
not find this package by itself, the script holds the package's place.

Does not: touch a file that somebody else wrote, or change PATH.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import sys
from collections.abc import Iterable, Sequence

from bucatini.base.errors import ConfigError, HostError
from bucatini.cli.printing import print_text, printable

__all__ = ["NAMES", "install", "main", "script", "state_of"]

NAMES = {
    "passt": "bucatini.cli.passt",
    "pasta": "bucatini.cli.pasta",
    "slirp4netns": "bucatini.cli.slirp4netns",
    "softnet": "bucatini.cli.softnet",
}
"""Name of the command, and the module whose `main()` it runs."""

MARK = b"# Written by 'bucatini compat install'; running that again replaces it.\n"

_MAX_SHEBANG = 127
"""Linux before 5.1 cuts a longer first line off; later ones take 255 bytes (execve(2))."""

_MODE = 0o755
"""Of scripts and of a folder that is made, whatever the umask: programs of other users look here."""

_HELP = """\
usage: bucatini compat install DIR [NAME...]
       bucatini compat list [DIR]

install  write the commands NAME (default: all) into the folder DIR, which is made if missing; a file that
         somebody else wrote is never replaced
list     say where each command is found, in PATH or in DIR, and whose it is

names: {names}
To have another program use them, put DIR first in its PATH.
"""


def main(words: Sequence[str]) -> int:
    """Do what `words` ask for. Raises ConfigError and HostError."""
    verb, arguments = (words[0], words[1:]) if words else ("", ())
    if verb in ("-h", "--help") or any(word in ("-h", "--help") for word in arguments):
        print_text(_HELP.format(names=" ".join(NAMES)))
        return 0
    for argument in arguments:
        if argument.startswith("-") or not argument:
            raise ConfigError(f"unknown option {argument!r}; see 'bucatini compat --help'")
    if verb == "install":
        return _install(arguments)
    if verb == "list":
        return _list(arguments)
    wanted = f"unknown verb {verb!r}" if verb else "no verb given"
    raise ConfigError(f"{wanted}; accepted: install DIR [NAME...], list [DIR]")


def _install(arguments: Sequence[str]) -> int:
    if not arguments:
        raise ConfigError("install: no folder given; accepted: install DIR [NAME...]")
    directory, names = os.path.abspath(arguments[0]), arguments[1:] or tuple(NAMES)
    for name, written in install(directory, names):
        path = os.path.join(directory, name)
        print_text(f"{'wrote' if written else 'unchanged'} {printable(path)}\n")
        found = _found(name)
        if found and not os.path.samefile(found, path):
            print_text(f"but PATH finds {printable(found)} first\n")
    return 0


def _list(arguments: Sequence[str]) -> int:
    if len(arguments) > 1:
        raise ConfigError(f"list: one folder is looked at, given: {' '.join(arguments)}")
    for name in NAMES:
        path = os.path.join(os.path.abspath(arguments[0]), name) if arguments else _found(name)
        try:
            state = state_of(path, name) if path else "absent"
        except OSError as error:
            raise HostError(f"list {path!r}: {error.strerror}") from None
        print_text(f"{name:<12} {state:<16} {printable(path)}".rstrip() + "\n")
    return 0


def install(directory: str, names: Iterable[str]) -> list[tuple[str, bool]]:
    """Write the scripts `names` into `directory`; (name, whether the file changed) of each, in order.

    All are looked at before the first is written. Raises ConfigError for an unknown name, for a file that is not ours
    and for a directory that is none; HostError when the kernel refuses.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in NAMES:
            raise ConfigError(f"install {name!r}: must be one of {' '.join(NAMES)}")
    place = _package_place()
    try:
        _make_directory(directory)
        states = {name: state_of(os.path.join(directory, name), name, place) for name in wanted}
        for name, state in states.items():
            if state == "another program":
                path = os.path.join(directory, name)
                raise ConfigError(f"install {path!r}: is another program's file; remove it, or choose another folder")
        for name, state in states.items():
            if state != "ours":
                _replace(os.path.join(directory, name), script(name, place))
    except NotADirectoryError:
        raise ConfigError(f"install {directory!r}: must be a folder") from None
    except OSError as error:
        raise HostError(f"install {directory!r}: {error.strerror}") from None
    return [(name, state != "ours") for name, state in states.items()]


def state_of(path: str, name: str, place: str | None = None) -> str:
    """`absent`, `ours`, `ours, outdated` (it would be written differently today), or `another program`.

    `place` as for `script`; None: found out. Raises OSError when a file of ours cannot be read.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return "absent"
    if not stat.S_ISREG(status.st_mode):
        return "another program"
    try:
        with open(path, "rb") as file:
            held = file.read(8192)
    except PermissionError:
        return "another program"
    if MARK not in held.splitlines(keepends=True)[1:2]:
        return "another program"
    executable = stat.S_IMODE(status.st_mode) & 0o111 == 0o111
    current = held == script(name, _package_place() if place is None else place)
    return "ours" if current and executable else "ours, outdated"


def script(name: str, place: str) -> bytes:
    """The executable for `name`; `place` is the folder to import this package from, empty: the interpreter knows."""
    interpreter = os.fsencode(sys.executable)
    if not interpreter:
        raise ConfigError("install: this Python does not know its own path, which the commands have to name")
    module = NAMES[name]
    # !a: no locale of a caller changes what is read.
    lines = [f"sys.path.insert(0, {place!a})"] if place else []
    lines += [f"from {module} import main", "sys.exit(main())"]
    shebang = b"#!" + interpreter + b" -I"
    if len(shebang) <= _MAX_SHEBANG and not any(blank in interpreter for blank in b" \t\n"):
        return shebang + b"\n" + MARK + "\n".join(["import sys", *lines, ""]).encode()
    program = "; ".join(["import sys", *lines]).encode()
    command = b" ".join((_quoted(interpreter), b"-I -c", _quoted(program)))
    return b"#!/bin/sh\n" + MARK + b"exec " + command + b' "$@"\n'


def _quoted(word: bytes) -> bytes:
    return os.fsencode(shlex.quote(os.fsdecode(word)))


def _package_place() -> str:
    """The folder that holds this package; nothing when the isolated interpreter finds this very package by itself."""
    import subprocess

    import bucatini

    package = os.path.dirname(os.path.abspath(bucatini.__file__))
    probe = "import importlib.util as u; s = u.find_spec('bucatini'); print(ascii(s and s.origin), end='')"
    try:
        done = subprocess.run([sys.executable, "-I", "-c", probe], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"install: cannot run {sys.executable!r}: {error}") from None
    if done.stdout == ascii(os.path.join(package, "__init__.py")).encode():
        return ""
    return os.path.dirname(package)


def _make_directory(path: str) -> None:
    if not os.path.lexists(path):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, _MODE)
    if not os.path.isdir(path):
        raise NotADirectoryError


def _replace(path: str, content: bytes) -> None:
    """Nobody ever sees half of the file, or none where one was."""
    import tempfile

    directory, name = os.path.split(path)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=f".{name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), _MODE)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _found(name: str) -> str:
    """The path that PATH leads to, or nothing."""
    import shutil

    return shutil.which(name) or ""
