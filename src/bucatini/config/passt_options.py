"""The options of passt(1) and pasta(1): the tables for grammar, help and documentation, and the help of passt.

Both know each other's options, to refuse them by name. Does not: say what an option does with its value
(`config.passt_arguments`).
"""

from __future__ import annotations

from bucatini.config.getopt_words import Option, option_lines

__all__ = [
    "COLUMN",
    "COMMON",
    "GUEST_PORTS",
    "NAMESPACE_PORTS",
    "PASST_ONLY",
    "PASTA_ONLY",
    "passt_usage",
    "ports_help",
]

COLUMN = 30
"""Where the texts of the help begin."""

COMMON = (
    Option("debug", "d", help="say more, on stderr"),
    Option("trace", help="say everything; implies --debug"),
    Option("quiet", "q", help="say only warnings and errors"),
    Option("foreground", "f", help="stay in the foreground"),
    Option("stderr", "e", help="accepted without effect"),
    Option("log-file", "l", "PATH", "log to this file only"),
    Option("log-size", "", "BYTES", "largest size of the log file (default 1048576)"),
    Option("runas", "", "UID[:GID]", "run as this user and group, numbers or names\n(default, for root: nobody)"),
    Option("help", "h", help="show this help"),
    Option("version", help="show the version"),
    Option("pcap", "p", "FILE", "capture the guest's frames in this file"),
    Option("pid", "P", "FILE", "write the process id to this file when ready"),
    Option("mtu", "m", "N", "MTU in bytes, 68 to 65535; 0: announce none (default 65520)"),
    Option("address", "a", "ADDR", "the guest's IPv4 or IPv6 address (default: the host's)"),
    Option("netmask", "n", "MASK", "of the IPv4 address: bits, or as in 255.255.255.0"),
    Option("mac-addr", "M", "MAC", "our MAC address on the link (default 9a:55:9a:55:9a:55)"),
    Option("gateway", "g", "ADDR", "the guest's IPv4 or IPv6 gateway (default: the host's)"),
    Option("interface", "i", "NAME", "interface of the host to take addresses and routes from"),
    Option("outbound", "o", "ADDR", "source address of sockets on the host"),
    Option("outbound-if4", "", "NAME", "interface of IPv4 sockets on the host"),
    Option("outbound-if6", "", "NAME", "interface of IPv6 sockets on the host"),
    Option("dns", "D", "ADDR", "name server to tell the guest, repeatable; none: no name service"),
    Option("dns-forward", "", "ADDR", "address at which the guest finds a resolver of the host"),
    Option("dns-host", "", "ADDR", "the resolver meant by --dns-forward (default: the host's first)"),
    Option("search", "S", "LIST", "search domains to tell the guest, repeatable; none: none"),
    Option("no-tcp", help="no TCP"),
    Option("no-udp", help="no UDP"),
    Option("no-icmp", help="no ICMP and ICMPv6 echo"),
    Option("no-dhcp", help="no DHCP server"),
    Option("no-ndp", help="no answers to NDP"),
    Option("no-dhcpv6", help="no DHCPv6 server"),
    Option("no-ra", help="no router advertisements"),
    Option("freebind", help="listen also on addresses the host does not have (yet)"),
    Option("map-host-loopback", "", "ADDR", "guest's name for the host's loopback (default: the gateway); none"),
    Option("no-map-gw", help="the gateway does not mean the host's loopback"),
    Option("map-guest-addr", "", "ADDR", "guest's name for its own address on the host; none"),
    Option("ipv4-only", "4", help="IPv4 only"),
    Option("ipv6-only", "6", help="IPv6 only"),
)
"""What both commands take, but for the forwarded ports."""

PASST_ONLY = (
    Option("socket", "s", "PATH", "UNIX socket to listen on\n(default: /tmp/passt_N.socket, the first free N from 1)"),
    Option("socket-path", "", "PATH", "the same"),
    Option("fd", "F", "FD", "no socket of our own: the guest is at the other end of this one"),
    Option("vhost-user", help="the guest's memory is shared over the socket (vhost-user)"),
    Option("print-capabilities", help="show in JSON what kind of vhost-user back end this is"),
    Option("one-off", "1", help="end when the guest leaves; implied by --fd"),
    Option("no-dhcp-dns", help="do not tell name servers by DHCP, DHCPv6 and NDP"),
    Option("no-dhcp-search", help="do not tell search domains by DHCP, DHCPv6 and NDP"),
)

PASTA_ONLY = (
    Option("dhcp-dns", help="tell name servers by DHCP, DHCPv6 and NDP"),
    Option("dhcp-search", help="tell search domains by DHCP, DHCPv6 and NDP"),
    Option("ns-ifname", "I", "NAME", "name of the interface in the namespace"),
    Option("host-lo-to-ns-lo", help="connections from the host's loopback arrive on the namespace's"),
    Option("userns", "", "PATH", "user namespace to join"),
    Option("netns", "", "PATH|NAME", "network namespace to join"),
    Option("netns-only", help="join and make no user namespace"),
    Option("no-netns-quit", help="stay when the network namespace is gone"),
    Option("config-net", help="configure the interface in the namespace"),
    Option("no-copy-routes", help="with --config-net: only the default route"),
    Option("no-copy-addrs", help="with --config-net: only one address"),
    Option("ns-mac-addr", "", "MAC", "MAC address of the interface in the namespace"),
    Option("no-splice", help="connections from loopback go over the link too"),
)

GUEST_PORTS = (
    Option("tcp-ports", "t", "SPEC", "TCP ports of the host that lead to the guest"),
    Option("udp-ports", "u", "SPEC", "UDP ports of the host that lead to the guest"),
)

NAMESPACE_PORTS = (
    Option("tcp-ns", "T", "SPEC", "TCP ports of the namespace that lead to the host"),
    Option("udp-ns", "U", "SPEC", "UDP ports of the namespace that lead to the host"),
)
"""pasta's."""

_ITEMS_HELP = """\
  22              a port                           22:2222     leads to another port
  22-80           a range                          22-80:32-90 leads to another range
  ~25, ~30-40     not these; alone: all but these  %eth0/22    only from this interface\
"""


def ports_help(words: str, remark: str = "") -> str:
    """The grammar of SPEC; `words` are those that stand alone, `remark` goes behind it."""
    return f"SPEC: {words}; or [ADDR[%NAME]/]ITEM,ITEM,... with ITEM one of\n{_ITEMS_HELP}{remark}\n"


def passt_usage() -> str:
    """What --help prints, and what goes to stderr behind an unknown option."""
    return (
        "usage: passt [OPTION]...\n\n"
        "Connect a virtual machine to the host's network: QEMU finds it at a UNIX socket.\n\n"
        + option_lines((*PASST_ONLY, *COMMON), column=COLUMN)
        + "\nports:\n"
        + option_lines(GUEST_PORTS, column=COLUMN)
        + ports_help("none (default); [ADDR[%NAME]/]all")
    )
