cimport cython

from bucatini.flows.datagram_flow cimport DatagramFlow
from bucatini.native.fast cimport Arena as FastArena
from bucatini.stack.egress cimport Egress


@cython.final
cdef class Datagrams:
    cdef public object sink
    cdef public FastArena arena
    cdef public bint train4, train6
    cdef public list pending, lengths, cuts

    cdef bint _trains(self, DatagramFlow flow)
    @cython.locals(offset=long)
    cpdef long queue(self, DatagramFlow flow, long at, long length, long cut) except? -1
    cpdef _queue_one(self, DatagramFlow flow, long at, long length)
    @cython.locals(pending=list, pieces=list, flow=DatagramFlow)
    cpdef flush(self)
    @cython.locals(start=long, total=long, count=long, size=long, sent=long)
    cpdef _send(self, DatagramFlow flow, list pieces)
    @cython.locals(done=long, sent=long)
    cpdef long _send_singly(self, DatagramFlow flow, list pieces, long count) except? -1
    cpdef bint _failed(self, DatagramFlow flow, long error, long count) except -1
    cpdef bint _report_errors(self, DatagramFlow flow) except -1
    @cython.locals(flow=DatagramFlow)
    cpdef ready(self, long descriptor, long events, double now)
    @cython.locals(headers=long, first=long, lengths=list, cuts=list, count=long, index=long, length=long, at=long,
                   joined=long, cut=long, trains=bint, egress=Egress)
    cpdef _receive(self, DatagramFlow flow, double now)
    @cython.locals(lengths=list, cuts=list, size=long, most=long, joined=long, total=long, length=long, source=long)
    cpdef tuple _join(self, long index, long count, long at)


@cython.locals(size=long, most=long, count=long, length=long)
cpdef tuple _train(list pieces, long start, long total)
