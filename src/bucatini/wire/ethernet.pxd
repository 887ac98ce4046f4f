cimport cython

from bucatini.wire.octets cimport store_bytes

cpdef void emit_ethernet(unsigned char[::1] buf, long at, bytes destination, bytes source, long ethertype)
