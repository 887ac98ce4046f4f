cimport cython

cdef class IpFields:
    cdef public long version
    cdef public long header_at
    cdef public long payload_at
    cdef public long end
    cdef public long source_at
    cdef public long destination_at
    cdef public long address_length
    cdef public long protocol
    cdef public long hop_limit
    cdef public long traffic_class
    cdef public bint fragment
    cdef public long fragment_offset
    cdef public bint more_fragments
    cdef public long identification
    cdef public bint dont_fragment
    cdef public long extension_at
    cdef public long fragment_header_at
    cdef public bint source_route
