"""The agent: enters the guest's namespaces, makes its network, then serves sockets until the engine is gone.

Forked by `launch` or `attach` from the engine before it has grown; it executes nothing and imports only the standard
library, so its memory is the engine's early pages. It stays in the host's PID and mount namespaces. In order:

1. every descriptor but 0, 1, 2 and the two channels is closed; every signal is blocked: it leaves by end-of-file only;
2. user namespace (unless root) and network namespace; PID namespace for the next child;
3. init is forked, before the TAP exists, so that neither it nor the command ever holds the TAP; its pidfd goes to the
   engine;
4. the TAP is opened, configured, sent, closed: the engine's descriptor is then the only one;
5. standard streams become /dev/null: whoever reads our output sees it end with the command;
6. not dumpable: the command, with the same user, may not trace us.

For a namespace that exists already (`run_attached_agent`) there is no init, 2 is joining, and 3 is left out.

Does not: fork again. A child would be born into the guest's PID namespace.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
from typing import NoReturn

from bucatini.base.errors import BucatiniError, HostError
from bucatini.host import factory, namespaces, netconf, privileges, syscalls
from bucatini.host.channel import MAX_PAYLOAD, Channel, Message, Say
from bucatini.host.descriptors import keep_only, silence_standard_streams
from bucatini.host.init import Birth, run_init
from bucatini.host.netchange import unpack_change
from bucatini.host.settings import GuestSettings, NetSettings
from bucatini.host.tap import Tap, open_tap, read_mac

__all__ = ["run_agent", "run_attached_agent"]

_OWN_PING_GROUPS = "0 0"
"""In a user namespace with one identity mapped, 0 is the only group that exists."""
_ALL_PING_GROUPS = "0 2147483647"


def run_agent(settings: GuestSettings, control: Channel, init_end: Channel, birth: Birth) -> NoReturn:
    """Be the agent; never returns to the caller's code. All signals are blocked on entry."""
    gc.disable()  # a collection here could close descriptors by number that the caller's forgotten objects once had
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored by a caller, it would take init's status from us
    init = 0
    try:
        keep_only({control.fileno(), init_end.fileno()})
        own_user_namespace = namespaces.enter_network_namespace(netns_only=settings.netns_only)
        namespaces.prepare_process_namespace()
        init = _fork_init(settings, init_end, birth)
        control.send(Say.INIT, descriptors=[os.pidfd_open(init)])
        _provide_network(settings.network, control, _OWN_PING_GROUPS if own_user_namespace else _ALL_PING_GROUPS)
        silence_standard_streams()
        syscalls.set_not_dumpable()
        _serve(control, settings.network, init)
    except (BrokenPipeError, ConnectionResetError):  # the engine is gone
        pass
    except BaseException as error:
        if init:
            os.kill(init, signal.SIGKILL)
            os.waitpid(init, 0)
        with contextlib.suppress(OSError):
            control.send(Say.ERROR, _one_line(error).encode())
        os._exit(1)
    os._exit(0)


def run_attached_agent(settings: NetSettings, netns: str, userns: str | None, control: Channel) -> NoReturn:
    """Be the agent in the namespaces at these paths; never returns to the caller's code. All signals are blocked on
    entry.
    """
    gc.disable()
    try:
        keep_only({control.fileno()})
        namespaces.join_network_namespace(netns, userns)
        _provide_network(settings, control)
        silence_standard_streams()
        with contextlib.suppress(HostError):  # what remains is what a change of addresses takes
            privileges.limit_capabilities(frozenset((privileges.CAP_NET_ADMIN,)))
        syscalls.set_not_dumpable()
        _serve(control, settings)
    except (BrokenPipeError, ConnectionResetError):
        pass
    except BaseException as error:
        with contextlib.suppress(OSError):
            control.send(Say.ERROR, _one_line(error).encode(errors="replace"))
        os._exit(1)
    os._exit(0)


def _fork_init(settings: GuestSettings, init_end: Channel, birth: Birth) -> int:
    init = os.fork()
    if init == 0:
        run_init(settings, init_end, birth)
    init_end.close()
    return init


def _provide_network(settings: NetSettings, control: Channel, ping_groups: str = "") -> None:
    tap = _open_tap(settings)
    try:
        for note in netconf.configure(settings, ping_groups):
            control.send(Say.NOTE, note.encode())
        control.send(Say.TAP, bytes([tap.offloads.mask]) + read_mac(tap.descriptor), [tap.descriptor])
    finally:
        os.close(tap.descriptor)


def _open_tap(settings: NetSettings) -> Tap:
    try:
        return open_tap(settings.interface, settings.offloads, reuse=settings.reuse)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise HostError(f"there is an interface {settings.interface!r} already: choose another name") from None
        hint = {
            errno.ENOENT: ": load the module tun, or give the device to this container",
            errno.ENODEV: ": load the module tun, or give the device to this container",
            errno.EACCES: ": its mode must let you read and write (0666 is usual)",
            errno.EPERM: ": the container lets nobody use it, or we lack CAP_NET_ADMIN there",
            errno.EINVAL: f": is {settings.interface!r} a name for an interface?",
        }.get(error.errno or 0, "")
        raise HostError(f"cannot open /dev/net/tun: {error.strerror}{hint}") from None


def _serve(control: Channel, network: NetSettings, init: int = 0) -> None:
    """Answer requests and reap init, if there is one, until the engine closes its end."""
    watched = select.poll()
    watched.register(control.fileno(), select.POLLIN)
    ended = os.pidfd_open(init) if init else -1
    if init:
        watched.register(ended, select.POLLIN)
    while True:
        ready = dict(watched.poll())
        if ended in ready:
            os.waitpid(init, 0)
            watched.unregister(ended)
        if control.fileno() in ready:
            request = control.receive()
            if request is None:
                return
            if request.say == Say.RECONFIGURE:
                network = _reconfigure(network, request)
            else:
                factory.make(control, request)


def _reconfigure(network: NetSettings, request: Message) -> NetSettings:
    """Do what is asked and answer; the settings from now on."""
    try:
        new = network._replace(**unpack_change(request.payload)._asdict())
    except ValueError as error:
        notes, new = [f"the guest's network stays as it is: {error}"], network
    else:
        notes = netconf.reconfigure(network, new)
    for number, descriptor in enumerate(request.descriptors):
        with socket.socket(fileno=descriptor) as end, contextlib.suppress(OSError):  # nobody may be listening
            if not number:
                end.setblocking(False)
                Channel(end).send(Say.NOTE, "\n".join(notes).encode(errors="replace")[:MAX_PAYLOAD])
    return new


def _one_line(error: BaseException) -> str:
    if isinstance(error, BucatiniError):
        return str(error)
    return f"cannot set up the guest: {type(error).__name__}: {error}".replace("\n", " ")
