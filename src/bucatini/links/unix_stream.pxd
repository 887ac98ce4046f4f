cimport cython

from bucatini.native.fast cimport Arena as FastArena

from bucatini.links.socket_link cimport SocketLink
from bucatini.wire.octets cimport load32


cdef class UnixStreamLink(SocketLink):
    cdef public long begin, end

    @cython.locals(got=long)
    cpdef long receive(self, FastArena arena, long at, long stride, long count, list lengths) except? -200000
    @cython.locals(left=long, got=long)
    cpdef long _read(self, FastArena arena, long at, long size) except? -200000
    @cython.locals(positions=list, begin=long, end=long, found=long, most=long, length=long)
    cpdef long _hand_out(self, unsigned char[::1] view, list lengths) except? -200000
