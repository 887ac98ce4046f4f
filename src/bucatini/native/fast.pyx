# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled twin of `slow`: the same `Arena`, on malloc'ed memory, with the bare system calls.

What `slow` documents holds here word for word. Every method checks position and length against the arena before a pointer
is formed; lists of positions are checked item by item. The GIL is kept: all calls are non-blocking and short.
"""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EAGAIN, EINTR, EMSGSIZE, errno
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset


cdef extern from "Python.h":
    int PyObject_AsFileDescriptor(object o) except -1
    bytes PyBytes_FromStringAndSize(const char *v, Py_ssize_t length)

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void *buf, size_t count)
    ssize_t c_write "write"(int fd, const void *buf, size_t count)

cdef extern from "<sys/socket.h>" nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    """
    ctypedef unsigned int socklen_t
    cdef struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    ssize_t c_send "send"(int fd, const void *buf, size_t len, int flags)
    ssize_t c_recv "recv"(int fd, void *buf, size_t len, int flags)
    ssize_t c_recvmsg "recvmsg"(int fd, msghdr *msg, int flags)
    ssize_t c_sendmsg "sendmsg"(int fd, const msghdr *msg, int flags)
    int c_recvmmsg "recvmmsg"(int fd, mmsghdr *vec, unsigned int n, int flags, void *timeout)
    int c_sendmmsg "sendmmsg"(int fd, mmsghdr *vec, unsigned int n, int flags)
    int c_getsockopt "getsockopt"(int fd, int level, int name, void *value, socklen_t *length)
    int c_setsockopt "setsockopt"(int fd, int level, int name, const void *value, socklen_t length)
    cmsghdr *CMSG_FIRSTHDR(msghdr *msg)
    cmsghdr *CMSG_NXTHDR(msghdr *msg, cmsghdr *cmsg)
    unsigned char *CMSG_DATA(cmsghdr *cmsg)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)
    int SOL_SOCKET, MSG_PEEK, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_TRUNC

cdef enum:
    SO_PEEK_OFF = 42
    SO_MEMINFO = 55
    SOL_UDP = 17
    UDP_SEGMENT = 103
    UDP_GRO = 104
    MAX_BATCH = 64
    MAX_PIECES = 512
    SCRATCH = 1 << 18
    CONTROL = 64


cdef int _one = 1
cdef bint LITTLE_ENDIAN = (<unsigned char *> &_one)[0] == 1


cdef unsigned long add_up(const unsigned char *data, Py_ssize_t length, unsigned long total) noexcept nogil:
    """Sum in 32-bit big-endian-agnostic words: the ones' complement sum may be taken in any byte order (RFC 1071, 2B)."""
    cdef uint64_t wide = 0
    cdef const uint32_t *words = <const uint32_t *> data
    cdef Py_ssize_t count = length >> 2
    cdef Py_ssize_t index
    cdef unsigned int tail = 0
    for index in range(count):
        wide += words[index]
    index = count << 2
    if length & 2:
        wide += (<const uint16_t *> (data + index))[0]
        index += 2
    if length & 1:
        wide += data[index]
    while wide >> 16:
        wide = (wide & 0xFFFF) + (wide >> 16)
    if LITTLE_ENDIAN:
        wide = ((wide & 0xFF) << 8) | (wide >> 8)
    wide += total
    while wide >> 16:
        wide = (wide & 0xFFFF) + (wide >> 16)
    return wide


def checksum(data, unsigned long initial=0):
    """As `slow.checksum`."""
    cdef Py_buffer buffer
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    try:
        return add_up(<const unsigned char *> buffer.buf, buffer.len, initial)
    finally:
        PyBuffer_Release(&buffer)


cdef class Arena:
    """As `slow.Arena`."""

    def __cinit__(self, Py_ssize_t size):
        self.size = size
        self.base = <unsigned char *> calloc(1, size)
        self.scratch = <unsigned char *> calloc(1, SCRATCH)
        self.loans = <Loan *> calloc(LOANS, sizeof(Loan))
        if self.base == NULL or self.scratch == NULL or self.loans == NULL:
            raise MemoryError
        self.loan_count = 0
        self.gso_size = 0

    def __init__(self, Py_ssize_t size):
        self.view = memoryview(_Memory.of(self))

    def __dealloc__(self):
        free(self.base)
        free(self.scratch)
        free(self.loans)

    cdef int check(self, Py_ssize_t at, Py_ssize_t length) except -1:
        if at < 0 or length < 0 or at > self.size or length > self.size - at:
            raise ValueError(f"{length} bytes at {at} are outside an arena of {self.size}")
        return 0

    cdef int check_slots(self, Py_ssize_t at, Py_ssize_t stride, Py_ssize_t count, Py_ssize_t most) except -1:
        if stride <= 0 or count < 1 or count > most or stride > self.size // count:
            raise ValueError(f"bad slots: {count} of {stride} bytes, {most} at most")
        return self.check(at, stride * count)

    cdef bint borrow(self, Py_ssize_t at, Py_ssize_t total, const iovec *parts, Py_ssize_t count) noexcept:
        """The frame of `total` bytes at `at`, of which the first 256 were copied, is where `parts` lie.

        False, and nothing is noted, when there is no place for it; `return_borrowed` ends it.
        """
        cdef Loan *loan
        cdef Py_ssize_t index
        if self.loan_count >= LOANS or count > LOAN_PARTS:
            return False
        loan = &self.loans[self.loan_count]
        loan.begin = at
        loan.end = at + total
        loan.count = count
        for index in range(count):
            loan.parts[index] = parts[index]
        self.loan_count += 1
        return True

    cdef void return_borrowed(self) noexcept:
        self.loan_count = 0

    cdef Loan *loan_at(self, Py_ssize_t at, Py_ssize_t length) noexcept:
        """The loan that these bytes, checked before, lie in; NULL for almost all."""
        cdef Py_ssize_t index
        for index in range(self.loan_count):
            if self.loans[index].begin <= at and at + length <= self.loans[index].end:
                return &self.loans[index]
        return NULL

    cdef Py_ssize_t cut(self, Loan *loan, Py_ssize_t at, Py_ssize_t length, iovec *into) noexcept:
        """The pieces, into an array of LOAN_PARTS, that hold `length` bytes from `at` on. How many."""
        cdef Py_ssize_t skip = at - loan.begin
        cdef Py_ssize_t index, size, found = 0
        for index in range(loan.count):
            size = loan.parts[index].iov_len
            if skip >= size:
                skip -= size
                continue
            into[found].iov_base = <unsigned char *> loan.parts[index].iov_base + skip
            into[found].iov_len = min(size - skip, length)
            length -= into[found].iov_len
            skip = 0
            found += 1
            if length <= 0:
                break
        return found

    cpdef bytes copy(self, Py_ssize_t at, Py_ssize_t length):
        cdef iovec parts[LOAN_PARTS]
        cdef Loan *loan
        cdef Py_ssize_t count, index
        self.check(at, length)
        if self.loan_count and length:
            loan = self.loan_at(at, length)
            if loan != NULL and at + length > loan.begin + 256:
                count = self.cut(loan, at, length, parts)
                return b"".join(
                    [PyBytes_FromStringAndSize(<char *> parts[index].iov_base, parts[index].iov_len) for index in range(count)]
                )
        return PyBytes_FromStringAndSize(<char *> self.base + at, length)

    cpdef move(self, Py_ssize_t to, Py_ssize_t at, Py_ssize_t length):
        self.check(to, length)
        self.check(at, length)
        memmove(self.base + to, self.base + at, length)

    cpdef Py_ssize_t read(self, int fd, Py_ssize_t at, Py_ssize_t length) except? -200000:
        self.check(at, length)
        cdef ssize_t got = c_read(fd, self.base + at, length)
        return got if got >= 0 else -errno

    cpdef Py_ssize_t read_frames(self, int fd, Py_ssize_t at, Py_ssize_t stride, Py_ssize_t count, list lengths) except? -200000:
        cdef Py_ssize_t index
        cdef ssize_t got
        self.check_slots(at, stride, count, len(lengths))
        for index in range(count):
            got = c_read(fd, self.base + at + index * stride, stride)
            if got <= 0:
                return index if index or got == 0 else -errno
            lengths[index] = got
        return count

    cpdef Py_ssize_t write(self, int fd, Py_ssize_t at, Py_ssize_t length) except? -200000:
        self.check(at, length)
        cdef ssize_t done = c_write(fd, self.base + at, length)
        return done if done >= 0 else -errno

    cpdef Py_ssize_t send(self, sock, Py_ssize_t at, Py_ssize_t length) except? -200000:
        cdef iovec parts[LOAN_PARTS]
        cdef msghdr message
        cdef Loan *loan = NULL
        cdef ssize_t done
        self.check(at, length)
        if self.loan_count:
            loan = self.loan_at(at, length)
        if loan != NULL:
            memset(&message, 0, sizeof(message))
            message.msg_iov = parts
            message.msg_iovlen = self.cut(loan, at, length, parts)
            done = c_sendmsg(PyObject_AsFileDescriptor(sock), &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            done = c_send(PyObject_AsFileDescriptor(sock), self.base + at, length, MSG_DONTWAIT | MSG_NOSIGNAL)
        return done if done >= 0 else -errno

    cpdef Py_ssize_t send_pieces(self, sock, list pieces, Py_ssize_t count) except? -200000:
        cdef iovec parts[MAX_PIECES]
        cdef msghdr message
        cdef Loan *loan
        cdef Py_ssize_t index, at, length, used = 0
        cdef ssize_t done
        if count < 1 or count > MAX_BATCH or 2 * count > len(pieces):
            raise ValueError("bad count")
        for index in range(count):
            at = pieces[2 * index]
            length = pieces[2 * index + 1]
            self.check(at, length)
            loan = self.loan_at(at, length) if self.loan_count else NULL
            if used + (LOAN_PARTS if loan != NULL else 1) > MAX_PIECES:
                break
            if loan != NULL:
                used += self.cut(loan, at, length, parts + used)
            else:
                parts[used].iov_base = self.base + at
                parts[used].iov_len = length
                used += 1
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts
        message.msg_iovlen = used
        done = c_sendmsg(PyObject_AsFileDescriptor(sock), &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        return done if done >= 0 else -errno

    cpdef Py_ssize_t peek(self, sock, Py_ssize_t at, Py_ssize_t length, Py_ssize_t skip) except? -200000:
        self.check(at, length)
        cdef int fd = PyObject_AsFileDescriptor(sock)
        cdef iovec parts[2]
        cdef msghdr message
        cdef ssize_t got
        if skip <= 0:
            got = c_recv(fd, self.base + at, length, MSG_PEEK | MSG_DONTWAIT)
            return got if got >= 0 else -errno
        if skip > SCRATCH:
            return -EMSGSIZE
        memset(&message, 0, sizeof(message))
        parts[0].iov_base = self.scratch
        parts[0].iov_len = skip
        parts[1].iov_base = self.base + at
        parts[1].iov_len = length
        message.msg_iov = parts
        message.msg_iovlen = 2
        got = c_recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT)
        if got < 0:
            return -errno
        if got == 0:
            return 0
        return got - skip if got > skip else -EAGAIN

    cpdef Py_ssize_t discard(self, sock, Py_ssize_t count) except? -200000:
        cdef int fd = PyObject_AsFileDescriptor(sock)
        cdef Py_ssize_t done = 0
        cdef ssize_t got
        while done < count:
            got = c_recv(fd, self.scratch, min(count - done, SCRATCH), MSG_TRUNC | MSG_DONTWAIT)
            if got < 0:
                return done if done else -errno
            if got == 0:
                break
            done += got
        return done

    cpdef Py_ssize_t set_peek_offset(self, sock, int offset) except? -200000:
        if c_setsockopt(PyObject_AsFileDescriptor(sock), SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0:
            return -errno
        return 0

    cpdef Py_ssize_t send_space(self, sock) except? -200000:
        cdef uint32_t info[9]
        cdef socklen_t length = sizeof(info)
        if c_getsockopt(PyObject_AsFileDescriptor(sock), SOL_SOCKET, SO_MEMINFO, info, &length) < 0 or length < sizeof(info):
            return 0
        return <long> info[3] - <long> info[5]

    cpdef Py_ssize_t send_datagrams(self, sock, list pieces, Py_ssize_t count, long gso_size) except? -200000:
        cdef int fd = PyObject_AsFileDescriptor(sock)
        cdef iovec parts[MAX_BATCH]
        cdef mmsghdr messages[MAX_BATCH]
        cdef unsigned char control[CONTROL]
        cdef cmsghdr *item
        cdef msghdr message
        cdef Py_ssize_t index, at, length
        cdef ssize_t done
        if count < 1 or count > MAX_BATCH or 2 * count > len(pieces):
            raise ValueError("bad count")
        for index in range(count):
            at = pieces[2 * index]
            length = pieces[2 * index + 1]
            self.check(at, length)
            parts[index].iov_base = self.base + at
            parts[index].iov_len = length
        if gso_size:
            memset(&message, 0, sizeof(message))
            memset(control, 0, CONTROL)
            message.msg_iov = parts
            message.msg_iovlen = count
            message.msg_control = control
            message.msg_controllen = CMSG_SPACE(2)
            item = CMSG_FIRSTHDR(&message)
            item.cmsg_level = SOL_UDP
            item.cmsg_type = UDP_SEGMENT
            item.cmsg_len = CMSG_LEN(2)
            (<uint16_t *> CMSG_DATA(item))[0] = <uint16_t> gso_size
            done = c_sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            return count if done >= 0 else -errno
        if count == 1:
            done = c_send(fd, parts[0].iov_base, parts[0].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL)
            return 1 if done >= 0 else -errno
        memset(messages, 0, sizeof(mmsghdr) * count)
        for index in range(count):
            messages[index].msg_hdr.msg_iov = &parts[index]
            messages[index].msg_hdr.msg_iovlen = 1
        done = c_sendmmsg(fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL)
        return done if done >= 0 else -errno

    def receive_datagram(self, sock, Py_ssize_t at, Py_ssize_t length):
        cdef list lengths = [0]
        cdef list cuts = [0]
        cdef long got = self.receive_datagrams(sock, at, length, 1, lengths, cuts)
        if got < 0:
            return got
        self.gso_size = cuts[0]
        return lengths[0]

    cpdef Py_ssize_t receive_datagrams(self, sock, Py_ssize_t at, Py_ssize_t stride, Py_ssize_t count, list lengths, list cuts) except? -200000:
        cdef int fd = PyObject_AsFileDescriptor(sock)
        cdef iovec parts[MAX_BATCH]
        cdef mmsghdr messages[MAX_BATCH]
        cdef unsigned char controls[MAX_BATCH * CONTROL]
        cdef cmsghdr *item
        cdef Py_ssize_t index
        cdef int got
        cdef long cut
        self.check_slots(at, stride, count, min(len(lengths), len(cuts), MAX_BATCH))
        memset(messages, 0, sizeof(mmsghdr) * count)
        for index in range(count):
            parts[index].iov_base = self.base + at + index * stride
            parts[index].iov_len = stride
            messages[index].msg_hdr.msg_iov = &parts[index]
            messages[index].msg_hdr.msg_iovlen = 1
            messages[index].msg_hdr.msg_control = controls + index * CONTROL
            messages[index].msg_hdr.msg_controllen = CONTROL
        got = c_recvmmsg(fd, messages, count, MSG_DONTWAIT, NULL)
        if got < 0:
            return -errno
        for index in range(got):
            cut = 0
            item = CMSG_FIRSTHDR(&messages[index].msg_hdr)
            while item != NULL:
                if item.cmsg_level == SOL_UDP and item.cmsg_type == UDP_GRO:
                    cut = (<int32_t *> CMSG_DATA(item))[0]
                item = CMSG_NXTHDR(&messages[index].msg_hdr, item)
            lengths[index] = -EMSGSIZE if messages[index].msg_hdr.msg_flags & MSG_TRUNC else messages[index].msg_len
            cuts[index] = cut
        return got


cdef class _Memory:
    """The buffer face of an arena; it keeps the arena alive for as long as any view of it exists."""

    cdef Arena arena

    @staticmethod
    cdef _Memory of(Arena arena):
        cdef _Memory memory = _Memory.__new__(_Memory)
        memory.arena = arena
        return memory

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.arena.base, self.arena.size, 0, flags)
