"""Leases on disk: one JSON document, replaced whole, so that a restart breaks no promise (`services.pool`).

```json
{"bucatini_leases": 1, "leases": [
  {"address": "192.0.2.7", "mac": "02:00:00:00:00:07", "phase": "leased", "since": 1760000000.0, "until": 1760001200.0}
]}
```

`since` and `until` are seconds of the wall clock; `until` is null for ever. The phases are those of `services.leases`,
without offers. Mode 0600: the file says who was there.

**Atomic.** The document is written beside the file (`.NAME.new`), synced, renamed over it, and the folder synced. At
any instant the file is the old or the new document whole; when the disk is full, the folder is gone or the power fails,
it is the old one. A failure is told once, until a write succeeds again.

**Never over somebody else's.** A file that is no document of this version is one ConfigError, and stays as it is: an
empty one too, for it may be what a crash of another program left of more. The file is locked (fcntl(2), F_SETLK) as
long as the program runs: a second one with the same file would promise the same addresses. Children do not inherit
this lock.

**Written before an ACK leaves, and yet not for each.** This is write-through with two savings:

* *ahead*: what is written says that a lease ends `ahead` seconds later than promised. As long as the file promises
  enough (`covers`), a renewal writes nothing; with `ahead` at the lease time about every third renewal does. The price
  is that after a restart an address may rest that much longer than its lease.
* *together*: two writes are at least `interval` seconds apart (0.2 by default: at most five a second); ACKs that come
  between wait for the next, which holds them all. A guest sees at most that delay, and asks again after seconds only.

The caller: on an ACK whose lease `covers` does not hold, keep the frame, `write` the pool's records at `due`, and let
the frames go when it returns True. While it returns False a new lease is silence, a renewal goes as far as the file
covers it. Releases, ends and declines need no write of their own: of them the file promises more than is true.

Does not: keep older documents, notice that others change the file while it is locked, or encrypt.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterable
from math import inf, isfinite

import msgspec

from bucatini.base.address import pack, text
from bucatini.base.errors import ConfigError, HostError
from bucatini.services.leases import Lease, LeaseRecord, Phase

__all__ = ["DEFAULT_AHEAD", "DEFAULT_INTERVAL", "VERSION", "LeaseFile"]

VERSION = 1
DEFAULT_AHEAD = 600.0
DEFAULT_INTERVAL = 0.2

_MODE = 0o600
_LARGEST = 64 << 20
"""Bytes of a file that is read at all."""
_TRIES = 16
_STORED = (Phase.LEASED, Phase.RELEASED, Phase.DECLINED, Phase.ENDED)


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: str
    mac: str
    phase: str
    since: float
    until: float | None


class _Version(msgspec.Struct, frozen=True):
    bucatini_leases: int


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bucatini_leases: int
    leases: list[_Entry]


class LeaseFile:
    """The file at `path`, read or made, and locked until `close`. Times are in seconds.

    `on_failure` hears, with a line for people, when writing fails, once until it succeeds again. Raises ConfigError
    when the file is not one of ours or is in use, HostError when the kernel lets us neither read nor make it.
    """

    records: tuple[LeaseRecord, ...] = ()
    """What the file held when it was opened, for `LeasePool.restore`."""

    def __init__(
        self,
        path: str,
        *,
        ahead: float = DEFAULT_AHEAD,
        interval: float = DEFAULT_INTERVAL,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        # Once: a relative path has no meaning after the working directory is left, and a link is not to be replaced.
        self.path = os.path.realpath(path)
        self._ahead = ahead
        self._interval = interval
        self._on_failure = on_failure
        self._failed = False
        self._next = -inf
        self._file = -1
        self._disk: dict[bytes, LeaseRecord] = {}
        try:
            self._open()
            self.records = _decode(_read(self._file, self.path), self.path)
        except OSError as error:
            self.close()
            raise HostError(f"lease file {self.path}: {error.strerror}") from None
        except ConfigError:
            self.close()
            raise
        self._disk = {record.address: record for record in self.records}

    def covers(self, lease: Lease) -> bool:
        """Whether the file promises all of the lease already: an ACK of it may leave."""
        known = self._disk.get(lease.address)
        return known is not None and _same(known, lease.mac, Phase.LEASED) and known.until >= lease.until

    def due(self, now: float) -> float:
        """The instant, `now` or later, at which the next write may be. Any clock that does not go back will do."""
        return max(now, self._next)

    def write(self, records: Iterable[LeaseRecord], now: float, *, shift: float = 0.0) -> bool:
        """Replaces the document; True when it is on disk. Takes as long as the disk does, and may run in a thread.

        `now` is of the clock that `due` is asked with. `shift` is the wall clock's time minus the pool's: not 0 once
        the wall clock has been set, for the next run will go by the wall clock.
        """
        self._next = now + self._interval
        kept = [self._promise(record) for record in records]
        try:
            self._put(_encode(kept, shift), "new", os.rename)
        except OSError as error:
            if not self._failed and self._on_failure is not None:
                self._on_failure(f"lease file {self.path}: {error.strerror}; no new lease is given until it is written")
            self._failed = True
            return False
        self._failed = False
        self._disk = {record.address: record for record in kept}
        return True

    def close(self) -> None:
        """Lets go of the file; nothing is written."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        """The file, locked; made if there is none, so that a full disk or a folder we may not write to is told now."""
        for _ in range(_TRIES):
            try:
                self._file = _open_locked(self.path)
                if self._file >= 0:
                    return
            except FileNotFoundError:
                # Several may be at it, so each under a name of its own, and the first one's it is.
                try:
                    self._put(_encode([]), f"{os.getpid()}.new", _link)
                except FileExistsError:
                    continue
                return
        raise ConfigError(f"lease file {self.path}: in use by another process, which keeps replacing it")

    def _promise(self, record: LeaseRecord) -> LeaseRecord:
        """The record with more time than is needed. What the file gave already is kept, so nothing adds up."""
        if record.phase is not Phase.LEASED:
            return record
        known = self._disk.get(record.address)
        if known is not None and _same(known, record.mac, Phase.LEASED) and known.until >= record.until:
            return record._replace(until=known.until)
        return record._replace(until=record.until + self._ahead)

    def _put(self, data: bytes, suffix: str, publish: Callable[[str, str], None]) -> None:
        """Writes beside the file and publishes that, locked, in its place. Raises OSError; the file is as it was."""
        folder, name = os.path.split(self.path)
        beside = os.path.join(folder, f".{name}.{suffix}")
        _remove(beside)  # what a crash left
        new = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            _lock(new)
            done = 0
            while done < len(data):
                done += os.write(new, data[done:])
            os.fsync(new)
            publish(beside, self.path)
        except OSError:
            os.close(new)
            _remove(beside)
            raise
        self.close()
        self._file = new
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _link(beside: str, path: str) -> None:
    """Give a new file its name, unless there is one of that name: rename(2) would replace it."""
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, such as FAT: two that begin at once are then not told apart
        os.rename(beside, path)
    else:
        _remove(beside)


def _open_locked(path: str) -> int:
    """A descriptor of the file, locked; -1 when it was replaced meanwhile. Raises OSError and ConfigError."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ConfigError(f"lease file {path}: not a regular file")
        try:
            _lock(file)
        except OSError:
            raise ConfigError(f"lease file {path}: in use by another process") from None
        if os.path.samestat(os.fstat(file), os.stat(path)):
            return file
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return -1


def _lock(file: int) -> None:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read(file: int, path: str) -> bytes:
    size = os.fstat(file).st_size
    if size > _LARGEST:
        raise ConfigError(f"lease file {path}: {size} bytes are more than a lease file has (at most {_LARGEST})")
    os.lseek(file, 0, os.SEEK_SET)
    data = b""
    while piece := os.read(file, _LARGEST):
        data += piece
    return data


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _same(known: LeaseRecord, mac: bytes, phase: Phase) -> bool:
    return known.mac == mac and known.phase is phase


def _encode(records: Iterable[LeaseRecord], shift: float = 0.0) -> bytes:
    """One record a line, so that people and diff(1) can read it."""
    lines = [
        msgspec.json.encode(
            _Entry(
                text(record.address),
                record.mac.hex(":"),
                str(record.phase),
                record.since + shift,
                None if record.until == inf else record.until + shift,
            )
        )
        for record in records
    ]
    body = b",\n  ".join(lines)
    return b'{"bucatini_leases": %d, "leases": [\n  %b\n]}\n' % (VERSION, body)


def _decode(data: bytes, path: str) -> tuple[LeaseRecord, ...]:
    advice = "move it away to begin without leases"
    try:
        version = msgspec.json.decode(data, type=_Version).bucatini_leases
        if version != VERSION:
            raise ConfigError(
                f"lease file {path}: of version {version}, and this program reads version {VERSION}; {advice}"
            )
        records = tuple(map(_record, msgspec.json.decode(data, type=_Document).leases))
        if len({record.address for record in records}) != len(records):
            raise ValueError("an address comes twice")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(f"lease file {path}: not a lease file ({error}); {advice}") from None
    return records


def _record(entry: _Entry) -> LeaseRecord:
    """The entry's values. Raises ValueError for what `_encode` does not write."""
    address, mac, phase = pack(entry.address), bytes.fromhex(entry.mac.replace(":", "")), Phase(entry.phase)
    if len(mac) != 6 or phase not in _STORED:
        raise ValueError(f"{entry.address}: {entry.mac} {entry.phase}")
    until = inf if entry.until is None else entry.until
    if not isfinite(entry.since) or until < entry.since:
        raise ValueError(f"{entry.address}: ends before it begins")
    return LeaseRecord(address, mac, phase, entry.since, until)
