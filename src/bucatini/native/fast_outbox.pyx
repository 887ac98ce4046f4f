# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled twin of `slow_outbox`: the same `Outbox`, with pointers and bare system calls.

What `slow_outbox` documents holds here. The frame's place in the arena is checked before a pointer is formed; every
offset that its virtio-net header gives is checked against its length.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EAGAIN, EINTR, EINVAL, EMSGSIZE, ENOBUFS, errno
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy, memmove, memset

from bucatini.native.fast cimport Arena, add_up, iovec


cdef extern from "Python.h":
    int PyObject_AsFileDescriptor(object o) except -1

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
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    ssize_t c_send "send"(int fd, const void *buf, size_t len, int flags)
    int c_sendmmsg "sendmmsg"(int fd, mmsghdr *vec, unsigned int n, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

cdef enum:
    VNET = 12
    NEEDS_CSUM = 1
    GSO_TCPV4 = 1
    GSO_TCPV6 = 4
    GSO_UDP_L4 = 5
    DIRECT = 8192
    MAX_BATCH = 64
    LARGEST = 65536 + 512
    QUEUE = 16384

MAX_FRAME = LARGEST


cdef inline unsigned int get16(const unsigned char *p) noexcept nogil:
    return p[0] << 8 | p[1]


cdef inline void put16(unsigned char *p, unsigned int value) noexcept nogil:
    p[0] = (value >> 8) & 0xFF
    p[1] = value & 0xFF


cdef inline unsigned int get32(const unsigned char *p) noexcept nogil:
    return <uint32_t> p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]


cdef inline void put32(unsigned char *p, unsigned int value) noexcept nogil:
    p[0] = value >> 24
    p[1] = (value >> 16) & 0xFF
    p[2] = (value >> 8) & 0xFF
    p[3] = value & 0xFF


cdef void complete(unsigned char *frame, Py_ssize_t length, Py_ssize_t start, Py_ssize_t field) noexcept nogil:
    cdef unsigned int total = add_up(frame + start, length - start, 0) ^ 0xFFFF
    if total == 0 and field - start == 6:
        total = 0xFFFF
    put16(frame + field, total)


cdef class Outbox:
    """As `slow_outbox.Outbox`."""

    def __cinit__(self, Py_ssize_t size, bint prefixed):
        if size < 2 * LARGEST:
            raise ValueError(f"an outbox of {size} bytes is too small: at least {2 * LARGEST}")
        self.size = size
        self.prefixed = prefixed
        self.buffer = <unsigned char *> PyMem_Malloc(size)
        self.lengths = <uint32_t *> PyMem_Malloc(QUEUE * sizeof(uint32_t))
        if self.buffer == NULL or self.lengths == NULL:
            raise MemoryError
        self.head = self.tail = self.first = self.last = 0

    def __dealloc__(self):
        PyMem_Free(self.buffer)
        PyMem_Free(self.lengths)

    @property
    def pending(self):
        return self.tail - self.head

    def clear(self):
        self.head = self.tail = self.first = self.last = 0

    cpdef Py_ssize_t put(self, sock, Arena arena, Py_ssize_t at, Py_ssize_t length) except? -200000:
        cdef unsigned char *view
        cdef unsigned char *frame
        cdef Py_ssize_t start, field
        if length < VNET + 14 or length > LARGEST:
            return -EINVAL
        arena.check(at, length)
        view = arena.base + at
        frame = view + VNET
        length -= VNET
        if not view[0] & NEEDS_CSUM:
            return self.add(sock, frame, length) if not view[1] else -EINVAL
        start = view[6] | view[7] << 8
        field = start + (view[8] | view[9] << 8)
        if field + 2 > length or start < 34 or field < start:
            return -EINVAL
        if not view[1]:
            complete(frame, length, start, field)
            return self.add(sock, frame, length)
        return self.cut(frame, length, view[1], view[4] | view[5] << 8, start, field)

    cdef Py_ssize_t cut(
        self, unsigned char *frame, Py_ssize_t length, int kind, Py_ssize_t size, Py_ssize_t start, Py_ssize_t field
    ) except? -1:
        cdef bint tcp = kind == GSO_TCPV4 or kind == GSO_TCPV6
        cdef bint v4 = get16(frame + 12) == 0x0800
        cdef Py_ssize_t headers, payload, pieces, index, part, whole
        cdef unsigned int sequence
        cdef unsigned long addresses, total
        cdef unsigned char *made
        if not size or (not tcp and kind != GSO_UDP_L4) or length < start + (20 if tcp else 8) or (not v4 and start < 54):
            return -EINVAL
        headers = start + ((frame[start + 12] >> 4) * 4 if tcp else 8)
        payload = length - headers
        if payload <= 0 or headers < start + 8 or field + 2 > headers:
            return -EINVAL
        pieces = (payload + size - 1) // size
        if not self.has_room(pieces * (headers + 4) + payload, pieces):
            return -EAGAIN
        sequence = get32(frame + start + 4)
        addresses = add_up(frame + 26, 8, 0) if v4 else add_up(frame + 22, 32, 0)
        for index in range(pieces):
            part = size if index < pieces - 1 else payload - index * size
            whole = headers + part
            made = self.place(whole)
            memcpy(made, frame, headers)
            memcpy(made + headers, frame + headers + index * size, part)
            if v4:
                put16(made + 16, whole - 14)
                put16(made + 24, 0)
                put16(made + 24, add_up(made + 14, start - 14, 0) ^ 0xFFFF)
            else:
                put16(made + 18, whole - 54)
            if tcp:
                put32(made + start + 4, sequence + <unsigned int> (index * size))
                if index < pieces - 1:
                    made[start + 13] &= 0xF6
            else:
                put16(made + start + 4, whole - start)
            total = addresses + (whole - start) + (6 if tcp else 17)
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            put16(made + field, total)
            complete(made, whole, start, field)
        return pieces

    cdef bint has_room(self, Py_ssize_t length, Py_ssize_t pieces) except -1:
        if self.size - self.tail < length and self.head:
            memmove(self.buffer, self.buffer + self.head, self.tail - self.head)
            self.tail -= self.head
            self.head = 0
        if not self.prefixed and self.last + pieces > QUEUE:
            memmove(self.lengths, self.lengths + self.first, (self.last - self.first) * sizeof(uint32_t))
            self.last -= self.first
            self.first = 0
            if self.last + pieces > QUEUE:
                return False
        return self.size - self.tail >= length

    cdef unsigned char *place(self, Py_ssize_t length) noexcept:
        """Where the next frame goes; `has_room` was asked."""
        cdef unsigned char *made
        if self.prefixed:
            put32(self.buffer + self.tail, length)
            self.tail += 4
        else:
            self.lengths[self.last] = length
            self.last += 1
        made = self.buffer + self.tail
        self.tail += length
        return made

    cdef Py_ssize_t add(self, sock, unsigned char *frame, Py_ssize_t length) except? -1:
        cdef ssize_t done
        cdef Py_ssize_t left
        if not self.has_room(length + 4, 1):
            return -EAGAIN
        if self.tail == self.head and length >= DIRECT:
            if self.prefixed:
                # The last bytes of the virtio-net header make room for the prefix: the frame leaves as it lies.
                put32(frame - 4, length)
                frame -= 4
                length += 4
            done = c_send(PyObject_AsFileDescriptor(sock), frame, length, MSG_DONTWAIT | MSG_NOSIGNAL)
            if done < 0:
                if errno != EAGAIN and errno != ENOBUFS and errno != EINTR:
                    return -errno
                done = 0
            if done == length:
                return 1
            if not self.prefixed:
                self.lengths[self.last] = length
                self.last += 1
            left = length - done
            memcpy(self.buffer + self.tail, frame + done, left)
            self.tail += left
            return 1
        memcpy(self.place(length), frame, length)
        return 1

    cpdef Py_ssize_t flush(self, sock) except? -200000:
        cdef int fd = PyObject_AsFileDescriptor(sock)
        cdef ssize_t done
        while self.tail > self.head:
            if self.prefixed:
                done = c_send(fd, self.buffer + self.head, self.tail - self.head, MSG_DONTWAIT | MSG_NOSIGNAL)
                if done > 0:
                    self.head += done
            else:
                done = self.send_batch(fd)
                if done < 0 and errno == EMSGSIZE:
                    # One that no buffer of the host's would hold is lost, and not in the way of the next.
                    self.head += self.lengths[self.first]
                    self.first += 1
                    continue
            if done < 0:
                if errno == EAGAIN or errno == ENOBUFS or errno == EINTR:
                    return self.tail - self.head
                return -errno
        self.head = self.tail = self.first = self.last = 0
        return 0

    cdef ssize_t send_batch(self, int fd) noexcept:
        cdef iovec parts[MAX_BATCH]
        cdef mmsghdr messages[MAX_BATCH]
        cdef unsigned char *at = self.buffer + self.head
        cdef Py_ssize_t count = min(self.last - self.first, <Py_ssize_t> MAX_BATCH)
        cdef Py_ssize_t index
        cdef ssize_t done
        memset(messages, 0, sizeof(mmsghdr) * count)
        for index in range(count):
            parts[index].iov_base = at
            parts[index].iov_len = self.lengths[self.first + index]
            at += self.lengths[self.first + index]
            messages[index].msg_hdr.msg_iov = &parts[index]
            messages[index].msg_hdr.msg_iovlen = 1
        done = c_sendmmsg(fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL)
        for index in range(done):
            self.head += self.lengths[self.first]
            self.first += 1
        return done
