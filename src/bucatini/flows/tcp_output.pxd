cimport cython

from bucatini.flows.sequence cimport add, distance
from bucatini.flows.tcp_flow cimport TcpFlow


cpdef initial_window(TcpFlow flow)
@cython.locals(space=long, usable=long, limit=long, offered=long, small=long)
cpdef update_window(TcpFlow flow, object out)
@cython.locals(edge=long)
cpdef long outside(TcpFlow flow) noexcept
cpdef flush(TcpFlow flow, double now, object out)
cpdef bint _may_wait(TcpFlow flow, double now) except -1
cpdef _acknowledged(TcpFlow flow)
@cython.locals(done=long)
cpdef bint _discard(TcpFlow flow, object out) except -1
@cython.locals(limit_in_flight=long, burst=long, in_flight=long, window=long, usable=long, limit=long, got=long)
cpdef _pump(TcpFlow flow, double now, object out)
cpdef _send_fin(TcpFlow flow, object out)
cpdef _sent_further(TcpFlow flow)
cpdef _arm_transmit(TcpFlow flow, double now, object out)
cpdef retransmit(TcpFlow flow, object out)
cpdef wait_in_time_wait(TcpFlow flow, double now, object out)
@cython.locals(state=long, at=double)
cpdef deadline(TcpFlow flow, double now, object out)
cpdef _repeat_syn(TcpFlow flow, double now, object out)
cpdef _transmit_timeout(TcpFlow flow, double now, object out)
cpdef _probe(TcpFlow flow, object out)
@cython.locals(silent=double)
cpdef _idle(TcpFlow flow, double now, object out)
