"""What a user may say about a guest's virtual network: the options that `run`, `attach` and the compat commands share.

Values are typed and checked by themselves; what they mean beside the host's own addresses is `config.derive`. The
defaults are pasta's for everything that a drop-in must not change; each command states where its own differ.

Does not: look at the host, or know which command line the values came from.
"""

from __future__ import annotations

import msgspec

__all__ = ["NetworkOptions"]


class NetworkOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Addresses are packed bytes; of lists with one slot per family at most one entry per family is given."""

    ipv4: bool = True
    ipv6: bool = True

    interface: str | None = None
    """Template interface of the host for both families (`-i`); None: that of the default route."""
    mtu: int | None = None
    """Bytes of an IP packet; 0: announce none; None: the command's default."""
    addresses: tuple[bytes, ...] = ()
    """The guest's, one per family (`-a`); a family left out has the host's."""
    prefix_length: int | None = None
    """Of the IPv4 address (`-n`)."""
    gateways: tuple[bytes, ...] = ()
    """The guest's default routers, one per family (`-g`)."""
    mac: bytes | None = None
    """Ours, on the guest's link (`-M`)."""

    config_net: bool = False
    """Set addresses and routes in the guest's namespace by netlink."""
    copy_routes: bool = True
    copy_addresses: bool = True
    guest_interface: str | None = None
    """Name of the TAP (`-I`); None: that of the template interface."""
    guest_mac: bytes | None = None
    """None: the kernel's choice."""

    outbound: tuple[bytes, ...] = ()
    """Source addresses of the host's sockets, one per family (`-o`)."""
    outbound_interface4: str | None = None
    outbound_interface6: str | None = None

    dns: tuple[bytes, ...] | None = None
    """Name servers told to the guest, at most 3 per family; None: the host's; empty: none, and no forwarding."""
    dns_forward: tuple[bytes, ...] = ()
    """Addresses whose ports 53 and 853 lead to a resolver of the host, one per family."""
    dns_host: tuple[bytes, ...] = ()
    """Which resolver, one per family; a family left out: the host's first of that family."""
    search: tuple[str, ...] | None = None
    """Search domains told to the guest; None: the host's; empty: none."""
    dhcp_dns: bool = False
    """Tell name servers by DHCP, DHCPv6 and router advertisements; `dhcp_search` the search domains."""
    dhcp_search: bool = False

    map_host_loopback: tuple[bytes, ...] | None = None
    """Guest addresses that mean the host's loopback, one per family; None: the gateways; empty: none."""
    map_gateway: bool = True
    """Whether the gateways mean the host's loopback while `map_host_loopback` does not say."""
    map_guest_address: tuple[bytes, ...] = ()
    """Guest addresses that mean, on the host, the address the guest was given; one per family."""

    tcp: bool = True
    udp: bool = True
    icmp: bool = True
    dhcp: bool = True
    dhcpv6: bool = True
    ndp: bool = True
    router_advertisements: bool = True

    lease: int = 0xFFFFFFFF
    """Seconds that addresses are given for; the largest number is for ever. A guest that renews follows the host."""
    freebind: bool = False
    splice: bool = True
    """Join peers on the host's loopback in the kernel, past the link."""

    tcp_in: tuple[str, ...] = ()
    """Forwarded ports in pasta's grammar (`forward.port_grammar`): `-t`, and `-u`, `-T`, `-U`."""
    udp_in: tuple[str, ...] = ()
    tcp_out: tuple[str, ...] = ()
    udp_out: tuple[str, ...] = ()
    default_ports: str = "none"
    """What holds where none of the four is given: `none` or `auto`."""
