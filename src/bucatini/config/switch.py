"""Everything `bucatini switch` was asked for: the links, which of their guests may reach which, and the leases.

Guests share one IPv4 network, from which each gets a lease; with `guest_length` each gets a network of its own cut out
of it. Slot N has network number N of the /24 in 172.16.0.0/12. Of IPv6 guest number k, counted from 0 in the order of
the links, has the /64 of slot `slot + k`. All have the gateway's MAC address of `slot`.

Does not: open anything.
"""

from __future__ import annotations

import re

import msgspec

from bucatini.base.address import pack, text
from bucatini.base.errors import ConfigError
from bucatini.config.addressing import DEFAULT_IPV4_POOL, MAX_SLOT, Addressing, derive
from bucatini.config.guest import LEASE, GuestConfig
from bucatini.config.network import NetworkOptions
from bucatini.config.vm import LinkSpec
from bucatini.engine.link_rules import LinkRule, check_number, check_rule, read_rule

__all__ = ["LinkRule", "SwitchConfig", "SwitchGuest", "read_network", "read_rule"]

NAME = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A label of the DNS, RFC 1123 section 2.1."""
NETWORK_LENGTH = 24


class SwitchGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One guest: its link, what it is called, and the ports that lead to it."""

    link: LinkSpec
    name: str
    mac: bytes | None = None
    """None: what its frames show first."""
    publish: tuple[str, ...] = ()
    tcp_in: tuple[str, ...] = ()
    udp_in: tuple[str, ...] = ()


class SwitchConfig(GuestConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Virtual machines on one segment."""

    network: NetworkOptions = NetworkOptions(dhcp_dns=True, dhcp_search=True, lease=LEASE)
    guests: tuple[SwitchGuest, ...]
    rules: tuple[LinkRule, ...] = ()
    segment: tuple[bytes, int] | None = None
    """IPv4 network and prefix length; None: that of the slot."""
    guest_length: int | None = None
    """Prefix length of a network for each guest; None: they share one."""
    lease_file: str | None = None
    one_off: bool = False
    """End when the last guest disconnects."""

    @property
    def pool(self) -> tuple[bytes, int]:
        """The IPv4 network of the segment."""
        if self.segment is not None:
            return self.segment
        base = int.from_bytes(pack(DEFAULT_IPV4_POOL.partition("/")[0]), "big")
        return (base + (self.slot << 32 - NETWORK_LENGTH)).to_bytes(4, "big"), NETWORK_LENGTH

    def of_guest(self, number: int) -> SwitchConfig:
        """The configuration of one guest alone: its ports."""
        guest = self.guests[number]
        network = msgspec.structs.replace(self.network, tcp_in=guest.tcp_in, udp_in=guest.udp_in)
        return msgspec.structs.replace(self, network=network, publish=guest.publish, guests=(guest,), rules=())

    def addressing_of(self, number: int, gateway: bytes | None = None) -> Addressing:
        """What guest `number` has. `gateway` is its IPv4 gateway, None: the first host of the network; its own IPv4
        address is 0.0.0.0, for the lease decides.
        """
        own, first = derive(self.slot + number, ipv4=False, ipv6=self.network.ipv6), derive(self.slot, ipv6=False)
        own = own._replace(gateway_mac=first.gateway_mac)
        if not self.network.ipv4:
            return own
        network, _ = self.pool
        return own._replace(
            guest_ipv4=bytes(4), gateway_ipv4=gateway or (int.from_bytes(network, "big") + 1).to_bytes(4, "big")
        )

    def check(self) -> None:
        """See `GuestConfig.check`."""
        if not self.guests:
            raise ConfigError("no link given; accepted: --socket, --vhost-user, --dgram, --seqpacket, --fd, --tap")
        if self.slot + len(self.guests) - 1 > MAX_SLOT:
            highest = MAX_SLOT + 1 - len(self.guests)
            raise ConfigError(f"--slot {self.slot}: at most {highest} for {len(self.guests)} guests")
        self._check_guests()
        self._check_rules()
        for number in range(len(self.guests)):
            self.of_guest(number).check_one()
        if self.network.ipv4:
            self._check_pool()
            if not self.network.dhcp:
                raise ConfigError("--no-dhcp: guests of a segment get their IPv4 addresses by DHCP; -6 does without")
        elif self.lease_file is not None or self.segment is not None or self.guest_length is not None:
            raise ConfigError("-6: there are no leases without IPv4; leave --network, --guest-length, --lease-file out")
        if self.lease_file == "":
            raise ConfigError("--lease-file '': must be the path of a file")

    def check_one(self) -> None:
        """What holds for each guest by itself."""
        super().check()

    def _check_guests(self) -> None:
        taken: dict[str, str] = {}
        names: set[str] = set()
        macs: dict[bytes, str] = {}
        gateway_mac = derive(self.slot).gateway_mac
        for guest in self.guests:
            guest.link.check()
            for what in guest.link.paths or (str(guest.link),):
                if what in taken:
                    raise ConfigError(f"{guest.link}: {taken[what]} has it already; each guest needs a link of its own")
                taken[what] = str(guest.link)
            if not NAME.fullmatch(guest.name):
                raise ConfigError(
                    f"--name {guest.name!r}: must be 1 to 63 small letters, digits and hyphens, no hyphen at the ends"
                )
            if guest.name in names:
                raise ConfigError(f"--name {guest.name!r}: two guests have this name")
            names.add(guest.name)
            if guest.mac is not None and guest.mac in macs:
                raise ConfigError(f"--mac {guest.mac.hex(':')}: {macs[guest.mac]} has it already")
            if guest.mac == gateway_mac:
                raise ConfigError(f"--mac {gateway_mac.hex(':')}: is the gateway's")
            if guest.mac is not None:
                macs[guest.mac] = guest.name
            if self.one_off and guest.link.kind in ("dgram", "tap"):
                raise ConfigError(
                    f"--one-off: {guest.link} does not tell when its guest is gone; leave the option out"
                )

    def _check_rules(self) -> None:
        names = [guest.name for guest in self.guests]
        for rule in self.rules:
            check_rule(rule, names)
        check_number(self.rules)

    def _check_pool(self) -> None:
        """That the network has an address for each guest."""
        from bucatini.policy.groups import classify
        from bucatini.services.address_plan import AddressPlan, LeaseRange

        network, length = self.pool
        written = f"--network {text(network)}/{length}"
        if self.guest_length is not None and not length <= self.guest_length <= 30:
            raise ConfigError(f"--guest-length {self.guest_length}: must be from {length}, the network's own, to 30")
        last = int.from_bytes(network, "big") | (1 << 32 - length) - 1
        if self.segment is not None and "public" in (classify(network), classify(last.to_bytes(4, "big"))):
            raise ConfigError(f"{written}: is public; accepted: networks that nobody else has, such as 10.1.2.0/24")
        if self.segment is None and self.slot >= 1 << NETWORK_LENGTH - int(DEFAULT_IPV4_POOL.partition("/")[2]):
            raise ConfigError(f"--slot {self.slot}: there are 4096 IPv4 networks of this length; add --network")
        try:
            plan = AddressPlan((LeaseRange(network, length, self.guest_length),))
        except ConfigError as error:
            raise ConfigError(f"{written}: {str(error).removeprefix('lease pool ')}") from None
        if plan.size < len(self.guests):
            raise ConfigError(f"{written}: has room for {plan.size} of {len(self.guests)} guests")


def read_network(written: str) -> tuple[bytes, int]:
    """`A.B.C.D/N`. Raises ConfigError."""
    address, _, length = written.partition("/")
    try:
        packed = pack(address)
    except ValueError:
        packed = b""
    if len(packed) != 4 or not (length.isascii() and length.isdecimal() and 1 <= int(length) <= 30):
        raise ConfigError(f"--network {written!r}: must be an IPv4 network such as 10.1.2.0/24")
    shift = 32 - int(length)
    if int.from_bytes(packed, "big") >> shift << shift != int.from_bytes(packed, "big"):
        raise ConfigError(f"--network {written!r}: has bits set behind its prefix length")
    return packed, int(length)
