cimport cython


cdef class RuleTable:
    cdef public tuple allow, block
    cdef public frozenset hosts
    cdef public bint stateful
    cdef public _Direction _out, _in
    cdef public long _size

    @cython.locals(table=_Direction, node=_Ports)
    cpdef object find(self, object direction, bytes address, long port=*)
    cpdef long decide(self, object direction, bytes address, long port=*) except? -1


@cython.final
cdef class _Ports:
    cdef public _Ports parent
    cdef public list starts, rules


@cython.final
cdef class _Direction:
    cdef public object plain, ports
    cdef public long size
