"""From a command line of passt(1) to a checked configuration.

There are options only. `--socket` (also `--socket-path`) and `--fd` exclude each other: the later one wins. The rest is
as `config.passt_reader` has it.

Does not: look at the host (whether a socket, an interface, a user or a port can be had), or print.
"""

from __future__ import annotations

from collections.abc import Sequence

from bucatini.base.errors import ConfigError
from bucatini.config.getopt_words import Answer, Getopt
from bucatini.config.passt import PasstConfig
from bucatini.config.passt_options import (
    COMMON,
    GUEST_PORTS,
    NAMESPACE_PORTS,
    PASST_ONLY,
    PASTA_ONLY,
    passt_usage,
)
from bucatini.config.passt_reader import Reader, read_options
from bucatini.config.value_words import read_number, read_socket_path

__all__ = ["parse_passt"]

_MAX_DESCRIPTOR = (1 << 31) - 1
_CAPABILITIES = '{\n  "type": "net"\n}\n'
"""What a program that starts vhost-user back ends asks for (QEMU, docs/interop/vhost-user.rst)."""


def parse_passt(words: Sequence[str]) -> PasstConfig | Answer:
    """The configuration that `words` (without the program's name) make, or the text of `--help`, `--version` or
    `--print-capabilities`.

    Raises UsageError for words that are no command line of passt, any other ConfigError for one that cannot be had.
    """
    line = Getopt((*COMMON, *GUEST_PORTS, *PASST_ONLY, *PASTA_ONLY, *NAMESPACE_PORTS), words, permute=True)
    given = read_options("passt", line, {"help": passt_usage, "print-capabilities": lambda: _CAPABILITIES})
    return given if isinstance(given, Answer) else _Reader(given).config(line.rest)


class _Reader(Reader):
    """What passt has of its own."""

    __slots__ = ()

    def config(self, rest: Sequence[str]) -> PasstConfig:
        self._refuse((*PASTA_ONLY, *NAMESPACE_PORTS), "this option is pasta's; passt has no namespace")
        if rest:
            raise ConfigError(f"{rest[0]!r}: passt takes options only")
        path, descriptor = self._link()
        vhost_user = "vhost-user" in self._last
        if vhost_user and descriptor is not None:
            raise ConfigError(f"--fd {descriptor}: excluded by --vhost-user, which listens at --socket")
        network = self._network(
            dhcp_dns="no-dhcp-dns" not in self._last,
            dhcp_search="no-dhcp-search" not in self._last,
            splice=False,
        )
        return PasstConfig(
            network=network,
            socket=path,
            fd=descriptor,
            vhost_user=vhost_user,
            one_off="one-off" in self._last or descriptor is not None,
            **self._process(),
        )

    def _link(self) -> tuple[str | None, int | None]:
        """Path of the socket to listen on, or the descriptor of one that is connected: the later option wins."""
        path: str | None = None
        descriptor: int | None = None
        for option in self._all("socket", "socket-path", "fd"):
            if option.name == "fd":
                path, descriptor = None, read_number("--fd", option.value, 3, _MAX_DESCRIPTOR)
            else:
                path, descriptor = read_socket_path(f"--{option.name}", option.value), None
        return path, descriptor
