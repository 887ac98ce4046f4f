"""bucatini.policy.decide: verdicts and the rule that gave them."""

from __future__ import annotations

import pytest

from bucatini.base.address import pack
from bucatini.base.verdict import EGRESS, INGRESS, Request, Verdict
from bucatini.policy.decide import Policy
from bucatini.policy.settings import PolicySettings, build

TCP, UDP, ICMP = 6, 17, 1
GW4, GW6 = "172.16.0.1", "fd42:6d73:62::1"


def policy(options: str = "") -> Policy:
    """A policy from words: a preset, then +TARGET to allow and -TARGET to deny."""
    preset, *rules = options.split() or ["public"]
    allow = tuple(word[1:] for word in rules if word[0] == "+")
    deny = tuple(word[1:] for word in rules if word[0] == "-")
    return build(PolicySettings(preset, allow, deny), [pack(GW4), pack(GW6)])


def ask(options: str, address: str, port: int = 443, protocol: int = TCP, direction: str = EGRESS) -> Verdict:
    return policy(options).decide(Request(direction, protocol, pack(address), port))


@pytest.mark.parametrize(
    ("options", "address", "allow", "rule"),
    [
        # The presets.
        ("public", "8.8.8.8", True, "policy public"),
        ("public", "2606:4700::1", True, "policy public"),
        ("public", "10.0.0.5", False, "policy public: private is not public"),
        ("public", "fd00::1", False, "policy public: private is not public"),
        ("public", "127.0.0.1", False, "policy public: loopback is not public"),
        ("public", "169.254.169.254", False, "policy public: metadata is not public"),
        ("public", "168.63.129.16", False, "policy public: metadata is not public"),
        ("public", "198.51.100.1", False, "policy public: documentation is not public"),
        ("public", "255.255.255.255", False, "policy public: broadcast is not public"),
        ("public", "224.0.0.251", False, "policy public: multicast is not public"),
        ("public", GW4, False, "policy public: host is not public"),
        ("public", GW6, False, "policy public: host is not public"),
        ("open", "10.0.0.5", True, "policy open"),
        ("open", "169.254.169.254", True, "policy open"),
        ("open", "255.255.255.255", True, "policy open"),
        ("open", "ff02::1", True, "policy open"),
        ("open", GW4, True, "policy open"),
        ("open", "127.0.0.1", False, "policy open: loopback is not on the network"),
        ("open", "::1", False, "policy open: loopback is not on the network"),
        ("none", "8.8.8.8", False, "policy none"),
        ("none", GW6, False, "policy none"),
        # Rules by longest prefix, deny at a tie, in any order.
        ("public +10.0.0.0/8", "10.0.0.5", True, "--allow 10.0.0.0/8"),
        ("public +10.0.0.0/8 -10.0.0.5", "10.0.0.5", False, "--deny 10.0.0.5"),
        ("public -10.0.0.0/8 +10.0.0.5", "10.0.0.5", True, "--allow 10.0.0.5"),
        ("public +10.0.0.5 -10.0.0.5", "10.0.0.5", False, "--deny 10.0.0.5"),
        ("public -8.8.8.0/24", "8.8.8.8", False, "--deny 8.8.8.0/24"),
        ("none +public", "8.8.8.8", True, "--allow public"),
        ("none +public", "10.0.0.5", False, "policy none"),
        # A group has the length of its block.
        ("public +private -10.0.0.0/8", "10.0.0.5", False, "--deny 10.0.0.0/8"),
        ("public -private +10.0.0.0/8", "10.0.0.5", False, "--deny private"),
        ("public -private +10.0.0.0/9", "10.0.0.5", True, "--allow 10.0.0.0/9"),
        ("public +private -0.0.0.0/0", "10.0.0.5", True, "--allow private"),
        ("open -private -public +10.0.0.0/16", "10.0.0.5", True, "--allow 10.0.0.0/16"),
        ("open -private", "100.100.100.200", True, "policy open"),
        ("public +multicast", "ff02::fb", True, "--allow multicast"),
        ("public +255.255.255.255", "255.255.255.255", True, "--allow 255.255.255.255"),
        # What presets hold closed opens by its own name or full length only.
        ("public +host", GW4, True, "--allow host"),
        ("none +host.docker.internal", GW6, True, "--allow host"),
        (f"none +{GW4}", GW4, True, f"--allow {GW4}"),
        ("public +172.16.0.0/12", GW4, False, "policy public: host is not public"),
        ("public +private", GW4, False, "policy public: host is not public"),
        ("none +0.0.0.0/0", GW4, False, "policy none"),
        ("public +link-local", "169.254.169.254", False, "policy public: metadata is not public"),
        ("public +169.254.0.0/16", "169.254.169.254", False, "policy public: metadata is not public"),
        ("public +169.254.0.0/16", "169.254.1.1", True, "--allow 169.254.0.0/16"),
        ("public +metadata", "169.254.169.254", True, "--allow metadata"),
        ("public +169.254.169.254", "::ffff:169.254.169.254", True, "--allow 169.254.169.254"),
        ("open +0.0.0.0/0", "127.0.0.1", False, "policy open: loopback is not on the network"),
        ("open +loopback", "127.0.0.1", True, "--allow loopback"),
        ("open +127.0.0.0/8", "127.0.0.1", True, "--allow 127.0.0.0/8"),
        ("open -host", GW4, False, "--deny host"),
        ("open -172.16.0.0/12", GW4, False, "--deny 172.16.0.0/12"),
        # Embedded IPv4: both readings must pass.
        ("public", "64:ff9b::8.8.8.8", True, "policy public"),
        ("public", "64:ff9b::10.0.0.1", False, "policy public: private is not public"),
        ("public +private", "64:ff9b::10.0.0.1", True, "policy public"),
        ("public", f"64:ff9b::{GW4}", False, "policy public: private is not public"),
        ("public +host", f"64:ff9b::{GW4}", False, "policy public: private is not public"),
        ("open -10.0.0.0/8", "2002:0a00:0001::1", False, "--deny 10.0.0.0/8"),
        ("open -10.0.0.0/8", "::10.0.0.1", False, "--deny 10.0.0.0/8"),
        ("open -10.0.0.0/8", "2001:0:4136:e378:8000:63bf:f5ff:fffe", False, "--deny 10.0.0.0/8"),
        ("open", "64:ff9b::127.0.0.1", False, "policy open: loopback is not on the network"),
        ("public +2002::/16", "2002:0a00:0001::1", False, "policy public: private is not public"),
        ("public +2002::/16", "2002:0808:0808::1", True, "--allow 2002::/16"),
        ("public -10.0.0.0/8", "::ffff:10.0.0.1", False, "--deny 10.0.0.0/8"),
        ("public", "::ffff:8.8.8.8", True, "policy public"),
        ("public -::ffff:8.8.8.0/120", "8.8.8.8", False, "--deny 8.8.8.0/24"),
        # Never, whatever is allowed.
        ("open +0.0.0.0/0", "0.0.0.0", False, "invalid: unspecified address"),
        ("open +::", "::", False, "invalid: unspecified address"),
        ("open", "::ffff:0.0.0.0", False, "invalid: unspecified address"),
        ("open", "64:ff9b::0.0.0.0", False, "invalid: unspecified address"),
    ],
)
def test_egress(options: str, address: str, allow: bool, rule: str) -> None:
    assert ask(options, address) == (allow, rule)


@pytest.mark.parametrize("gateway", [GW4, GW6])
@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize(
    ("options", "allow", "rule"),
    [
        ("public", True, "policy public: dns"),
        ("open", True, "policy open: dns"),
        ("none", False, "policy none"),
        ("none +host", True, "--allow host"),
        ("open -host", False, "--deny host"),
        ("open -172.16.0.0/12 -fd00::/8 -private", True, "policy open: dns"),
        ("public -0.0.0.0/0 -::/0", True, "policy public: dns"),
        (f"public -{GW4} -{GW6}", False, "--deny"),
    ],
)
def test_dns_at_the_gateway(options: str, allow: bool, rule: str, protocol: int, gateway: str) -> None:
    verdict = ask(options, gateway, 53, protocol)
    assert verdict.allow is allow
    assert verdict.rule.startswith(rule)


def test_dns_is_port_53_of_tcp_and_udp_at_the_gateway_only() -> None:
    assert not ask("public", GW4, 853).allow
    assert not ask("public", GW4, 53, protocol=132).allow
    assert not ask("public", "10.0.0.53", 53, UDP).allow
    assert not ask("public", f"64:ff9b::{GW4}", 53, UDP).allow
    assert ask("public", f"::ffff:{GW4}", 53, UDP).allow


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_port_0_is_never_allowed(protocol: int) -> None:
    assert ask("open", "8.8.8.8", 0, protocol) == (False, "invalid: port 0")
    assert ask("open", "8.8.8.8", 0, protocol, INGRESS) == (False, "invalid: port 0")


def test_icmp_is_judged_by_address() -> None:
    assert ask("public", "8.8.8.8", 0, ICMP) == (True, "policy public")
    assert ask("public", "10.0.0.1", 0, ICMP) == (False, "policy public: private is not public")
    assert ask("public", "2606:4700::1", 0, 58).allow


@pytest.mark.parametrize("preset", ["public", "open", "none"])
@pytest.mark.parametrize("peer", ["198.51.100.10", "10.0.0.5", "127.0.0.1", GW4, "2001:db8::1", "fe80::1"])
def test_published_ports_are_open_under_every_preset(preset: str, peer: str) -> None:
    assert ask(preset, peer, 8080, direction=INGRESS) == (True, "--publish")


@pytest.mark.parametrize(
    ("options", "peer", "allow", "rule"),
    [
        ("public -10.0.0.0/8", "10.0.0.5", False, "--deny 10.0.0.0/8"),
        ("public -10.0.0.0/8 +10.0.0.5", "10.0.0.5", True, "--allow 10.0.0.5"),
        ("public -private", "::ffff:10.0.0.5", False, "--deny private"),
        ("public -10.0.0.0/8", "64:ff9b::10.0.0.5", False, "--deny 10.0.0.0/8"),
        ("none +10.0.0.0/8", "8.8.8.8", True, "--publish"),
        ("open", "0.0.0.0", False, "invalid: unspecified address"),
    ],
)
def test_ingress(options: str, peer: str, allow: bool, rule: str) -> None:
    assert ask(options, peer, 8080, direction=INGRESS) == (allow, rule)


@pytest.mark.parametrize(
    ("row", "options", "address", "direction", "allow"),
    [
        # The rows of the edge-case table of microsandbox (3.11) that need neither names nor ports nor protocols.
        (13, "open -host", GW4, EGRESS, False),
        (13, "open -host", GW6, EGRESS, False),
        (14, "open -host", "8.8.8.8", EGRESS, True),
        (15, "public", GW4, EGRESS, False),
        (15, "public", GW6, EGRESS, False),
        (16, "open", GW4, EGRESS, True),
        (17, "public +host", GW4, EGRESS, True),
        (17, "public +host", "10.0.0.5", EGRESS, False),
        (18, "public", "198.51.100.10", INGRESS, True),
        # 19: rules here have no direction, and a published port is open unless denied; egress as there.
        (19, "none", "10.0.0.5", EGRESS, False),
        (19, "none", "10.0.0.5", INGRESS, True),
        (20, "open -1.2.3.4", "1.2.3.4", EGRESS, False),
        (20, "open -1.2.3.4", "1.2.3.4", INGRESS, False),
        (20, "open -1.2.3.4", "8.8.8.8", EGRESS, True),
        (23, "none +public", "10.0.0.5", EGRESS, False),
        (23, "none +public", "127.0.0.1", EGRESS, False),
        (23, "none +public", "169.254.169.254", EGRESS, False),
        (23, "none +public", "0.0.0.0", EGRESS, False),
        (23, "none +public", "::", EGRESS, False),
    ],
)
def test_microsandbox_vectors(row: int, options: str, address: str, direction: str, allow: bool) -> None:
    assert ask(options, address, 80, direction=direction).allow is allow, row


def test_order_is_by_length_where_microsandbox_goes_by_place() -> None:
    """There 10.0.0.0/8 shadows a later 10.0.0.5/32; here the longer prefix wins wherever it stands."""
    assert ask("public +10.0.0.0/8 -10.0.0.5", "10.0.0.5").allow is False
    assert ask("public -10.0.0.5 +10.0.0.0/8", "10.0.0.5").allow is False


def test_explain_says_what_the_address_is_and_what_opens_it() -> None:
    sentence = policy("public").explain(Request(EGRESS, TCP, pack("10.0.0.5"), 443))
    assert sentence == (
        "TCP to 10.0.0.5:443 is refused by `policy public: private is not public`: "
        "10.0.0.5 is private (private-use, 10.0.0.0/8, RFC 1918); `--allow private` opens it."
    )


def test_explain_names_the_carried_address() -> None:
    sentence = policy("public").explain(Request(EGRESS, TCP, pack("64:ff9b::a00:5"), 443))
    assert "TCP to [64:ff9b::a00:5]:443 which carries 10.0.0.5 is refused" in sentence


def test_explain_needs_every_reading_opened() -> None:
    sentence = policy("public").explain(Request(EGRESS, TCP, pack("2002:0a00:0005::1"), 443))
    assert "`--allow 2002:a00:5::1 --allow private` opens it" in sentence


@pytest.mark.parametrize(
    ("options", "request_", "part"),
    [
        (
            "public -8.8.8.8",
            Request(EGRESS, UDP, pack("8.8.8.8"), 53),
            "UDP to 8.8.8.8:53 is refused by `--deny 8.8.8.8`",
        ),
        (
            "public",
            Request(INGRESS, TCP, pack("8.8.8.8"), 80),
            "TCP from 8.8.8.8 to guest port 80 is allowed by `--publish`",
        ),
        ("public", Request(EGRESS, ICMP, pack("8.8.8.8"), 0), "ICMP to 8.8.8.8 is allowed by `policy public`"),
        ("public", Request(EGRESS, TCP, pack("10.0.0.1"), 0), "TCP to 10.0.0.1 is refused by `invalid: port 0`"),
        ("open", Request(EGRESS, 47, pack("0.0.0.0"), 0), "protocol 47 to 0.0.0.0 is refused by `invalid: unspecified"),
    ],
)
def test_explain_promises_nothing_it_cannot_keep(options: str, request_: Request, part: str) -> None:
    sentence = policy(options).explain(request_)
    assert sentence.startswith(part)
    assert "opens it" not in sentence
    assert sentence.endswith(".")
