# `SplicedStream` stays a Python class: what it is derived from is chosen when the program starts.
cimport cython


@cython.final
cdef class _Listener:
    cdef public StreamSplices splices
    cdef public int fd
    cdef public object family, entry, local
    cdef public str direction, far_kind
    cdef public bint keep_address
    cdef public double deadline, armed_at


@cython.final
cdef class StreamSplices:
    cdef public object sink, stock
    cdef public double deadline, armed_at
    cdef public dict _listeners
    cdef public object _connecting, _splicer
    cdef public bint _again, _closed

    cpdef _turn(self)
    cpdef reach(self, stream, int far)
    cpdef _try(self, stream)
    cpdef _finish(self, stream, how)
    cpdef arrived(self, _Listener listener, int fd, bytes address, int port)
