"""Properties of policy: the grammar is total, the table agrees with brute force, refusals hold in every spelling."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import pack, text
from bucatini.base.errors import ConfigError
from bucatini.base.prefix import Prefix, PrefixTable, parse_prefix
from bucatini.base.verdict import EGRESS, INGRESS, Request
from bucatini.policy.groups import BLOCKS, GROUPS, classify, find_block, readings
from bucatini.policy.rules import parse_target
from bucatini.policy.settings import PolicySettings, build

GATEWAYS = (pack("172.16.0.1"), pack("fd42:6d73:62::1"))
TCP = 6


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    """Few distinct leading bits, so that prefixes nest and touch."""
    size = draw(st.sampled_from([4, 16]))
    length = draw(st.integers(0, 8 * size))
    number = draw(st.sampled_from([0, 1, 2, 3, 7, 8, 0xFF])) << (8 * size - 8) | draw(st.integers(0, 3))
    number = number >> (8 * size - length) << (8 * size - length)
    return Prefix(number.to_bytes(size, "big"), length)


near_blocks = st.sampled_from(BLOCKS).map(lambda block: block.prefix.address)
addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16) | near_blocks
wrappers = st.sampled_from(["::ffff:%s", "64:ff9b::%s", "::%s", "::ffff:0:%s", "64:ff9b:1::%s"])
rules = st.lists(
    st.sampled_from([*GROUPS, "10.0.0.0/8", "172.16.0.0/12", "0.0.0.0/0", "::/0", "10.0.0.5", "fd00::/8", "8.0.0.0/6"])
    | prefixes().map(str),
    max_size=4,
).map(tuple)
settings_ = st.builds(PolicySettings, st.sampled_from(["public", "open", "none"]), rules, rules)
requests = st.builds(
    Request,
    st.sampled_from([EGRESS, INGRESS]),
    st.sampled_from([1, 6, 17, 58, 47]),
    addresses | st.sampled_from(GATEWAYS),
    st.sampled_from([0, 53, 443]),
)


def networks(prefix: Prefix) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network((prefix.address, prefix.length))


def edges(prefix: Prefix) -> list[bytes]:
    """The addresses where answers change: first and last inside, and the neighbours outside."""
    size = len(prefix.address)
    first = int.from_bytes(prefix.address, "big")
    beyond = first + (1 << 8 * size - prefix.length)
    numbers = (first - 1, first, beyond - 1, beyond)
    return [number.to_bytes(size, "big") for number in numbers if 0 <= number < 1 << 8 * size]


@given(st.lists(prefixes(), max_size=12), st.lists(addresses, max_size=6))
def test_the_table_agrees_with_ipaddress(held: list[Prefix], probes: list[bytes]) -> None:
    table: PrefixTable[Prefix | None] = PrefixTable(((prefix, prefix) for prefix in held), None)
    for prefix in held:
        probes += edges(prefix)
    for probe in probes:
        address = ipaddress.ip_address(probe)
        matching = [p for p in held if len(p.address) == len(probe) and address in networks(p)]
        assert table.find(probe) == max(matching, key=lambda p: p.length, default=None)


@given(addresses)
def test_the_block_of_an_address_agrees_with_ipaddress(address: bytes) -> None:
    matching = [b for b in BLOCKS if ipaddress.ip_address(address) in networks(b.prefix)]
    assert find_block(address) == max(matching, key=lambda b: b.prefix.length)


@given(prefixes())
def test_text_of_a_prefix_reads_back(prefix: Prefix) -> None:
    assert parse_prefix(str(prefix)) == prefix


@given(
    st.text(max_size=30) | st.text("0123456789abcdef:./%ff", max_size=30) | st.sampled_from(GROUPS).map(lambda g: g[1:])
)
def test_every_text_is_a_target_or_a_config_error_naming_it(written: str) -> None:
    try:
        target = parse_target(written, "--allow")
    except ConfigError as error:
        message = str(error)
    else:
        message = ""
        assert parse_target(str(target)) == target
    assert not message or (repr(written) in message and "accepted: " in message)


@given(settings_, requests)
def test_every_request_gets_a_verdict_with_a_rule_and_a_sentence(settings: PolicySettings, request: Request) -> None:
    policy = build(settings, GATEWAYS)
    verdict = policy.decide(request)
    assert verdict.rule
    sentence = policy.explain(request)
    assert f"{'allowed' if verdict.allow else 'refused'} by `{verdict.rule}`" in sentence


@given(settings_, requests)
def test_what_explain_says_opens_it_does(settings: PolicySettings, request: Request) -> None:
    sentence = build(settings, GATEWAYS).explain(request)
    if "opens it" in sentence:
        words = sentence.rpartition("; `")[2].partition("`")[0].split()[1::2]
        opened = PolicySettings(settings.preset, (*settings.allow, *words), settings.deny)
        assert build(opened, GATEWAYS).decide(request).allow


@given(settings_, st.binary(min_size=4, max_size=4) | near_blocks.filter(lambda a: len(a) == 4), wrappers)
def test_no_spelling_of_a_refused_ipv4_address_gets_through(settings: PolicySettings, v4: bytes, wrapper: str) -> None:
    policy = build(settings, GATEWAYS)
    if not policy.decide(Request(EGRESS, TCP, v4, 443)).allow:
        assert not policy.decide(Request(EGRESS, TCP, pack(wrapper % text(v4)), 443)).allow


@given(settings_, st.binary(min_size=4, max_size=4))
def test_a_mapped_address_is_judged_as_the_ipv4_address(settings: PolicySettings, v4: bytes) -> None:
    policy = build(settings, GATEWAYS)
    mapped = pack(f"::ffff:{text(v4)}")
    assert policy.decide(Request(EGRESS, TCP, mapped, 443)) == policy.decide(Request(EGRESS, TCP, v4, 443))


@given(settings_, requests)
def test_the_order_of_rules_never_matters(settings: PolicySettings, request: Request) -> None:
    turned = PolicySettings(settings.preset, settings.allow[::-1], settings.deny[::-1])
    assert build(turned, GATEWAYS).decide(request) == build(settings, GATEWAYS).decide(request)


@given(addresses, st.sampled_from([1, 6, 17]))
def test_public_lets_out_what_is_public_in_every_reading_and_nothing_else(address: bytes, protocol: int) -> None:
    allowed = build(PolicySettings(), GATEWAYS).decide(Request(EGRESS, protocol, address, 443)).allow
    assert allowed == (classify(address, GATEWAYS) == "public")
    assert allowed == all(find_block(reading).group == "public" for reading in readings(address))


@given(st.sampled_from(["public", "none"]), rules, st.sampled_from(GATEWAYS))
def test_the_host_opens_only_by_name_or_full_address(preset: str, allow: tuple[str, ...], gateway: bytes) -> None:
    verdict = build(PolicySettings(preset, allow), GATEWAYS).decide(Request(EGRESS, TCP, gateway, 443))
    assert verdict.allow == ("host" in allow or text(gateway) in allow)


@given(settings_, requests)
def test_a_denied_range_is_closed_but_for_longer_rules_and_the_resolver(
    settings: PolicySettings, request: Request
) -> None:
    """Adding a deny never allows anything."""
    for target in ("0.0.0.0/0", "::/0", "private", "10.0.0.0/8"):
        more = PolicySettings(settings.preset, settings.allow, (*settings.deny, target))
        if build(more, GATEWAYS).decide(request).allow:
            assert build(settings, GATEWAYS).decide(request).allow
