cimport cython

from bucatini.wire.octets cimport load16, load32, load_bytes


@cython.final
cdef class Binding:
    cdef public bytes mac, link_local, _seen
    cdef public long mac_high, mac_low, address, revision
    cdef public double margin, until, _seen_until
    cdef public frozenset gateways, servers, dns, _static_dns, _lease_dns, _named_dns
    cdef public dict _bound, _learned
    cdef public tuple _prefixes

    cpdef bint holds_ipv4(self, long address, double now) except -1
    cpdef bint _holds_other(self, long address, double now) except -1
    @cython.locals(seen=bytes, index=long)
    cpdef bint holds_ipv6(self, unsigned char[::1] buf, long at, double now) except -1
    cpdef double until_of(self, bytes address) except? -1
    cpdef bint is_mac(self, unsigned char[::1] buf, long at) except -1
