cimport cython


@cython.final
cdef class FlowTable:
    cdef public dict tcp, udp, icmp, spliced, waiting
    cdef public long limit, next_id, refused
