cimport cython

from bucatini.native.fast cimport Arena as FastArena
from bucatini.native.fast_outbox cimport Outbox as FastOutbox


cdef class SocketLink:
    cdef public object name, door, sock, positions, owner
    cdef public FastOutbox outbox
    cdef public long fd, header
    cdef public bint more, one_off, waits, asked, full

    @cython.locals(took=long)
    cpdef long transmit(self, FastArena arena, long at, long length) except? -200000
    cpdef bint room(self) except -1
    cpdef flush(self)
    @cython.locals(left=long)
    cpdef drain(self)
    cpdef done(self)
    cpdef long lost(self) except? -200000
    cpdef leave(self)
