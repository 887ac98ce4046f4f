cimport cython

from bucatini.engine.filter.passage cimport Passage


cdef class Filter:
    cdef public object parts, counters, reactor, loop, link, clock, ended, failure, _judged, _drop_events, _refusals
    cdef public list drops, _lengths, _host_lengths
    cdef public object arena
    cdef public Passage passage
    cdef public long _batch, _host_batch
    cdef public bint _has_more, _closed, _bug_seen
    cdef public double _now

    @cython.locals(count=long, index=long, at=long, length=long, reason=long, clock=double, positions=list)
    cpdef frames_ready(self, long descriptor, long events, double now)
    @cython.locals(count=long, index=long, reason=long, clock=double)
    cpdef host_ready(self, long descriptor, long events, double now)
    cpdef _dropped(self, long reason, long at, long end, double now)
    @cython.locals(due=double, clock=double)
    cpdef double _end_of_turn(self, double now) except? -1


cpdef long _next_batch(long batch, long count) noexcept
