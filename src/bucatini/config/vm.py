"""Everything `bucatini vm` was asked for: one link per guest, and what all guests have in common.

Guest number k, counted from 0 in the order of the links, has the addresses of slot `slot + k` and ports of its own.
Does not: open anything.
"""

from __future__ import annotations

import os
import re
from typing import Literal

import msgspec

from bucatini.base.errors import ConfigError
from bucatini.config.addressing import MAX_SLOT
from bucatini.config.guest import LEASE, GuestConfig
from bucatini.config.network import NetworkOptions

__all__ = ["LARGE_MTU", "LinkSpec", "VmConfig", "VmGuest"]

LARGE_MTU = 65520
"""Bytes, on links without offloads, where every packet costs: 65535 less an Ethernet header, in whole words."""

Kind = Literal["socket", "vhost-user", "dgram", "seqpacket", "fd", "tap"]


class LinkSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a guest is plugged in."""

    kind: Kind
    where: str
    """A path; for `dgram` also `LOCAL,REMOTE`; for `fd` a number; for `tap` a name."""

    def __str__(self) -> str:
        return f"--{self.kind} {self.where}"

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that it names."""
        if self.kind in ("fd", "tap"):
            return ()
        return tuple(self.where.split(",", 1)) if self.kind == "dgram" else (self.where,)

    def check(self) -> None:
        """Raise ConfigError for what cannot be a link."""
        option = f"--{self.kind} {self.where!r}"
        if self.kind == "fd":
            if not (re.fullmatch("[1-9][0-9]{0,6}", self.where) and 3 <= int(self.where) < 1 << 20):
                raise ConfigError(f"{option}: must be the number of a descriptor that is open, 3 or more")
        elif self.kind == "tap":
            if not 1 <= len(os.fsencode(self.where)) <= 15 or set(self.where) & set("/% \t\n:"):
                raise ConfigError(f"{option}: must be the name of an interface, 1 to 15 bytes")
        elif not all(0 < len(os.fsencode(path)) <= 107 and "\0" not in path for path in self.paths):
            raise ConfigError(f"{option}: must be a path of 1 to 107 bytes")
        elif self.kind == "dgram" and (self.where.count(",") > 1 or len(set(self.paths)) < len(self.paths)):
            raise ConfigError(f"{option}: must be LOCAL or LOCAL,REMOTE, two paths")


class VmGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One guest: its link, and the ports that lead to it."""

    link: LinkSpec
    mac: bytes | None = None
    """None: what its frames show first."""
    publish: tuple[str, ...] = ()
    tcp_in: tuple[str, ...] = ()
    udp_in: tuple[str, ...] = ()


class VmConfig(GuestConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Virtual machines, each on a network of its own."""

    network: NetworkOptions = NetworkOptions(dhcp_dns=True, dhcp_search=True, lease=LEASE)
    guests: tuple[VmGuest, ...]
    one_off: bool = False
    """End when the guest disconnects, or the last of them."""

    def of_guest(self, number: int) -> VmConfig:
        """The configuration of one guest alone: its slot, its ports."""
        guest = self.guests[number]
        network = msgspec.structs.replace(self.network, tcp_in=guest.tcp_in, udp_in=guest.udp_in)
        return msgspec.structs.replace(
            self, slot=self.slot + number, network=network, publish=guest.publish, guests=(guest,)
        )

    def check(self) -> None:
        """See `GuestConfig.check`."""
        if not self.guests:
            raise ConfigError("no link given; accepted: --socket, --vhost-user, --dgram, --seqpacket, --fd, --tap")
        if self.slot + len(self.guests) - 1 > MAX_SLOT:
            highest = MAX_SLOT + 1 - len(self.guests)
            raise ConfigError(f"--slot {self.slot}: at most {highest} for {len(self.guests)} guests")
        endless = next((guest.link for guest in self.guests if guest.link.kind in ("dgram", "tap")), None)
        if self.one_off and endless is not None:
            raise ConfigError(f"--one-off: {endless} does not tell when its guest is gone; leave the option out")
        taken: dict[str, LinkSpec] = {}
        for number, guest in enumerate(self.guests):
            guest.link.check()
            for what in guest.link.paths or (str(guest.link),):
                if what in taken:
                    raise ConfigError(f"{guest.link}: {taken[what]} has it already; each guest needs a link of its own")
                taken[what] = guest.link
            # Each by its own name: whose ports they are is in the error.
            if number:
                self.of_guest(number).check_one()
        self.of_guest(0).check_one()
        if self.control is not None and len(self.guests) > 1:
            raise ConfigError(f"--control {self.control!r}: serves one guest; several need an engine each")

    def check_one(self) -> None:
        """What holds for each guest by itself."""
        super().check()
