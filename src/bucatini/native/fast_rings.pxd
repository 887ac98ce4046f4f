from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from bucatini.native.fast cimport Arena, iovec

cdef enum:
    REGIONS = 32
    PARTS = 1024


cdef class GuestMemory:
    cdef uint64_t guest[REGIONS]
    cdef uint64_t size[REGIONS]
    cdef uint64_t user[REGIONS]
    cdef unsigned char *base[REGIONS]
    cdef Py_buffer buffers[REGIONS]
    cdef readonly Py_ssize_t count

    cdef unsigned char *find(self, uint64_t guest, uint64_t size) noexcept nogil
    cdef unsigned char *find_user(self, uint64_t user, uint64_t size) noexcept nogil


cdef class Ring:
    cdef readonly GuestMemory memory
    cdef readonly Py_ssize_t size
    cdef public bint event_index, mergeable, broken
    cdef readonly list drops
    cdef public unsigned int next
    cdef unsigned char *descriptors
    cdef unsigned char *available
    cdef unsigned char *used
    cdef uint16_t used_index, signalled
    cdef uint16_t waiting[64]
    cdef Py_ssize_t waiting_count
    cdef Py_ssize_t filled
    cdef iovec parts[PARTS]
    cdef Py_ssize_t part_count
    cdef uint16_t heads[PARTS]
    cdef uint32_t sizes[PARTS]
    cdef Py_ssize_t chain_count
    cdef Arena lender  # whose slots hold borrowed payload until `finish`

    cpdef Py_ssize_t count(self) except -1
    cpdef Py_ssize_t receive(
        self, Arena arena, Py_ssize_t at, Py_ssize_t stride, Py_ssize_t count, list lengths, bint borrow
    ) except? -200000
    cpdef bint holds(self, Py_ssize_t length) except -1
    cpdef finish(self)
    cpdef Py_ssize_t peek(
        self, Arena arena, sock, Py_ssize_t headers, Py_ssize_t limit, Py_ssize_t skip
    ) except? -200000
    cpdef Py_ssize_t write(self, Arena arena, Py_ssize_t at, Py_ssize_t length) except? -200000
    cpdef bint notify(self, int descriptor) except -1
    cpdef bint listen(self) except -1
    cpdef ignore(self)
    cdef Py_ssize_t ahead(self) except -1
    cdef int take(self, bint writable, Py_ssize_t ahead, uint16_t *head, Py_ssize_t *total) noexcept
    cdef return_borrowed(self)
    cdef void give_back(self, uint16_t head, uint32_t length) noexcept nogil
    cdef Py_ssize_t gather(self, Py_ssize_t wanted) except -1
    cdef void drop_gathered(self) noexcept
