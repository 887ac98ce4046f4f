cimport cython

from bucatini.native.fast cimport Arena as FastArena

from bucatini.links.socket_link cimport SocketLink


cdef class UnixSeqpacketLink(SocketLink):
    cdef public list cuts

    @cython.locals(got=long)
    cpdef long receive(self, FastArena arena, long at, long stride, long count, list lengths) except? -200000


cdef class UnixDatagramLink(SocketLink):
    cdef public object local, remote, place, file, timer
    cdef public list cuts
    cdef public bint known, given

    @cython.locals(got=long)
    cpdef long receive(self, FastArena arena, long at, long stride, long count, list lengths) except? -200000
    cpdef long transmit(self, FastArena arena, long at, long length) except? -200000
    cpdef bint room(self) except -1
    cpdef long lost(self) except? -200000
