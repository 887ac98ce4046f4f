# What the other compiled modules of this package may touch of an arena: its memory, after `check`.

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef enum:
    LOANS = 64
    LOAN_PARTS = 64


cdef struct Loan:
    Py_ssize_t begin
    Py_ssize_t end
    Py_ssize_t count
    iovec parts[LOAN_PARTS]


cdef unsigned long add_up(const unsigned char *data, Py_ssize_t length, unsigned long total) noexcept nogil


cdef class Arena:
    cdef unsigned char *base
    cdef unsigned char *scratch
    cdef Loan *loans
    cdef Py_ssize_t loan_count
    cdef readonly Py_ssize_t size
    cdef readonly object view
    cdef readonly long gso_size

    cdef int check(self, Py_ssize_t at, Py_ssize_t length) except -1
    cdef int check_slots(self, Py_ssize_t at, Py_ssize_t stride, Py_ssize_t count, Py_ssize_t most) except -1
    cdef bint borrow(self, Py_ssize_t at, Py_ssize_t total, const iovec *parts, Py_ssize_t count) noexcept
    cdef void return_borrowed(self) noexcept
    cdef Loan *loan_at(self, Py_ssize_t at, Py_ssize_t length) noexcept
    cdef Py_ssize_t cut(self, Loan *loan, Py_ssize_t at, Py_ssize_t length, iovec *into) noexcept
