cimport cython


@cython.final
cdef class Deadlines:
    cdef list _heap
    cdef long _serial, _sweep_at

    cpdef arm(self, owner, double at)
    cpdef _sweep(self)
    cpdef double next(self) except? -1
    @cython.locals(heap=list, at=double)
    cpdef due(self, double now)
