"""`switch(config)`: virtual machines on one segment, until a signal ends us or the last guest is gone.

As `api.vm`, and beside it the leases and the segment, which are made with the first guest's translator: they need the
loop. Where each guest has an IPv4 network of its own, its gateway is known when its lease is, so its network is made
anew then, before the next frame of it is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from bucatini.api.vm import check_links, default_mtu, end_quietly, open_plug, until_ended
from bucatini.base.errors import ConfigError, HostError

if TYPE_CHECKING:
    from bucatini.api.session import Job, Plug
    from bucatini.config.switch import SwitchConfig
    from bucatini.engine.build import Loop, Translator
    from bucatini.engine.control.server import ControlServer
    from bucatini.engine.leases import LeaseKeeper
    from bucatini.engine.segment import Member, Segment
    from bucatini.observe.observers import Observers
    from bucatini.services.leases import Lease

__all__ = ["switch"]


def switch(config: SwitchConfig) -> int:
    """Serve the guests; the exit status, 0 when they are gone or a signal came. Raises ConfigError or HostError before
    the first can connect.
    """
    from bucatini.api.session import serve_all
    from bucatini.api.waiting import hold_signals
    from bucatini.base.address import text
    from bucatini.observe.observers import Observers

    end_quietly()
    check_links(guest.link for guest in config.guests)
    observers = Observers(config.observe)
    say = observers.say if config.observe.quiet else observers.warn
    hold_signals()  # before there is a path to take away
    plugs: list[Plug] = []
    try:
        for number, guest in enumerate(config.guests):
            mac = guest.mac or config.addressing_of(number).guest_mac
            plug = open_plug(guest.link, mac, one_off=config.one_off, say=partial(_say_of, say, guest.name))
            plugs.append(plug._replace(learns_mac=guest.mac is None, name=f"{guest.name}: {plug.name}"))
        made = _Switch(config, plugs, observers, say)
    except BaseException:
        for plug in plugs:
            plug.link.close()
        raise

    def ready() -> None:
        network, length = config.pool
        what = f"an address of {text(network)}/{length}" if config.network.ipv4 else "IPv6 only"
        for plug in plugs:
            if not config.observe.quiet:
                observers.warn(f"{plug.name}: ready for a guest, who gets {what}")

    return serve_all(made.pairs, until_ended(ready))


def _say_of(say: Callable[[str], None], name: str, line: str) -> None:
    say(f"{name}: {line}")


class _Switch:
    """The guests' jobs, and what they share once there is a loop."""

    def __init__(
        self, config: SwitchConfig, plugs: list[Plug], observers: Observers, say: Callable[[str], None]
    ) -> None:
        self._config = config
        self._observers = observers
        self._say = say
        self._mtu = min(default_mtu(plug.link) for plug in plugs)
        self._segment: Segment | None = None
        self._keeper: LeaseKeeper | None = None
        self.pairs = [(self._job(number), plug) for number, plug in enumerate(plugs)]

    def _job(self, number: int) -> Job:
        from bucatini.api.blueprint import Blueprint
        from bucatini.api.jobs import job_of

        own = self._config.of_guest(number)
        blueprint = Blueprint(own.network, self._config.addressing_of(number), default_mtu=self._mtu, own_dns=True)
        job = job_of(own, blueprint, blueprint.network(), self._observers, namespace=False)
        is_last = number == len(self._config.guests) - 1
        control = self._control if is_last and self._config.control is not None else None
        return job._replace(join=partial(self._join, number), control=control)

    def _control(self, translator: Translator) -> ControlServer:
        """`Job.control`, of the last guest, with whom the segment is complete."""
        from bucatini.engine.control.links import link_methods
        from bucatini.engine.control.server import ControlServer

        assert self._segment is not None
        assert self._config.control is not None
        return ControlServer(translator.loop, self._config.control, link_methods(self._segment))

    def _join(self, number: int, translator: Translator, shared: Loop) -> Callable[[], None]:
        """`Job.join`. Raises ConfigError and HostError for a lease file that cannot be had."""
        from bucatini.engine.segment import Segment

        config, guest = self._config, self._config.guests[number]
        if self._segment is None:
            self._keeper = self._make_keeper(shared)
            self._segment = Segment(config.pool if config.network.ipv4 else None, self._keeper, self._say)
        member = self._segment.join(translator, guest.name, guest.mac)
        if config.guest_length is not None and member.tenant is not None:
            member.tenant.settle = partial(self._settle, number, member)
        if number == len(config.guests) - 1:
            self._segment.change(config.rules)
        return self._close

    def _make_keeper(self, shared: Loop) -> LeaseKeeper | None:
        from bucatini.engine.leases import LeaseKeeper
        from bucatini.services.address_plan import LeaseRange
        from bucatini.services.pool import PoolSettings

        config = self._config
        if not config.network.ipv4:
            return None
        ours = {each for job, _ in self.pairs for each in job.network.hosts}
        if config.guest_length is not None:
            ours -= {config.addressing_of(0).gateway_ipv4}  # which is some guest's
        pool = (LeaseRange(*config.pool, config.guest_length),)
        settings = PoolSettings(pool, reserved=frozenset(ours), lease=config.network.lease)
        try:
            return LeaseKeeper(shared, settings, config.lease_file, say=self._say)
        except (ConfigError, HostError) as error:
            raise type(error)(f"--lease-file: {error}") from None

    def _settle(self, number: int, member: Member, lease: Lease) -> None:
        """The guest has a gateway of its own: its network is another as soon as this turn is over."""
        translator = member.translator
        translator.give(lease.address)
        translator.loop.call_soon(self._renumber, number, member, lease)
        translator.reactor.interrupt()

    def _renumber(self, number: int, member: Member, lease: Lease) -> None:
        from bucatini.api.blueprint import Blueprint
        from bucatini.api.session import settings_of

        tenant = member.tenant
        if tenant is None or tenant.lease is None or tenant.lease[:4] != lease[:4]:
            return
        job, plug = self.pairs[number]
        own = self._config.addressing_of(number, lease.gateway)
        network = Blueprint(job.blueprint.options, own, default_mtu=self._mtu, own_dns=True).network()
        settings = dataclasses.replace(settings_of(job, network, plug), guest_ipv4=lease.address)
        member.translator.reconfigure(settings, job.build_policy(network.hosts).decide, network.outbound)
        member.name_others()

    def _close(self) -> None:
        """Idempotent; for each guest, before its translator."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        keeper.close()
        for refusal, count in keeper.pool.counters.items():
            self._observers.say(f"leases refused: {count}, {refusal}")
        if keeper.unwritten:
            self._observers.say(f"leases refused: {keeper.unwritten}, the lease file was not written")
