"""From a command line of pasta(1) to a checked configuration.

Options end at the first other word; a single word of digits is a PID, other words are a command. The rest is as
`config.passt_reader` has it.

Does not: look at the host (whether an interface, a user, a namespace or a port can be had), or print.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bucatini.base.errors import ConfigError
from bucatini.config.getopt_words import Answer, Getopt
from bucatini.config.network import NetworkOptions
from bucatini.config.passt_reader import Reader, read_options
from bucatini.config.pasta import PastaConfig, Target
from bucatini.config.pasta_options import COMMON, PASST_ONLY, PORTS, pasta_usage
from bucatini.config.value_words import read_interface, read_mac, read_number, read_path

__all__ = ["parse_pasta"]

_MAX_PID = (1 << 31) - 1


def parse_pasta(words: Sequence[str]) -> PastaConfig | Answer:
    """The configuration that `words` (without the program's name) make, or the text of `--help` or `--version`.

    Raises UsageError for words that are no command line of pasta, any other ConfigError for one that cannot be had.
    """
    line = Getopt((*COMMON, *PORTS, *PASST_ONLY), words)
    given = read_options("pasta", line, {"help": pasta_usage})
    return given if isinstance(given, Answer) else _Reader(given).config(line.rest)


class _Reader(Reader):
    """What pasta has of its own."""

    __slots__ = ()

    _port_words = "auto"

    def config(self, rest: Sequence[str]) -> PastaConfig:
        self._refuse(PASST_ONLY, "this option is passt's; pasta takes a command, a PID or --netns")
        if "host-lo-to-ns-lo" in self._last:
            self._notes.append("--host-lo-to-ns-lo: deprecated")
        network = self._pasta_network()
        target = self._target(rest)
        userns, netns_only = self._userns(target)
        process = self._process()
        process["foreground"] |= target.kind in ("shell", "command")
        return PastaConfig(
            target=target,
            network=network,
            userns=userns,
            netns_only=netns_only,
            netns_quit="no-netns-quit" not in self._last,
            host_lo_to_ns_lo="host-lo-to-ns-lo" in self._last,
            **process,
        )

    def _pasta_network(self) -> NetworkOptions:
        last = self._last
        return self._network(
            config_net="config-net" in last,
            copy_routes=self._copied("no-copy-routes"),
            copy_addresses=self._copied("no-copy-addrs"),
            guest_interface=self._value("ns-ifname", read_interface),
            guest_mac=self._value("ns-mac-addr", read_mac),
            dhcp_dns="dhcp-dns" in last,
            dhcp_search="dhcp-search" in last,
            # What is configured here must not be configured once more by the kernel.
            router_advertisements="no-ra" not in last and "config-net" not in last,
            splice="no-splice" not in last,
            tcp_out=self._ports("tcp-ns"),
            udp_out=self._ports("udp-ns"),
            default_ports="auto",
        )

    def _copied(self, name: str) -> bool:
        if name not in self._last:
            return True
        if "config-net" not in self._last:
            raise ConfigError(f"--{name}: needs --config-net, which copies")
        instead = "--gateway" if name == "no-copy-routes" else "--address"
        self._notes.append(f"--{name}: deprecated; {instead} does the same")
        return False

    def _target(self, rest: Sequence[str]) -> Target:
        netns = self._value("netns", read_path)
        if netns is not None:
            if rest:
                raise ConfigError(f"--netns {netns!r}: excludes a PID or command, given: {rest[0]!r}")
            if netns in (".", ".."):
                raise ConfigError(f"--netns {netns!r}: must be a name below /run/netns, or a path")
            return Target("netns", netns=netns if "/" in netns else f"/run/netns/{netns}")
        if not rest:
            return Target("shell")
        if len(rest) == 1 and re.fullmatch(r"[+-]?[0-9]+", rest[0]):
            return Target("pid", pid=read_number("PID", rest[0], 1, _MAX_PID))
        if not rest[0]:
            raise ConfigError("'': must be a PID or the name of a command")
        return Target("command", tuple(rest))

    def _userns(self, target: Target) -> tuple[str | None, bool]:
        """Path, and whether only the network namespace is meant: the later of the two options wins."""
        path: str | None = None
        only = False
        for option in self._all("userns", "netns-only"):
            only = option.name == "netns-only"
            path = None if only else read_path("--userns", option.value)
        if target.kind == "netns" and path is None:
            only = True
        return path, only
