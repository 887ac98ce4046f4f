cimport cython

from bucatini.flows.sequence cimport add, distance
from bucatini.flows.tcp_flow cimport TcpFlow
from bucatini.flows.tcp_gap cimport drain, forget, keep
from bucatini.flows.tcp_output cimport initial_window, outside, retransmit, wait_in_time_wait
from bucatini.wire.tcp cimport TcpOptions, TcpView


cpdef open_from_guest(TcpFlow flow, TcpView view, TcpOptions options, long isn, object out)
cpdef accepted(TcpFlow flow, long isn, double now, object out)
cpdef host_connected(TcpFlow flow, double now, object out)
cpdef host_failed(TcpFlow flow, long error, object out)
cpdef host_readable(TcpFlow flow, bint hangup, bint urgent, object out)
cpdef host_writable(TcpFlow flow, object out)
cpdef guest_unreachable(TcpFlow flow, object out)
cpdef long guest_segment(TcpFlow flow, TcpView view, TcpOptions options, double now, object out) except? -1
cpdef _take_scale(TcpFlow flow, TcpOptions options)
cpdef long _connecting(TcpFlow flow, TcpView view, object out) except? -1
cpdef long _syn_received(TcpFlow flow, TcpView view, double now, object out) except? -1
cpdef long _syn_sent(TcpFlow flow, TcpView view, TcpOptions options, double now, object out) except? -1
cpdef _establish(TcpFlow flow, TcpView view, double now, object out)
cpdef long _time_wait(TcpFlow flow, TcpView view, object out) except? -1
@cython.locals(length=long, offset=long, window=long, flags=long)
cpdef long _synchronized(TcpFlow flow, TcpView view, double now, object out) except? -1
cpdef long _reset(TcpFlow flow, long offset, long window, object out) except? -1
cpdef _acknowledge(TcpFlow flow, object out)
@cython.locals(ahead=long, window=long, duplicate=bint)
cpdef bint _take_ack(TcpFlow flow, TcpView view, long length, double now, object out) except -1
cpdef _duplicate_ack(TcpFlow flow, double now, object out)
@cython.locals(fin_acked=bint)
cpdef _advance(TcpFlow flow, long ack, long ahead, double now, object out)
cpdef _fin_acknowledged(TcpFlow flow, double now, object out)
cpdef bint _drain(TcpFlow flow, object out) except -1
@cython.locals(fresh=long, fits=long, took=long, kept=bint)
cpdef long _take_text(TcpFlow flow, TcpView view, long offset, long length, long window, double now, object out) except? -1
cpdef bint _gathers(TcpFlow flow, TcpView view, long length, long window) except -1
@cython.locals(missing=long)
cpdef gathered_pushed(TcpFlow flow, long took, long total, object out)
cpdef _take_fin(TcpFlow flow, double now, object out)
