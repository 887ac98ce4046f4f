"""`vm(config)`: virtual machines on networks of their own, until a signal ends us or the last guest is gone.

Links are opened before anything else, so that a path in use or a name that does not exist is an error of the options;
ports are bound next. A hypervisor may connect as soon as the line that says so is printed: its socket listens then.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from bucatini.base.errors import ConfigError, HostError
from bucatini.host.descriptors import check_inherited
from bucatini.host.tap import Offloads

if TYPE_CHECKING:
    from bucatini.api.session import Plug
    from bucatini.config.vm import LinkSpec, VmConfig

__all__ = ["check_links", "default_mtu", "end_quietly", "open_link", "open_plug", "until_ended", "vm"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
ACCEPTED = "a connected UNIX socket or an open TAP is accepted"


def vm(config: VmConfig) -> int:
    """Serve the guests; the exit status, 0 when they are gone or a signal came. Raises ConfigError or HostError before
    the first can connect.
    """
    from bucatini.api.blueprint import Blueprint
    from bucatini.api.jobs import job_of
    from bucatini.api.session import Job, serve_all
    from bucatini.api.waiting import hold_signals
    from bucatini.observe.observers import Observers

    end_quietly()
    check_links(guest.link for guest in config.guests)
    observers = Observers(config.observe)
    say = observers.say if config.observe.quiet else observers.warn
    hold_signals()  # before there is a path to take away
    pairs: list[tuple[Job, Plug]] = []
    try:
        for number, guest in enumerate(config.guests):
            own = config.of_guest(number)
            addressing = own.addressing()
            plug = open_plug(guest.link, guest.mac or addressing.guest_mac, one_off=config.one_off, say=say)
            plug = plug._replace(learns_mac=guest.mac is None)
            pairs.append((None, plug))  # type: ignore[arg-type]  # the link is closed whatever comes next
            if config.mirror_host:
                blueprint = Blueprint(own.network, None, default_mtu=None, own_dns=True, need_host="--mirror-host")
            else:
                blueprint = Blueprint(own.network, addressing, default_mtu=default_mtu(plug.link), own_dns=True)
            pairs[-1] = (job_of(own, blueprint, blueprint.network(), observers, namespace=False), plug)
    except BaseException:
        for _, plug in pairs:
            plug.link.close()
        raise

    def ready() -> None:
        from bucatini.base.address import text

        for (job, _), guest in zip(pairs, config.guests, strict=True):
            addresses = " ".join(text(address) for address, _ in job.network.addresses)
            if not config.observe.quiet:
                observers.warn(f"{guest.link}: ready for a guest, who gets {addresses or 'no address'}")

    return serve_all(pairs, until_ended(ready))


def end_quietly() -> None:
    """From here on a signal ends us with status 0, also before the loop that handles it runs: who waits for a socket's
    path may be done with us as soon as it is there.
    """
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL or number == signal.SIGINT:
            signal.signal(number, _end)


def _end(_number: int, _frame: object) -> None:
    sys.exit(0)


def check_links(specs: Iterable[LinkSpec]) -> None:
    """Raise ConfigError for a descriptor among them that is not open. To be called before anything is opened."""
    for spec in specs:
        if spec.kind == "fd":
            check_inherited("--fd", int(spec.where), ACCEPTED)


def open_plug(
    spec: LinkSpec, mac: bytes, *, one_off: bool = False, say: Callable[[str], None] | None = None
) -> Plug:
    """Open a guest's link. `mac` is what the guest is taken for until its frames show its own; `say` hears who comes
    and goes. Raises ConfigError, HostError.
    """
    from bucatini.api.session import Plug

    link, offloads = open_link(spec, one_off=one_off)
    return Plug(link, offloads, mac, str(spec), say, learns_mac=True, ends=one_off or spec.kind in ("fd", "tap"))


def default_mtu(link: Any) -> int:
    """Bytes: large where every packet costs, because nothing below us or the guest cuts superframes."""
    from bucatini.config.guest import DEFAULT_MTU
    from bucatini.config.vm import LARGE_MTU
    from bucatini.links.socket_link import SocketLink

    return LARGE_MTU if isinstance(link, SocketLink) else DEFAULT_MTU


def open_link(spec: LinkSpec, *, one_off: bool) -> tuple[Any, Offloads]:
    """The link of `spec`, and what it offloads at first. Raises ConfigError, HostError."""
    from bucatini.links.listening import Door
    from bucatini.links.socket_link import OFFLOADS

    name = str(spec)
    if spec.kind == "fd":
        return _of_descriptor(spec)
    if spec.kind == "socket":
        from bucatini.links.unix_stream import UnixStreamLink

        return UnixStreamLink(name, Door(_listen(spec), spec.where), one_off=one_off), OFFLOADS
    if spec.kind == "seqpacket":
        from bucatini.links.unix_dgram import UnixSeqpacketLink

        sock = _listen(spec, socket.SOCK_SEQPACKET)
        return UnixSeqpacketLink(name, Door(sock, spec.where), one_off=one_off), OFFLOADS
    if spec.kind == "dgram":
        from bucatini.links.unix_dgram import UnixDatagramLink

        local, _, remote = spec.where.partition(",")
        return UnixDatagramLink(name, _listen(spec, socket.SOCK_DGRAM), local=local, remote=remote), OFFLOADS
    if spec.kind == "vhost-user":
        from bucatini.links.vhost_user.link import NO_OFFLOADS, VhostUserLink

        return VhostUserLink(name, Door(_listen(spec), spec.where), one_off=one_off), NO_OFFLOADS
    from bucatini.links.packet import OFFLOADS as PACKET_OFFLOADS
    from bucatini.links.packet import PacketLink, open_packet

    return PacketLink(name, *open_packet(spec.where)), PACKET_OFFLOADS


def _listen(spec: LinkSpec, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """At the first path of `spec`. Raises HostError."""
    from bucatini.links.listening import listen_at

    try:
        return listen_at(spec.paths[0], kind)
    except HostError as error:
        raise HostError(f"--{spec.kind}: {error}") from None


def _of_descriptor(spec: LinkSpec) -> tuple[Any, Offloads]:
    """A link on a descriptor that was inherited: the kind of socket says which."""
    from bucatini.links.socket_link import OFFLOADS

    number = int(spec.where)
    if not stat.S_ISSOCK(check_inherited("--fd", number, ACCEPTED)):
        return _of_tap(spec, number)
    sock = socket.socket(fileno=number)
    os.set_inheritable(number, False)
    if sock.type == socket.SOCK_STREAM:
        from bucatini.links.unix_stream import UnixStreamLink

        return UnixStreamLink(str(spec), sock=sock), OFFLOADS
    if sock.type == socket.SOCK_SEQPACKET:
        from bucatini.links.unix_dgram import UnixSeqpacketLink

        return UnixSeqpacketLink(str(spec), sock=sock), OFFLOADS
    if sock.type == socket.SOCK_DGRAM:
        from bucatini.links.unix_dgram import UnixDatagramLink

        return UnixDatagramLink(str(spec), sock), OFFLOADS
    sock.detach()
    raise ConfigError(f"{spec}: a socket of this kind carries no frames; accepted: stream, datagram, seqpacket")


def _of_tap(spec: LinkSpec, number: int) -> tuple[Any, Offloads]:
    from bucatini.host.tap import adopt_tap
    from bucatini.links.tap import TapLink

    try:
        tap = adopt_tap(number)
    except OSError as error:
        why = error.strerror if error.errno == errno.EINVAL else "must be a socket or an open TAP device"
        raise ConfigError(f"{spec}: {why}") from None
    return TapLink(tap.descriptor), tap.offloads


def until_ended(ready: Callable[[], None]) -> Callable[[], Awaitable[int]]:
    """What `session.serve_all` waits for: a signal. `ready` is called once signals are heard. To be called when nothing
    is left to do but to serve.
    """
    from bucatini.api.waiting import Waiting, hold_signals

    hold_signals()

    async def wait() -> int:
        waiting = Waiting(None)
        try:
            ready()
            return await waiting.status
        finally:
            waiting.close()

    return wait
