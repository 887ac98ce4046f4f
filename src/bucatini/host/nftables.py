"""Address translation around one guest, as an nftables table that cannot outlive us (nft(8)).

The table has the flag `owner`: it belongs to the netlink socket that made it, nobody else may change it, and the kernel
removes it when that socket closes. The socket is held by a child, `nft -i`, which reads lines from a pipe of which we
hold the other end; so whatever ends us, SIGKILL included, ends the child and with it the table. Each line is one
transaction. The child keeps the privileges that we give up, and is never written anything but numbers and addresses
that were formatted here.

nft says nothing when a line was taken. Behind each line we ask it to describe a word, whose answer is always the same:
what was said before it is the error.

Does not: look at other tables. A `drop` of theirs, a container engine's for example, stays one.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping

from bucatini.base.address import text
from bucatini.base.errors import HostError

__all__ = ["Table", "expose", "host_only", "masquerade"]

_ASK = b"describe ip saddr\n"
_ANSWER = "payload expression, datatype ipv4_addr"
_PATIENCE = 5.0
"""Seconds: an answer comes within a millisecond, but the kernel may be told of other tables at the time."""
_GRACE = 2.0
_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")
"""Where an ordinary user's PATH does not lead."""
_ENVIRONMENT = {"HOME": "/nonexistent", "LC_ALL": "C"}
"""nft -i would keep a history in the home directory."""
_UNIQUE_LOCAL = 0xFC


def masquerade(bridge: int, subnets: Iterable[tuple[bytes, int]]) -> list[str]:
    """Statements: what leaves the bridge of this index from `subnets` does so under the host's address. IPv6 only from
    unique local addresses (RFC 4193), which nobody outside could answer.
    """
    lines = ["chain postrouting { type nat hook postrouting priority srcnat; }"]
    for address, length in subnets:
        if len(address) == 4 or address[0] & 0xFE == _UNIQUE_LOCAL:
            family = "ip" if len(address) == 4 else "ip6"
            lines.append(f"rule postrouting {family} saddr {text(address)}/{length} oif != {bridge} masquerade")
    return lines


def host_only(bridge: int, guest_mac: bytes) -> list[str]:
    """Statements: nothing of the guest's is forwarded from the bridge of this index. The filter sees to it that what is
    the guest's has its MAC address.
    """
    return [
        "chain forward { type filter hook forward priority filter; }",
        f"rule forward iif {bridge} ether saddr {guest_mac.hex(':')} drop",
    ]


def expose() -> list[str]:
    """Statements: TCP to a port in the map `exposed`, at any address of the host's but loopback, from outside or from
    the host itself, goes where the map says.
    """
    jump = "fib daddr type local ip daddr != 127.0.0.0/8 dnat ip to tcp dport map @exposed"
    return [
        "map exposed { type inet_service : ipv4_addr . inet_service; }",
        "chain prerouting { type nat hook prerouting priority dstnat; }",
        f"rule prerouting {jump}",
        "chain output { type nat hook output priority -100; }",
        f"rule output {jump}",
    ]


class Table:
    """The table `name` with `statements`, from construction to `close`. Raises HostError when nft is not there or the
    kernel refuses.
    """

    def __init__(self, name: str, statements: Iterable[str]) -> None:
        self.name = name
        self._exposed: dict[int, tuple[bytes, int]] = {}
        self._child = _start()
        try:
            self.run([f"table inet {name} {{ flags owner; }}", *(_placed(each, name) for each in statements)])
        except HostError:
            self.close()
            raise

    def fileno(self) -> int:
        """Readable when the child is gone; then the table is, too."""
        assert self._child.stdout is not None
        return self._child.stdout.fileno()

    def expose(self, wanted: Mapping[int, tuple[bytes, int]]) -> None:
        """Have the map `exposed` hold exactly `wanted`: from a port of the host's to IPv4 address and port. All of it
        or, with HostError, nothing changes.
        """
        old = self._exposed
        gone = [port for port, target in old.items() if wanted.get(port) != target]
        new = [port for port, target in wanted.items() if old.get(port) != target]
        place = f"inet {self.name} exposed"
        changes = [f"delete element {place} {{ {port} }}" for port in gone]
        changes += [f"element {place} {{ {port} : {text(wanted[port][0])} . {wanted[port][1]} }}" for port in new]
        if changes:
            self.run(changes)
        self._exposed = dict(wanted)

    def run(self, statements: Iterable[str]) -> None:
        """One transaction of things to add, or to delete where a statement says so. Raises HostError."""
        words = (each if each.startswith("delete ") else f"add {each}" for each in statements)
        line = "; ".join(words).encode() + b"\n"
        try:
            os.write(self._child.stdin.fileno(), line + _ASK)  # type: ignore[union-attr]
        except OSError:
            raise HostError("nft is gone, and address translation with it") from None
        said = self._answer()
        if said:
            raise HostError(f"nft refused: {said.splitlines()[0].removeprefix('Error: ')}")

    def _answer(self) -> str:
        """What was said before the answer to `_ASK`."""
        said = ""
        deadline = time.monotonic() + _PATIENCE
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        while _ANSWER not in said or not said.endswith("\n"):
            ready = poll.poll(max(deadline - time.monotonic(), 0.0) * 1000)
            part = os.read(self.fileno(), 4096) if ready else b""
            if not part:
                raise HostError(f"nft {'does not answer' if not ready else 'ended'}: {said.strip() or 'no word of it'}")
            said += part.decode(errors="replace")
        return said[: said.index(_ANSWER)].strip()

    def close(self) -> None:
        """End the child, and the table with it. Idempotent."""
        child = self._child
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):  # it may be root's, and we are not any more
                child.kill()
                child.wait(_GRACE)


def _start() -> subprocess.Popen[bytes]:
    program = shutil.which("nft") or shutil.which("nft", path=os.pathsep.join(_FOLDERS))
    if program is None:
        raise HostError("address translation needs the program nft (package nftables), and there is none")
    try:
        return subprocess.Popen(
            [program, "-i"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,  # what a terminal's keys do to us is ours to tell it
            bufsize=0,
        )
    except OSError as error:
        raise HostError(f"{program}: {error.strerror}") from None


def _placed(statement: str, table: str) -> str:
    """`chain NAME ...` as `chain inet TABLE NAME ...`."""
    kind, _, rest = statement.partition(" ")
    return f"{kind} inet {table} {rest}"
