cimport cython

from bucatini.native.fast cimport Arena as FastArena


@cython.final
cdef class TapLink:
    cdef public long descriptor, header
    cdef public bint more
    cdef public object positions, _reactor

    cpdef long receive(self, FastArena arena, long at, long stride, long count, list lengths) except? -200000
    cpdef long transmit(self, FastArena arena, long at, long length) except? -200000
