"""Who has which address, and until when: the leases of several guests. RFC 2131 sections 2.2, 3 and 4.3 say what a
server promises by one.

A pool holds addresses of one family: IPv4, or IPv6 in a pool of its own (an address for each lease in a prefix). They
come from networks that many guests share, or from a larger prefix cut into a network for each guest: of a /30 the
gateway is the first host, the guest the second. No network that overlaps one handed in as taken is ever used.

**What is promised.** An address is one MAC's until the end of its lease, whatever happens before. That holds after
RELEASE too (`quarantine`): a guest that said so may go on sending, and what others sent to its address is still under
way, so a new owner would be taken for the old one. An address that a guest declined, because somebody else answered
there, rests. A MAC gets back the address it had if that is free; any other gets one that nobody had, or else the one
whose lease ended first.

```text
free --offer--> OFFERED --request--> LEASED --release--> RELEASED
                   |                  |  |                  |
                   |                  |  +---decline---> DECLINED
                   +----- the end of each by the clock: free, remembered with its MAC
```

**Who is who.** The identity is the MAC, which `guard` holds against the frame; client identifiers are repeated by the
server and make nobody. One MAC has one lease. Whoever pretends to be many has to pretend on its own link: a link has
room for `identities` MACs, counted from the offer until the address is free again, and a MAC that holds something on
one link is not heard on another. `detach` says that the guest of a link is gone, so that the next guest there has room;
the leases run on to their ends, but count for nobody.

| can be made to grow | bound | beyond it |
|---|---|---|
| identities of a link | `identities` | silence |
| offers that nobody took up | `offers` | silence |
| addresses in use | `limit`, and the networks | silence, `PoolExhausted` once until an address is given again |
| addresses at rest after DECLINE | `declines` of a link, a quarter of the pool | as if released: no other instead |
| former owners | `remembered` | the oldest is forgotten |

All are counted by `LeaseRefusal`.

**Time** is handed in: seconds of a wall clock, not of a monotonic one, because leases survive a restart of the program
and of the machine. Best are the wall clock's seconds at the start plus what CLOCK_BOOTTIME counted since: then no step
of the wall clock ends a lease, and a suspended machine's leases age with the others. Time may go back: leases last
longer by that. When the clock stands before the beginning of a lease that was read from disk, it has been set back, and
the lease has its whole length before it; a clock set forward while nobody ran cannot be told from a long pause.

The values are in `leases`, the addresses in `address_plan`. Does not: read frames (`dhcp` does), write leases down
(`host.lease_file` does), heed the times that guests wish for, or probe whether somebody sits on an address.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

from bucatini.base.errors import ConfigError
from bucatini.services.address_plan import AddressPlan, LeaseRange, Network, Place
from bucatini.services.leases import (
    INFINITE,
    Lease,
    LeaseDeclined,
    LeaseEvent,
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

__all__ = ["DEFAULT_LEASE", "REST", "LeasePool", "PoolSettings"]

DEFAULT_LEASE = 600
"""Seconds, Softnet's: a /24 outlives 250 short guests in ten minutes, not 250 in a day."""

REST = 600.0
"""Seconds for which a declined address is nobody's; also what is left of an infinite lease when its guest is gone."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What is given and how much of it; times in seconds."""

    ranges: tuple[LeaseRange, ...]
    taken: tuple[Network, ...] = ()
    """Networks that are in use elsewhere, the host's for one, but no default routes. The other family's are ignored."""
    reserved: frozenset[bytes] = frozenset()
    """Single addresses that are somebody's already; of a network for each guest, the whole network."""
    lease: int = DEFAULT_LEASE
    """`INFINITE`: until `detach`."""
    quarantine: bool = True
    """False: a released address is free at once."""
    offer_time: float = 60.0
    """How long an offer stands, RFC 2131 section 4.3.1."""
    rest: float = REST
    identities: int = 1
    """MACs of one link."""
    offers: int = 256
    limit: int = 4096
    """Addresses that are not free."""
    declines: int = 4
    remembered: int = 4096


class _Hold:
    """An address that is not free. `mac` is who has it or, after DECLINE, had it; `link` is None once detached."""

    __slots__ = ("before", "link", "mac", "phase", "place", "since", "until")

    def __init__(self, mac: bytes, place: Place, phase: Phase, since: float, until: float, link: str | None) -> None:
        self.mac = mac
        self.place = place
        self.phase = phase
        self.since = since
        self.until = until
        self.link = link
        self.before: tuple[bytes, float] | None = None
        """What was remembered of the address, to be remembered again when an offer lapses."""


class LeasePool:
    """The leases of all guests. Raises ConfigError for networks and times that cannot be, or when none is left.

    A `mac` is 6 bytes, `now` is in seconds of a wall clock and may go back: then leases last longer. `link` names
    where the guest's frame came from. Guests' requests never raise.
    """

    def __init__(self, settings: PoolSettings) -> None:
        _check_times(settings)
        self.settings = settings
        self.counters: Counter[LeaseRefusal] = Counter()
        self._plan = AddressPlan(settings.ranges, settings.taken, settings.reserved)
        self._holds: dict[bytes, _Hold] = {}
        self._own: dict[bytes, _Hold] = {}
        """By MAC: what is offered to it, leased, or released and not over."""
        self._strangers = 0
        """Holds of addresses that are no more of the pool: leases given before a restart with other networks."""
        self._identities: Counter[str | None] = Counter()
        self._declined: Counter[str | None] = Counter()
        self._offers = 0
        self._remembered: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        """Free addresses that somebody had: MAC and end, the longest ended first."""
        self._old: dict[bytes, bytes] = {}
        """By MAC, the address of its last lease, if it is remembered."""
        self._cursor = 0
        self._told = False
        # One entry for each held address with an end, at that end or before; what is renewed is put off when its
        # entry comes up, so renewals add nothing.
        self._due: list[tuple[float, bytes]] = []
        self._due_at: dict[bytes, float] = {}

    # -- what is known

    def __len__(self) -> int:
        """Addresses that are not free: offered, leased, in quarantine, at rest."""
        return len(self._holds)

    @property
    def size(self) -> int:
        """Addresses there are in all."""
        return self._plan.size

    @property
    def deadline(self) -> float:
        """When `expire` is to be called; infinite while nothing ends. Never late, sometimes early."""
        return self._due[0][0] if self._due else inf

    def leases(self) -> tuple[Lease, ...]:
        """Every lease that is in use."""
        return tuple(_lease(hold) for hold in self._own.values() if hold.phase is Phase.LEASED)

    def lease_of(self, mac: bytes) -> Lease | None:
        """The lease of a MAC."""
        hold = self._own.get(mac)
        return _lease(hold) if hold is not None and hold.phase is Phase.LEASED else None

    def holder_of(self, address: bytes) -> bytes | None:
        """The MAC that has a lease of `address`."""
        hold = self._holds.get(address)
        return hold.mac if hold is not None and hold.phase is Phase.LEASED else None

    def place_of(self, mac: bytes) -> Place | None:
        """The address that is offered to a MAC, leased by it, or kept for it after its release."""
        hold = self._own.get(mac)
        return None if hold is None else hold.place

    def is_gateway(self, address: bytes) -> bool:
        """Whether some guest's gateway has the address: a message to it is for us."""
        return self._plan.is_gateway(address)

    # -- what guests ask for

    def offer(self, mac: bytes, now: float, link: str = "", wish: bytes | None = None) -> Outcome:
        """DISCOVER: the address the MAC has or had, its `wish` if nobody had that before, a new or the oldest one."""
        events = self.expire(now)
        hold = self._own.get(mac)
        refusal = self._stranger(hold, link)
        if refusal is not None:
            return self._refuse(refusal, events)
        if hold is not None:
            self._attach(hold, link)
            if hold.phase is Phase.OFFERED:
                hold.until = max(hold.until, now + self.settings.offer_time)
            return Outcome(_lease(hold), events)
        if self._offers >= self.settings.offers:
            return self._refuse(LeaseRefusal.OFFERS, events)
        place = None if len(self._holds) >= self.settings.limit else self._choose(mac, wish)
        if place is None:
            exhausted = () if self._told else (PoolExhausted(mac, link),)
            self._told = True
            return self._refuse(LeaseRefusal.EXHAUSTED, (*events, *exhausted))
        self._told = False
        return Outcome(_lease(self._take(place, mac, now, link)), events)

    def request(self, mac: bytes, address: bytes | None, now: float, link: str = "") -> Outcome:
        """REQUEST in any state: selecting, rebooting, renewing, rebinding. They differ in where the guest has the
        address from, and the answer does not depend on it: yes if it is the MAC's own, offered, leased, released or
        over and still free; NOT_YOURS if not. None asks for whatever is offered.

        A lease promised for longer than now, by an ACK that has another length, ends no earlier by this.
        """
        events = self.expire(now)
        hold = self._own.get(mac)
        refusal = self._stranger(hold, link)
        if refusal is not None:
            return self._refuse(refusal, events)
        if hold is None and address is not None and address == self._old.get(mac):
            place = self._plan.place(address)
            if place is not None and len(self._holds) < self.settings.limit:
                hold = self._take(place, mac, now, link)
        if hold is None or address not in (None, hold.place.address):
            return self._refuse(LeaseRefusal.NOT_YOURS, events)
        self._attach(hold, link)
        renewed, offered = hold.phase is Phase.LEASED, hold.phase is Phase.OFFERED
        self._offers -= offered
        promised = now if offered or hold.until == inf else hold.until
        until = inf if self.settings.lease == INFINITE else max(promised, now + self.settings.lease)
        hold.phase, hold.since, hold.until = Phase.LEASED, now, until
        self._schedule(hold)
        said = (LeaseRenewed if renewed else LeaseGranted)(mac, hold.place.address, until, link)
        return Outcome(_lease(hold), (*events, said))

    def withdraw(self, mac: bytes, now: float, link: str = "") -> Outcome:
        """A REQUEST to another server (RFC 2131 section 4.3.2): an offer of ours is off, a lease is not."""
        events = self.expire(now)
        hold = self._own.get(mac)
        if hold is not None and hold.phase is Phase.OFFERED and hold.link in (None, link):
            self._end(hold, now)
        return Outcome(None, events)

    def release(self, mac: bytes, address: bytes, now: float, link: str = "") -> Outcome:
        """RELEASE, of nothing but the MAC's own lease."""
        events = self.expire(now)
        hold = self._own.get(mac)
        refusal = _not_theirs(hold, address, link)
        if hold is None or refusal is not None or hold.phase is not Phase.LEASED:
            return self._refuse(refusal or LeaseRefusal.NOT_YOURS, events)
        if self.settings.quarantine:
            hold.phase = Phase.RELEASED
        else:
            self._end(hold, now)
        until = hold.until if self.settings.quarantine else now
        return Outcome(None, (*events, LeaseReleased(mac, address, until, link)))

    def decline(self, mac: bytes, address: bytes, now: float, link: str = "") -> Outcome:
        """DECLINE, of nothing but what the MAC was offered or leased. It rests, but never for less than its lease."""
        events = self.expire(now)
        hold = self._own.get(mac)
        refusal = _not_theirs(hold, address, link)
        if hold is None or refusal is not None:
            return self._refuse(refusal or LeaseRefusal.NOT_YOURS, events)
        resting = self._declined
        if resting[link] >= self.settings.declines or resting.total() >= max(1, self._plan.size // 4):
            if hold.phase is Phase.LEASED:
                hold.phase = Phase.RELEASED
            refusal = LeaseRefusal.DECLINES
            self.counters[refusal] += 1
        else:
            self._disown(hold)
            hold.link = link
            resting[link] += 1
            hold.phase, hold.since = Phase.DECLINED, now
            hold.until = max(now + self.settings.rest, hold.until if hold.until != inf else now)
            self._schedule(hold)
        return Outcome(None, (*events, LeaseDeclined(mac, address, hold.until, link)), refusal)

    # -- what the clock and the engine say

    def expire(self, now: float) -> tuple[LeaseEvent, ...]:
        """Frees what has come to its end. Every request does this first; call it at `deadline` to hear in time."""
        events: list[LeaseEvent] = []
        while self._due and self._due[0][0] <= now:
            until, address = heappop(self._due)
            if self._due_at.get(address) != until:
                continue  # an entry that an earlier one replaced
            del self._due_at[address]
            hold = self._holds.get(address)
            if hold is None:
                continue
            if hold.until > until:  # it comes up again, among the others in the order of their ends
                self._schedule(hold)
                continue
            self._end(hold, until)
            if hold.phase is Phase.LEASED:
                events.append(LeaseExpired(hold.mac, address, hold.link or ""))
        return tuple(events)

    def detach(self, link: str, now: float) -> None:
        """The guest of the link is gone for good. Its leases last to their ends, those for ever as long as a rest."""
        for hold in [hold for hold in self._holds.values() if hold.link == link]:
            self._let_go(hold, now)

    def dismiss(self, mac: bytes, now: float) -> None:
        """The same for one MAC, on whatever link: for leases read from disk whose guest is known never to come back."""
        hold = self._own.get(mac)
        if hold is not None:
            self._let_go(hold, now)

    def refuse(self, refusal: LeaseRefusal) -> None:
        """Counts what was refused before the pool was asked."""
        self.counters[refusal] += 1

    # -- a restart

    def records(self) -> tuple[LeaseRecord, ...]:
        """All that has to survive; offers have not. Former owners come first, the longest ended first of all."""
        ended = [
            LeaseRecord(address, mac, Phase.ENDED, end, end) for address, (mac, end) in self._remembered.items() if mac
        ]
        held = [
            LeaseRecord(hold.place.address, hold.mac, hold.phase, hold.since, hold.until)
            for hold in self._holds.values()
            if hold.phase is not Phase.OFFERED
        ]
        return (*ended, *held)

    def restore(self, records: Iterable[LeaseRecord], now: float) -> tuple[LeaseEvent, ...]:
        """Takes up what another run wrote down, before anything is asked; records of the other family are left alone.

        A lease of an address that is no more of the pool cannot be renewed, but is kept to its end, so that going back
        to the old networks breaks no promise.
        """
        events: list[LeaseEvent] = []
        past: list[LeaseRecord] = []
        for record in records:
            address, mac = record.address, record.mac
            if len(address) != self._plan.length or address in self._holds:
                continue
            since, until = min(record.since, now), record.until
            if until != inf:  # no different, unless the clock was set back
                until -= max(0.0, record.since - now)
            if record.phase in (Phase.ENDED, Phase.OFFERED) or until <= now:
                past.append(record)
                continue
            place = self._plan.place(address)
            where = place or Place(address, 8 * len(address), address)
            hold = _Hold(mac, where, record.phase, since, until, None)
            self._holds[address] = hold
            self._strangers += place is None
            self._schedule(hold)
            if record.phase is Phase.DECLINED:
                self._declined[None] += 1
            elif place is None or mac in self._own:
                hold.phase = Phase.RELEASED
            else:
                self._own[mac] = hold
            if hold.phase is Phase.LEASED:
                events.append(LeaseGranted(mac, address, until, ""))
        for record in sorted(past, key=lambda record: record.until):
            if record.address not in self._holds and self._plan.place(record.address) is not None:
                self._remember(record.address, b"" if record.phase is Phase.DECLINED else record.mac, record.until)
        return tuple(events)

    # -- inside

    def _stranger(self, hold: _Hold | None, link: str) -> LeaseRefusal | None:
        """Why whoever speaks on the link may not be heard as the MAC that has `hold`."""
        if hold is not None and hold.link is not None:
            return None if hold.link == link else LeaseRefusal.OTHER_LINK
        return LeaseRefusal.IDENTITIES if self._identities[link] >= self.settings.identities else None

    def _refuse(self, refusal: LeaseRefusal, events: tuple[LeaseEvent, ...]) -> Outcome:
        self.counters[refusal] += 1
        return Outcome(None, events, refusal)

    def _choose(self, mac: bytes, wish: bytes | None) -> Place | None:
        """A free address for a MAC that has none."""
        old = self._old.get(mac)
        if old is not None:
            return self._plan.place(old)
        if wish is not None and wish not in self._holds and wish not in self._remembered:
            place = self._plan.place(wish)
            if place is not None:
                return place
        fresh = self._fresh()
        return self._plan.place(next(iter(self._remembered))) if fresh is None and self._remembered else fresh

    def _fresh(self) -> Place | None:
        """The next address that is neither held nor remembered; each that is passed over is one of these."""
        if len(self._holds) - self._strangers + len(self._remembered) >= self._plan.size:
            return None
        while True:
            place = self._plan.at(self._cursor)
            self._cursor = (self._cursor + 1) % self._plan.size
            if place.address not in self._holds and place.address not in self._remembered:
                return place

    def _take(self, place: Place, mac: bytes, now: float, link: str) -> _Hold:
        """Offers a free address."""
        hold = _Hold(mac, place, Phase.OFFERED, now, now + self.settings.offer_time, None)
        hold.before = self._remembered.pop(place.address, None)
        if hold.before is not None and self._old.get(hold.before[0]) == place.address:
            del self._old[hold.before[0]]
        self._holds[place.address] = self._own[mac] = hold
        self._offers += 1
        self._attach(hold, link)
        self._schedule(hold)
        return hold

    def _attach(self, hold: _Hold, link: str) -> None:
        if hold.link is None:
            hold.link = link
            self._identities[link] += 1

    def _unlink(self, hold: _Hold) -> None:
        """What the link holds counts for nobody any more."""
        if hold.link is None:
            return
        if hold.phase is Phase.DECLINED:
            _discount(self._declined, hold.link)
            self._declined[None] += 1
        else:
            _discount(self._identities, hold.link)
        hold.link = None

    def _let_go(self, hold: _Hold, now: float) -> None:
        if hold.phase is Phase.OFFERED:
            self._end(hold, now)
            return
        self._unlink(hold)
        if hold.until == inf:
            hold.since, hold.until = min(hold.since, now), now + self.settings.rest
            self._schedule(hold)

    def _disown(self, hold: _Hold) -> None:
        self._unlink(hold)
        if self._own.get(hold.mac) is hold:
            del self._own[hold.mac]
        if hold.phase is Phase.OFFERED:
            self._offers -= 1

    def _end(self, hold: _Hold, end: float) -> None:
        """The address is free."""
        address, link = hold.place.address, hold.link
        if hold.phase is Phase.DECLINED:
            _discount(self._declined, link)
        else:
            self._disown(hold)
            hold.link = link  # for the event
        del self._holds[address]
        if self._plan.place(address) is None:
            self._strangers -= 1
        elif hold.phase is not Phase.OFFERED:
            self._remember(address, b"" if hold.phase is Phase.DECLINED else hold.mac, end)
        elif hold.before is not None:
            self._remember(address, *hold.before)
            self._remembered.move_to_end(address, last=False)

    def _remember(self, address: bytes, mac: bytes, end: float) -> None:
        self._remembered[address] = (mac, end)
        self._remembered.move_to_end(address)
        if mac and mac not in self._own:
            self._old[mac] = address
        while len(self._remembered) > self.settings.remembered:
            forgotten, (owner, _) = self._remembered.popitem(last=False)
            if self._old.get(owner) == forgotten:
                del self._old[owner]

    def _schedule(self, hold: _Hold) -> None:
        address = hold.place.address
        if hold.until < self._due_at.get(address, inf):
            self._due_at[address] = hold.until
            heappush(self._due, (hold.until, address))


def _check_times(settings: PoolSettings) -> None:
    if not 1 <= settings.lease <= INFINITE:
        raise ConfigError(f"--lease-time {settings.lease}: expected 1 to {INFINITE - 1} seconds, or infinite")


def _lease(hold: _Hold) -> Lease:
    return Lease(hold.mac, *hold.place, hold.since, hold.until, hold.link or "")


def _not_theirs(hold: _Hold | None, address: bytes, link: str) -> LeaseRefusal | None:
    """Why `hold` is not to be given back by who speaks on the link."""
    if hold is None or hold.place.address != address:
        return LeaseRefusal.NOT_YOURS
    return LeaseRefusal.OTHER_LINK if hold.link not in (None, link) else None


def _discount(counts: Counter[str | None], link: str | None) -> None:
    """One less; what is nought is forgotten, so that links that come and go leave nothing."""
    counts[link] -= 1
    if not counts[link]:
        del counts[link]
