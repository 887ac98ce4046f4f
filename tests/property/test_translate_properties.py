"""Properties of address translation: it agrees with a literal reading of its table, no guest ever sees a peer it cannot
answer, and an answer to the host's loopback leads back there.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import Endpoint, pack
from bucatini.forward.translate import Translation

POOL4 = tuple(
    pack(address)
    for address in ("127.0.0.1", "127.0.0.2", "0.0.0.0", "192.0.2.1", "192.0.2.2", "192.0.2.3", "10.0.0.1")
)
POOL6 = tuple(pack(address) for address in ("::1", "::", "fe80::1", "2001:db8::1", "2001:db8::2", "::2"))
usable4, usable6 = st.sampled_from(POOL4[3:]), st.sampled_from(POOL6[2:])
usable = usable4 | usable6
anything = st.sampled_from(POOL4 + POOL6) | st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
protocols = st.sampled_from([1, 6, 17, 58])
ports = st.sampled_from([0, 22, 53, 80, 853])


def several(element: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(element, max_size=3).map(tuple)


translations = st.builds(
    Translation,
    host_loopback=several(usable),
    guest_addresses=several(st.tuples(usable4, usable4) | st.tuples(usable6, usable6)),
    dns=several(st.tuples(usable, anything)),
    ours=several(usable),
)


def loopback_of(address: bytes) -> bytes:
    return pack("127.0.0.1") if len(address) == 4 else pack("::1")


@given(translations, protocols, anything, ports)
def test_outbound_is_the_table_read_from_the_top(
    translation: Translation, protocol: int, address: bytes, port: int
) -> None:
    rows: list[tuple[bool, bytes]] = [
        (protocol in (6, 17) and port in (53, 853) and address == visible, real) for visible, real in translation.dns
    ]
    rows += [(address == visible, loopback_of(visible)) for visible in translation.host_loopback]
    rows += [(address == visible, real) for visible, real in translation.guest_addresses]
    expected = next((Endpoint(real, port) for matches, real in rows if matches), None)
    assert translation.outbound(protocol, address, port) == expected


@given(translations, anything, several(usable))
def test_inbound_is_the_table_read_from_the_top(
    translation: Translation, peer: bytes, guests: tuple[bytes, ...]
) -> None:
    inside = peer in (bytes(4), bytes(16), pack("::1"), *guests) or (len(peer) == 4 and peer[0] == 127)
    rows = [(peer == loopback_of(visible), visible) for visible in translation.host_loopback]
    rows += [(peer == real, visible) for visible, real in translation.guest_addresses]
    rows += [(inside and len(peer) == len(address), address) for address in translation.ours]
    expected = next((visible for matches, visible in rows if matches), None if inside else peer)
    assert translation.inbound(peer, guests) == expected


@given(translations, anything, several(usable))
def test_what_the_guest_sees_is_of_the_family_and_not_its_own_loopback(
    translation: Translation, peer: bytes, guests: tuple[bytes, ...]
) -> None:
    seen = translation.inbound(peer, guests)
    if seen is not None:
        assert len(seen) == len(peer)
        assert seen not in (bytes(4), bytes(16), pack("::1"))
        assert not (len(seen) == 4 and seen[0] == 127)


@given(translations, st.sampled_from([pack("127.0.0.1"), pack("::1")]))
def test_an_answer_to_the_hosts_loopback_leads_back_there(translation: Translation, peer: bytes) -> None:
    """Wherever a mapping shows it, for a port that is not the resolver's."""
    if any(len(visible) == len(peer) for visible in translation.host_loopback):
        seen = translation.inbound(peer, ())
        assert seen is not None
        assert translation.outbound(6, seen, 80) == Endpoint(peer, 80)
