# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled twin of `slow_poller`: the same `Poller`, on epoll_wait(2) itself."""

from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EINTR, errno
from libc.math cimport ceil


cdef extern from "<sys/epoll.h>" nogil:
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int most, int timeout)

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)

MAX_EVENTS = MOST


cdef class Poller:
    """As `slow_poller.Poller`."""

    def __cinit__(self):
        self.count = 0
        self.fd = epoll_create1(EPOLL_CLOEXEC)
        if self.fd < 0:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)

    cdef int control(self, int operation, int descriptor, unsigned int events) except -1:
        cdef epoll_event event
        event.events = events
        event.data.fd = descriptor
        if epoll_ctl(self.fd, operation, descriptor, &event) < 0:
            PyErr_SetFromErrno(OSError)
        return 0

    def register(self, int descriptor, unsigned int events):
        self.control(EPOLL_CTL_ADD, descriptor, events)

    def modify(self, int descriptor, unsigned int events):
        self.control(EPOLL_CTL_MOD, descriptor, events)

    def unregister(self, int descriptor):
        self.control(EPOLL_CTL_DEL, descriptor, 0)

    cpdef int wait(self, double timeout) except -1:
        cdef int milliseconds = -1
        cdef double left
        cdef int found
        if timeout < 1e9:
            left = ceil(timeout * 1000)
            milliseconds = 0 if left < 0 else 0x7FFFFFFF if left > 0x7FFFFFFF else <int> left
        if milliseconds:
            with nogil:
                found = epoll_wait(self.fd, self.ready, MOST, milliseconds)
        else:
            found = epoll_wait(self.fd, self.ready, MOST, 0)
        if found < 0:
            self.count = 0
            if errno != EINTR:
                PyErr_SetFromErrno(OSError)
            PyErr_CheckSignals()
            found = 0
        self.count = found
        return found

    cpdef int descriptor(self, int index) except -2:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.ready[index].data.fd

    cpdef long events(self, int index) except -2:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.ready[index].events

    def fileno(self):
        return self.fd

    def close(self):
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1
