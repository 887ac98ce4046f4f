cimport cython

from bucatini.guard.binding cimport Binding
from bucatini.guard.frame cimport Frame


@cython.final
cdef class Snoop:
    cdef public Binding binding
    cdef public bint faithful
    cdef public object _awaited, _declined, _identities
    cdef public double _lease_seconds

    cpdef long from_guest(self, Frame frame, double now) except? -1
    cpdef to_guest(self, Frame frame, double now)
