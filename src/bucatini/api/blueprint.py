"""How one guest's network is made from options and from what the host looks like at the moment; asked again when the
host changes.
"""

from __future__ import annotations

from bucatini.base.errors import ConfigError
from bucatini.config.addressing import Addressing
from bucatini.config.derive import Network, complete, host_plan, slot_plan
from bucatini.config.network import NetworkOptions
from bucatini.host.resolvers import HostResolvers, ResolverConfig

__all__ = ["Blueprint"]


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
