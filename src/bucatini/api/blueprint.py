"""How one guest's network is made from options and from what the host looks like at the moment; asked again when the
host changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bucatini.base.errors import ConfigError, HostError
from bucatini.config.addressing import Addressing
from bucatini.config.derive import Network, complete, host_plan, slot_plan
from bucatini.config.network import NetworkOptions
from bucatini.host.resolvers import HostResolvers, ResolverConfig

if TYPE_CHECKING:
    from bucatini.policy.decide import Policy

__all__ = ["Blueprint", "open_policy"]


class Blueprint:
    """`own`: plan by slot; None: mirror the host. The rest as for `config.derive.complete`."""

    def __init__(
        self,
        options: NetworkOptions,
        own: Addressing | None,
        *,
        default_mtu: int | None,
        own_dns: bool,
        need_host: str = "",
    ) -> None:
        """`need_host` names the option that is an error on a host without a network; empty: local mode then."""
        self.options = options
        self.own_dns = own_dns
        self.resolvers = HostResolvers()
        self._own = own
        self._default_mtu = default_mtu
        self._need_host = need_host
        self._seen = False
        """Whether the host had a network: without one for a moment is between two, not local mode."""

    @property
    def follows_host(self) -> bool:
        """Whether a change of the host can make another network."""
        return self._own is None or not self.own_dns

    def network(self) -> Network:
        """The network as it is to be now. Raises HostError, ConfigError."""
        if self._own is not None:
            plan = slot_plan(self._own)
        else:
            from bucatini.host.mirror import read_host

            options = self.options
            host = read_host(
                options.interface or options.outbound_interface4, options.interface or options.outbound_interface6
            )
            if self._need_host and not host.addresses:
                raise ConfigError(f"{self._need_host}: this host has no address to mirror; leave the option out")
            if not host.addresses and self._seen:
                raise HostError("this host has no address at the moment")
            self._seen = self._seen or bool(host.addresses)
            plan = host_plan(host)
        return complete(self.options, plan, self.resolvers(), default_mtu=self._default_mtu, own_dns=self.own_dns)

    def upstream(self, network: Network) -> ResolverConfig:
        """The resolvers our own name service asks now."""
        config = self.resolvers()
        if not network.upstream:
            return config
        from bucatini.base.address import Endpoint
        from bucatini.host.resolvers import Resolver

        return config._replace(resolvers=tuple(Resolver(Endpoint(each, 53)) for each in network.upstream))


def open_policy(hosts: tuple[bytes, ...]) -> Policy:
    """The policy of the compat commands: what they stand in for has none, and lets through whatever comes."""
    from bucatini.policy.settings import PolicySettings, build

    return build(PolicySettings("open"), hosts)
