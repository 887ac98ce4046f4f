"""stack.addresses: which of its addresses a guest is reached at."""

from __future__ import annotations

import pytest

from bucatini.base.address import pack
from bucatini.stack.addresses import GuestAddresses

GIVEN4, GIVEN6 = pack("192.0.2.1"), pack("2001:db8::1")
OTHER4, OTHER6, LINK = pack("192.0.2.9"), pack("2001:db8::9"), pack("fe80::9")


def addresses() -> GuestAddresses:
    return GuestAddresses(GIVEN4, GIVEN6)


def test_at_first_the_given_ones() -> None:
    assert (addresses().of(4), addresses().of(16)) == (GIVEN4, GIVEN6)
    assert addresses().all() == (GIVEN4, GIVEN6)


def test_one_it_configured_itself_until_the_given_one_is_seen() -> None:
    known = addresses()
    known.learn(OTHER4)
    known.learn(OTHER6)
    assert (known.of(4), known.of(16)) == (OTHER4, OTHER6)
    known.learn(GIVEN4)
    known.learn(GIVEN6)
    known.learn(OTHER4)
    known.learn(OTHER6)
    assert (known.of(4), known.of(16)) == (GIVEN4, GIVEN6)
    assert set(known.all()) == {GIVEN4, GIVEN6, OTHER4, OTHER6}


@pytest.mark.parametrize("source", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"])
def test_never_learned(source: str) -> None:
    known = addresses()
    known.learn(pack(source))
    assert known.all() == (GIVEN4, GIVEN6)


def test_link_local_when_there_is_nothing_better() -> None:
    known = GuestAddresses(None, None)
    assert known.of(16) is None
    known.learn(LINK)
    assert (known.of(4), known.of(16)) == (None, LINK)
    known.learn(OTHER6)
    assert known.of(16) == OTHER6


def test_after_a_change_the_old_one_until_the_new_one_is_seen() -> None:
    known = addresses()
    known.learn(GIVEN4)
    known.learn(GIVEN6)
    known.give(OTHER4, OTHER6)
    assert (known.of(4), known.of(16)) == (GIVEN4, GIVEN6)
    known.learn(OTHER4)
    known.learn(OTHER6)
    assert (known.of(4), known.of(16)) == (OTHER4, OTHER6)


def test_after_a_change_the_new_one_when_the_old_was_never_seen() -> None:
    known = addresses()
    known.give(OTHER4, None)
    assert (known.of(4), known.of(16)) == (OTHER4, None)


class TestComingUpAnew:
    OTHER = bytes.fromhex("fd00000000000000505400fffe123456")

    def test_the_given_address_counts_as_not_seen(self) -> None:
        addresses = GuestAddresses(None, GIVEN6)
        addresses.learn(GIVEN6)
        addresses.doubt(16)
        addresses.learn(self.OTHER)
        assert addresses.of(16) == self.OTHER

    def test_what_was_taken_before_the_question_for_routers_stays(self) -> None:
        """An announcement that nobody asked for may come first."""
        addresses = GuestAddresses(None, GIVEN6)
        addresses.learn(self.OTHER)
        addresses.doubt(16)
        assert addresses.of(16) == self.OTHER

    def test_of_another_guest_nothing_is_known(self) -> None:
        addresses = GuestAddresses(None, GIVEN6)
        addresses.learn(self.OTHER)
        addresses.forget(16)
        assert addresses.of(16) == GIVEN6


def test_an_address_that_it_was_seen_with() -> None:
    addresses = GuestAddresses(pack("10.0.0.2"), pack("fd00::2"), pack("fe80::2"))
    assert (addresses.seen(4), addresses.seen(16)) == (None, None)
    addresses.learn(pack("fe80::3"))
    addresses.learn(pack("fd00::7"))
    assert addresses.seen(16) == pack("fd00::7")
    addresses.learn(pack("fd00::2"))
    assert addresses.seen(16) == pack("fd00::2")
