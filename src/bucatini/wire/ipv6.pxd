cimport cython

from bucatini.wire.ip_fields cimport IpFields
from bucatini.wire.octets cimport load32, store16, store32, store_bytes

@cython.locals(payload=long)
cpdef long parse_ipv6(IpFields fields, unsigned char[::1] buf, long at, long end)

@cython.locals(named_at=long, next_at=long, seen=long, kind=long, length=long)
cdef long _walk(IpFields fields, unsigned char[::1] buf, long at)

cdef bint _is_rare(long kind)

@cython.locals(word=long)
cdef void _read_fragment(IpFields fields, unsigned char[::1] buf, long at)

cpdef void emit_ipv6(
    unsigned char[::1] buf,
    long at,
    long payload_length,
    long next_header,
    bytes source,
    bytes destination,
    long hop_limit=*,
    long traffic_class=*,
    long flow_label=*,
)

cpdef void emit_fragment_header(
    unsigned char[::1] buf, long at, long next_header, long offset, bint more_fragments, long identification
)
