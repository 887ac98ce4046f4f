"""engine.forwarding.admission: policy, and whom the guest sees where."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from bucatini.base.address import Endpoint, pack
from bucatini.base.events import Refusal
from bucatini.base.verdict import EGRESS, Request, Verdict
from bucatini.engine.forwarding import Publisher
from bucatini.forward.translate import Translation
from support.engines import GUEST_HERE, Engine, free_port, here


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Engine([f"127.0.0.1:{free_port()}:1"], **here()) as engine:
        yield engine.translator.publisher


def test_outward_only_an_explicit_rule_says_no() -> None:
    refused: dict[bytes, str] = {}

    def decide(request: Request) -> Verdict:
        asked.append(request)
        return Verdict(False, refused.get(request.address, "policy none"))

    asked: list[Request] = []
    guest, local, target = (Endpoint(pack("127.0.0.1"), port) for port in (5555, 80, 8080))
    with Engine([f"127.0.0.1:{free_port()}:1"], allow=decide, **here()) as engine:
        admit = engine.translator.publisher.admit
        gateway = engine.translator.publisher.settings.gateway_ipv4
        assert admit(6, EGRESS, guest, local, target) == "--tcp-ns"
        assert admit(17, EGRESS, guest, local, target) == "--udp-ns"
        assert {request.address for request in asked} == {gateway, target.address}
        assert {(request.direction, request.port) for request in asked} == {(EGRESS, 8080)}
        for address, rule in ((gateway, "--deny host"), (target.address, "--deny 127.0.0.0/8")):
            refused = {address: rule}
            engine.translator.publisher.decide = partial(decide)  # another policy, as a whole
            assert admit(6, EGRESS, guest, local, target) is None
            event = engine.refusals()[-1]
            assert (event.direction, event.guest, event.peer, event.rule) == (EGRESS, guest, local, rule)
        assert engine.drops() == {"policy-denied": 2}


def test_which_address_of_the_guest_is_reached(publisher: Publisher) -> None:
    first, second, local, six = (pack(each) for each in ("10.0.0.1", "10.0.0.2", "fe80::1", "2001:db8::1"))
    publisher.guests = lambda: (second, first, local, six)
    assert publisher.guest_address(4) == second
    assert publisher.guest_address(16) == six
    assert publisher.guest_address(16, link_local=True) == local
    publisher.guests = lambda: (local,)
    assert (publisher.guest_address(4), publisher.guest_address(16)) == (None, local)


def test_a_peer_that_cannot_be_shown_is_refused_and_counted() -> None:
    with Engine([f"127.0.0.1:{free_port()}:1"], **here()) as engine:
        publisher = engine.translator.publisher
        publisher.translation = Translation()
        assert publisher.seen_as(6, Endpoint(pack("127.0.0.1"), 5), 80, 4) is None
        assert engine.drops() == {"peer-unexpected": 1}
        publisher.translation = Translation(ours=(pack("10.0.0.1"),))
        shown = publisher.seen_as(6, Endpoint(pack("127.0.0.1"), 5), 80, 4)
        assert shown == (Endpoint(pack(GUEST_HERE), 80), Endpoint(pack("10.0.0.1"), 5))
        publisher.guests = tuple
        assert publisher.seen_as(6, Endpoint(pack("192.0.2.1"), 5), 80, 4) is None
        assert engine.drops() == {"peer-unexpected": 1, "family-off": 1}
        assert {event.reason for event in engine.refusals()} == {Refusal.LOCAL}
        publisher.translation, publisher.guests = None, None
        shown = publisher.seen_as(6, Endpoint(pack(GUEST_HERE), 5), 80, 4)
        assert shown is not None
        assert shown[1].address == publisher.settings.gateway_ipv4
