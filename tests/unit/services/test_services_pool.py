"""services.pool: what a pool promises, and that neither a day of short guests nor a guest with many names breaks it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from bucatini.base.address import pack, text
from bucatini.base.errors import ConfigError
from bucatini.services.address_plan import LeaseRange
from bucatini.services.leases import (
    INFINITE,
    LeaseDeclined,
    LeaseExpired,
    LeaseGranted,
    LeaseRecord,
    LeaseRefusal,
    LeaseReleased,
    LeaseRenewed,
    Outcome,
    Phase,
    PoolExhausted,
)
from bucatini.services.pool import REST, LeasePool, PoolSettings

NOW = 1_760_000_000.0
LEASE = 600
NET = PoolSettings((LeaseRange(pack("192.0.2.0"), 24),))
SMALL = PoolSettings((LeaseRange(pack("192.0.2.0"), 29),))
ONE = PoolSettings((LeaseRange(pack("192.0.2.0"), 30),))
EACH = PoolSettings((LeaseRange(pack("10.0.0.0"), 24, guest_length=30),))


def mac(number: int) -> bytes:
    return b"\x02\0" + number.to_bytes(4, "big")


A, B, C = mac(1), mac(2), mac(3)


def pool(settings: PoolSettings = SMALL, **fields: Any) -> LeasePool:
    return LeasePool(replace(settings, **fields))


def got(outcome: Outcome) -> str:
    assert outcome.lease is not None, outcome.refusal
    return text(outcome.lease.address)


def join(leases: LeasePool, who: bytes, now: float = NOW, link: str | None = None) -> str:
    """DISCOVER and REQUEST of a guest, on a link of its own unless said otherwise."""
    link = who.hex() if link is None else link
    offered = leases.offer(who, now, link)
    if offered.lease is None:
        return str(offered.refusal)
    granted = leases.request(who, offered.lease.address, now, link)
    assert granted.lease is not None
    assert granted.lease.address == offered.lease.address
    return text(granted.lease.address)


def renew(leases: LeasePool, who: bytes, address: str, now: float) -> Outcome:
    return leases.request(who, pack(address), now, who.hex())


def leave(leases: LeasePool, who: bytes, address: str, now: float) -> Outcome:
    return leases.release(who, pack(address), now, who.hex())


class TestGranting:
    def test_an_offer_then_a_lease(self) -> None:
        leases = pool()
        offered = leases.offer(A, NOW, "a")
        assert got(offered) == "192.0.2.2"
        assert offered.events == ()
        assert leases.lease_of(A) is None
        assert leases.holder_of(pack("192.0.2.2")) is None
        place = leases.place_of(A)
        assert place is not None
        assert (place.prefix_length, place.gateway) == (29, pack("192.0.2.1"))
        granted = leases.request(A, pack("192.0.2.2"), NOW + 1, "a")
        assert granted.events == (LeaseGranted(A, pack("192.0.2.2"), NOW + 1 + LEASE, "a"),)
        assert granted.lease == leases.lease_of(A)
        assert granted.lease == (A, pack("192.0.2.2"), 29, pack("192.0.2.1"), NOW + 1, NOW + 1 + LEASE, "a")
        assert leases.holder_of(pack("192.0.2.2")) == A
        assert leases.leases() == (granted.lease,)

    def test_an_offer_is_kept_for_whom_it_was_made(self) -> None:
        leases = pool()
        assert got(leases.offer(A, NOW, "a")) == "192.0.2.2"
        assert got(leases.offer(B, NOW, "b")) == "192.0.2.3"
        assert got(leases.offer(A, NOW + 50, "a")) == "192.0.2.2"
        assert leases.request(B, pack("192.0.2.2"), NOW, "b").refusal is LeaseRefusal.NOT_YOURS
        assert got(leases.request(A, None, NOW + 100, "a")) == "192.0.2.2", "asked for anew, it stands as long again"

    def test_an_offer_lapses(self) -> None:
        leases = pool()
        leases.offer(A, NOW, "a")
        assert leases.deadline == NOW + 60
        assert leases.expire(NOW + 60) == ()
        assert len(leases) == 0
        assert leases.request(A, pack("192.0.2.2"), NOW + 60, "a").refusal is LeaseRefusal.NOT_YOURS

    def test_an_offer_is_off_when_another_server_is_chosen_and_a_lease_is_not(self) -> None:
        leases = pool()
        leases.offer(A, NOW, "a")
        leases.withdraw(A, NOW, "b")
        assert len(leases) == 1, "nobody else's word counts"
        leases.withdraw(A, NOW, "a")
        assert len(leases) == 0
        join(leases, A, link="a")
        leases.withdraw(A, NOW, "a")
        assert leases.lease_of(A) is not None

    def test_a_lease_is_offered_again_to_who_has_it(self) -> None:
        leases = pool()
        assert join(leases, A) == "192.0.2.2"
        assert got(leases.offer(A, NOW + 5, A.hex(), pack("192.0.2.5"))) == "192.0.2.2"
        assert len(leases) == 1
        assert leases.lease_of(A) is not None

    def test_renewing(self) -> None:
        leases = pool()
        join(leases, A)
        renewed = renew(leases, A, "192.0.2.2", NOW + 300)
        assert renewed.events == (LeaseRenewed(A, pack("192.0.2.2"), NOW + 900, A.hex()),)
        assert leases.expire(NOW + 899.9) == ()
        assert leases.expire(NOW + 900) == (LeaseExpired(A, pack("192.0.2.2"), A.hex()),)
        assert leases.lease_of(A) is None

    def test_who_comes_too_late_goes_on_if_nobody_came_between(self) -> None:
        leases = pool()
        join(leases, A)
        late = renew(leases, A, "192.0.2.2", NOW + 5000)
        assert [type(event) for event in late.events] == [LeaseExpired, LeaseGranted]
        assert got(late) == "192.0.2.2"

    def test_who_comes_too_late_and_finds_another_in_its_place(self) -> None:
        leases = pool(ONE)
        join(leases, A)
        assert join(leases, B, NOW + 600) == "192.0.2.2"
        assert renew(leases, A, "192.0.2.2", NOW + 601).refusal is LeaseRefusal.NOT_YOURS

    @pytest.mark.parametrize("address", ["192.0.2.3", "192.0.2.1", "192.0.3.2", "10.0.0.1", "fd00::1"])
    def test_an_address_that_was_never_given(self, address: str) -> None:
        leases = pool()
        assert renew(leases, A, address, NOW).refusal is LeaseRefusal.NOT_YOURS
        join(leases, A)
        assert renew(leases, A, address, NOW).refusal is LeaseRefusal.NOT_YOURS
        assert leases.lease_of(A) is not None
        assert leases.counters[LeaseRefusal.NOT_YOURS] == 2

    def test_a_wish_is_heard_where_nobody_was_before(self) -> None:
        leases = pool()
        assert got(leases.offer(A, NOW, "a", pack("192.0.2.5"))) == "192.0.2.5"
        assert got(leases.offer(B, NOW, "b", pack("192.0.2.5"))) == "192.0.2.2", "it is offered to another"
        for wish in (pack("192.0.2.1"), pack("10.0.0.1"), b"", b"abc", bytes(16)):
            assert got(leases.offer(C, NOW, "c", wish)) == "192.0.2.3"

    def test_a_wish_for_what_was_somebodys_is_not_heard(self) -> None:
        leases = pool()
        join(leases, A)
        assert got(leases.offer(B, NOW + 1000, "b", pack("192.0.2.2"))) == "192.0.2.3"
        assert got(leases.offer(A, NOW + 1000, "a", pack("192.0.2.2"))) == "192.0.2.2"

    def test_the_old_address_again(self) -> None:
        leases = pool()
        for who in (A, B, C):
            join(leases, who)
        for who, address in ((C, "192.0.2.4"), (A, "192.0.2.2"), (B, "192.0.2.3")):
            assert join(leases, who, NOW + 10_000) == address

    def test_whose_lease_ended_first_loses_it_first(self) -> None:
        leases = pool()
        found = [join(leases, mac(n), NOW + n) for n in range(10, 15)]
        assert found == [f"192.0.2.{host}" for host in range(2, 7)]
        for n, address in ((12, "192.0.2.4"), (10, "192.0.2.2")):  # these end last
            assert got(renew(leases, mac(n), address, NOW + 100 + 20 - n)) == address
        later = [join(leases, mac(n), NOW + 2000 + n) for n in range(20, 25)]
        assert later == [f"192.0.2.{host}" for host in (3, 5, 6, 4, 2)]

    def test_what_nobody_had_is_given_first_wherever_it_is(self) -> None:
        leases = pool()
        join(leases, A, NOW - 10_000)
        assert got(leases.offer(B, NOW - 5000, "b")) == "192.0.2.3"
        assert [join(leases, mac(n)) for n in range(10, 13)] == ["192.0.2.4", "192.0.2.5", "192.0.2.6"]
        assert [join(leases, mac(n)) for n in range(13, 15)] == ["192.0.2.3", "192.0.2.2"]

    def test_a_lapsed_offer_does_not_take_the_old_address_from_anybody(self) -> None:
        leases = pool(ONE)
        join(leases, A)
        assert got(leases.offer(B, NOW + 1000, "b")) == "192.0.2.2"
        leases.expire(NOW + 1060)
        assert got(leases.request(A, pack("192.0.2.2"), NOW + 1061, "a")) == "192.0.2.2"

    def test_a_network_for_each_guest(self) -> None:
        leases = pool(EACH)
        assert [join(leases, mac(n)) for n in range(3)] == ["10.0.0.2", "10.0.0.6", "10.0.0.10"]
        lease = leases.lease_of(mac(2))
        assert lease is not None
        assert (lease.prefix_length, lease.gateway) == (30, pack("10.0.0.9"))
        assert leases.is_gateway(pack("10.0.0.9"))

    def test_ipv6(self) -> None:
        leases = LeasePool(PoolSettings((LeaseRange(pack("fd00::"), 64),), reserved=frozenset((pack("fd00::3"),))))
        assert [join(leases, mac(n)) for n in range(3)] == ["fd00::2", "fd00::4", "fd00::5"]
        assert got(renew(leases, mac(1), "fd00::4", NOW + 300)) == "fd00::4"

    def test_another_lease_time_breaks_no_promise_that_was_made(self) -> None:
        leases = pool()
        join(leases, A)
        again = pool(lease=10)
        again.restore(leases.records(), NOW + 1)
        renewed = renew(again, A, "192.0.2.2", NOW + 2)
        assert renewed.lease is not None
        assert renewed.lease.until == NOW + LEASE

    def test_a_lease_shorter_than_an_offer(self) -> None:
        leases = pool(lease=10)
        join(leases, A)
        assert leases.expire(NOW + 10) == (LeaseExpired(A, pack("192.0.2.2"), A.hex()),)

    def test_a_clock_that_goes_back_ends_nothing_early(self) -> None:
        leases = pool(ONE)
        join(leases, A)
        assert join(leases, B, NOW - 1e6) == LeaseRefusal.EXHAUSTED
        assert got(renew(leases, A, "192.0.2.2", NOW - 1e6)) == "192.0.2.2"
        assert join(leases, B, NOW + 599) == LeaseRefusal.EXHAUSTED
        assert join(leases, B, NOW + 600) == "192.0.2.2"

    @pytest.mark.parametrize("lease", [0, -1, INFINITE + 1])
    def test_lease_times_that_cannot_be(self, lease: int) -> None:
        with pytest.raises(ConfigError, match="--lease-time"):
            pool(lease=lease)


class TestGivingBack:
    def test_a_released_address_rests_to_the_end_of_its_lease(self) -> None:
        leases = pool(ONE)
        join(leases, A)
        released = leave(leases, A, "192.0.2.2", NOW + 10)
        assert released.events == (LeaseReleased(A, pack("192.0.2.2"), NOW + LEASE, A.hex()),)
        assert leases.lease_of(A) is None
        assert leases.holder_of(pack("192.0.2.2")) is None
        assert join(leases, B, NOW + LEASE - 0.1) == LeaseRefusal.EXHAUSTED
        assert leases.offer(B, NOW + LEASE, "b").events == (), "it was over before"
        assert leases.place_of(B) is not None

    def test_who_released_may_have_it_again(self) -> None:
        leases = pool(ONE)
        join(leases, A)
        leave(leases, A, "192.0.2.2", NOW + 10)
        assert got(leases.offer(A, NOW + 20, A.hex())) == "192.0.2.2"
        granted = renew(leases, A, "192.0.2.2", NOW + 20)
        assert granted.events == (LeaseGranted(A, pack("192.0.2.2"), NOW + 20 + LEASE, A.hex()),)

    def test_without_quarantine_it_is_free_at_once(self) -> None:
        leases = pool(ONE, quarantine=False)
        join(leases, A)
        released = leave(leases, A, "192.0.2.2", NOW + 10)
        assert released.events == (LeaseReleased(A, pack("192.0.2.2"), NOW + 10, A.hex()),)
        assert join(leases, B, NOW + 10) == "192.0.2.2"

    def test_only_ones_own(self) -> None:
        leases = pool()
        join(leases, A)
        for who, address, link in ((B, "192.0.2.2", "b"), (A, "192.0.2.3", A.hex()), (B, "192.0.2.2", A.hex())):
            for give_back in (leases.release, leases.decline):
                assert give_back(who, pack(address), NOW, link).refusal is LeaseRefusal.NOT_YOURS
        for give_back in (leases.release, leases.decline):
            assert give_back(A, pack("192.0.2.2"), NOW, "b").refusal is LeaseRefusal.OTHER_LINK
        assert leases.lease_of(A) is not None

    def test_an_offer_cannot_be_released_nor_a_lease_twice(self) -> None:
        leases = pool()
        leases.offer(A, NOW, "a")
        assert leases.release(A, pack("192.0.2.2"), NOW, "a").refusal is LeaseRefusal.NOT_YOURS
        leases.request(A, None, NOW, "a")
        assert leases.release(A, pack("192.0.2.2"), NOW, "a").refusal is None
        assert leases.release(A, pack("192.0.2.2"), NOW, "a").refusal is LeaseRefusal.NOT_YOURS

    def test_a_declined_address_rests(self) -> None:
        leases = pool(rest=1000.0)
        join(leases, A)
        declined = leases.decline(A, pack("192.0.2.2"), NOW + 10, A.hex())
        assert declined.events == (LeaseDeclined(A, pack("192.0.2.2"), NOW + 1010, A.hex()),)
        assert leases.lease_of(A) is None
        assert join(leases, A, NOW + 10) == "192.0.2.3"
        assert join(leases, B, NOW + 10) == "192.0.2.4"
        assert [join(leases, mac(n), NOW + 10) for n in (7, 8, 9)] == ["192.0.2.5", "192.0.2.6", LeaseRefusal.EXHAUSTED]
        assert join(leases, mac(9), NOW + 1010) != "192.0.2.2", "others have rested for longer"
        assert leases.offer(A, NOW + 1010, A.hex(), pack("192.0.2.2")).lease is not None

    def test_it_rests_no_less_than_its_lease(self) -> None:
        leases = pool(ONE, rest=10.0)
        join(leases, A)
        leases.decline(A, pack("192.0.2.2"), NOW, A.hex())
        assert join(leases, B, NOW + LEASE - 1) == LeaseRefusal.EXHAUSTED
        assert join(leases, B, NOW + LEASE) == "192.0.2.2"

    def test_an_offer_can_be_declined(self) -> None:
        leases = pool()
        leases.offer(A, NOW, "a")
        assert leases.decline(A, pack("192.0.2.2"), NOW, "a").events == (
            LeaseDeclined(A, pack("192.0.2.2"), NOW + REST, "a"),
        )
        assert got(leases.offer(A, NOW, "a")) == "192.0.2.3"

    def test_who_declines_everything_gets_no_further(self) -> None:
        leases = pool(NET)
        found = []
        for n in range(100):
            address = join(leases, A, NOW + n)
            found.append(address)
            leases.decline(A, pack(address), NOW + n, A.hex())
            assert leases.lease_of(A) is None
        assert len(set(found)) == 5
        assert leases.counters[LeaseRefusal.DECLINES] == 96
        assert len(leases) == 5
        assert join(leases, B, NOW + 100) == "192.0.2.7"

    def test_all_together_decline_no_more_than_a_quarter(self) -> None:
        leases = pool(NET)
        for n in range(253):
            address = join(leases, mac(n))
            leases.decline(mac(n), pack(address), NOW, mac(n).hex())
        assert leases.counters[LeaseRefusal.DECLINES] == 253 - 63
        leases.expire(NOW + 10_000)
        assert len(leases) == 0
        assert len({join(leases, mac(n), NOW + 10_000) for n in range(1000, 1253)}) == 253


class TestForEver:
    def test_no_end(self) -> None:
        leases = pool(ONE, lease=INFINITE)
        assert join(leases, A) == "192.0.2.2"
        lease = leases.lease_of(A)
        assert lease is not None
        assert lease.until == inf
        assert leases.expire(NOW + 1e12) == ()
        assert join(leases, B, NOW + 1e12) == LeaseRefusal.EXHAUSTED

    @pytest.mark.parametrize("released", [False, True])
    def test_until_the_guest_is_gone(self, released: bool) -> None:
        leases = pool(ONE, lease=INFINITE)
        join(leases, A)
        if released:
            assert leave(leases, A, "192.0.2.2", NOW + 1).events == (LeaseReleased(A, pack("192.0.2.2"), inf, A.hex()),)
        leases.detach(A.hex(), NOW + 100)
        assert join(leases, B, NOW + 100 + REST - 1) == LeaseRefusal.EXHAUSTED
        assert join(leases, B, NOW + 100 + REST) == "192.0.2.2"

    def test_one_that_was_read_and_whose_guest_never_comes(self) -> None:
        leases = pool(ONE, lease=INFINITE)
        leases.restore([LeaseRecord(pack("192.0.2.2"), A, Phase.LEASED, NOW, inf)], NOW)
        leases.dismiss(B, NOW)
        assert join(leases, B, NOW + 1e9) == LeaseRefusal.EXHAUSTED
        leases.dismiss(A, NOW + 1e9)
        assert join(leases, B, NOW + 1e9 + REST) == "192.0.2.2"

    def test_declined(self) -> None:
        leases = pool(lease=INFINITE)
        join(leases, A)
        declined = leases.decline(A, pack("192.0.2.2"), NOW, A.hex())
        assert declined.events == (LeaseDeclined(A, pack("192.0.2.2"), NOW + REST, A.hex()),)
        leases.expire(NOW + REST)
        assert len(leases) == 0

    def test_then_not_for_ever(self) -> None:
        leases = pool(ONE)
        leases.restore([LeaseRecord(pack("192.0.2.2"), A, Phase.LEASED, NOW, inf)], NOW)
        renew(leases, A, "192.0.2.2", NOW + 10)
        assert leases.expire(NOW + 10 + LEASE) == (LeaseExpired(A, pack("192.0.2.2"), A.hex()),)


class TestStarvation:
    def test_ten_thousand_names_on_one_link(self) -> None:
        leases = pool(NET)
        join(leases, A, link="evil")
        events = 0
        for n in range(10_000):
            who = mac(n + 100)
            assert leases.offer(who, NOW + n / 1000, "evil").refusal is LeaseRefusal.IDENTITIES
            outcome = leases.request(who, pack(f"192.0.2.{n % 250 + 3}"), NOW, "evil")
            assert outcome.refusal is LeaseRefusal.IDENTITIES
            events += len(outcome.events)
        assert (len(leases), len(leases.leases()), events) == (1, 1, 0)
        assert leases.counters == {LeaseRefusal.IDENTITIES: 20_000}
        assert join(leases, B) == "192.0.2.3"

    def test_releasing_before_the_next_name_does_not_help(self) -> None:
        leases = pool(NET)
        join(leases, A, link="evil")
        leases.release(A, pack("192.0.2.2"), NOW, "evil")
        for n in range(100, 1000):
            assert leases.offer(mac(n), NOW + 1, "evil").refusal is LeaseRefusal.IDENTITIES
        assert got(leases.offer(B, NOW + LEASE, "evil")) == "192.0.2.3"
        assert len(leases) == 1

    def test_offers_alone_do_not_help(self) -> None:
        leases = pool(NET)
        assert got(leases.offer(A, NOW, "evil")) == "192.0.2.2"
        assert leases.offer(B, NOW, "evil").refusal is LeaseRefusal.IDENTITIES
        assert got(leases.offer(B, NOW + 60, "evil")) == "192.0.2.3"

    def test_declining_and_going_on_under_another_name_ends_at_the_bound(self) -> None:
        leases = pool(NET)
        for n in range(100):
            if leases.offer(mac(n), NOW, "evil").lease is not None:
                address = leases.request(mac(n), None, NOW, "evil").lease
                assert address is not None
                leases.decline(mac(n), address.address, NOW, "evil")
        assert len(leases) == 5

    def test_a_name_that_lives_on_another_link(self) -> None:
        leases = pool()
        join(leases, A, link="a")
        assert leases.offer(A, NOW, "b").refusal is LeaseRefusal.OTHER_LINK
        assert leases.request(A, pack("192.0.2.2"), NOW, "b").refusal is LeaseRefusal.OTHER_LINK
        assert leases.counters[LeaseRefusal.OTHER_LINK] == 2
        lease = leases.lease_of(A)
        assert lease is not None
        assert (lease.link, lease.until) == ("a", NOW + LEASE)

    def test_more_than_one_where_that_is_wanted(self) -> None:
        leases = pool(NET, identities=3)
        found = [join(leases, mac(n), link="bridge") for n in range(5)]
        assert found == ["192.0.2.2", "192.0.2.3", "192.0.2.4", *[LeaseRefusal.IDENTITIES] * 2]

    def test_the_next_guest_of_a_link(self) -> None:
        leases = pool()
        join(leases, A, link="vm")
        assert join(leases, B, NOW + 1, link="vm") == LeaseRefusal.IDENTITIES
        leases.detach("vm", NOW + 2)
        assert join(leases, B, NOW + 2, link="vm") == "192.0.2.3", "and the first one's is still its own"
        assert leases.offer(A, NOW + 3, "vm").refusal is LeaseRefusal.IDENTITIES
        assert got(leases.offer(A, NOW + 3, "elsewhere")) == "192.0.2.2"

    def test_a_link_that_goes_takes_its_offers_along(self) -> None:
        leases = pool()
        leases.offer(A, NOW, "a")
        leases.detach("a", NOW)
        assert len(leases) == 0
        join(leases, B, link="b")
        leases.decline(B, pack("192.0.2.3"), NOW, "b")
        leases.detach("b", NOW)
        assert len(leases) == 1
        assert leases.offer(C, NOW, "b").lease is not None

    def test_open_offers_are_bounded(self) -> None:
        leases = pool(NET, offers=10)
        for n in range(50):
            leases.offer(mac(n), NOW, str(n))
        assert (len(leases), leases.counters[LeaseRefusal.OFFERS]) == (10, 40)
        assert leases.request(mac(0), None, NOW, "0").lease is not None
        assert leases.offer(mac(50), NOW, "50").lease is not None

    def test_leases_are_bounded_below_the_size_of_the_network(self) -> None:
        leases = pool(NET, limit=10)
        found = [join(leases, mac(n)) for n in range(11)]
        assert found[10] == LeaseRefusal.EXHAUSTED
        join(leases, mac(99), NOW + 10_000)
        for n in range(20, 40):
            join(leases, mac(n), NOW + 10_000)
        assert len(leases) == 10
        assert renew(leases, mac(0), found[0], NOW + 10_000).refusal is LeaseRefusal.NOT_YOURS

    def test_exhaustion_is_told_once(self) -> None:
        leases = pool(ONE)
        join(leases, A)
        assert leases.offer(B, NOW, "b").events == (PoolExhausted(B, "b"),)
        assert leases.offer(B, NOW + 1, "b").events == ()
        assert leases.offer(C, NOW + 2, "c").events == ()
        assert leases.counters[LeaseRefusal.EXHAUSTED] == 3
        assert join(leases, B, NOW + LEASE) == "192.0.2.2"
        assert leases.offer(C, NOW + LEASE, "c").events == (PoolExhausted(C, "c"),)

    def test_former_owners_are_forgotten(self) -> None:
        leases = pool(PoolSettings((LeaseRange(pack("10.0.0.0"), 8),)), remembered=5)
        for n in range(20):
            join(leases, mac(n), NOW + n * 1000)
        leases.expire(NOW + 1e6)
        assert len(leases.records()) == 5
        assert got(leases.offer(mac(19), NOW + 1e6, "19")) == "10.0.0.21"
        assert got(leases.offer(mac(0), NOW + 1e6, "0")) == "10.0.0.22"

    def test_the_next_address_is_found_when_the_first_ones_are_forgotten(self) -> None:
        leases = pool(SMALL, remembered=2)
        for n in range(50):
            assert join(leases, mac(n), NOW + n * 1000).startswith("192.0.2.")

    def test_a_flood_of_requests_leaves_nothing(self) -> None:
        leases = pool(quarantine=False)
        for n in range(5000):
            now = NOW + n / 10
            address = join(leases, A, now)
            renew(leases, A, address, now)
            leave(leases, A, address, now)
        assert len(leases) == 0
        assert len(leases._due) < 100


class TestRestart:
    def restarted(self, leases: LeasePool, now: float, **fields: Any) -> LeasePool:
        again = LeasePool(replace(leases.settings, **fields))
        again.restore(leases.records(), now)
        return again

    def test_everything_but_offers_is_as_it_was(self) -> None:
        leases = pool(NET)
        for who in (A, B, C):
            join(leases, who)
        leases.offer(mac(9), NOW, "9")
        leave(leases, A, "192.0.2.2", NOW + 1)
        leases.decline(B, pack("192.0.2.3"), NOW + 1, B.hex())
        again = LeasePool(NET)
        assert again.restore(leases.records(), NOW + 2) == (LeaseGranted(C, pack("192.0.2.4"), NOW + LEASE, ""),)
        assert len(again) == 3
        assert got(again.offer(A, NOW + 3, "x")) == "192.0.2.2"
        assert got(again.offer(B, NOW + 3, "y")) == "192.0.2.5"
        assert got(again.request(C, pack("192.0.2.4"), NOW + 3, "z")) == "192.0.2.4"
        assert again.offer(C, NOW + 3, "x").refusal is LeaseRefusal.OTHER_LINK

    def test_what_ended_while_nobody_ran_is_remembered_in_order(self) -> None:
        leases = pool()
        for n in (4, 2, 3, 1, 5):
            join(leases, mac(n), NOW + n)
        again = self.restarted(leases, NOW + 10_000)
        assert len(again) == 0
        assert [join(again, mac(n), NOW + 10_000) for n in (3, 11, 12)] == ["192.0.2.4", "192.0.2.5", "192.0.2.3"]

    def test_former_owners_survive(self) -> None:
        leases = pool()
        for n in range(1, 6):
            join(leases, mac(n), NOW + n)
        leases.expire(NOW + 10_000)
        again = self.restarted(leases, NOW + 10_000)
        assert again.records() == leases.records()
        assert join(again, mac(5), NOW + 10_000) == "192.0.2.6"

    def test_a_clock_that_was_set_back(self) -> None:
        leases = pool(ONE)
        join(leases, A)
        again = self.restarted(leases, NOW - 1e8)
        assert join(again, B, NOW - 1e8 + LEASE - 1) == LeaseRefusal.EXHAUSTED
        assert join(again, B, NOW - 1e8 + LEASE) == "192.0.2.2"

    def test_a_clock_that_was_set_back_and_another_restart(self) -> None:
        leases = pool(ONE)
        join(leases, A)
        again = self.restarted(leases, NOW - 1e8)
        once_more = self.restarted(again, NOW - 1e8 + 100)
        assert join(once_more, B, NOW - 1e8 + LEASE - 1) == LeaseRefusal.EXHAUSTED
        assert join(once_more, B, NOW - 1e8 + LEASE) == "192.0.2.2"

    def test_one_lease_more_for_each_restart_at_most(self) -> None:
        """Links may be others after it, so none counts what it had before."""
        leases = pool(NET)
        join(leases, A, link="evil")
        again = self.restarted(leases, NOW)
        assert join(again, B, link="evil") == "192.0.2.3"
        assert again.offer(A, NOW, "evil").refusal is LeaseRefusal.IDENTITIES
        assert again.offer(C, NOW, "evil").refusal is LeaseRefusal.IDENTITIES

    def test_another_network_and_back(self) -> None:
        leases = pool()
        join(leases, A)
        moved = self.restarted(leases, NOW + 1, ranges=(LeaseRange(pack("10.0.0.0"), 30),))
        assert moved.leases() == ()
        assert renew(moved, A, "192.0.2.2", NOW + 1).refusal is LeaseRefusal.NOT_YOURS
        assert join(moved, A, NOW + 1) == "10.0.0.2"
        back = self.restarted(moved, NOW + 2, ranges=SMALL.ranges)
        assert join(back, B, NOW + 2) == "192.0.2.3", "the first is kept to its end"
        moved.expire(NOW + 10_000)
        assert [record.address for record in moved.records()] == [pack("10.0.0.2")]

    def test_records_of_the_other_family_and_nonsense(self) -> None:
        records = [
            LeaseRecord(pack("fd00::2"), A, Phase.LEASED, NOW, NOW + 10),
            LeaseRecord(pack("192.0.2.2"), A, Phase.LEASED, NOW, NOW + 10),
            LeaseRecord(pack("192.0.2.2"), B, Phase.LEASED, NOW, NOW + 10),
            LeaseRecord(pack("192.0.2.3"), A, Phase.LEASED, NOW, NOW + 10),
            LeaseRecord(pack("192.0.2.4"), C, Phase.OFFERED, NOW, NOW + 10),
        ]
        leases = pool()
        assert leases.restore(records, NOW) == (LeaseGranted(A, pack("192.0.2.2"), NOW + 10, ""),)
        assert (len(leases), len(leases.leases())) == (2, 1)
        leases.expire(NOW + 10)
        assert len(leases) == 0


class Promises:
    """What guests were told, kept apart from the pool: who has an address until when, and no one else."""

    def __init__(self) -> None:
        self.told: dict[bytes, tuple[bytes, float]] = {}
        self.reissued = 0

    def granted(self, outcome: Outcome, now: float, lease_time: int) -> None:
        lease = outcome.lease
        assert lease is not None
        owner, until = self.told.get(lease.address, (lease.mac, 0.0))
        assert owner == lease.mac or until <= now, f"{text(lease.address)} given away {until - now} s early"
        self.reissued += owner != lease.mac
        self.told[lease.address] = (lease.mac, now + lease_time)


def a_short_life(draw: random.Random, born: float, lease_time: int) -> Iterator[tuple[float, str]]:
    """When a guest does what. Some release, some are killed, some decline at first, some crash before they ask."""
    yield born, "discover"
    if draw.random() < 0.02:
        return
    yield born + 0.1, "request"
    if draw.random() < 0.02:
        yield born + 0.2, "decline"
        yield born + 10.2, "discover"
        yield born + 10.3, "request"
    end = born + draw.choice((draw.uniform(5, 120), draw.uniform(60, 1200), draw.uniform(600, 3600)))
    now = born + lease_time / 2
    while now < end:
        yield now, "renew"
        now += lease_time / 2
    if draw.random() < 0.5:
        yield end, "release"
    yield end + 0.1, "gone"


class Day:
    """24 hours of 5,000 guests that come as they like; the program is killed and begins again on the way."""

    def __init__(self, seed: int, **fields: Any) -> None:
        draw = random.Random(seed)
        self.settings = replace(NET, **fields)
        self.leases, self.promises = LeasePool(self.settings), Promises()
        self.refused: dict[str, int] = {}
        self.most = 0
        self.restarts = [NOW + hour * 3600 for hour in (5.2, 12, 12.01, 20)]
        deeds = sorted(
            (now, number, what)
            for number in range(5000)
            for now, what in a_short_life(draw, NOW + draw.uniform(0, 86400), self.settings.lease)
        )
        for now, number, what in deeds:
            if self.restarts and now >= self.restarts[0]:
                self.restart(self.restarts.pop(0))
            self.do(now, mac(number), what)
            self.most = max(self.most, len(self.leases))
        self.restart(now)
        assert not self.restarts

    def restart(self, now: float) -> None:
        for refusal, times in self.leases.counters.items():
            self.refused[refusal] = self.refused.get(refusal, 0) + times
        records = self.leases.records()
        self.leases = LeasePool(self.settings)
        self.leases.restore(records, now)

    def do(self, now: float, who: bytes, what: str) -> None:
        leases, link = self.leases, who.hex()
        place = leases.place_of(who)
        if what == "gone":
            leases.detach(link, now)
        elif what in ("release", "decline"):
            if place is not None:
                (leases.release if what == "release" else leases.decline)(who, place.address, now, link)
        elif what == "discover" or place is None:  # an offer may have been lost in a restart
            leases.offer(who, now, link)
            place = leases.place_of(who)
        if what in ("request", "renew") and place is not None:
            outcome = leases.request(who, place.address, now, link)
            self.promises.granted(outcome, now, self.settings.lease)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_day_of_5000_short_guests_on_one_network_of_256(seed: int) -> None:
    day = Day(seed)
    assert day.refused == {}
    assert day.promises.reissued > 4000
    assert 50 < day.most <= 253
    day.leases.expire(NOW + 200_000)
    assert len(day.leases) == 0


def test_the_same_day_with_leases_of_a_day_is_over_after_an_hour() -> None:
    """What Softnet shortens bootpd's leases for; and the day above can fail."""
    day = Day(1, lease=86400)
    assert day.refused[LeaseRefusal.EXHAUSTED] > 4000
    assert day.most == 253


def test_the_same_day_without_quarantine_on_a_small_network_gives_addresses_away() -> None:
    with pytest.raises(AssertionError, match="given away .* s early"):
        Day(1, ranges=(LeaseRange(pack("192.0.2.0"), 26),), quarantine=False)
