cimport cython

from bucatini.native.fast cimport Arena as FastArena
from bucatini.native.fast_rings cimport Ring as FastRing


cdef class VhostUserLink:
    cdef public object name, door, positions, owner, control, device
    cdef public FastRing outward, inward
    cdef public object _offloads, _header, _body
    cdef public long header
    cdef public bint more, borrow, one_off, waits, joined
    cdef public list drops, kicks, calls, _descriptors

    @cython.locals(got=long, ring=FastRing)
    cpdef long receive(self, FastArena arena, long at, long stride, long count, list lengths) except? -200000
    cpdef done(self)
    @cython.locals(ring=FastRing)
    cpdef long pull(self, FastArena arena, object sock, long headers, long limit, long skip) except? -200000
    @cython.locals(ring=FastRing)
    cpdef long transmit(self, FastArena arena, long at, long length) except? -200000
    cpdef bint room(self) except -1
    @cython.locals(ring=FastRing, there=long)
    cpdef bint _has_room(self) except -1
    cpdef flush(self)
