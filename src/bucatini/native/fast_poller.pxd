cdef enum:
    MOST = 256

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    cdef struct epoll_event:
        unsigned int events
        epoll_data_t data


cdef class Poller:
    cdef int fd
    cdef int count
    cdef epoll_event ready[MOST]

    cdef int control(self, int operation, int descriptor, unsigned int events) except -1
    cpdef int wait(self, double timeout) except -1
    cpdef int descriptor(self, int index) except -2
    cpdef long events(self, int index) except -2
