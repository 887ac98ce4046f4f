cimport cython


@cython.final
cdef class FlowTable:
    cdef public dict tcp, udp, icmp, spliced, waiting
    cdef public object numbers
    cdef public long limit, refused
