"""What the resolver at the gateway decides about a DNS message, and the messages it makes (RFC 1035, RFC 6891).

The gateway is a forwarder: a message goes to a resolver of the host and its answer comes back, both byte for byte as
they were except for the identifier. So the common path needs only a peek at the header, the question and the OPT
record, done here in plain code; dnspython makes the messages that are ours (the host's names, errors, truncated
answers) and is imported when the first of them is due. `preload` imports it at a moment of the caller's choice, and
must be called before the process gives up its file system.

| query | decision |
|---|---|
| no header, or itself a response | `Drop` |
| opcode other than QUERY (RFC 1035 4.1.1) | `Answer` NOTIMP |
| not exactly one question (RFC 9619), a record that does not fit, two OPT | `Answer` FORMERR |
| zone transfer (RFC 5936): many messages, for servers among themselves | `Answer` REFUSED |
| a name of the host | `Answer` with the gateway's addresses |
| a name that could be ours and nobody's else, and is not (`HostNames.lacks`) | `Answer` NXDOMAIN |
| everything else, any type, class, option or case | `Forward` |

Does not: cache, validate DNSSEC, judge names by policy, follow CNAMEs, send anything or choose identifiers.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from bucatini.base.address import text

if TYPE_CHECKING:
    import dns.message

__all__ = [
    "HEADER_LEN",
    "HOST_NAMES",
    "MIN_UDP_SIZE",
    "PORT",
    "Answer",
    "Drop",
    "ExtendedError",
    "Forward",
    "HostNames",
    "Query",
    "Rcode",
    "decide",
    "error",
    "fit",
    "matches",
    "parse_query_untrusted",
    "preload",
    "rcode_of",
    "with_identifier",
]

PORT = 53
HEADER_LEN = 12
MIN_UDP_SIZE = 512
"""Bytes every receiver of UDP takes (RFC 1035 section 4.2.1); less in an OPT means this (RFC 6891 section 6.2.3)."""

HOST_NAMES = (
    "host.bucatini.internal",
    "host.microsandbox.internal",
    "host.docker.internal",
    "host.containers.internal",
)
"""The host's own loopback as the guest names it: our name, then those of our ancestor, Docker and Podman."""

LOCAL_TTL = 60
"""Seconds; as microsandbox answers for its host name."""

OWN_PAYLOAD = 1232
"""UDP payload size our own OPT records advertise, bytes: the common value that never fragments (DNS flag day 2020)."""

_HEADER = Struct("!HHHHHH")
_QUESTION = Struct("!HH")
_RECORD = Struct("!HHIH")
_QR, _TC, _RD, _CD = 0x8000, 0x0200, 0x0100, 0x0010
_OPCODE_MASK = 0x7800
_DO = 0x8000
_MAX_NAME = 255
_A, _AAAA, _OPT, _IXFR, _AXFR, _ANY = 1, 28, 41, 251, 252, 255
_IN = 1


class Rcode(enum.IntEnum):
    """Response codes we read or write, RFC 1035 section 4.1.1 and RFC 6891 section 9."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class ExtendedError(enum.IntEnum):
    """Reasons that go with an error of ours to a guest that speaks EDNS, RFC 8914 section 4."""

    OTHER = 0
    NOT_SUPPORTED = 21
    NO_REACHABLE_AUTHORITY = 22
    NETWORK_ERROR = 23


class Query(NamedTuple):
    """What a peek at a well-formed query of one question shows."""

    identifier: int
    labels: tuple[bytes, ...]
    """Of the question's name, lower case, without the root."""
    rtype: int
    rclass: int
    end: int
    """Offset behind the question, bytes from the start of the message."""
    edns: bool
    version: int
    """Of EDNS; 0 without it."""
    dnssec_ok: bool
    udp_size: int
    """Longest UDP answer the guest takes, bytes, at least `MIN_UDP_SIZE`."""


class _Record(NamedTuple):
    at_root: bool
    rtype: int
    rclass: int
    """In an OPT record: the UDP payload size, RFC 6891 section 6.1.2."""
    ttl: int
    """In an OPT record: extended RCODE, version and flags, RFC 6891 section 6.1.3."""


class Drop(NamedTuple):
    """No answer is possible or wise. `reason` is the name of a counter: malformed, response."""

    reason: str


class Answer(NamedTuple):
    """The answer is known here. `reason` is the name of a counter: local, formerr, notimp, refused."""

    message: bytes
    reason: str


class Forward(NamedTuple):
    """A resolver of the host shall answer."""

    query: Query


class HostNames:
    """The names that mean the host, every name below them, and the gateway addresses they stand for.

    Names below them answer alike (as `*.localhost` does, RFC 6761 section 6.3) so that a web server on the host may
    tell its sites apart by name. None of them is ever sent to a resolver: `.internal` is private to each network.
    """

    def __init__(self, addresses: Iterable[bytes], names: Iterable[str] = HOST_NAMES) -> None:
        """`addresses` are the packed gateway addresses of the active families; `names` are ASCII, any case."""
        packed = tuple(addresses)
        self.ipv4 = tuple(address for address in packed if len(address) == 4)
        self.ipv6 = tuple(address for address in packed if len(address) == 16)
        self._names = frozenset(tuple(name.lower().strip(".").encode("ascii").split(b".")) for name in names)
        self._depths = frozenset(map(len, self._names))

    def match(self, labels: tuple[bytes, ...]) -> tuple[bytes, ...] | None:
        """The host name that `labels` (lower case) is or lies below, None for a name that is not ours."""
        for depth in self._depths:
            if labels[-depth:] in self._names:
                return labels[-depth:]
        return None

    def lacks(self, labels: tuple[bytes, ...]) -> bool:
        """Whether a name that does not `match` is ours to deny: no resolver is asked for it. Here none is, as a host
        may have resolvers that know `.internal` names.
        """
        return False

    def addresses(self, name: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """The IPv4 and IPv6 addresses that a name stands for, which `match` returned."""
        return self.ipv4, self.ipv6


def decide(message: bytes, names: HostNames) -> Drop | Answer | Forward:
    """What to do with a message of the guest: see the table of this module. Never raises."""
    if len(message) < HEADER_LEN:
        return Drop("malformed")
    flags = int.from_bytes(message[2:4], "big")
    if flags & _QR:
        return Drop("response")
    if flags & _OPCODE_MASK:
        return Answer(_bare_error(message, Rcode.NOTIMP), "notimp")
    query = parse_query_untrusted(message)
    if query is None:
        return Answer(_bare_error(message, Rcode.FORMERR), "formerr")
    host = names.match(query.labels)
    if host is not None:
        return _answer_host(message, query, names, host)
    if names.lacks(query.labels):
        return Answer(error(message, query, Rcode.NXDOMAIN), "local")
    if query.rtype in (_AXFR, _IXFR):
        refusal = error(message, query, Rcode.REFUSED, ExtendedError.NOT_SUPPORTED, "no zone transfers here")
        return Answer(refusal, "refused")
    return Forward(query)


def parse_query_untrusted(message: bytes) -> Query | None:
    """Header, question and OPT of a query; None when it is not one well-formed question. Never raises.

    All records are stepped over, so what is forwarded has whole records; their data is not looked at. A compression
    pointer in the question could only point into the header and is refused.
    """
    if len(message) < HEADER_LEN:
        return None
    identifier, _, questions, answers, authorities, additionals = _HEADER.unpack_from(message)
    if questions != 1:
        return None
    labels, offset = _read_name(message, HEADER_LEN)
    if offset < 0 or offset + _QUESTION.size > len(message):
        return None
    end = offset + _QUESTION.size
    rtype, rclass = _QUESTION.unpack_from(message, offset)
    records = _records(message, end, answers + authorities + additionals)
    if records is None:
        return None
    opts = [(index, record) for index, record in enumerate(records) if record.rtype == _OPT]
    if not opts:
        return Query(identifier, labels, rtype, rclass, end, False, 0, False, MIN_UDP_SIZE)
    index, opt = opts[0]
    if len(opts) > 1 or index < answers + authorities or not opt.at_root:
        return None  # RFC 6891 section 6.1.1
    size = max(opt.rclass, MIN_UDP_SIZE)
    return Query(identifier, labels, rtype, rclass, end, True, opt.ttl >> 16 & 0xFF, bool(opt.ttl & _DO), size)


def matches(message: bytes, query: Query, identifier: int, response: bytes) -> bool:
    """Whether `response` answers `message` when that was sent under `identifier` (RFC 5452 section 9.1).

    The question must be the one asked; its letters may have changed case, which only the guest can judge. A bare header
    is accepted with an error code: servers that cannot read a question return none. The caller vouches for the source.
    """
    if len(response) < HEADER_LEN:
        return False
    found, flags, questions = _HEADER.unpack_from(response)[:3]
    if found != identifier or not flags & _QR or flags & _OPCODE_MASK:
        return False
    if questions == 0 and len(response) == HEADER_LEN:
        return rcode_of(response) in (Rcode.FORMERR, Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED)
    name_end = query.end - _QUESTION.size
    return (
        questions == 1
        and response[name_end : query.end] == message[name_end : query.end]
        # Length octets are below 64 and so no letters: lower() changes the text of labels only.
        and response[HEADER_LEN:name_end].lower() == message[HEADER_LEN:name_end].lower()
    )


def with_identifier(message: bytes, identifier: int) -> bytes:
    """`message` under another identifier, nothing else changed."""
    return identifier.to_bytes(2, "big") + message[2:]


def rcode_of(message: bytes) -> int:
    """The four bits of the response code in the header of a message of at least 12 bytes."""
    return message[3] & 0x0F


def fit(response: bytes, query: Query, size: int) -> bytes:
    """`response` to `query` if it has at most `size` bytes (`MIN_UDP_SIZE` or more), else cut to that.

    Cut means: whole RRsets left out from the end, question and OPT kept, TC set unless only additional records are
    missing (RFC 2181 section 9). `response` must match `query`. One that cannot be parsed, has another class than IN or
    is signed by TSIG becomes question and TC.
    """
    if len(response) <= size:
        return response
    if not _is_internet(response, query.end):
        return _question_only(response, query, _TC)
    preload()
    import dns.exception
    import dns.message

    try:
        parsed = dns.message.from_wire(response, ignore_trailing=True)
        return parsed.to_wire(max_size=size, prefer_truncation=True, want_shuffle=False)
    except (dns.exception.DNSException, ValueError):
        return _question_only(response, query, _TC)


def error(
    message: bytes, query: Query, rcode: Rcode, reason: ExtendedError | None = None, explanation: str = ""
) -> bytes:
    """The answer to `message` that says `rcode`, with an Extended DNS Error (RFC 8914) if the guest speaks EDNS."""
    response = _response(message, query)
    import dns.rcode

    response.set_rcode(dns.rcode.Rcode.make(rcode))
    if query.edns and reason is not None:
        import dns.edns

        option = dns.edns.EDEOption(dns.edns.EDECode.make(reason), explanation or None)
        response.use_edns(0, response.ednsflags, OWN_PAYLOAD, options=[option])
    return response.to_wire()


def preload() -> None:
    """Import all of dnspython this module ever needs, about 0.15 s the first time.

    Its types of record are modules that it imports when it first meets one. All of them are loaded here and the
    mechanism is switched off: the process may no longer be able to read files when a peer sends a new one.
    """
    global _preloaded
    if _preloaded:
        return
    import dns.edns
    import dns.message
    import dns.rdata
    import dns.rrset

    dns.rdata.load_all_types(disable_dynamic_load=True)  # type: ignore[no-untyped-call]
    _preloaded = True


_preloaded = False


def _answer_host(message: bytes, query: Query, names: HostNames, host: tuple[bytes, ...]) -> Answer:
    """The gateway's addresses; no data (RFC 2308 section 2.2) for other types and for a family that is not active."""
    if query.version:
        return Answer(error(message, query, Rcode.BADVERS), "local")
    if query.rclass not in (_IN, _ANY):
        return Answer(error(message, query, Rcode.REFUSED), "local")
    import dns.flags
    import dns.rrset

    response = _response(message, query)
    response.flags |= dns.flags.AA
    owner = response.question[0].name
    ipv4, ipv6 = names.addresses(host)
    for rtype, kind, addresses in ((_A, "A", ipv4), (_AAAA, "AAAA", ipv6)):
        if addresses and query.rtype in (rtype, _ANY):
            response.answer.append(dns.rrset.from_text(owner, LOCAL_TTL, "IN", kind, *map(text, addresses)))
    if not response.answer:
        zone = b".".join(host).decode("ascii") + "."
        # The SOA lets resolvers of the guest remember the absence; names and numbers in it have no use.
        soa = f"{zone} nobody.invalid. 1 3600 1200 604800 {LOCAL_TTL}"
        response.authority.append(dns.rrset.from_text(zone, LOCAL_TTL, "IN", "SOA", soa))
    return Answer(response.to_wire(), "local")


def _response(message: bytes, query: Query) -> dns.message.Message:
    """An empty answer: identifier, question, RD and CD (RFC 4035 section 3.2.2) of the query, EDNS if it has it."""
    preload()
    import dns.message

    question = dns.message.from_wire(_question_only(message, query))
    response = dns.message.make_response(question, recursion_available=True)
    response.flags |= int.from_bytes(message[2:4], "big") & _CD
    if query.edns:
        response.use_edns(0, _DO if query.dnssec_ok else 0, OWN_PAYLOAD)
    return response


def _question_only(message: bytes, query: Query, flags: int = 0) -> bytes:
    """Header and question of `message`, with `flags` added."""
    identifier, old = _HEADER.unpack_from(message)[:2]
    return _HEADER.pack(identifier, old | flags, 1, 0, 0, 0) + message[HEADER_LEN : query.end]


def _bare_error(message: bytes, rcode: Rcode) -> bytes:
    """A header that says `rcode`: all that can be told about a message whose body cannot be read."""
    identifier, flags = _HEADER.unpack_from(message)[:2]
    return _HEADER.pack(identifier, _QR | flags & (_OPCODE_MASK | _RD) | rcode, 0, 0, 0, 0)


def _read_name(message: bytes, offset: int) -> tuple[tuple[bytes, ...], int]:
    """Labels in lower case and the offset behind an uncompressed name; the offset is -1 when it is malformed."""
    labels: list[bytes] = []
    start = offset
    while offset < len(message):
        length = message[offset]
        offset += 1
        if length == 0:
            return tuple(labels), offset if offset - start <= _MAX_NAME else -1
        if length > 63 or offset - start + length > _MAX_NAME:
            break
        labels.append(message[offset : offset + length].lower())
        offset += length
    return (), -1


def _skip_name(message: bytes, offset: int) -> int:
    """Offset behind a name that may end in a compression pointer; -1 when it does not fit or has a reserved label."""
    while offset < len(message):
        length = message[offset]
        if length == 0:
            return offset + 1
        if length >= 0xC0:
            return offset + 2
        if length > 63:
            break
        offset += 1 + length
    return -1


def _records(message: bytes, offset: int, count: int) -> list[_Record] | None:
    """The `count` resource records from `offset` on; None when one does not fit."""
    records = []
    for _ in range(count):
        at_root = offset < len(message) and message[offset] == 0
        offset = _skip_name(message, offset)
        if offset < 0 or offset + _RECORD.size > len(message):
            return None
        rtype, rclass, ttl, length = _RECORD.unpack_from(message, offset)
        offset += _RECORD.size + length
        if offset > len(message):
            return None
        records.append(_Record(at_root, rtype, rclass, ttl))
    return records


def _is_internet(response: bytes, offset: int) -> bool:
    """Whether all records from `offset` on, OPT aside, are whole and of class IN.

    dnspython remembers every pair of class and type it meets for good; with one class that memory has a bound.
    """
    records = _records(response, offset, sum(_HEADER.unpack_from(response)[3:]))
    return records is not None and all(record.rclass == _IN or record.rtype == _OPT for record in records)
