"""What an address is: one table of address groups for both families.

Source: the IANA special-purpose address registries (RFC 6890, RFC 8190) and RFC 4291 for the shape of IPv6. `public` is
what the registries call globally reachable, plus the unicast space they do not mention: IPv4 outside every block below,
and 2000::/3, the only IPv6 space from which IANA assigns unicast. All the rest that has no group of its own
(documentation, benchmarking, class E, broadcast, site-local, unassigned IPv6...) is in *no* group: no group word opens
it, it is never public, only a CIDR or the `open` preset reaches it.

Three choices that readers may not expect:

* Documentation space (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32, 3fff::/20) is not public. Nobody on
  the Internet may hold it, so a packet to it reaches a misconfigured or a private network. Laboratories that use it as
  a stand-in say so with `--allow 198.51.100.0/24`.
* 6to4 and Teredo are not public: the registry leaves their reachability open, and neither has working relays any more.
* `metadata` is a list of single addresses that hand out credentials or configuration of the machine. The registries do
  not know it; each entry names who answers there. It is never complete, which is one reason why `private` and
  `link-local`, where nearly all of them live, are closed too.

An IPv6 address may carry an IPv4 address that some translator or kernel will use instead; `readings` yields what is
judged. Does not: know names, ports, routes, or which addresses this host has (the caller hands in those it calls
`host`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from bucatini.base.address import MAPPED_PREFIX
from bucatini.base.prefix import Prefix, PrefixTable, parse_prefix

__all__ = ["BLOCKS", "GROUPS", "Block", "classify", "find_block", "parse_group", "readings", "unwrap"]

GROUPS = ("public", "private", "multicast", "link-local", "loopback", "host", "metadata")
"""Group words, from the least to the most sensitive; an address in none of them counts as worse than all."""


class Block(NamedTuple):
    """One row of the table. `group` is '' for space in no group; `name` is then what a refusal calls it."""

    prefix: Prefix
    group: str
    name: str
    source: str


def _block(prefix: str, group: str, name: str, source: str) -> Block:
    return Block(parse_prefix(prefix), group, name, source)


BLOCKS: tuple[Block, ...] = (
    _block("0.0.0.0/0", "public", "unicast", "RFC 791"),
    _block("0.0.0.0/8", "", "this-network", "RFC 791 section 3.2"),
    _block("10.0.0.0/8", "private", "private-use", "RFC 1918"),
    _block("100.64.0.0/10", "private", "shared", "RFC 6598"),
    _block("100.100.100.200", "metadata", "Alibaba Cloud metadata", "provider"),
    _block("127.0.0.0/8", "loopback", "loopback", "RFC 1122 section 3.2.1.3"),
    _block("168.63.129.16", "metadata", "Azure WireServer", "provider"),
    _block("169.254.0.0/16", "link-local", "link-local", "RFC 3927"),
    _block("169.254.0.23", "metadata", "Tencent Cloud metadata", "provider"),
    _block("169.254.42.42", "metadata", "Scaleway metadata", "provider"),
    _block("169.254.169.254", "metadata", "metadata of AWS, Azure, Google, Oracle, OpenStack and others", "provider"),
    _block("169.254.170.2", "metadata", "AWS ECS task credentials", "provider"),
    _block("169.254.170.23", "metadata", "AWS EKS pod identity", "provider"),
    _block("172.16.0.0/12", "private", "private-use", "RFC 1918"),
    _block("192.0.0.0/24", "", "protocol-assignments", "RFC 6890 section 2.1"),
    _block("192.0.0.9", "public", "PCP anycast", "RFC 7723"),
    _block("192.0.0.10", "public", "TURN anycast", "RFC 8155"),
    _block("192.0.0.192", "metadata", "Oracle Cloud Classic metadata", "provider"),
    _block("192.0.2.0/24", "", "documentation", "RFC 5737"),
    _block("192.88.99.0/24", "", "6to4-relay", "RFC 7526"),
    _block("192.168.0.0/16", "private", "private-use", "RFC 1918"),
    _block("198.18.0.0/15", "", "benchmarking", "RFC 2544"),
    _block("198.51.100.0/24", "", "documentation", "RFC 5737"),
    _block("203.0.113.0/24", "", "documentation", "RFC 5737"),
    _block("224.0.0.0/4", "multicast", "multicast", "RFC 5771"),
    _block("240.0.0.0/4", "", "reserved", "RFC 1112 section 4"),
    _block("255.255.255.255", "", "broadcast", "RFC 919 section 7"),
    _block("::/0", "", "unassigned", "RFC 4291 section 2.4"),
    _block("::", "", "unspecified", "RFC 4291 section 2.5.2"),
    _block("::1", "loopback", "loopback", "RFC 4291 section 2.5.3"),
    _block("64:ff9b::/96", "public", "NAT64", "RFC 6052 section 2.1"),
    _block("64:ff9b:1::/48", "", "local-nat64", "RFC 8215"),
    _block("100::/64", "", "discard", "RFC 6666"),
    _block("100:0:0:1::/64", "", "dummy", "RFC 9780"),
    _block("2000::/3", "public", "global unicast", "RFC 4291 section 2.5.4"),
    _block("2001::/23", "", "protocol-assignments", "RFC 2928"),
    _block("2001::/32", "", "teredo", "RFC 4380"),
    _block("2001:1::1", "public", "PCP anycast", "RFC 7723"),
    _block("2001:1::2", "public", "TURN anycast", "RFC 8155"),
    _block("2001:1::3", "public", "DNS-SD registration anycast", "RFC 9665"),
    _block("2001:3::/32", "public", "AMT", "RFC 7450"),
    _block("2001:4:112::/48", "public", "AS112", "RFC 7535"),
    _block("2001:20::/28", "public", "ORCHIDv2", "RFC 7343"),
    _block("2001:30::/28", "public", "drone identifiers", "RFC 9374"),
    _block("2001:db8::/32", "", "documentation", "RFC 3849"),
    _block("2002::/16", "", "6to4", "RFC 7526"),
    _block("3fff::/20", "", "documentation", "RFC 9637"),
    _block("5f00::/16", "", "segment-routing", "RFC 9602"),
    _block("fc00::/7", "private", "unique local", "RFC 4193"),
    _block("fd00:42::42", "metadata", "Scaleway metadata", "provider"),
    _block("fd00:c1::a9fe:a9fe", "metadata", "Oracle Cloud metadata", "provider"),
    _block("fd00:ec2::23", "metadata", "AWS EKS pod identity", "provider"),
    _block("fd00:ec2::254", "metadata", "AWS metadata", "provider"),
    _block("fd00:100::100:200", "metadata", "Alibaba Cloud metadata", "provider"),
    _block("fd00:a9fe:a9fe::1", "metadata", "Akamai (Linode) metadata", "provider"),
    _block("fd20:ce::254", "metadata", "Google Cloud metadata", "provider"),
    _block("fe80::/10", "link-local", "link-local", "RFC 4291 section 2.5.6"),
    _block("fe80::a9fe:a9fe", "metadata", "OpenStack metadata", "provider"),
    _block("fec0::/10", "", "site-local", "RFC 3879"),
    _block("ff00::/8", "multicast", "multicast", "RFC 4291 section 2.7"),
)
"""Every block, both families. Where blocks nest, the longest prefix says what an address is."""

_BLOCKS: PrefixTable[Block | None] = PrefixTable(((block.prefix, block) for block in BLOCKS), None)

_Slot = tuple[int, bool]
"""Where the embedded IPv4 address begins (bytes), and whether its bits are inverted."""

_WRAPPERS: PrefixTable[_Slot | None] = PrefixTable(
    (
        (parse_prefix("::/96"), (12, False)),  # IPv4-compatible, RFC 4291 section 2.5.5.1
        (parse_prefix("::"), None),  # not embeddings, though inside ::/96
        (parse_prefix("::1"), None),
        (parse_prefix("::ffff:0:0/96"), (12, False)),  # IPv4-mapped, RFC 4291 section 2.5.5.2
        (parse_prefix("::ffff:0:0:0/96"), (12, False)),  # IPv4-translated, RFC 2765 section 2.1
        (parse_prefix("64:ff9b::/96"), (12, False)),  # NAT64 well-known, RFC 6052 section 2.1
        # NAT64 for local use. RFC 8215 leaves the length of the translation prefix to the operator; a /96 is what is
        # deployed. With a shorter one the last 32 bits are not the address, but this space is in no group, so a preset
        # never lets it pass whatever they are.
        (parse_prefix("64:ff9b:1::/48"), (12, False)),
        (parse_prefix("2001::/32"), (12, True)),  # Teredo: the client, obfuscated, RFC 4380 section 4
        (parse_prefix("2002::/16"), (2, False)),  # 6to4, RFC 3056 section 2
    ),
    None,
)


def unwrap(address: bytes) -> bytes:
    """The IPv4 address (4 bytes) an IPv6 address carries; `address` itself when it carries none."""
    if len(address) == 4:
        return address
    slot = _WRAPPERS.find(address)
    if slot is None:
        return address
    start, inverted = slot
    inner = address[start : start + 4]
    return bytes(octet ^ 0xFF for octet in inner) if inverted else inner


def readings(address: bytes) -> tuple[bytes, ...]:
    """Every address that `address` may turn out to mean; a packet passes only if each of them may.

    One for an ordinary address. One, the IPv4 address, for an IPv4-mapped one: the host kernel sends IPv4, so the
    IPv6 form has no meaning of its own. Two for the other embeddings: the wrapper first, then the IPv4 address, since
    it depends on the network which of them the packet reaches.
    """
    inner = unwrap(address)
    if inner is address:
        return (address,)
    if address.startswith(MAPPED_PREFIX):
        return (inner,)
    return (address, inner)


def find_block(address: bytes) -> Block:
    """The most specific block that holds this one reading. Both families have a block for everything, so always one."""
    block = _BLOCKS.find(address)
    assert block is not None
    return block


def classify(address: bytes, host_addresses: Collection[bytes] = ()) -> str:
    """The group of a packed address, '' when it is in none; `host_addresses` are those that stand for the host.

    Of two readings the worse counts: no group is worse than any, then later in `GROUPS` is worse than earlier. Only the
    first can be the host: what a translator's prefix carries is an address of the network behind the translator.
    """
    first, *carried = readings(address)
    groups = ["host" if first in host_addresses else find_block(first).group]
    groups += [find_block(reading).group for reading in carried]
    return max(groups, key=_severity)


def parse_group(word: str) -> str:
    """The group a user means: letter case and `_` for `-` are forgiven. '' when it is not a group."""
    group = word.lower().replace("_", "-")
    return group if group in GROUPS else ""


def _severity(group: str) -> int:
    return GROUPS.index(group) if group else len(GROUPS)
