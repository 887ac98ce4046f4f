cimport cython

from bucatini.wire.octets cimport store16

@cython.final
cdef class UdpView:
    cdef public long source_port
    cdef public long destination_port
    cdef public long length
    cdef public long checksum
    cdef public long payload_at
    cdef public long end

    @cython.locals(length=long)
    cpdef bint parse(self, unsigned char[::1] buf, long at, long end)

cpdef void emit_udp(
    unsigned char[::1] buf, long at, long source_port, long destination_port, long length, long checksum
)
