"""What a command line of slirp4netns(1) asks for, as one frozen value with all defaults filled in.

Does not: read words (`config.slirp_arguments`).
"""

from __future__ import annotations

import msgspec

from bucatini.config.network import NetworkOptions

__all__ = ["SlirpConfig"]


class SlirpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One command line of slirp4netns. Exactly one of `pid` and `netns` is given."""

    pid: int | None = None
    netns: str | None = None
    """Path of the network namespace."""
    tap: str
    """Name of the interface in the namespace, which may exist already."""
    network: NetworkOptions
    """Addresses, MTU, MAC addresses and mappings of the command line, nothing of the host's."""

    configure: bool = False
    exit_fd: int | None = None
    """Descriptor whose first poll(2) event ends us."""
    ready_fd: int | None = None
    """Descriptor that gets "1" and is closed when everything serves."""
    userns_path: str | None = None
    """None: with `pid` the process's own, with `netns` none."""
    api_socket: str | None = None
    enable_sandbox: bool = False
    enable_seccomp: bool = False
    disable_dns: bool = False
    disable_host_loopback: bool = False

    notes: tuple[str, ...] = ()
    """Warnings, a line each."""
