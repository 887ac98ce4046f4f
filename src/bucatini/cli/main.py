"""The `bucatini` command: finds the verb, lets it run, and turns errors into one line and an exit status.

Exit statuses: 0 fine, 2 the command line or the host cannot do what was asked, 126/127 the command could not be
started or found, 128+N it died of signal N, else the command's own. Start-up matters here: a verb's module is
imported only when the verb is used, and nothing imported here brings asyncio, msgspec, pyroute2, dnspython or rich.
"""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence

from bucatini.base.errors import ConfigError, HostError
from bucatini.cli.printing import fill_standard_streams, print_error, print_text

__all__ = ["main"]

_VERBS = {
    "run": "run a command on a complete, isolated network of its own",
    "attach": "give such a network to a namespace that exists already",
    "vm": "give such networks to virtual machines: QEMU, libkrun, vfkit, Firecracker",
    "switch": "join virtual machines to one segment, each reaching only whom it may",
    "filter": "put a virtual machine on a bridge, where it speaks only as itself",
    "forward": "list, add and remove forwarded ports of a running engine",
    "link": "list, add and remove link rules of a running switch",
    "rules": "show and set the rules of a running filter",
    "compat": "install drop-in commands: passt, pasta, slirp4netns, softnet",
    "version": "say what runs here: version, compiled or pure, Python, kernel",
}

_HELP = f"""\
usage: bucatini VERB [OPTIONS] ...

A user-mode network engine: programs get a network of their own; the host sees ordinary sockets.

verbs:
{"".join(f"  {verb:<9} {purpose}" + chr(10) for verb, purpose in _VERBS.items())}
options:
  -h, --help     show this help
  -V, --version  same as the verb version

'bucatini VERB --help' explains a verb. Try: bucatini run -- curl https://example.org/
"""

USAGE_STATUS = 2
INTERRUPTED_STATUS = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name; default: the process's) and return the exit status."""
    fill_standard_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words[0] if words else ""
    who = f"bucatini {verb}" if verb in _VERBS else "bucatini"
    try:
        return _dispatch(verb, words[1:])
    except (ConfigError, HostError) as error:
        print_error(who, str(error))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        print_error(who, f"{error.strerror}; raise the limit (ulimit -n) or free memory")
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
    return USAGE_STATUS


def _dispatch(verb: str, words: list[str]) -> int:
    if verb in ("-h", "--help", "help"):
        print_text(_HELP)
        return 0
    if verb in ("-V", "--version"):
        verb = "version"
    if verb not in _VERBS:
        raise ConfigError(_unknown(verb))
    status: int = importlib.import_module(f"bucatini.cli.{verb}").main(words)
    return status


def _unknown(verb: str) -> str:
    if not verb:
        return "no verb given; see 'bucatini --help'"
    if verb.startswith("-"):
        return f"unknown option {verb}; see 'bucatini --help'"
    import difflib
    import shutil

    close = difflib.get_close_matches(verb, _VERBS, n=1)
    if close:
        return f"unknown verb {verb!r}; did you mean {close[0]!r}?"
    if shutil.which(verb):
        return f"unknown verb {verb!r}; did you mean 'bucatini run -- {verb}'?"
    return f"unknown verb {verb!r}; see 'bucatini --help'"
