"""What pasta and passt owe to those who start them: background, log, PID file, and fewer rights for what root starts.

Order, as callers rely on it: files are opened and the process goes to the background first, with the caller waiting;
root of the machine becomes somebody else; when all else is done `ready` writes the PID file and ends the caller's wait
with 0. Whatever cannot be until then is one line on stderr and status 1.

Does not: know what is served.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bucatini.config.passt_reader import DEFAULT_MAC
from bucatini.host import daemon, privileges
from bucatini.observe.log import Log, Syslog, level_of
from bucatini.observe.observers import Observers
from bucatini.observe.settings import ObserveSettings

if TYPE_CHECKING:
    from bucatini.api.blueprint import Blueprint
    from bucatini.api.session import Job
    from bucatini.config.derive import Network
    from bucatini.config.passt_process import ProcessOptions

__all__ = ["CompatProcess"]

_NEEDED_LATER = ("bucatini.api.jobs", "bucatini.api.waiting", "bucatini.host.mirror", "encodings.idna")
"""Ours, and what the interpreter would look for at the first host name."""


class CompatProcess:
    """The calling process from now on; in the background it is another one than the caller's. `name` is the command's.

    Raises ConfigError and HostError.
    """

    def __init__(self, name: str, options: ProcessOptions) -> None:
        self._options = options
        self._was_root = False
        pid_file = None if options.pid_file is None else os.path.abspath(options.pid_file)
        begin = daemon.stay_in_foreground if options.foreground else daemon.become_daemon
        self._daemon = begin(pid_file)
        self.log = _open_log(name, options)
        self.observers = Observers(ObserveSettings(pcap=options.pcap, quiet=True), diary=self.log)
        for note in options.notes:
            self.log.warning(note)

    def drop_privileges(self, keep: frozenset[int], needed_later: Iterable[str]) -> None:
        """Become the user of --runas, or nobody where root of the machine started us, with the capabilities `keep`.

        `needed_later` are modules to import before, beside `_NEEDED_LATER`: the new user may not be able to read where
        we are installed.
        """
        root = privileges.is_real_root()
        if self._options.runas is not None:
            user, group = privileges.parse_user(self._options.runas)
        elif root:
            user, group = privileges.nobody()
            self.log.warning("started as root: going on as nobody; --runas names another user, 0:0 stays root")
        else:
            return
        if (user, group) != (os.geteuid(), os.getegid()):
            for module in (*_NEEDED_LATER, *needed_later):
                importlib.import_module(module)
            privileges.drop_to(user, group, keep)
        self._was_root = root and user != 0

    def job(self, blueprint: Blueprint, network: Network, *, allow_all: bool) -> Job:
        """What is to be served, whatever the guest is: policy `open`, for neither command has another."""
        from bucatini.api.blueprint import open_policy
        from bucatini.api.jobs import ports_of
        from bucatini.api.session import Job, new_duid

        options = blueprint.options
        mac = options.mac or DEFAULT_MAC
        return Job(
            blueprint,
            network,
            mac,
            open_policy,
            ports_of(options, allow_all=allow_all),
            self.observers,
            new_duid(mac),
        )

    def ready(self, network: Network, keep: frozenset[int]) -> None:
        """Everything is bound and built: tell who waits. Of the capabilities that root had only `keep` is left."""
        self._describe(network)
        if self._was_root:
            privileges.limit_capabilities(keep)
        if not self._options.foreground:
            self.log.leave_terminal()
        self._daemon.ready()

    def _describe(self, network: Network) -> None:
        from bucatini.base.address import text

        for what, addresses in (
            ("address", [address for address, _ in network.addresses]),
            ("router", network.gateways),
            ("name server", network.dns),
            ("host's loopback", network.translation.host_loopback),
        ):
            for address in addresses:
                self.log.info(f"{what}: {text(address)}")


def _open_log(name: str, options: ProcessOptions) -> Log:
    """To the file alone; else to stderr in the foreground, and to syslog in the background."""
    level = level_of(quiet=options.quiet, debug=options.debug, trace=options.trace)
    if options.log_file is None:
        return Log(level, name=name, syslog=None if options.foreground else Syslog(name))
    from bucatini.observe.log_file import LogFile

    return Log(level, name=name, stderr=None, file=LogFile(options.log_file, options.log_size, name=name))
