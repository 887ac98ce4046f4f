cimport cython


@cython.final
cdef class DatagramFlow:
    cdef public object guest, peer, host, direction, rule, sock, mate
    cdef public bytes key, template
    cdef public list pieces
    cdef public long id, protocol, fd, ip_sum, pseudo_sum, gso
    cdef public double timeout, last_active, deadline, armed_at, opened_at
    cdef public long sent, received
