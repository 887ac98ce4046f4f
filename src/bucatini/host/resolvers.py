"""The resolvers the host itself uses, read from `/etc/resolv.conf` and followed when it changes (resolv.conf(5)).

What counts is what the C library would do with the file: at most three `nameserver` lines, in order, an IPv6 zone after
`%`, and the options that concern asking (`timeout`, `attempts`, `rotate`, `use-vc`). A file without a usable nameserver
means the machine itself, 127.0.0.1. A file that vanishes or cannot be read later leaves the last list in force: the
process may have given up its file system by then, and an old list beats none.

The file is looked at when a question comes, at most once a second, by stat: replaced, rewritten and re-linked files all
differ in device, inode, size or a time stamp. No descriptor is kept and nothing runs while nobody asks.

The search list is read for the guests it is announced to; we never apply it: names reach us fully qualified.

Does not: read `RES_OPTIONS`, `LOCALDOMAIN`, `ndots` or `sortlist`.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

from bucatini.base.address import Endpoint, family_of, pack, text, unmap
from bucatini.host.resolv_search import search_list

__all__ = ["DEFAULT_PATH", "HostResolvers", "Resolver", "ResolverConfig", "file_identity", "parse"]

DEFAULT_PATH = "/etc/resolv.conf"
MAX_RESOLVERS = 3
"""glibc MAXNS."""
MAX_WRITTEN = 3
"""Name servers of each family that are passed on to guests, as pasta does."""
MAX_TIMEOUT = 30
"""Seconds, glibc RES_MAXRETRANS."""
MAX_ATTEMPTS = 5
"""glibc RES_MAXRETRY."""
DEFAULT_ATTEMPTS = 2
"""glibc RES_DFLRETRY."""
CHECK_INTERVAL = 1.0
"""Seconds between two looks at the file."""
DNS_PORT = 53
MAX_FILE = 64 * 1024
"""Bytes of the file that are read."""

_MAX_INDEX = 0x7FFFFFFF
_COMMENT = re.compile(r"[#;]")


class Resolver(NamedTuple):
    """Where to ask. `scope` is the interface index of a link-local IPv6 address, 0 for none."""

    endpoint: Endpoint
    scope: int = 0

    @property
    def family(self) -> int:
        """`socket.AF_INET` or `socket.AF_INET6`."""
        return family_of(self.endpoint.address)

    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """What `socket.connect` takes."""
        address = text(self.endpoint.address)
        if len(self.endpoint.address) == 4:
            return address, self.endpoint.port
        return address, self.endpoint.port, 0, self.scope


class ResolverConfig(NamedTuple):
    """What the file says. `resolvers` is never empty."""

    resolvers: tuple[Resolver, ...]
    timeout: int | None = None
    """Seconds to wait for one resolver before the next is asked; None when the file does not say."""
    attempts: int = DEFAULT_ATTEMPTS
    """Rounds through the list."""
    rotate: bool = False
    """Start each query at another resolver."""
    use_tcp: bool = False
    """Ask by TCP only (`use-vc`)."""
    search: tuple[str, ...] = ()
    """Names of the last `search` or `domain` line, without final dots; at most 6 names and 256 characters."""
    nameservers_written: tuple[bytes, ...] = ()
    """Packed addresses as written, without zones, at most 3 of each family: what a guest may be told."""
    fallback: bool = False
    """The file names no usable name server; `resolvers` is the machine itself."""


def parse(
    content: str, *, port: int = DNS_PORT, zone_index: Callable[[str], int] = socket.if_nametoindex
) -> ResolverConfig:
    """The meaning of a resolv.conf. Lines that make no sense are passed over, as the C library does; never raises.

    `port` is where the nameservers listen, host order. `zone_index` gives the interface index of a zone name, or raises
    OSError: that nameserver is then left out.
    """
    resolvers: list[Resolver] = []
    written: list[bytes] = []
    options: dict[str, str] = {}
    search: tuple[str, ...] = ()
    for line in content.split("\n"):
        if line[:1].isspace():
            continue  # A keyword starts in the first column; elsewhere it is no keyword to the C library either.
        keyword, *words = _COMMENT.split(line)[0].split() or [""]
        if keyword == "nameserver" and words:
            written += _written(words[0], written)
            resolver = _resolver(words[0], port, zone_index) if len(resolvers) < MAX_RESOLVERS else None
            if resolver is not None:
                resolvers.append(resolver)
        elif keyword == "options":
            options.update((name, value) for name, _, value in (word.partition(":") for word in words))
        elif keyword in ("search", "domain") and words:
            search = search_list(words if keyword == "search" else words[:1])
    return ResolverConfig(
        tuple(resolvers) or (Resolver(Endpoint(pack("127.0.0.1"), port)),),
        _number(options.get("timeout"), 1, MAX_TIMEOUT),
        _number(options.get("attempts"), 1, MAX_ATTEMPTS) or DEFAULT_ATTEMPTS,
        "rotate" in options,
        "use-vc" in options or "usevc" in options,
        search,
        tuple(written),
        not resolvers,
    )


def file_identity(path: str) -> tuple[int, ...] | None:
    """What differs once the file behind `path` was replaced, rewritten or re-linked; None when it is no regular file.

    Raises OSError as stat(2) does.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        return None  # A pipe would block who reads it.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class HostResolvers:
    """The current `ResolverConfig` of a file. Call the object to get it."""

    def __init__(
        self,
        path: str = DEFAULT_PATH,
        *,
        port: int = DNS_PORT,
        clock: Callable[[], float] = time.monotonic,
        interval: float = CHECK_INTERVAL,
    ) -> None:
        """Read `path` at once.

        `port` is where its nameservers listen, `clock` gives seconds, `interval` is the least time between two looks.
        """
        self._path = path
        self._port = port
        self._clock = clock
        self._interval = interval
        self._identity: tuple[int, ...] | None = None
        self._config = parse("", port=port)
        self._next_look = 0.0
        self._look(clock())

    def __call__(self) -> ResolverConfig:
        """What holds now. Blocks for no more than one stat, or one read of a small file when it changed."""
        now = self._clock()
        if now >= self._next_look:
            self._look(now)
        return self._config

    def _look(self, now: float) -> None:
        self._next_look = now + self._interval
        try:
            identity = file_identity(self._path)
            if identity is None or identity == self._identity:
                return
            with open(self._path, "rb") as file:
                content = file.read(MAX_FILE)
        except OSError:
            return
        # Identity of before the read: a change in between differs from it and is seen at the next look.
        self._identity = identity
        self._config = parse(content.decode("utf-8", "replace"), port=self._port)


def _resolver(word: str, port: int, zone_index: Callable[[str], int]) -> Resolver | None:
    address, _, zone = word.partition("%")
    try:
        packed = unmap(pack(address))
        scope = 0
        if zone:
            scope = _number(zone, 0, _MAX_INDEX) or zone_index(zone)
    except (OSError, ValueError):
        return None
    return Resolver(Endpoint(packed, port), scope if len(packed) == 16 else 0)


def _written(word: str, before: list[bytes]) -> list[bytes]:
    """The address of a `nameserver` line as one or no item; `before` are those of the lines above."""
    try:
        packed = unmap(pack(word.partition("%")[0]))
    except ValueError:
        return []
    family = [address for address in before if len(address) == len(packed)]
    return [packed] if len(family) < MAX_WRITTEN and packed not in family else []


def _number(value: str | None, low: int, high: int) -> int | None:
    """`value` within bounds, as the C library clamps; None when it is no number."""
    if value is None or not (value.isascii() and value.isdigit() and len(value) < 10):
        return None
    return max(low, min(high, int(value)))
