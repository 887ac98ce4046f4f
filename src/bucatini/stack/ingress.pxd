cimport cython

from bucatini.flows.table cimport FlowTable
from bucatini.flows.tcp cimport guest_segment
from bucatini.flows.tcp_flow cimport TcpFlow
from bucatini.guard.admit cimport admit
from bucatini.guard.binding cimport Binding
from bucatini.guard.frame cimport Frame
from bucatini.stack.classify cimport Packet


@cython.final
cdef class Ingress:
    cdef public Packet packet
    cdef public FlowTable table
    cdef public object settings, gateway, decide, isn, out, addresses, meet, stranger, neighbours
    cdef public Frame guarded
    cdef public Binding binding

    @cython.locals(packet=Packet, reason=long, kind=long)
    cpdef long frame(self, long at, long length, double now) except? -1
    @cython.locals(guarded=Frame, reason=long)
    cpdef long _guard(self, Binding binding, double now) except? -1
    @cython.locals(packet=Packet, flow=TcpFlow)
    cpdef long _tcp(self, double now) except? -1
    @cython.locals(packet=Packet)
    cpdef long _no_tcp_flow(self, double now) except? -1
    @cython.locals(packet=Packet)
    cpdef long _udp(self, double now) except? -1
