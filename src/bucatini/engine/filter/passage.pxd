cimport cython

from bucatini.guard.admit cimport admit_faithful, admit_faithful_to_guest
from bucatini.guard.binding cimport Binding
from bucatini.guard.flow_states cimport FlowStates
from bucatini.guard.frame cimport Frame
from bucatini.native.fast cimport Arena as FastArena
from bucatini.wire.ip cimport IpView


@cython.final
cdef class Passage:
    cdef public FastArena arena
    cdef public Binding binding
    cdef public Frame frame
    cdef public FlowStates states
    cdef public object link, live, on_bug, snoop, snoop6
    cdef public bint faithful
    cdef public long tap, header, from_guest_frames, to_guest_frames

    @cython.locals(reason=long)
    cpdef long from_guest(self, long at, long length, double now) except? -1
    @cython.locals(reason=long, took=long)
    cpdef long to_guest(self, long at, long length, double now) except? -1
    @cython.locals(frame=Frame, reason=long)
    cpdef long _judge(self, long at, long length, double now) except? -1
    @cython.locals(frame=Frame, reason=long)
    cpdef long _judge_to_guest(self, long at, long length, double now) except? -1
    @cython.locals(flags=long, kind=long, frame=Frame, ip=IpView, start=long, offset=long, size=long)
    cpdef bint _header_fits(self, long at) except -1
