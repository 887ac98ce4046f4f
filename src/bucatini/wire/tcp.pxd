cimport cython

from bucatini.wire.octets cimport load32, store16, store32, store_bytes

@cython.final
cdef class TcpView:
    cdef public long source_port
    cdef public long destination_port
    cdef public long seq
    cdef public long ack
    cdef public long flags
    cdef public long window
    cdef public long checksum
    cdef public long urgent
    cdef public long options_at
    cdef public long payload_at
    cdef public long end

    @cython.locals(header=long)
    cpdef bint parse(self, unsigned char[::1] buf, long at, long end)

@cython.final
cdef class TcpOptions:
    cdef public long mss
    cdef public long window_scale
    cdef public bint sack_permitted
    cdef public bint timestamps

    @cython.locals(kind=long, length=long)
    cpdef void parse(self, unsigned char[::1] buf, long at, long end)

cpdef void emit_tcp(
    unsigned char[::1] buf,
    long at,
    long source_port,
    long destination_port,
    long seq,
    long ack,
    long flags,
    long window,
    bytes options=*,
)
