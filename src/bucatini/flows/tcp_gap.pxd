cimport cython

from bucatini.flows.sequence cimport add, distance
from bucatini.flows.tcp_flow cimport TcpFlow


@cython.locals(pieces=list, position=long)
cpdef bint keep(TcpFlow flow, long seq, long at, long length, object out) except -1
@cython.locals(pieces=list)
cpdef bint _make_room(TcpFlow flow, long position, long length, object out) except -1
@cython.locals(pieces=list, done=long, left=long, took=long)
cpdef long drain(TcpFlow flow, object out) except? 1
cpdef forget(TcpFlow flow, object out)
