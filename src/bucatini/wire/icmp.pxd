cimport cython

from bucatini.wire.octets cimport store16

@cython.final
cdef class IcmpView:
    cdef public long type
    cdef public long code
    cdef public long checksum
    cdef public long identifier
    cdef public long sequence
    cdef public long payload_at
    cdef public long end

    cpdef bint parse(self, unsigned char[::1] buf, long at, long end)

cpdef void emit_icmp(
    unsigned char[::1] buf, long at, long kind, long code, long identifier, long sequence, long checksum=*
)
