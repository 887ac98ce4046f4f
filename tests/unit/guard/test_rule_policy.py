"""Softnet's rules and defaults as a translating engine's policy: questions, answers, and which rule is named."""

from __future__ import annotations

import pytest

from bucatini.base.address import pack
from bucatini.base.verdict import EGRESS, INGRESS, Request, Verdict
from bucatini.guard.live_policy import LivePolicy
from bucatini.guard.rule_grammar import parse_rule
from bucatini.guard.rule_policy import RulePolicy

GATEWAY, GATEWAY6 = "172.16.0.1", "fd42:6d73:62::1"
GATEWAYS = (pack(GATEWAY), pack(GATEWAY6))
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
EVERYTHING = ["0.0.0.0/0"]


def live(*, allow: list[str] | None = None, block: list[str] | None = None) -> LivePolicy:
    return LivePolicy(map(parse_rule, allow or []), map(parse_rule, block or []), GATEWAYS)


def judge(
    address: str,
    port: int = 443,
    protocol: int = TCP,
    *,
    allow: list[str] | None = None,
    block: list[str] | None = None,
    direction: str = EGRESS,
    host_only: bool = False,
) -> Verdict:
    policy = RulePolicy(live(allow=allow, block=block), GATEWAYS, GATEWAYS, host_only=host_only)
    return policy.decide(Request(direction, protocol, pack(address), port))


class TestDefaults:
    @pytest.mark.parametrize(
        "address",
        ["1.1.1.1", "192.0.0.9", "192.88.99.1", "2606:4700::1111", "64:ff9b::101:101"],
    )
    def test_public(self, address: str) -> None:
        assert judge(address) == (True, "softnet: public")

    @pytest.mark.parametrize(
        "address",
        [
            "10.0.0.1", "169.254.169.254", "100.64.0.1", "172.16.0.3", "192.168.1.255", "255.255.255.255", "127.0.0.1",
            "198.18.0.1", "192.0.2.1", "240.0.0.1", "224.0.0.251", "239.255.255.250",
            "fe80::1", "fd00::1", "::1", "ff02::fb", "2001:db8::1", "2002:101:101::1",
        ],
    )  # fmt: skip
    def test_not_public(self, address: str) -> None:
        assert judge(address) == (False, "softnet: not public")

    @pytest.mark.parametrize("gateway", [GATEWAY, GATEWAY6])
    def test_gateway(self, gateway: str) -> None:
        """Its port 53 and an echo, and no other port: that is the host's loopback."""
        for protocol in (TCP, UDP):
            assert judge(gateway, 53, protocol) == (True, "softnet: dns")
        assert judge(gateway, 0, ICMPV6 if ":" in gateway else ICMP) == (True, "softnet: ping of the gateway")
        assert judge(gateway, 22) == (False, "softnet: the gateway is this host")
        assert not judge(gateway, 5353, UDP).allow

    def test_gateway_without_names(self) -> None:
        policy = RulePolicy(live(), GATEWAYS)
        assert not policy.decide(Request(EGRESS, UDP, pack(GATEWAY), 53)).allow

    @pytest.mark.parametrize("address", ["64:ff9b::a00:1", "64:ff9b::7f00:1", "::ffff:1.1.1.1", "64:ff9b::ac10:1"])
    def test_every_reading_counts(self, address: str) -> None:
        assert not judge(address, 53).allow

    @pytest.mark.parametrize("direction", [EGRESS, INGRESS])
    def test_what_nothing_opens(self, direction: str) -> None:
        for protocol in (TCP, UDP):
            assert judge("1.1.1.1", 0, protocol, direction=direction) == (False, "invalid: port 0")
        for address in ("0.0.0.0", "::"):
            found = judge(address, allow=[*EVERYTHING, "@host"], direction=direction)
            assert found == (False, "invalid: unspecified address")
        assert judge("1.1.1.1", 0, ICMP).allow


class TestRules:
    """The cases of Softnet's own tests, and what its table of decisions says."""

    def test_longest_prefix_wins(self) -> None:
        rules = {"allow": ["33.33.33.33/32"], "block": ["33.33.33.0/24"]}
        assert judge("33.33.33.33", **rules) == (True, "--allow 33.33.33.33/32")  # type: ignore[arg-type]
        for last in (32, 34):
            assert judge(f"33.33.33.{last}", **rules) == (False, "--block 33.33.33.0/24")  # type: ignore[arg-type]

    def test_block_wins_ties(self) -> None:
        assert not judge("66.66.66.66", allow=["66.66.0.0/16"], block=["66.66.0.0/16"]).allow

    def test_default_deny_with_host(self) -> None:
        rules = {"allow": ["@host"], "block": ["0.0.0.0/0"]}
        assert judge("8.8.8.8", **rules) == (False, "--block 0.0.0.0/0")  # type: ignore[arg-type]
        assert judge(GATEWAY, 22, **rules) == (True, "--allow @host")  # type: ignore[arg-type]
        assert judge(GATEWAY, 53, UDP, **rules).allow  # type: ignore[arg-type]

    def test_default_deny_takes_names_away(self) -> None:
        assert judge(GATEWAY, 53, UDP, block=["0.0.0.0/0"]) == (False, "--block 0.0.0.0/0")
        assert judge(GATEWAY, 53, UDP, block=["@host"]) == (False, "--block @host")
        assert judge(GATEWAY, 53, UDP, block=["0.0.0.0/0"], allow=["@host:53"]).allow

    def test_private_is_opened(self) -> None:
        assert judge("10.1.2.3", allow=["10.0.0.0/8"]) == (True, "--allow 10.0.0.0/8")
        assert judge("fd00::1", allow=["fd00::/8"]).allow
        assert judge("169.254.169.254", allow=["0.0.0.0/0"]).allow
        assert judge("224.0.0.251", 5353, UDP, allow=["224.0.0.0/4"]).allow

    def test_everything_is_both_families(self) -> None:
        public, private = "2606:4700::1111", "fd00::1"
        assert judge(public, block=["0.0.0.0/0"]) == (False, "--block 0.0.0.0/0")
        assert judge(public, block=["0.0.0.0/0"], allow=["2606:4700::/32"]).allow
        assert judge(private, allow=["0.0.0.0/0"]) == (True, "--allow 0.0.0.0/0")
        assert not judge(private, allow=["0.0.0.0/0"], block=["::/0"]).allow
        assert not judge(public, 25, block=["0.0.0.0/0:25"]).allow
        assert judge(public, 26, block=["0.0.0.0/0:25"]).allow
        assert not judge(public, 22, direction=INGRESS, block=["0.0.0.0/0", "in 10.0.0.0/8"]).allow
        assert judge(public, block=["0.0.0.0/1"]).allow

    def test_ports(self) -> None:
        assert judge("1.1.1.1", 25, block=["0.0.0.0/0:25"]) == (False, "--block 0.0.0.0/0:25")
        assert judge("1.1.1.1", 26, block=["0.0.0.0/0:25"]).allow
        assert judge("10.0.0.1", 443, allow=["out 10.0.0.0/8:443"]).allow

    def test_directions(self) -> None:
        assert judge("1.1.1.1", block=["in 0.0.0.0/0"]).allow
        assert not judge("1.1.1.1", block=["out 0.0.0.0/0"]).allow

    def test_carried_address(self) -> None:
        assert not judge("64:ff9b::a00:1", allow=["64:ff9b::/96"]).allow
        assert judge("64:ff9b::a00:1", allow=["64:ff9b::/96", "10.0.0.0/8"]).allow
        assert not judge("64:ff9b::101:101", block=["1.1.1.1"]).allow
        assert not judge("64:ff9b::ac10:1", allow=["@host"]).allow, "the gateway is on this side of a translator"

    def test_change_while_it_runs(self) -> None:
        rules = live()
        policy = RulePolicy(rules, GATEWAYS, GATEWAYS)
        request = Request(EGRESS, TCP, pack("1.1.1.1"), 443)
        assert policy.decide(request).allow
        rules.set({"allow": [], "block": ["1.1.1.0/24"], "desiredRevision": "1"})
        assert policy.decide(request) == (False, "--block 1.1.1.0/24")
        request = Request(EGRESS, TCP, pack("2606:4700::1111"), 443)
        for block, allowed in ((["0.0.0.0/0"], False), (["0.0.0.0/1"], True), (["::/0"], False)):
            rules.set({"allow": [], "block": block, "desiredRevision": block[0]})
            assert policy.decide(request).allow == allowed


class TestHost:
    @pytest.mark.parametrize("allow", [EVERYTHING, ["172.16.0.0/12"], ["172.16.0.0/30"], ["fd42:6d73:62::/48"]])
    @pytest.mark.parametrize("gateway", [GATEWAY, GATEWAY6])
    def test_a_wide_allow_is_not_about_it(self, allow: list[str], gateway: str) -> None:
        assert judge(gateway, 22, allow=allow) == (False, "softnet: the gateway is this host")
        assert judge(gateway, 53, allow=allow).allow

    def test_opened_when_it_is_meant(self) -> None:
        for allow in ("@host", "host"):
            for gateway in (GATEWAY, GATEWAY6):
                assert judge(gateway, 22, allow=[allow]) == (True, "--allow @host")
        assert judge(GATEWAY, 22, allow=["172.16.0.1"]) == (True, "--allow 172.16.0.1/32")
        assert judge(GATEWAY, 8080, allow=["@host:8080"]).allow
        assert not judge(GATEWAY, 8081, allow=["@host:8080"]).allow

    def test_the_same_block_wins(self) -> None:
        assert not judge(GATEWAY, 22, allow=["@host"], block=["172.16.0.1/32"]).allow

    @pytest.mark.parametrize("address", ["127.0.0.1", "127.255.0.1", "::1"])
    def test_loopback_is_not_on_the_network(self, address: str) -> None:
        assert not judge(address, allow=[*EVERYTHING, "@host"]).allow
        assert judge(address, allow=["127.0.0.0/8", "::1"]).allow


class TestHostOnly:
    def test_nothing_but_the_gateway(self) -> None:
        for address in ("1.1.1.1", "10.0.0.1", "2606:4700::1111", "127.0.0.1"):
            found = judge(address, allow=[*EVERYTHING, "10.0.0.0/8"], host_only=True)
            assert found == (False, "softnet host: not the gateway")

    def test_the_gateway_as_ever(self) -> None:
        assert judge(GATEWAY, 0, ICMP, host_only=True).allow
        assert not judge(GATEWAY, 22, host_only=True).allow
        assert judge(GATEWAY, 22, allow=["@host"], host_only=True).allow


class TestIngress:
    def test_exposed_is_allowed(self) -> None:
        for peer in ("1.1.1.1", "10.0.0.1", "127.0.0.1", "::1"):
            assert judge(peer, 22, direction=INGRESS) == (True, "--expose")
            assert judge(peer, 22, direction=INGRESS, block=["0.0.0.0/0", "@host"]) == (True, "--expose")

    def test_rules_about_it(self) -> None:
        block = ["in 10.0.0.0/8"]
        assert judge("10.0.0.1", 22, direction=INGRESS, block=block) == (False, "--block in 10.0.0.0/8")
        assert judge("11.0.0.1", 22, direction=INGRESS, block=block).allow

    def test_bare_rules_are_about_both_directions_then(self) -> None:
        assert not judge("9.9.9.9", 22, direction=INGRESS, block=["9.0.0.0/8", "in 10.0.0.0/8"]).allow

    @pytest.mark.parametrize("peer", ["127.0.0.1", "::1"])
    def test_the_host_comes_as_the_gateway(self, peer: str) -> None:
        assert not judge(peer, 22, direction=INGRESS, block=["in @host"]).allow

    def test_port_rules_are_about_the_peers_port_which_is_not_known(self) -> None:
        assert judge("10.0.0.1", 22, direction=INGRESS, block=["in 10.0.0.0/8:22"]).allow
