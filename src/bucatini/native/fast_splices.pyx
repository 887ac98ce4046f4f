# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled twin of `slow_splices`: the same `Pair` and `Splicer`, with the bare system calls.

What `slow_splices` documents holds here word for word. Besides, a system call that can be known to fail is not made:

* The far side is asked to carry what the near one has sent before either is watched, so that a request is on its way
  while the rest of the work is done.
* Few bytes are read into a buffer that all streams share and sent from there; a stream takes pipes when a read fills
  that buffer, and gives them back when it has less to say. Where there is no pipe to be had the buffer goes on serving.
* Interest is in edges. A side is read while `readable`; a short read ends that, because whatever comes later is an edge
  of its own, unless the end of the stream or an urgent byte (where a read stops short) may lie behind it.
* A side is watched for room only once it had none, and TCP_NODELAY is set before the second send: the first has nothing
  to wait for.

Every position is a C variable bounded by the buffer or the pipe; no pointer is formed from what a peer sends.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINPROGRESS, EINVAL, EIO, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset


cdef extern from "Python.h":
    bytes PyBytes_FromStringAndSize(const char *v, Py_ssize_t length)

cdef extern from "<unistd.h>" nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    """
    int c_close "close"(int fd)
    int c_pipe2 "pipe2"(int *ends, int flags)

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT
    ctypedef unsigned short sa_family_t
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        unsigned char s6_addr[16]
    cdef struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        sa_family_t sa_family
    cdef struct linger:
        int l_onoff
        int l_linger
    int c_socket "socket"(int family, int kind, int protocol)
    int c_accept4 "accept4"(int fd, sockaddr *address, socklen_t *length, int flags)
    int c_bind "bind"(int fd, const sockaddr *address, socklen_t length)
    int c_connect "connect"(int fd, const sockaddr *address, socklen_t length)
    int c_shutdown "shutdown"(int fd, int how)
    ssize_t c_send "send"(int fd, const void *buf, size_t len, int flags)
    ssize_t c_recv "recv"(int fd, void *buf, size_t len, int flags)
    int c_getsockopt "getsockopt"(int fd, int level, int name, void *value, socklen_t *length)
    int c_setsockopt "setsockopt"(int fd, int level, int name, const void *value, socklen_t length)
    int AF_INET, AF_INET6, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SHUT_WR
    int SOL_SOCKET, SO_ERROR, SO_LINGER, SO_OOBINLINE, SO_REUSEADDR, MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from "<netinet/tcp.h>" nogil:
    int IPPROTO_TCP, TCP_NODELAY

cdef extern from "<fcntl.h>" nogil:
    int c_fcntl "fcntl"(int fd, int command, ...)
    ssize_t c_splice "splice"(int fd_in, void *off_in, int fd_out, void *off_out, size_t len, unsigned int flags)
    int O_NONBLOCK, O_CLOEXEC, F_SETPIPE_SZ

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int c_epoll_create1 "epoll_create1"(int flags)
    int c_epoll_ctl "epoll_ctl"(int fd, int op, int target, epoll_event *event)
    int c_epoll_wait "epoll_wait"(int fd, epoll_event *events, int count, int timeout)
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLL_CLOEXEC

cdef enum:
    READ = 0x001
    URGENT = 0x002
    WRITE = 0x004
    ERROR = 0x008
    HANGUP = 0x010
    HALF = 0x2000
    ONE_EDGE = 1 << 31
    SPLICE_FLAGS = 3  # MOVE | NONBLOCK
    BATCH = 64
    BUFFER = 1 << 16
    MAX_IDLE = 32
    MAX_KEPT = 256  # pipes in use above which a stream that pauses gives its back

cdef enum Step:
    MORE, REST, NO_ROOM, SOURCE_FAILED, TARGET_FAILED, BROKEN

cdef enum:
    C_CLOSED = 2
    C_FAILED = 3

PIPE_SIZE = 1 << 20
ACCEPTS = 64
ROUNDS = 16
IDLE_PIPES = MAX_IDLE
NEAR_RESET, FAR_RESET, CLOSED, FAILED = range(4)

cdef int TURN_ROUNDS = 8
cdef int C_ROUNDS = ROUNDS
cdef int C_ACCEPTS = ACCEPTS
cdef int C_PIPE = PIPE_SIZE
cdef uint64_t ENTRANCE = <uint64_t> 1 << 63
cdef uint32_t EDGE = READ | URGENT | HALF | <uint32_t> ONE_EDGE


cdef struct Way:
    # Bytes from one socket to the other; `ways[side]` of a pair begins at socket `side`.
    int pipe_read
    int pipe_write
    Py_ssize_t inside
    char *rest
    Py_ssize_t rest_at
    Py_ssize_t rest_end
    long long moved
    Py_ssize_t burst
    bint readable
    bint careful
    bint piped
    bint ended
    bint done


cdef int set_one(int fd, int level, int name) noexcept:
    cdef int one = 1
    return c_setsockopt(fd, level, name, &one, sizeof(one))


cdef void reset(int fd) noexcept:
    cdef linger now
    now.l_onoff = 1
    now.l_linger = 0
    c_setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))


cdef int pending_error(int fd) noexcept:
    cdef int error = 0
    cdef socklen_t length = sizeof(error)
    return error if c_getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 else errno


cdef socklen_t fill(sockaddr_in6 *place, endpoint) except 0:
    """The socket address of an endpoint: packed address and port."""
    cdef bytes address = endpoint[0]
    cdef uint16_t port = endpoint[1]
    cdef sockaddr_in *four = <sockaddr_in *> place
    memset(place, 0, sizeof(sockaddr_in6))
    if PyBytes_GET_SIZE(address) == 4:
        four.sin_family = AF_INET
        four.sin_port = htons(port)
        memcpy(&four.sin_addr, PyBytes_AS_STRING(address), 4)
        return sizeof(sockaddr_in)
    if PyBytes_GET_SIZE(address) != 16:
        raise ValueError("an address has 4 or 16 bytes")
    place.sin6_family = AF_INET6
    place.sin6_port = htons(port)
    memcpy(&place.sin6_addr, PyBytes_AS_STRING(address), 16)
    return sizeof(sockaddr_in6)


cdef class Pair:
    """As `slow_splices.Pair`."""

    cdef int fds[2]
    cdef Way ways[2]
    cdef uint64_t serial
    cdef bint watched[2]
    cdef bint room[2]
    cdef bint prompt[2]
    cdef bint waits
    cdef readonly bint connected

    def __cinit__(self):
        cdef int side
        for side in range(2):
            self.fds[side] = -1
            memset(&self.ways[side], 0, sizeof(Way))
            self.ways[side].pipe_read = -1
            self.ways[side].pipe_write = -1

    @property
    def onward(self):
        return self.ways[0].moved

    @property
    def back(self):
        return self.ways[1].moved

    @property
    def live(self):
        return self.fds[0] >= 0


cdef class _Listener:
    cdef int fd
    cdef object key


cdef class Splicer:
    """As `slow_splices.Splicer`."""

    cdef object owner
    cdef int epoll
    cdef uint64_t next_serial
    cdef dict pairs
    cdef dict listeners, serials
    cdef list again
    cdef int idle[2 * MAX_IDLE]
    cdef int idle_count
    cdef int lent
    cdef char *buffer

    def __cinit__(self, owner):
        self.owner = owner
        self.pairs = {}
        self.listeners = {}
        self.serials = {}
        self.again = []
        self.next_serial = 1
        self.idle_count = 0
        self.epoll = -1
        self.buffer = <char *> malloc(BUFFER)
        if self.buffer == NULL:
            raise MemoryError
        self.epoll = c_epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, "epoll_create1")

    def __dealloc__(self):
        if self.epoll >= 0:
            c_close(self.epoll)
        while self.idle_count:
            self._drop_idle()
        free(self.buffer)

    cdef void _drop_idle(self) noexcept:
        self.idle_count -= 1
        c_close(self.idle[2 * self.idle_count])
        c_close(self.idle[2 * self.idle_count + 1])

    def __len__(self):
        return len(self.pairs)

    @property
    def idle_pipes(self):
        return self.idle_count

    def fileno(self):
        return self.epoll

    def close(self):
        """As `slow_splices.Splicer.close`."""
        for pair in list(self.pairs.values()):
            self.end(pair, True)
        self.listeners.clear()
        self.serials.clear()
        while self.idle_count:
            self._drop_idle()
        if self.epoll >= 0:
            c_close(self.epoll)
            self.epoll = -1

    # -- listeners

    def listen(self, int fd, key):
        """As `slow_splices.Splicer.listen`."""
        cdef _Listener listener = _Listener()
        set_one(fd, IPPROTO_TCP, TCP_NODELAY)
        set_one(fd, SOL_SOCKET, SO_OOBINLINE)
        listener.fd = fd
        listener.key = key
        if self._watch(EPOLL_CTL_ADD, fd, ENTRANCE | self.next_serial, READ) < 0:
            raise OSError(errno, "epoll_ctl")
        self.listeners[self.next_serial] = listener
        self.serials[fd] = self.next_serial
        self.next_serial += 1

    def unlisten(self, int fd):
        """As `slow_splices.Splicer.unlisten`."""
        cdef _Listener listener
        serial = self.serials.pop(fd, None)
        if serial is not None:
            listener = self.listeners.pop(serial)
            listener.fd = -1
            self._watch(EPOLL_CTL_DEL, fd, 0, 0)

    cdef int _watch(self, int operation, int fd, uint64_t data, uint32_t events) noexcept:
        cdef epoll_event event
        memset(&event, 0, sizeof(event))
        event.events = events
        event.data.u64 = data
        return c_epoll_ctl(self.epoll, operation, fd, &event)

    cdef int _let_in(self, uint64_t data) except -1:
        cdef _Listener listener
        cdef sockaddr_in6 place
        cdef sockaddr_in *four = <sockaddr_in *> &place
        cdef socklen_t length
        cdef int fd, error
        cdef int taken
        found = self.listeners.get(data & ~ENTRANCE)
        if found is None:
            return 0
        listener = <_Listener> found
        for taken in range(C_ACCEPTS):
            length = sizeof(place)
            fd = c_accept4(listener.fd, <sockaddr *> &place, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                error = errno
                if error == EAGAIN:
                    return 0
                if error in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                    self.owner.exhausted(listener.key, error)
                    return 0
                continue
            if place.sin6_family == AF_INET:
                address = PyBytes_FromStringAndSize(<char *> &four.sin_addr, 4)
            else:
                address = PyBytes_FromStringAndSize(<char *> &place.sin6_addr, 16)
            self.owner.arrived(listener.key, fd, address, ntohs(place.sin6_port))
            if listener.fd < 0:
                return 0
        return 0

    # -- pairs begin and end

    def adopt(self, Pair pair not None, int near):
        """As `slow_splices.Splicer.adopt`."""
        if pair.serial:
            raise ValueError("a pair is used once")
        pair.serial = self.next_serial
        self.next_serial += 1
        pair.fds[0] = near
        pair.ways[0].readable = True
        pair.prompt[0] = True
        self.pairs[pair.serial] = pair

    def reach(self, Pair pair not None, int far, target, source=None):
        """As `slow_splices.Splicer.reach`."""
        cdef sockaddr_in6 place
        cdef socklen_t length = fill(&place, target)
        cdef sockaddr_in6 own
        cdef socklen_t own_length = fill(&own, (source, 0)) if source is not None else 0
        cdef int error = 0
        if pair.fds[0] < 0 or pair.fds[1] >= 0:
            raise ValueError("a pair that has an end open already, or none")
        if far < 0:
            far = c_socket(place.sin6_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
            if far < 0:
                return errno
        set_one(far, SOL_SOCKET, SO_OOBINLINE)
        if own_length:
            # The port is chosen when the connection is made: a search among all that are bound takes a millisecond.
            set_one(far, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT)
            c_bind(far, <sockaddr *> &own, own_length)
        if c_connect(far, <sockaddr *> &place, length) < 0:
            error = errno
            if error == EINPROGRESS:
                # Within one machine the handshake is usually over by now; a send of nothing tells.
                error = 0 if c_send(far, NULL, 0, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 else errno
        if error and error != EAGAIN:
            c_close(far)
            return error
        pair.fds[1] = far
        pair.connected = error == 0
        if pair.connected:
            self._begin(pair)
        elif self._observe(pair, 1, WRITE) < 0:
            error = errno
            pair.fds[1] = -1
            c_close(far)
            return error
        return 0

    cdef int _begin(self, Pair pair) except -1:
        """The far side is there."""
        self._pump(pair)
        if pair.fds[0] < 0:
            return 0
        # The far side's answer is on its way: it is watched last, so that it is not reported twice.
        if self._observe(pair, 0, 0) < 0 or self._observe(pair, 1, 0) < 0:
            self._over(pair, C_FAILED)
        return 0

    cdef int _observe(self, Pair pair, int side, uint32_t more) noexcept:
        cdef uint32_t events = EDGE | more | (WRITE if pair.room[side] else 0)
        cdef int operation = EPOLL_CTL_MOD if pair.watched[side] else EPOLL_CTL_ADD
        pair.watched[side] = True
        return self._watch(operation, pair.fds[side], pair.serial << 1 | side, events)

    def end(self, Pair pair not None, bint resets):
        """As `slow_splices.Splicer.end`."""
        cdef int side
        if pair.fds[0] < 0:
            return
        for side in range(2):
            if pair.fds[side] >= 0:
                if resets:
                    reset(pair.fds[side])
                c_close(pair.fds[side])
                pair.fds[side] = -1
            self._give_pipe(&pair.ways[side])
            free(pair.ways[side].rest)
            pair.ways[side].rest = NULL
        self.pairs.pop(pair.serial, None)

    cdef int _over(self, Pair pair, int how) except -1:
        self.end(pair, how != C_CLOSED)
        self.owner.ended(pair, how)
        return 0

    # -- pipes

    cdef int _take_pipe(self, Way *way) noexcept:
        """0 or errno."""
        cdef int ends[2]
        if way.pipe_read >= 0:
            return 0
        way.burst = 0
        self.lent += 1
        if self.idle_count:
            self.idle_count -= 1
            way.pipe_read = self.idle[2 * self.idle_count]
            way.pipe_write = self.idle[2 * self.idle_count + 1]
            return 0
        if c_pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0:
            self.lent -= 1
            return errno
        c_fcntl(ends[1], F_SETPIPE_SZ, C_PIPE)
        way.pipe_read = ends[0]
        way.pipe_write = ends[1]
        return 0

    cdef void _give_pipe(self, Way *way) noexcept:
        if way.pipe_read < 0:
            return
        self.lent -= 1
        if way.inside == 0 and self.idle_count < MAX_IDLE and self.epoll >= 0:
            self.idle[2 * self.idle_count] = way.pipe_read
            self.idle[2 * self.idle_count + 1] = way.pipe_write
            self.idle_count += 1
        else:
            c_close(way.pipe_read)
            c_close(way.pipe_write)
        way.pipe_read = -1
        way.pipe_write = -1
        way.piped = False

    # -- moving bytes

    def turn(self):
        """As `slow_splices.Splicer.turn`."""
        cdef epoll_event events[BATCH]
        cdef int count, index
        cdef int round
        cdef list again
        cdef Pair pair
        if self.again:
            again, self.again = self.again, []
            for pair in again:
                pair.waits = False
                if pair.fds[1] >= 0:
                    self._guarded(pair.serial << 1, 0)
        for round in range(TURN_ROUNDS):
            count = c_epoll_wait(self.epoll, events, BATCH, 0)
            if count <= 0:
                break
            # Who waits to be let in waits longest: before what others have to say, or to leave.
            for index in range(count):
                if events[index].data.u64 & ENTRANCE:
                    self._guarded(events[index].data.u64, 0)
            for index in range(count):
                if not events[index].data.u64 & ENTRANCE:
                    self._guarded(events[index].data.u64, events[index].events)
        return bool(self.again)

    cdef int _guarded(self, uint64_t data, uint32_t events) except -1:
        """An edge that is not served is not reported again: an error of the owner's must not take others' with it."""
        try:
            if data & ENTRANCE:
                self._let_in(data)
            else:
                self._serve(data, events)
        except Exception as error:
            self.owner.bug(error)
        return 0

    cdef int _serve(self, uint64_t data, uint32_t events) except -1:
        cdef Pair pair
        cdef int side = data & 1
        found = self.pairs.get(data >> 1)
        if found is None:
            return 0
        pair = <Pair> found
        if events & (READ | HALF | HANGUP | ERROR | URGENT):
            pair.ways[side].readable = True
            if events & (HALF | HANGUP | URGENT):
                pair.ways[side].careful = True
        if not pair.connected:
            return self._connecting(pair, events) if side else 0
        if events & ERROR and pending_error(pair.fds[side]):
            return self._over(pair, side)
        return self._pump(pair)

    cdef int _connecting(self, Pair pair, uint32_t events) except -1:
        cdef int error
        if events & (ERROR | HANGUP):
            error = pending_error(pair.fds[1])
            c_close(pair.fds[1])
            pair.fds[1] = -1
            pair.watched[1] = False
            pair.room[1] = False
            pair.ways[1].readable = pair.ways[1].careful = False
            self.owner.unreached(pair, error if error else EIO)
            return 0
        if events & WRITE:
            pair.connected = True
            return self._begin(pair)
        return 0

    cdef int _pump(self, Pair pair) except -1:
        cdef int side, result
        for side in range(2):
            if pair.ways[side].done:
                continue
            result = self._move(pair, side)
            if result < 0:
                return self._over(pair, -1 - result)
            if result and not pair.waits:
                pair.waits = True
                self.again.append(pair)
        if pair.ways[0].done and pair.ways[1].done:
            return self._over(pair, C_CLOSED)
        return 0

    cdef int _move(self, Pair pair, int side) noexcept:
        """Move what can be moved from `side` to the other. 0: no more for now, 1: the turn's share is used up, else
        `-1 - how` of an end.
        """
        cdef Way *way = &pair.ways[side]
        cdef int target = pair.fds[1 - side]
        cdef int round, result
        for round in range(C_ROUNDS):
            if way.rest != NULL:
                result = self._send_rest(way, target)
            elif way.piped:
                result = self._through_pipe(way, pair.fds[side], target)
            elif not way.ended:
                result = self._through_buffer(pair, way, pair.fds[side], target, 1 - side)
            else:
                # The end of the stream, and everything before it is out.
                way.done = True
                if not pair.ways[1 - side].done:
                    c_shutdown(target, SHUT_WR)
                return 0
            if result == MORE:
                continue
            if result == REST:
                return 0
            if result == NO_ROOM:
                return self._await_room(pair, 1 - side)
            if result == BROKEN:
                return -1 - C_FAILED
            return -1 - (side if result == SOURCE_FAILED else 1 - side)
        return 1

    cdef int _through_buffer(self, Pair pair, Way *way, int source, int target, int to) noexcept:
        cdef ssize_t got, sent
        if not way.readable:
            return REST
        got = c_recv(source, self.buffer, BUFFER, MSG_DONTWAIT)
        if got <= 0:
            if got == 0:
                way.ended = True
                return MORE
            if errno != EAGAIN:
                return SOURCE_FAILED
            way.readable = False
            return REST
        if got < BUFFER and not way.careful:
            way.readable = False
        if way.moved and not pair.prompt[to]:
            pair.prompt[to] = True
            set_one(target, IPPROTO_TCP, TCP_NODELAY)
        sent = c_send(target, self.buffer, got, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            if errno != EAGAIN:
                return TARGET_FAILED
            sent = 0
        way.moved += sent
        if got == BUFFER:
            way.piped = self._take_pipe(way) == 0
        if sent == got:
            return MORE
        way.rest = <char *> malloc(got - sent)
        if way.rest == NULL:
            return BROKEN
        memcpy(way.rest, self.buffer + sent, got - sent)
        way.rest_at = 0
        way.rest_end = got - sent
        return NO_ROOM

    cdef int _send_rest(self, Way *way, int target) noexcept:
        """What was read from the source and did not fit into the target."""
        cdef Py_ssize_t left = way.rest_end - way.rest_at
        cdef ssize_t sent = c_send(target, way.rest + way.rest_at, left, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            return NO_ROOM if errno == EAGAIN else TARGET_FAILED
        way.moved += sent
        way.rest_at += sent
        if way.rest_at < way.rest_end:
            return NO_ROOM
        free(way.rest)
        way.rest = NULL
        return MORE

    cdef int _through_pipe(self, Way *way, int source, int target) noexcept:
        cdef ssize_t got, sent
        if way.readable and way.inside < C_PIPE:
            got = c_splice(source, NULL, way.pipe_write, NULL, C_PIPE - way.inside, SPLICE_FLAGS)
            if got > 0:
                way.inside += got
            elif got < 0 and errno != EAGAIN:
                return SOURCE_FAILED
            elif way.inside == 0:
                if got == 0 or way.careful:
                    # splice(2) takes an urgent byte for the end of all there is, for now or for ever; recv(2) does not.
                    self._give_pipe(way)
                    return MORE
                way.readable = False
        if way.inside:
            sent = c_splice(way.pipe_read, NULL, target, NULL, way.inside, SPLICE_FLAGS)
            if sent < 0:
                return NO_ROOM if errno == EAGAIN else TARGET_FAILED
            way.inside -= sent
            way.moved += sent
            way.burst += sent
            return MORE
        if way.readable:
            return MORE
        # Who had much to say goes on soon; who had little gives the pipe to others.
        if way.burst < BUFFER or self.lent > MAX_KEPT:
            self._give_pipe(way)
        way.burst = 0
        return REST

    cdef int _await_room(self, Pair pair, int side) noexcept:
        """Watch a side that took less than it was given, at once or from when it is watched at all."""
        if not pair.room[side]:
            pair.room[side] = True
            if pair.watched[side] and self._observe(pair, side, 0) < 0:
                return -1 - C_FAILED
        return 0
