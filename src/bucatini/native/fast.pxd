# What the other compiled modules of this package may touch of an arena: its memory, after `check`.

cdef unsigned long add_up(const unsigned char *data, Py_ssize_t length, unsigned long total) noexcept nogil


cdef class Arena:
    cdef unsigned char *base
    cdef unsigned char *scratch
    cdef readonly Py_ssize_t size
    cdef readonly object view
    cdef readonly long gso_size

    cdef int check(self, Py_ssize_t at, Py_ssize_t length) except -1
    cdef int check_slots(self, Py_ssize_t at, Py_ssize_t stride, Py_ssize_t count, Py_ssize_t most) except -1
