# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled twin of `slow_rings`: the same `GuestMemory` and `Ring`, with pointers into the guest's memory.

What `slow_rings` documents holds here. Indices, flags and addresses in guest memory are read once each, with atomic
loads, into locals that are checked before a pointer is formed from them; so what the guest changes meanwhile changes
nothing that was checked. Payload may change while it is copied, which harms whoever changes it.
"""

from cpython.buffer cimport PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EAGAIN, EMSGSIZE, ENOBUFS, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from bucatini.base.reasons import DropReason
from bucatini.native.fast cimport Arena, iovec


cdef extern from *:
    """
    #include <endian.h>
    #include <stdint.h>
    static inline uint16_t ring_load16(const unsigned char *p)
    { return le16toh(__atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED)); }
    static inline uint16_t ring_acquire16(const unsigned char *p)
    { return le16toh(__atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE)); }
    static inline uint32_t ring_load32(const unsigned char *p)
    { return le32toh(__atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED)); }
    static inline uint64_t ring_load64(const unsigned char *p)
    { return le64toh(__atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED)); }
    static inline void ring_store16(unsigned char *p, uint16_t v)
    { __atomic_store_n((uint16_t *)p, htole16(v), __ATOMIC_RELAXED); }
    static inline void ring_release16(unsigned char *p, uint16_t v)
    { __atomic_store_n((uint16_t *)p, htole16(v), __ATOMIC_RELEASE); }
    static inline void ring_store32(unsigned char *p, uint32_t v)
    { __atomic_store_n((uint32_t *)p, htole32(v), __ATOMIC_RELAXED); }
    static inline void ring_fence(void)
    { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    """
    uint16_t ring_load16(const unsigned char *p) nogil
    uint16_t ring_acquire16(const unsigned char *p) nogil
    uint32_t ring_load32(const unsigned char *p) nogil
    uint64_t ring_load64(const unsigned char *p) nogil
    void ring_store16(unsigned char *p, uint16_t v) nogil
    void ring_release16(unsigned char *p, uint16_t v) nogil
    void ring_store32(unsigned char *p, uint32_t v) nogil
    void ring_fence() nogil

cdef extern from "Python.h":
    int PyObject_AsFileDescriptor(object o) except -1

cdef extern from "<unistd.h>" nogil:
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
    ssize_t c_recvmsg "recvmsg"(int fd, msghdr *msg, int flags)
    int MSG_PEEK, MSG_DONTWAIT

cdef enum:
    LARGEST_RING = 32768
    LARGEST = 65536 + 1024
    NEXT = 1
    WRITE = 2
    INDIRECT = 4
    SCRATCH = 1 << 18
    LOOKS = 8
    LONGEST_HEADERS = 128
    BORROW = 4096  # bytes from which on payload may stay where it is
    HEAD = 256  # bytes of a borrowed frame that are copied: all its headers

MAX_REGIONS = REGIONS
cdef int RING_ADDRESS = int(DropReason.RING_ADDRESS)
cdef int RING_CHAIN = int(DropReason.RING_CHAIN)
cdef int RING_BROKEN = int(DropReason.RING_BROKEN)
cdef int OVERSIZE = int(DropReason.OVERSIZE)


cdef class GuestMemory:
    """As `slow_rings.GuestMemory`."""

    def __cinit__(self):
        self.count = 0

    def __dealloc__(self):
        self.clear()

    def add(self, guest, size, user, mapping, offset):
        cdef Py_ssize_t index
        cdef uint64_t g, s, u
        if self.count >= REGIONS or size <= 0 or offset < 0 or guest < 0 or user < 0:
            return False
        if guest + size > 1 << 64 or user + size > 1 << 64 or offset + size > len(mapping):
            return False
        g, s, u = guest, size, user
        for index in range(self.count):
            # Written without sums, which could wrap at the end of the address space.
            if (g - self.guest[index] < self.size[index]) or (self.guest[index] - g < s):
                return False
            if (u - self.user[index] < self.size[index]) or (self.user[index] - u < s):
                return False
        index = self.count
        PyObject_GetBuffer(mapping, &self.buffers[index], PyBUF_WRITABLE)
        self.guest[index] = g
        self.size[index] = s
        self.user[index] = u
        self.base[index] = <unsigned char *> self.buffers[index].buf + <Py_ssize_t> offset
        self.count += 1
        return True

    def remove(self, guest, size, user):
        cdef Py_ssize_t index, last
        for index in range(self.count):
            if self.guest[index] == guest and self.size[index] == size and self.user[index] == user:
                PyBuffer_Release(&self.buffers[index])
                for last in range(index, self.count - 1):
                    self.guest[last] = self.guest[last + 1]
                    self.size[last] = self.size[last + 1]
                    self.user[last] = self.user[last + 1]
                    self.base[last] = self.base[last + 1]
                    self.buffers[last] = self.buffers[last + 1]
                self.count -= 1
                return True
        return False

    def clear(self):
        cdef Py_ssize_t index
        for index in range(self.count):
            PyBuffer_Release(&self.buffers[index])
        self.count = 0

    cdef unsigned char *find(self, uint64_t guest, uint64_t size) noexcept nogil:
        """`size` bytes at the guest's address, or NULL when they are not inside one region."""
        cdef Py_ssize_t index
        cdef uint64_t offset
        for index in range(self.count):
            offset = guest - self.guest[index]
            if offset <= self.size[index] and size <= self.size[index] - offset and guest >= self.guest[index]:
                return self.base[index] + offset
        return NULL

    cdef unsigned char *find_user(self, uint64_t user, uint64_t size) noexcept nogil:
        """The same by the hypervisor's address."""
        cdef Py_ssize_t index
        cdef uint64_t offset
        for index in range(self.count):
            offset = user - self.user[index]
            if offset <= self.size[index] and size <= self.size[index] - offset and user >= self.user[index]:
                return self.base[index] + offset
        return NULL


cdef class Ring:
    """As `slow_rings.Ring`."""

    def __init__(self, GuestMemory memory not None, list drops not None):
        if len(drops) < len(DropReason):
            raise ValueError("drops: too short")
        self.memory = memory
        self.drops = drops
        self.next = 0
        self.size = 0
        self.descriptors = self.available = self.used = NULL
        self.waiting_count = self.filled = self.part_count = self.chain_count = 0

    def place(self, size, descriptors, available, used):
        cdef unsigned char *tables[3]
        self.unplace()
        if not 0 < size <= LARGEST_RING or size & (size - 1) or descriptors & 15 or available & 1 or used & 3:
            return False
        tables[0] = self.memory.find_user(descriptors, 16 * size)
        tables[1] = self.memory.find_user(available, 6 + 2 * size)
        tables[2] = self.memory.find_user(used, 6 + 8 * size)
        if tables[0] == NULL or tables[1] == NULL or tables[2] == NULL:
            return False
        if <uint64_t> tables[0] & 7 or <uint64_t> tables[1] & 1 or <uint64_t> tables[2] & 3:
            return False
        self.descriptors, self.available, self.used = tables[0], tables[1], tables[2]
        self.size = size
        self.used_index = self.signalled = ring_load16(self.used + 2)
        self.broken = False
        return True

    def unplace(self):
        self.return_borrowed()
        self.descriptors = self.available = self.used = NULL
        self.waiting_count = 0
        self.drop_gathered()

    @property
    def placed(self):
        return self.available != NULL and not self.broken

    cpdef Py_ssize_t count(self) except -1:
        return self.ahead()

    cdef Py_ssize_t ahead(self) except -1:
        cdef Py_ssize_t found
        if self.available == NULL or self.broken:
            return 0
        found = <uint16_t> (ring_acquire16(self.available + 2) - self.next)
        if found > self.size:
            self.broken = True
            self.drops[RING_BROKEN] += 1
            return 0
        return found

    cdef int take(self, bint writable, Py_ssize_t ahead, uint16_t *head, Py_ssize_t *total) noexcept:
        """Adds the pieces of that chain to `parts`. 0, or the reason why it is void and nothing was added."""
        cdef Py_ssize_t slot = (self.next + ahead) & (self.size - 1)
        cdef Py_ssize_t index = ring_load16(self.available + 4 + 2 * slot)
        cdef Py_ssize_t seen = 0
        cdef Py_ssize_t count = self.part_count
        cdef const unsigned char *descriptor
        cdef unsigned char *piece
        cdef uint64_t address
        cdef uint32_t length
        cdef uint16_t flags
        head[0] = <uint16_t> index
        total[0] = 0
        while True:
            if index >= self.size or seen >= self.size or count >= PARTS:
                return RING_CHAIN
            descriptor = self.descriptors + 16 * index
            address = ring_load64(descriptor)
            length = ring_load32(descriptor + 8)
            flags = ring_load16(descriptor + 12)
            if flags & INDIRECT or ((flags & WRITE) != 0) != writable:
                return RING_CHAIN
            piece = self.memory.find(address, length)
            if piece == NULL:
                return RING_ADDRESS
            total[0] += length
            if not writable and total[0] > LARGEST:
                return OVERSIZE
            self.parts[count].iov_base = piece
            self.parts[count].iov_len = length
            count += 1
            seen += 1
            if not flags & NEXT:
                self.part_count = count
                return 0
            index = ring_load16(descriptor + 14)

    # -- from the guest

    cpdef Py_ssize_t receive(
        self, Arena arena, Py_ssize_t at, Py_ssize_t stride, Py_ssize_t count, list lengths, bint borrow
    ) except? -200000:
        cdef Py_ssize_t there, index, total, part, done, length
        cdef unsigned char *place
        cdef uint16_t head
        cdef int reason
        arena.check_slots(at, stride, count, len(lengths))
        if self.waiting_count:
            self.finish()
        there = min(self.ahead(), count, <Py_ssize_t> 64)
        for index in range(there):
            self.part_count = 0
            reason = self.take(False, 0, &head, &total)
            self.next = (self.next + 1) & 0xFFFF
            self.waiting[self.waiting_count] = head
            self.waiting_count += 1
            if not reason and total > stride:
                reason = OVERSIZE
            if reason:
                lengths[index] = -reason
                continue
            lengths[index] = total
            place = arena.base + at + index * stride
            done = 0
            for part in range(self.part_count):
                length = self.parts[part].iov_len
                if borrow and total >= BORROW and done < HEAD and done + length >= HEAD:
                    # All headers are copied with this piece, or were before: may the rest stay?
                    memcpy(place + done, self.parts[part].iov_base, HEAD - done)
                    if _is_tcp_superframe(place) and arena.borrow(
                        at + index * stride, total, self.parts, self.part_count
                    ):
                        self.lender = arena
                        break
                memcpy(place + done, self.parts[part].iov_base, length)
                done += length
        self.part_count = 0
        return there

    cdef return_borrowed(self):
        if self.lender is not None:
            self.lender.return_borrowed()
            self.lender = None

    cpdef finish(self):
        cdef Py_ssize_t index
        self.return_borrowed()
        if not self.waiting_count or self.used == NULL:
            return
        for index in range(self.waiting_count):
            self.give_back(self.waiting[index], 0)
        ring_release16(self.used + 2, self.used_index)
        self.waiting_count = 0

    cdef void give_back(self, uint16_t head, uint32_t length) noexcept nogil:
        cdef unsigned char *entry = self.used + 4 + 8 * (self.used_index & (self.size - 1))
        ring_store32(entry, head)
        ring_store32(entry + 4, length)
        self.used_index += 1

    # -- to the guest

    cdef Py_ssize_t gather(self, Py_ssize_t wanted) except -1:
        """Chains for `wanted` bytes, into `parts`, `heads` and `sizes`. How many bytes they hold."""
        cdef Py_ssize_t there, total, capacity = 0
        cdef uint16_t head
        cdef int reason
        self.drop_gathered()
        there = self.ahead()
        while self.chain_count < there and capacity < wanted:
            reason = self.take(True, self.chain_count, &head, &total)
            if reason or not total:
                if self.chain_count:
                    break  # there may only be no more pieces in one call; else it is the first the next time
                self.drops[reason or RING_CHAIN] += 1
                self.part_count = 0
                self.next = (self.next + 1) & 0xFFFF
                there -= 1
                self.give_back(head, 0)
                ring_release16(self.used + 2, self.used_index)
                continue
            self.heads[self.chain_count] = head
            self.sizes[self.chain_count] = min(total, <Py_ssize_t> 0x7FFFFFFF)
            self.chain_count += 1
            capacity += total
            if not self.mergeable:
                break
        return capacity

    cpdef bint holds(self, Py_ssize_t length) except -1:
        cdef Py_ssize_t capacity = self.gather(length)
        self.drop_gathered()
        return capacity >= length

    cdef void drop_gathered(self) noexcept:
        self.part_count = self.chain_count = self.filled = 0

    cpdef Py_ssize_t peek(
        self, Arena arena, sock, Py_ssize_t headers, Py_ssize_t limit, Py_ssize_t skip
    ) except? -200000:
        cdef iovec into[PARTS + 1]
        cdef msghdr message
        cdef Py_ssize_t capacity, count = 0, part, length, passed = headers, left
        cdef ssize_t got
        if headers < 12 or limit <= 0:
            raise ValueError(f"cannot peek {limit} bytes behind {headers}")
        capacity = self.gather(headers + limit)
        if capacity <= headers:
            self.drop_gathered()
            return -ENOBUFS
        left = min(limit, capacity - headers)
        if skip > 0:
            if skip > SCRATCH:
                self.drop_gathered()
                return -EMSGSIZE
            into[0].iov_base = arena.scratch
            into[0].iov_len = skip
            count = 1
        for part in range(self.part_count):
            length = self.parts[part].iov_len
            if passed >= length:
                passed -= length
                continue
            if count > PARTS - 1:
                break
            into[count].iov_base = <unsigned char *> self.parts[part].iov_base + passed
            into[count].iov_len = min(length - passed, left)
            left -= into[count].iov_len
            count += 1
            passed = 0
            if not left:
                break
        memset(&message, 0, sizeof(message))
        message.msg_iov = into
        message.msg_iovlen = count
        got = c_recvmsg(PyObject_AsFileDescriptor(sock), &message, MSG_PEEK | MSG_DONTWAIT)
        if got < 0:
            got = -errno
        elif skip > 0 and got:
            got = got - skip if got > skip else -EAGAIN
        if got > 0:
            self.filled = got
        else:
            self.drop_gathered()
        return got

    cpdef Py_ssize_t write(self, Arena arena, Py_ssize_t at, Py_ssize_t length) except? -200000:
        cdef Py_ssize_t headers, left = length, chains = 0, part, piece, copied = 0
        cdef bint alone
        if self.filled and not 12 < length - self.filled <= LONGEST_HEADERS:
            self.drop_gathered()
        headers = length - self.filled
        arena.check(at, headers if headers > 0 else 0)
        if not self.filled:
            if self.gather(length) < length:
                alone = self.chain_count > 0 and not self.mergeable
                self.drop_gathered()
                return -EMSGSIZE if alone else -EAGAIN
        while chains < self.chain_count and left > 0:
            left -= min(<Py_ssize_t> self.sizes[chains], left)
            chains += 1
        if left > 0 or headers < 12:
            self.drop_gathered()
            return -EAGAIN
        arena.base[at + 10] = chains & 0xFF
        arena.base[at + 11] = chains >> 8
        for part in range(self.part_count):
            piece = min(<Py_ssize_t> self.parts[part].iov_len, headers - copied)
            memcpy(self.parts[part].iov_base, arena.base + at + copied, piece)
            copied += piece
            if copied == headers:
                break
        left = length
        for part in range(chains):
            piece = min(<Py_ssize_t> self.sizes[part], left)
            self.give_back(self.heads[part], piece)
            left -= piece
        self.next = (self.next + chains) & 0xFFFF
        ring_release16(self.used + 2, self.used_index)
        self.drop_gathered()
        return length

    # -- notifications

    cpdef bint notify(self, int descriptor) except -1:
        cdef uint16_t old, event
        cdef uint64_t one = 1
        cdef bint wanted
        if self.used == NULL or self.used_index == self.signalled:
            return False
        ring_fence()
        old = self.signalled
        self.signalled = self.used_index
        if self.event_index:
            event = ring_load16(self.available + 4 + 2 * self.size)
            wanted = <uint16_t> (self.used_index - event - 1) < <uint16_t> (self.used_index - old)
        else:
            wanted = not ring_load16(self.available) & 1
        if wanted and c_write(descriptor, &one, 8) < 0:
            return False
        return wanted

    cpdef bint listen(self) except -1:
        cdef uint16_t index
        cdef int look
        if self.available == NULL or self.broken:
            return False
        for look in range(LOOKS):
            index = ring_load16(self.available + 2)
            if self.event_index:
                ring_store16(self.used + 4 + 8 * self.size, index)
            else:
                ring_store16(self.used, 0)
            ring_fence()
            if ring_load16(self.available + 2) == index:
                return False
        return True

    cpdef ignore(self):
        if self.available != NULL and not self.broken and not self.event_index:
            ring_store16(self.used, 1)


cdef bint _is_tcp_superframe(const unsigned char *frame) noexcept nogil:
    """Whether these 256 bytes begin a TCP superframe with its checksum undone: then nobody but the socket reads it all.

    The header says so, and the packet must agree: what is not TCP may be read by services of ours.
    """
    if not frame[0] & 1 or (frame[1] & 0x7F) not in (1, 4):
        return False
    frame += 12
    if frame[12] == 0x08 and frame[13] == 0x00:
        return frame[14] == 0x45 and frame[23] == 6 and not (frame[20] & 0x3F or frame[21])
    return frame[12] == 0x86 and frame[13] == 0xDD and frame[20] == 6
