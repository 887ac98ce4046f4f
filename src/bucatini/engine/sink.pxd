cimport cython

from bucatini.engine.datagrams cimport Datagrams
from bucatini.flows.table cimport FlowTable
from bucatini.flows.tcp cimport gathered_pushed, host_connected, host_failed, host_readable, host_writable
from bucatini.flows.tcp_flow cimport TcpFlow
from bucatini.flows.tcp_gap cimport forget
from bucatini.flows.tcp_output cimport deadline, flush
from bucatini.native.fast cimport Arena as FastArena
from bucatini.stack.deadlines cimport Deadlines
from bucatini.stack.egress cimport Egress


cdef class Sink:
    cdef public FastArena arena
    cdef public object link, gateway, reactor, settings, counters, service_stream, resolver, outbound, multicast, direct, ask
    cdef public Deadlines deadlines
    cdef public Egress egress
    cdef public FlowTable table
    cdef public bint peek_skips, bug_seen, flow_events
    cdef public list listeners, _queue, _news, _again, _blocked, _pieces
    cdef public TcpFlow _gathered
    cdef public object last_refusal, _line
    cdef public dict flows
    cdef public double now
    cdef public long sent_frames, kept, _gathered_bytes
    cdef public Datagrams datagrams

    @cython.locals(done=long)
    cpdef transmit(self, long at, long length)
    cpdef syn(self, TcpFlow flow, long flags)
    cpdef segment(self, TcpFlow flow, long flags, long seq, long length)
    @cython.locals(headers=long, got=long, skip=long)
    cpdef long pull(self, TcpFlow flow, long limit) except? -200000
    cpdef bint room(self, TcpFlow flow) except -1
    cpdef long rewind(self, TcpFlow flow) except? -200000
    cpdef long discard(self, TcpFlow flow, long count) except? -200000
    cpdef gather(self, TcpFlow flow, long at, long length)
    @cython.locals(flow=TcpFlow, total=long, took=long)
    cpdef push_gathered(self)
    cpdef long push(self, TcpFlow flow, long at, long length) except? -200000
    cpdef long send_space(self, TcpFlow flow) except? -200000
    cpdef schedule(self, TcpFlow flow)
    cpdef acknowledge_later(self, TcpFlow flow)
    @cython.locals(flow=TcpFlow)
    cpdef _call_waiting(self, double now)
    cpdef arm(self, TcpFlow flow, double at)
    cpdef long send_datagram(self, flow, long at, long length, long cut) except? -200000
    @cython.locals(flow=TcpFlow)
    cpdef ready(self, long descriptor, long events, double now)
    cpdef _ready(self, TcpFlow flow, long events, double now)
    cpdef double end_of_turn(self, double now) except? -1
