"""The bounds and counters of the DNS forwarder. Does not: come from the user; resolv.conf has its own say."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters", "Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds. Each has a counter that says how often it was met."""

    per_try: float = 2.0
    """Seconds one resolver has before the next is asked too, unless resolv.conf says otherwise."""
    total: float = 5.0
    """Seconds until the guest is told SERVFAIL: what stub resolvers wait for one try (glibc RES_TIMEOUT)."""
    outstanding: int = 512
    """Queries that wait for resolvers, of all kinds; one more is answered SERVFAIL."""
    silences: int = 3
    """Times in a row a resolver must be silent to be asked after the others,"""
    demotion: float = 30.0
    """and for how many seconds it then is."""
    streams: int = 128
    """Streams of DNS over TCP; one more is closed at once."""
    stream_queries: int = 64
    """Queries of one stream that wait for resolvers; at the bound the stream is not read."""
    stream_output: int = 512 * 1024
    """Bytes of answers the guest has not read from one stream; beyond, the stream is closed."""
    stream_idle: float = 10.0
    """Seconds a stream may be without a whole query, or without taking its answers (RFC 7766 section 6.2.3)."""


@dataclass(slots=True)
class Counters:
    """What happened since the start. A query counts in one of the first eight after `queries`."""

    queries: int = 0
    """Messages from the guest, UDP and TCP."""
    malformed: int = 0
    """Shorter than a header: dropped."""
    response: int = 0
    """Responses sent by the guest: dropped."""
    notimp: int = 0
    formerr: int = 0
    refused: int = 0
    local: int = 0
    """Answered with the gateway's own addresses."""
    overloaded: int = 0
    """SERVFAIL because `Settings.outstanding` queries wait already."""
    forwarded: int = 0

    answered: int = 0
    """Forwarded and answered by a resolver, whatever the answer said."""
    failed: int = 0
    """Forwarded and answered SERVFAIL by us: no resolver did."""
    cancelled: int = 0
    """Forwarded and given up because the guest's stream or the forwarder ended."""
    truncated: int = 0
    """Answers we cut to the size the guest takes."""
    upstream_timeouts: int = 0
    """A resolver did not answer in its time."""
    upstream_errors: int = 0
    """A resolver could not be asked, or its stream broke."""
    upstream_refusals: int = 0
    """A resolver answered SERVFAIL, NOTIMP or REFUSED."""
    upstream_mismatches: int = 0
    """Messages from a resolver that did not answer our question: forged, late or broken."""
    streams: int = 0
    streams_refused: int = 0
    """Closed because `Settings.streams` are open already."""
    streams_idle: int = 0
    """Closed because nothing moved for `Settings.stream_idle`."""
    streams_overflowed: int = 0
    """Closed because of `Settings.stream_output`."""
