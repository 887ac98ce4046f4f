"""`passt(config)`: what the command passt does, by our engine.

In the order of `api.compat_process`. The socket listens before root becomes somebody else, so that it may be made where
only root may write; the network is looked up and ports are bound after that.

The policy is `open`: passt has none, and a drop-in must not refuse what it lets through.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from bucatini.base.errors import HostError
from bucatini.host import privileges
from bucatini.host.descriptors import check_inherited

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bucatini.api.session import Plug
    from bucatini.config.passt import PasstConfig
    from bucatini.config.vm import LinkSpec
    from bucatini.observe.log import Log

__all__ = ["passt"]

NAME = "passt"
_KEPT = frozenset((privileges.CAP_NET_BIND_SERVICE,))
"""What binding low ports takes; nothing is needed while serving."""
_SOCKET = "/tmp/passt_{}.socket"
"""Where passt listens when it is not told: the first N from 1 to `_LAST` that is free."""
_LAST = 64
_ANY_MAC = b"\xff" * 6
"""What the guest is taken for until it shows its own: early frames reach it whatever that is."""


def passt(config: PasstConfig) -> int:
    """Serve a virtual machine; the exit status, 0 when it is gone or a signal came. Raises ConfigError and HostError
    before it serves.
    """
    from bucatini.api.blueprint import Blueprint
    from bucatini.api.compat_process import CompatProcess
    from bucatini.api.vm import ACCEPTED, until_ended

    check_inherited("--fd", config.fd, ACCEPTED)
    process = CompatProcess(NAME, config)
    spec, plug = _open(config)
    try:
        process.drop_privileges(_KEPT, ())
        blueprint = Blueprint(config.network, None, default_mtu=None, own_dns=False)
        network = blueprint.network()
        from bucatini.api.session import serve_all

        def ready() -> None:
            _hint(process.log, spec)
            process.ready(network, frozenset())

        return serve_all([(process.job(blueprint, network, allow_all=True), plug)], until_ended(ready))
    finally:
        plug.link.close()
        process.log.close()


def _open(config: PasstConfig) -> tuple[LinkSpec, Plug]:
    """The guest's link. Raises ConfigError and HostError."""
    from bucatini.api.vm import open_plug

    reason: HostError | None = None
    for spec in _specs(config):
        try:
            return spec, open_plug(spec, _ANY_MAC, one_off=config.one_off)
        except HostError as error:
            if config.socket is not None or config.fd is not None:
                raise
            reason = error
    raise HostError(f"no --socket given, and none of {_SOCKET.format(f'1..{_LAST}')} can be had: {reason}")


def _specs(config: PasstConfig) -> Iterator[LinkSpec]:
    """Where the guest may be plugged in, to be tried in order."""
    from bucatini.config.vm import LinkSpec

    if config.fd is not None:
        yield LinkSpec("fd", str(config.fd))
        return
    paths = [_SOCKET.format(number) for number in range(1, _LAST + 1)]
    for path in paths if config.socket is None else [_absolute(config.socket)]:
        yield LinkSpec("vhost-user" if config.vhost_user else "socket", path)


def _absolute(path: str) -> str:
    """`path` for when the working directory is left, to remove the file; one too long by that stays as it is."""
    from bucatini.links.listening import MAX_PATH

    absolute = os.path.abspath(path)
    return absolute if len(os.fsencode(absolute)) <= MAX_PATH else path


def _hint(log: Log, spec: LinkSpec) -> None:
    """Tell the user how QEMU gets there."""
    if spec.kind == "fd":
        return
    path = shlex.quote(spec.where.replace(",", ",,"))  # a comma would end the value
    log.info(f"socket: {spec.where}; for QEMU 7.2 and later:")
    if spec.kind == "socket":
        log.info(
            "  qemu-system-x86_64 ... -device virtio-net-pci,netdev=s"
            f" -netdev stream,id=s,server=off,addr.type=unix,addr.path={path}"
        )
    else:
        log.info(
            "  qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=m,share=on,size=1G -numa node,memdev=m ..."
            f" -device virtio-net-pci,netdev=v -netdev vhost-user,id=v,chardev=c -chardev socket,id=c,path={path}"
        )
