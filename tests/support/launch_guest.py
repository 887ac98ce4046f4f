"""Runs a command in a guest without a data plane: `launch_guest.py [KEY=VALUE...] -- COMMAND [ARG...]`.

Frames from the guest are left in the TAP. Says on stderr what the guest lacks, and ends with the command's status.
Keys: `tap=1` prints the granted offloads, `offloads=NAME,NAME` asks for no more than these; `ipv4=0`, `ipv6=0`,
`mtu=N`, `interface=NAME`; `mac=random` leaves the MAC to the kernel and prints it; `configure=0` leaves the interface
as the kernel makes it; `accept_ra=1` leaves router advertisements to the kernel; `argv0=WORD` is the command's own
name; `netns_only=1` makes no user namespace; `mirror=1` takes the host's addresses; `hold=1` sets everything up and
waits for a line on stdin before the command starts; `sockets=KIND:N` makes sockets in the guest first and says where
the first could be bound.

`attach=TARGET` sets the network up in a namespace that exists, and runs no command: it says `ready` and ends with its
stdin. `userns=PATH` is joined first, an empty path is none; left out, it is the one that belongs to the target.

While it waits the line `change` replaces addresses, gateways and routes, `impossible` does so with a route that cannot
be; each is answered by a line, `done` or what went wrong.
"""

from __future__ import annotations

import asyncio
import select
import sys

from bucatini.base.address import pack
from bucatini.base.errors import BucatiniError
from bucatini.host.attach import Attached, AttachSettings, attach, netns_paths
from bucatini.host.guest import Guest, GuestSettings, Offloads, Route, launch
from bucatini.host.mirror import read_host

IPV4 = bytes([172, 16, 0, 0])
IPV6 = bytes.fromhex("fd426d73006200000000000000000000")


def main() -> int:
    """The command's status; 2 when it could not be started."""
    split = sys.argv.index("--")
    keys = dict(word.split("=", 1) for word in sys.argv[1:split])
    try:
        guest = start(keys, tuple(sys.argv[split + 1 :]))
        try:
            tap = guest.tap()
            for note in guest.notes:
                print(f"note: {note}", file=sys.stderr)
            if "tap" in keys:
                print(f"{tap.offloads.mask:#x}", flush=True)
            if "mac" in keys:
                print(tap.mac.hex(":"), flush=True)
            if "sockets" in keys:
                make_sockets(guest, *keys["sockets"].split(":"))
            if "hold" in keys or "attach" in keys:
                print("ready", flush=True)
                obey(guest)
            return asyncio.run(run(guest)) if isinstance(guest, Guest) else 0
        finally:
            guest.close()
    except BucatiniError as error:
        print(f"bucatini: {error}", file=sys.stderr)
        return 2


def start(keys: dict[str, str], command: tuple[str, ...]) -> Guest | Attached:
    settings = settings_from(keys, command)
    if "attach" not in keys:
        return launch(settings)
    netns, userns = netns_paths(keys["attach"])
    userns = keys.get("userns", userns)
    return attach(AttachSettings(netns, userns or None, **settings.network._asdict()))


def obey(guest: Guest | Attached) -> None:
    """Until an empty line, or the end."""
    while (line := sys.stdin.readline().strip()) not in ("", "go on"):
        route = Route(pack("10.0.0.0"), 8, pack("172.16.0.254" if line == "change" else "11.0.0.1"))
        addresses = ((IPV4[:3] + b"\x09", 24), (IPV6[:15] + b"\2", 64), (pack("2001:db8::9"), 64))
        guest.reconfigure(addresses, (pack("172.16.0.253"), pack("2001:db8::1")), (route,))
        select.select([guest.answer_fileno()], [], [], 5)
        print(*guest.collect() or ["done"], flush=True)


def settings_from(keys: dict[str, str], command: tuple[str, ...]) -> GuestSettings:
    names = keys.get("offloads")
    settings = GuestSettings(
        command=command,
        guest_mac=None if "mac" in keys else bytes.fromhex("026d73000002"),
        mtu=int(keys.get("mtu", "1500")),
        addresses=((IPV4[:3] + b"\2", 30), (IPV6[:15] + b"\2", 64)),
        gateways=(IPV4[:3] + b"\1", IPV6[:15] + b"\1"),
        resolv_conf="nameserver 172.16.0.1\n",
        hosts="127.0.0.1 localhost\n172.16.0.1 host.bucatini.internal\n",
        ipv4=keys.get("ipv4", "1") == "1",
        ipv6=keys.get("ipv6", "1") == "1",
        offloads=Offloads() if names is None else Offloads.from_names(*names.split(",")),
        interface=keys.get("interface", "eth0"),
        configure=keys.get("configure", "1") == "1",
        accept_ra=keys.get("accept_ra", "0") == "1",
        argv0=keys.get("argv0"),
        netns_only=keys.get("netns_only", "0") == "1",
    )
    if "mirror" in keys:
        host = read_host()
        settings = settings._replace(mtu=host.mtu, addresses=host.addresses, gateways=host.gateways, routes=host.routes)
    return settings


def make_sockets(guest: Guest | Attached, kind: str, count: str) -> None:
    made = guest.factory.create(kind, int(count))
    address = "172.16.0.2" if kind.endswith("4") else "fd42:6d73:62::2"
    made[0].bind((address, 80))
    print(len(made), made[0].getsockname()[:2], made[0].getblocking(), made[0].get_inheritable(), flush=True)


async def run(guest: Guest) -> int:
    guest.start()
    return await guest.wait()


if __name__ == "__main__":
    sys.exit(main())
