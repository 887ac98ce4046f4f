cimport cython

from bucatini.native.fast cimport Arena as FastArena


@cython.final
cdef class PacketLink:
    cdef public object name, sock, positions, owner
    cdef public long header, shift, mtu, identification
    cdef public bint more
    cdef public list cuts

    @cython.locals(got=long, shift=long, index=long)
    cpdef long receive(self, FastArena arena, long at, long stride, long count, list lengths) except? -200000
    @cython.locals(shift=long, done=long)
    cpdef long transmit(self, FastArena arena, long at, long length) except? -200000
