"""softnet starts itself again by sudo(8), where it was asked for what only root may do.

First sudo is asked without a password whether it would run this very command: the copy it starts ends at once with 0.
Only then the process becomes sudo, and sudo the same command as root, which is told that this was done and whom to
become when root is needed no more. So neither a password is ever asked for, nor does the second copy ask again.

sudo closes what is above descriptor 2: the virtual machine's socket has to be a standard stream, as Tart has it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from bucatini.base.errors import HostError
from bucatini.host.privileges import CAP_NET_ADMIN

if TYPE_CHECKING:
    from bucatini.config.softnet import SoftnetConfig

__all__ = ["escalate", "lacks_privilege", "own_command"]

PRESERVED = "SENTRY_DSN,CIRRUS_SENTRY_TAGS"
"""What rules in sudoers(5) that were written for Softnet allow to be kept. We have no use for it."""
PATIENCE = 30.0
"""Seconds for sudo's answer."""
REFUSED = "root is needed for --bridge, and sudo does not give it without a password"


def lacks_privilege() -> bool:
    """Whether this process may not make interfaces: it has no CAP_NET_ADMIN in effect (proc_pid_status(5))."""
    with open("/proc/self/status") as file:
        effective = next(line.split()[1] for line in file if line.startswith("CapEff:"))
    return not int(effective, 16) >> CAP_NET_ADMIN & 1


def escalate(config: SoftnetConfig) -> NoReturn:
    """Become root's copy of this command. Raises HostError where that cannot be."""
    if config.escalated:
        raise HostError(REFUSED)
    for option, number in (("--vm-fd", config.vm_fd), ("--control-fd", config.control_fd)):
        if number is not None and number > 2:
            raise HostError(f"{option} {number}: sudo, which --bridge needs, closes it; accepted: 0, 1 and 2")
    own = [*own_command(sys.argv[0]), *config.words]
    if not _would_run([*own, "--sudo-escalation-probing"]):
        raise HostError(REFUSED)
    words = ["sudo", "--non-interactive", f"--preserve-env={PRESERVED}", *own, "--sudo-escalation-done"]
    try:
        os.execvp(words[0], [*words, *_whom(config)])  # noqa: S606  the user's own words
    except OSError as error:
        raise HostError(f"{REFUSED}: {error.strerror}") from None


def own_command(started_as: str) -> list[str]:
    """The words that start this program, by absolute paths: sudo has a PATH of its own."""
    path = os.path.abspath(started_as)
    if os.path.isfile(path) and os.access(path, os.X_OK):
        return [path]
    return [sys.executable, "-m", "bucatini.cli.softnet"]


def _would_run(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(
            ["sudo", "-n", *command], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _whom(config: SoftnetConfig) -> list[str]:
    """The options that say whom to become: the caller, as far as the caller did not say."""
    import grp
    import pwd

    words = []
    try:
        if config.user is None:
            words += ["--user", pwd.getpwuid(os.getuid()).pw_name]
        if config.group is None:
            words += ["--group", grp.getgrgid(os.getgid()).gr_name]
    except KeyError:
        raise HostError("the names of this user and its group are not known, and sudo has to be told them") from None
    return words
