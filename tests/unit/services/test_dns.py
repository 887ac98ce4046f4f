"""services.dns: decisions and messages of our own, judged by dnspython."""

from __future__ import annotations

import struct
import subprocess
import sys

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import pack
from bucatini.services import dns as service
from bucatini.services.dns import Answer, Drop, Forward, HostNames, decide

GATEWAY4, GATEWAY6 = "100.96.0.1", "fd42:6d73:62::1"
NAMES = HostNames([pack(GATEWAY4), pack(GATEWAY6)])


def wire(name: str, rtype: str = "A", **options: object) -> bytes:
    return dns.message.make_query(name, rtype, **options).to_wire()  # type: ignore[arg-type]


def answer(message: bytes, names: HostNames = NAMES) -> dns.message.Message:
    decision = decide(message, names)
    assert isinstance(decision, Answer)
    response = dns.message.from_wire(decision.message)
    assert response.id == int.from_bytes(message[:2], "big")
    assert response.flags & dns.flags.QR
    return response


def forwarded(message: bytes) -> service.Query:
    decision = decide(message, NAMES)
    assert isinstance(decision, Forward)
    return decision.query


# What is forwarded


@pytest.mark.parametrize("rtype", ["A", "AAAA", "HTTPS", "TXT", "DNSKEY", "TYPE65280", "ANY", "SOA"])
def test_other_names_are_forwarded_whatever_the_type(rtype: str) -> None:
    query = forwarded(wire("Www.EXAMPLE.org", rtype))
    assert query.labels == (b"www", b"example", b"org")
    assert query.rtype == dns.rdatatype.from_text(rtype)


def test_edns_of_a_query() -> None:
    query = forwarded(wire("example.org", use_edns=0, payload=1400, want_dnssec=True))
    assert (query.edns, query.version, query.dnssec_ok, query.udp_size) == (True, 0, True, 1400)


@pytest.mark.parametrize(("payload", "size"), [(0, 512), (511, 512), (512, 512), (65535, 65535)])
def test_udp_size_is_512_at_least(payload: int, size: int) -> None:
    assert forwarded(wire("example.org", use_edns=0, payload=payload)).udp_size == size


def test_no_edns_means_512() -> None:
    query = forwarded(wire("example.org"))
    assert (query.edns, query.udp_size) == (False, 512)


def test_names_that_are_ours_to_deny() -> None:
    class Lacking(HostNames):
        def lacks(self, labels: tuple[bytes, ...]) -> bool:
            return labels == (b"web", b"internal")

    for rtype in ("A", "AAAA", "MX", "ANY"):
        response = answer(wire("WEB.internal", rtype), Lacking([pack(GATEWAY4)]))
        assert (response.rcode(), response.answer) == (dns.rcode.NXDOMAIN, [])
    assert answer(wire("host.docker.internal"), Lacking([pack(GATEWAY4)])).rcode() == dns.rcode.NOERROR


def test_names_that_only_look_like_the_host_are_forwarded() -> None:
    for name in ("bucatini.internal", "xhost.bucatini.internal", "host.bucatini.internal.example", "metadata.internal"):
        forwarded(wire(name))
    # One label whose text ends like the host's name in wire form.
    label = b"x\x04host"
    forwarded(
        struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + bytes([len(label)]) + label + b"\x08bucatini\x08internal\0\0\1\0\1"
    )


@given(
    st.lists(st.binary(min_size=1, max_size=63), max_size=4),
    st.integers(0, 65535).filter(lambda rtype: rtype not in (251, 252)),
    st.integers(0, 65535),
    st.none() | st.integers(0, 65535),
)
def test_the_peek_agrees_with_dnspython(labels: list[bytes], rtype: int, rclass: int, payload: int | None) -> None:
    name = dns.name.Name([*labels, b""]) if sum(map(len, labels)) + len(labels) < 255 else dns.name.root
    message = dns.message.QueryMessage(id=7)
    message.find_rrset(message.question, name, rclass, rtype, create=True, force_unique=True)  # type: ignore[arg-type]
    if payload is not None:
        message.use_edns(0, dns.flags.DO, payload)
    query = service.parse_query_untrusted(message.to_wire())
    assert query is not None
    assert query.labels == tuple(label.lower() for label in name.labels[:-1])
    assert (query.identifier, query.rtype, query.rclass, query.edns) == (7, rtype, rclass, payload is not None)


# What is answered or dropped here


@pytest.mark.parametrize("name", [*service.HOST_NAMES, "HOST.Docker.Internal", "shop.host.bucatini.internal"])
def test_host_names(name: str) -> None:
    for rtype, expected in (("A", GATEWAY4), ("AAAA", GATEWAY6)):
        response = answer(wire(name, rtype, id=77))
        assert response.rcode() == dns.rcode.NOERROR
        assert response.flags & dns.flags.AA
        assert response.flags & dns.flags.RA
        (rrset,) = response.answer
        assert str(response.question[0].name) == name + "."
        assert (str(rrset.name).lower(), rrset.ttl, [str(one) for one in rrset]) == (name.lower() + ".", 60, [expected])


def test_host_name_of_any_type_has_both_families() -> None:
    assert len(answer(wire("host.docker.internal", "ANY")).answer) == 2


@pytest.mark.parametrize(("rtype", "gateways"), [("MX", [GATEWAY4, GATEWAY6]), ("AAAA", [GATEWAY4]), ("A", [GATEWAY6])])
def test_host_name_without_that_data(rtype: str, gateways: list[str]) -> None:
    response = answer(wire("host.docker.internal", rtype), HostNames(map(pack, gateways)))
    assert response.rcode() == dns.rcode.NOERROR
    assert not response.answer
    assert response.authority[0].rdtype == dns.rdatatype.SOA
    assert str(response.authority[0].name) == "host.docker.internal."


def test_host_name_of_another_class_is_refused() -> None:
    assert answer(wire("host.docker.internal", "A", rdclass="CH")).rcode() == dns.rcode.REFUSED


def test_host_name_keeps_the_case_and_flags_of_the_query() -> None:
    message = wire("hOsT.bUcAtInI.iNtErNaL", use_edns=0, want_dnssec=True, flags=dns.flags.RD | dns.flags.CD)
    response = answer(message)
    assert str(response.question[0].name) == "hOsT.bUcAtInI.iNtErNaL."
    assert response.flags & dns.flags.RD
    assert response.flags & dns.flags.CD
    assert response.edns == 0
    assert response.ednsflags & dns.flags.DO


def test_host_name_with_unknown_edns_version() -> None:
    response = answer(wire("host.docker.internal", use_edns=1))
    assert (response.rcode(), response.edns) == (dns.rcode.BADVERS, 0)


@pytest.mark.parametrize("rtype", ["AXFR", "IXFR"])
def test_zone_transfers_are_refused(rtype: str) -> None:
    response = answer(wire("example.org", rtype, use_edns=0))
    assert response.rcode() == dns.rcode.REFUSED
    assert response.extended_errors()[0].code == dns.edns.EDECode.NOT_SUPPORTED


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_other_opcodes_are_not_implemented(opcode: int) -> None:
    message = bytearray(wire("example.org"))
    message[2] |= opcode << 3
    response = answer(bytes(message))
    assert (response.rcode(), response.opcode()) == (dns.rcode.NOTIMP, opcode)


def test_responses_and_shorter_than_a_header_are_dropped() -> None:
    message = bytearray(wire("example.org"))
    message[2] |= 0x80
    assert decide(bytes(message), NAMES) == Drop("response")
    for length in range(12):
        assert decide(bytes(message[:length]), NAMES) == Drop("malformed")


QUESTION = b"\x07example\x03org\x00\x00\x01\x00\x01"
OPT = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("counts", "body"),
    [
        ((0, 0, 0, 0), b""),
        ((2, 0, 0, 0), QUESTION + QUESTION),
        ((1, 0, 0, 0), b""),
        ((1, 0, 0, 0), QUESTION[:-1]),
        ((1, 0, 0, 0), QUESTION[:10]),
        ((1, 0, 0, 0), b"\xc0\x0c\x00\x01\x00\x01"),
        ((1, 0, 0, 0), b"\x41" + QUESTION),
        ((1, 0, 0, 0), b"\x3f" + b"a" * 62),
        ((1, 0, 0, 0), (b"\x3f" + b"a" * 63) * 4 + b"\x00\x00\x01\x00\x01"),
        ((1, 0, 0, 1), QUESTION),
        ((1, 0, 0, 1), QUESTION + OPT[:-1]),
        ((1, 0, 0, 1), QUESTION + OPT[:-1] + b"\x01"),
        ((1, 0, 0, 1), QUESTION + b"\x80" + OPT),
        ((1, 0, 0, 2), QUESTION + OPT + OPT),
        ((1, 1, 0, 0), QUESTION + OPT),
        ((1, 0, 0, 1), QUESTION + b"\x01a" + OPT),
        ((1, 0, 0, 65535), QUESTION + OPT),
    ],
)
def test_malformed_bodies(counts: tuple[int, int, int, int], body: bytes) -> None:
    message = struct.pack("!HHHHHH", 4242, 0x0100, *counts) + body
    response = answer(message)
    assert (response.rcode(), response.flags & dns.flags.RD) == (dns.rcode.FORMERR, dns.flags.RD)


def test_a_name_of_255_octets_is_the_longest() -> None:
    name = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\x00"
    header = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0)
    assert len(name) == 255
    forwarded(header + name + b"\x00\x01\x00\x01")
    assert answer(header + b"\x01b" + name + b"\x00\x01\x00\x01").rcode() == dns.rcode.FORMERR


@given(st.binary(max_size=600))
def test_random_bytes_are_decided(message: bytes) -> None:
    decide(message, NAMES)


@given(st.data())
def test_mutated_queries_are_decided_and_answers_are_messages(data: st.DataObject) -> None:
    message = bytearray(
        wire(data.draw(st.sampled_from(["host.docker.internal", "example.org"])), use_edns=0, payload=700)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    decision = decide(bytes(message), NAMES)
    if isinstance(decision, Answer):
        assert dns.message.from_wire(decision.message).id == int.from_bytes(message[:2], "big")


# Errors


def test_error_without_edns_is_plain() -> None:
    message = wire("Example.org", id=9)
    query = forwarded(message)
    response = dns.message.from_wire(service.error(message, query, service.Rcode.SERVFAIL, service.ExtendedError.OTHER))
    assert (response.id, response.rcode(), response.edns) == (9, dns.rcode.SERVFAIL, -1)
    assert str(response.question[0].name) == "Example.org."


def test_error_with_edns_says_why() -> None:
    message = wire("example.org", use_edns=0)
    reason = service.ExtendedError.NO_REACHABLE_AUTHORITY
    found = dns.message.from_wire(service.error(message, forwarded(message), service.Rcode.SERVFAIL, reason, "silence"))
    (option,) = found.extended_errors()
    assert (option.code, option.text) == (22, "silence")


# Matching responses


def response_to(message: bytes) -> dns.message.Message:
    return dns.message.make_response(dns.message.from_wire(message))


def test_the_answer_matches_in_any_case() -> None:
    message = wire("eXample.org", id=5)
    query = forwarded(message)
    good = response_to(message).to_wire()
    assert service.matches(message, query, 5, good)
    assert service.matches(message, query, 5, good.replace(b"eXample", b"example"))


def test_what_does_not_match() -> None:
    message = wire("example.org", id=5)
    query = forwarded(message)
    good = response_to(message).to_wire()
    assert not service.matches(message, query, 6, good)
    assert not service.matches(message, query, 5, message)
    assert not service.matches(message, query, 5, good.replace(b"example", b"exbmple"))
    assert not service.matches(message, query, 5, response_to(wire("example.org", "AAAA", id=5)).to_wire())
    assert not service.matches(message, query, 5, good[:2] + b"\x90" + good[3:])
    assert not service.matches(message, query, 5, good[:-1])
    for length in range(len(good)):
        assert not service.matches(message, query, 5, good[:length])


def test_a_bare_header_is_an_answer_only_if_it_is_an_error() -> None:
    message = wire("example.org", id=5)
    query = forwarded(message)
    for rcode, expected in ((0, False), (1, True), (2, True), (3, False), (4, True), (5, True)):
        bare = struct.pack("!HHHHHH", 5, 0x8000 | rcode, 0, 0, 0, 0)
        assert service.matches(message, query, 5, bare) is expected
        assert not service.matches(message, query, 5, bare + b"x")


@given(st.binary(max_size=100))
def test_random_responses_do_not_match(response: bytes) -> None:
    message = wire("example.org", id=5)
    assert not service.matches(message, forwarded(message), 5, response)


# Fitting into a datagram


def large_response(message: bytes, rrsets: int = 4, size: int = 10, additional: bool = False) -> bytes:
    response = response_to(message)
    section = response.additional if additional else response.answer
    for number in range(rrsets):
        texts = [f'"{number:03d}-{one:03d}-{"x" * 20}"' for one in range(size)]
        section.append(dns.rrset.from_text(f"r{number}.example.org.", 60, "IN", "TXT", *texts))
    if forwarded(message).edns:
        response.use_edns(0, 0, 4096, options=[dns.edns.EDEOption(dns.edns.EDECode.STALE_ANSWER, "old")])
    return response.to_wire()


def test_what_fits_is_untouched() -> None:
    message = wire("example.org", "TXT")
    response = large_response(message)
    assert service.fit(response, forwarded(message), len(response)) is response


@pytest.mark.parametrize("size", [512, 700, 900, 1232])
def test_what_does_not_fit_loses_whole_rrsets_and_says_so(size: int) -> None:
    message = wire("eXample.org", "TXT", id=99, use_edns=0, payload=size)
    large = large_response(message)
    cut = service.fit(large, forwarded(message), size)
    assert len(cut) <= size < len(large)
    before, after = dns.message.from_wire(large), dns.message.from_wire(cut)
    assert after.flags == before.flags | dns.flags.TC
    assert (after.id, str(after.question[0].name)) == (99, "eXample.org.")
    assert after.answer == before.answer[: len(after.answer)]
    assert len(after.answer) < len(before.answer)
    assert after.opt == before.opt
    assert [list(rrset) for rrset in after.answer] == [list(rrset) for rrset in before.answer[: len(after.answer)]]


def test_missing_additional_records_are_no_truncation() -> None:
    message = wire("example.org", "TXT", use_edns=0)
    cut = dns.message.from_wire(service.fit(large_response(message, additional=True), forwarded(message), 512))
    assert not cut.flags & dns.flags.TC


@pytest.mark.parametrize("damage", ["body", "length", "class"])
def test_what_cannot_be_parsed_becomes_question_and_tc(damage: str) -> None:
    message = wire("example.org", "TXT", id=3)
    large = bytearray(large_response(message))
    query = forwarded(message)
    if damage == "body":
        large[query.end :] = b"\xff" * (len(large) - query.end)
    elif damage == "length":
        del large[-3:]
    else:
        at = large.index(b"\x00\x10\x00\x01", query.end)
        large[at + 3] = 9
    cut = service.fit(bytes(large), query, 512)
    found = dns.message.from_wire(cut)
    assert found.flags & dns.flags.TC
    assert not found.answer
    assert str(found.question[0].name) == "example.org."


@given(st.binary(min_size=600, max_size=1500), st.integers(0, 6), st.integers(0, 3))
def test_any_matching_response_can_be_fitted(body: bytes, answers: int, additionals: int) -> None:
    message = wire("example.org", id=3)
    query = forwarded(message)
    response = struct.pack("!HHHHHH", 3, 0x8180, 1, answers, 0, additionals) + message[12 : query.end] + body
    assert len(service.fit(response, query, 512)) <= 512


# Start-up


def test_forwarding_does_not_import_dnspython() -> None:
    code = (
        "import sys; from bucatini.services.dns import *; n = HostNames([b'abcd']);"
        f"m = {wire('example.org', use_edns=0)!r}; d = decide(m, n); matches(m, d.query, 1, m);"
        "assert type(d) is Forward and not any(x == 'dns' or x.startswith('dns.') for x in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20, env={"PYTHONPATH": ":".join(sys.path)})


def test_after_preload_nothing_is_imported() -> None:
    message = wire("example.org", "TXT", use_edns=0)
    code = (
        "import sys; from bucatini.services import dns as d; d.preload(); before = set(sys.modules);"
        "n = d.HostNames([b'abcd']);"
        f"m = {message!r}; q = d.decide(m, n).query; d.fit({large_response(message)!r}, q, 512);"
        f"d.decide({wire('host.docker.internal', 'MX')!r}, n); d.decide({wire('host.docker.internal', 'A')!r}, n);"
        "d.error(m, q, d.Rcode.SERVFAIL, d.ExtendedError.OTHER, 'why');"
        "assert set(sys.modules) == before, set(sys.modules) - before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20, env={"PYTHONPATH": ":".join(sys.path)})
