from libc.stdint cimport uint32_t

from bucatini.native.fast cimport Arena


cdef class Outbox:
    cdef unsigned char *buffer
    cdef uint32_t *lengths
    cdef Py_ssize_t head, tail, first, last
    cdef readonly Py_ssize_t size
    cdef readonly bint prefixed

    cpdef Py_ssize_t put(self, sock, Arena arena, Py_ssize_t at, Py_ssize_t length) except? -200000
    cpdef Py_ssize_t flush(self, sock) except? -200000
    cdef Py_ssize_t cut(
        self, unsigned char *frame, Py_ssize_t length, int kind, Py_ssize_t size, Py_ssize_t start, Py_ssize_t field
    ) except? -1
    cdef bint has_room(self, Py_ssize_t length, Py_ssize_t pieces) except -1
    cdef unsigned char *place(self, Py_ssize_t length) noexcept
    cdef Py_ssize_t add(self, sock, unsigned char *frame, Py_ssize_t length) except? -1
    cdef ssize_t send_batch(self, int fd) noexcept
