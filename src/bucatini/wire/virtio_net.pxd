cimport cython

@cython.final
cdef class VirtioNetHeader:
    cdef public long flags
    cdef public long gso_type
    cdef public long hdr_len
    cdef public long gso_size
    cdef public long csum_start
    cdef public long csum_offset

    cpdef void clear(self)

    cpdef void parse(self, unsigned char[::1] buf, long at)

    cpdef void emit(self, unsigned char[::1] buf, long at)
