cimport cython


cdef class VhostUserLink:
    cdef public object name, door, positions, owner, control, device, to_guest, from_guest
    cdef public object _offloads, _header, _body
    cdef public long header
    cdef public bint more, borrow, one_off, waits, joined
    cdef public list drops, kicks, _descriptors

    @cython.locals(got=long)
    cpdef long receive(self, object arena, long at, long stride, long count, list lengths) except? -200000
    cpdef done(self)
    cpdef long pull(self, object arena, object sock, long headers, long limit, long skip) except? -200000
    cpdef long transmit(self, object arena, long at, long length) except? -200000
    cpdef bint room(self) except -1
    cpdef bint _has_room(self) except -1
    cpdef flush(self)
