"""bucatini.forward.auto: one decision each."""

from __future__ import annotations

from collections.abc import Iterable

from bucatini.forward.auto import DEFAULT_LIMIT, Plan, plan


def decide(
    tcp_bound: Iterable[int] = (),
    udp_bound: Iterable[int] = (),
    ours_tcp: Iterable[int] = (),
    ours_udp: Iterable[int] = (),
    open_tcp: Iterable[int] = (),
    open_udp: Iterable[int] = (),
    excluded: Iterable[int] = (),
    tcp: bool = True,
    udp: bool = False,
    limit: int = DEFAULT_LIMIT,
) -> Plan:
    return plan(
        tcp_bound=frozenset(tcp_bound),
        udp_bound=frozenset(udp_bound),
        ours_tcp=frozenset(ours_tcp),
        ours_udp=frozenset(ours_udp),
        open_tcp=frozenset(open_tcp),
        open_udp=frozenset(open_udp),
        excluded=frozenset(excluded),
        tcp=tcp,
        udp=udp,
        limit=limit,
    )


def test_nothing_bound_is_nothing_to_do() -> None:
    assert decide() == Plan()
    assert decide().empty


def test_new_ports_are_opened_and_vanished_ones_closed_in_order() -> None:
    steps = decide(tcp_bound=(9000, 80, 22), open_tcp=(22, 8080, 443))
    assert steps == Plan(open_tcp=(80, 9000), close_tcp=(443, 8080))
    assert not steps.empty


def test_what_is_open_already_stays() -> None:
    assert decide(tcp_bound=(80,), open_tcp=(80,)).empty


def test_udp_follows_tcp() -> None:
    assert decide(tcp_bound=(5201,), udp=True) == Plan(open_tcp=(5201,), open_udp=(5201,))
    assert decide(tcp_bound=(5201,), open_tcp=(5201,), open_udp=(5201,), udp=True).empty
    assert decide(open_udp=(5201,), udp=True) == Plan(close_udp=(5201,))


def test_tcp_does_not_follow_udp() -> None:
    assert decide(udp_bound=(53,), udp=True) == Plan(open_udp=(53,))


def test_udp_follows_tcp_also_where_tcp_is_not_automatic() -> None:
    assert decide(tcp_bound=(5201,), tcp=False, udp=True) == Plan(open_udp=(5201,))


def test_a_protocol_that_is_not_automatic_is_left_alone_or_closed() -> None:
    assert decide(tcp_bound=(80,), udp_bound=(53,), tcp=False).empty
    assert decide(tcp_bound=(80,), open_tcp=(80,), tcp=False) == Plan(close_tcp=(80,))


def test_our_own_listeners_are_not_forwarded_back() -> None:
    assert decide(tcp_bound=(80, 90), ours_tcp=(80,), udp=True) == Plan(open_tcp=(90,), open_udp=(90,))
    assert decide(udp_bound=(53, 54), ours_udp=(53,), udp=True) == Plan(open_udp=(54,))


def test_a_number_of_our_tcp_is_left_out_for_udp_and_not_the_other_way_round() -> None:
    assert decide(udp_bound=(5201,), ours_tcp=(5201,), udp=True).empty
    assert decide(tcp_bound=(5201,), ours_udp=(5201,), udp=True) == Plan(open_tcp=(5201,))


def test_a_port_that_became_ours_is_closed() -> None:
    assert decide(tcp_bound=(80,), ours_tcp=(80,), open_tcp=(80,)) == Plan(close_tcp=(80,))


def test_excluded_ports_are_never_opened_and_closed_if_open() -> None:
    steps = decide(tcp_bound=(22, 80), udp_bound=(53,), open_tcp=(22,), excluded=(22, 53), udp=True)
    assert steps == Plan(open_tcp=(80,), close_tcp=(22,), open_udp=(80,))


def test_at_the_limit_what_is_open_stays_and_the_rest_is_counted() -> None:
    steps = decide(tcp_bound=range(100, 200), open_tcp=(150, 199), limit=4)
    assert steps == Plan(open_tcp=(100, 101), dropped=96)
    kept = decide(tcp_bound=range(100, 200), open_tcp=(150, 199, 100, 101), limit=4)
    assert kept == Plan(dropped=96)
    assert kept.empty


def test_the_limit_is_for_each_protocol() -> None:
    steps = decide(tcp_bound=(1, 2, 3), udp_bound=(7,), udp=True, limit=2)
    assert steps == Plan(open_tcp=(1, 2), open_udp=(1, 2), dropped=3)
    assert decide(tcp_bound=(1, 2), open_tcp=(1, 2), limit=1) == Plan(close_tcp=(2,), dropped=1)
    assert decide(tcp_bound=range(1, 65536)) == Plan(
        open_tcp=tuple(range(1, DEFAULT_LIMIT + 1)), dropped=65535 - DEFAULT_LIMIT
    )
