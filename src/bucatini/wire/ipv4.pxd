cimport cython

from bucatini.wire.ip_fields cimport IpFields
from bucatini.wire.octets cimport store16, store_bytes

@cython.locals(header=long, total=long)
cpdef long parse_ipv4(IpFields fields, unsigned char[::1] buf, long at, long end)

@cython.locals(word=long)
cdef void _fill(IpFields fields, unsigned char[::1] buf, long at, long header, long total)

@cython.locals(kind=long, length=long)
cdef bint _options_ok(IpFields fields, unsigned char[::1] buf, long at, long end)

@cython.locals(high=long, low=long, total=long, i=long)
cpdef long header_sum(unsigned char[::1] buf, long at, long length)

cpdef void emit_ipv4(
    unsigned char[::1] buf,
    long at,
    long total_length,
    long protocol,
    bytes source,
    bytes destination,
    long hop_limit=*,
    long identification=*,
    long fragment_field=*,
    long traffic_class=*,
)
