cimport cython

from bucatini.wire.ip_fields cimport IpFields
from bucatini.wire.ipv4 cimport parse_ipv4
from bucatini.wire.ipv6 cimport parse_ipv6

@cython.final
cdef class IpView(IpFields):
    cpdef long parse(self, unsigned char[::1] buf, long at, long end)
