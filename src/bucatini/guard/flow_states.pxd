cimport cython

from bucatini.guard.admit cimport admit, admit_to_guest, is_payload_to_guest
from bucatini.guard.binding cimport Binding
from bucatini.guard.frame cimport Frame
from bucatini.guard.reach cimport is_open, readings
from bucatini.wire.ip cimport IpView


@cython.final
cdef class _Packet:
    cdef public bytes peer
    cdef public long port
    cdef public tuple key
    cdef public bint begins, is_syn
    cdef public double seconds


@cython.final
cdef class _Flow:
    cdef public object direction
    cdef public double until
    cdef public long epoch


@cython.final
cdef class FlowStates:
    cdef public Binding _binding
    cdef public object _rules
    cdef public dict _flows
    cdef public long _limit, _epoch, _revision, refused, expired
    cdef public double _next_sweep

    cpdef long admit(self, Frame frame, double now) except? -1
    @cython.locals(bad=long)
    cpdef long admit_to_guest(self, Frame frame, double now) except? -1
    @cython.locals(packet=_Packet, flow=_Flow, approval=long)
    cpdef long _judge(self, Frame frame, object direction, double now) except? -1
    @cython.locals(key=tuple, flow=_Flow)
    cpdef _Flow _find(self, _Packet packet, double now)
    @cython.locals(approval=long, verdict=long)
    cpdef long _approve(self, object direction, _Packet packet) except? -1
    cpdef _catch_up(self, double now)


cpdef bint _makes_flow(object direction, _Packet packet, long approval) except -1
@cython.locals(ip=IpView, own=bytes, peer=bytes, own_port=long, port=long, protocol=long, is_syn=bint)
cpdef _Packet _read(Frame frame, object direction)
@cython.locals(at=long, kind=long)
cpdef _Packet _read_icmp(Frame frame, object direction, bytes own, bytes peer)
