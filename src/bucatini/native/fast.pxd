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
    cpdef bytes copy(self, Py_ssize_t at, Py_ssize_t length)
    cpdef move(self, Py_ssize_t to, Py_ssize_t at, Py_ssize_t length)
    cpdef Py_ssize_t read(self, int fd, Py_ssize_t at, Py_ssize_t length) except? -200000
    cpdef Py_ssize_t read_frames(self, int fd, Py_ssize_t at, Py_ssize_t stride, Py_ssize_t count, list lengths) except? -200000
    cpdef Py_ssize_t write(self, int fd, Py_ssize_t at, Py_ssize_t length) except? -200000
    cpdef Py_ssize_t send(self, sock, Py_ssize_t at, Py_ssize_t length) except? -200000
    cpdef Py_ssize_t send_pieces(self, sock, list pieces, Py_ssize_t count) except? -200000
    cpdef Py_ssize_t peek(self, sock, Py_ssize_t at, Py_ssize_t length, Py_ssize_t skip) except? -200000
    cpdef Py_ssize_t discard(self, sock, Py_ssize_t count) except? -200000
    cpdef Py_ssize_t set_peek_offset(self, sock, int offset) except? -200000
    cpdef Py_ssize_t send_space(self, sock) except? -200000
    cpdef Py_ssize_t send_datagrams(self, sock, list pieces, Py_ssize_t count, long gso_size) except? -200000
    cpdef Py_ssize_t receive_datagrams(self, sock, Py_ssize_t at, Py_ssize_t stride, Py_ssize_t count, list lengths, list cuts) except? -200000
