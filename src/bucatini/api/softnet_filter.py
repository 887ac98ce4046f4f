"""`softnet --bridge`: the faithful model, which is `bucatini filter` under Softnet's words.

Who may not make interfaces becomes root by sudo first (`api.softnet_sudo`), before a descriptor is moved: the copy that
sudo starts inherits them all as they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bucatini.config.softnet import SoftnetConfig

__all__ = ["softnet_filter"]


def softnet_filter(config: SoftnetConfig) -> int:
    """Serve the virtual machine on the bridge; the exit status, see `api.filter`. Raises ConfigError and HostError."""
    from bucatini.api.softnet import identity
    from bucatini.api.softnet_sudo import escalate, lacks_privilege

    if lacks_privilege():
        escalate(config)
    from bucatini.api.filter import filter as serve
    from bucatini.config.filter import FilterConfig
    from bucatini.config.vm import LinkSpec
    from bucatini.host.descriptors import take_descriptor
    from bucatini.observe.log import Level, Log
    from bucatini.observe.settings import ObserveSettings

    become = identity(config)
    control = None if config.control_fd is None else take_descriptor(config.control_fd)
    filtering = FilterConfig(
        link=LinkSpec("fd", str(take_descriptor(config.vm_fd))),
        mac=config.mac,
        bridge=str(config.bridge),
        vm_net_type=config.net_type,
        allow=config.allow,
        block=config.block,
        expose=tuple((forward.host_port, forward.guest_port) for forward in config.expose),
        control_fd=control,
        observe=ObserveSettings(quiet=True),
    )
    filtering.check()
    log = Log(Level.WARNING, name="softnet")
    try:
        for note in config.notes:
            log.warning(note)
        return serve(filtering, diary=log, become=become)
    finally:
        log.close()
