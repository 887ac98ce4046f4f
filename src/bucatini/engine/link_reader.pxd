cimport cython

from bucatini.native.fast cimport Arena as FastArena
from bucatini.stack.ingress cimport Ingress


@cython.final
cdef class LinkReader:
    cdef public FastArena arena
    cdef public object link, sink, judged, on_end, drop_events
    cdef public Ingress ingress
    cdef public list drops, lengths
    cdef public long frames, batch

    @cython.locals(count=long, index=long, at=long, length=long, reason=long, ingress=Ingress, positions=list)
    cpdef ready(self, long descriptor, long events, double now)
