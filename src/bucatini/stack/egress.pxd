cimport cython

from bucatini.flows.datagram_flow cimport DatagramFlow
from bucatini.flows.sequence cimport distance
from bucatini.flows.tcp_flow cimport TcpFlow
from bucatini.wire.octets cimport store16, store32, store_bytes


@cython.final
cdef class Egress:
    cdef public unsigned char[::1] buf
    cdef public object memory, sum_of
    cdef public bytes guest_mac, gateway_mac
    cdef public bint checksum_offload
    cdef public dict templates

    @cython.locals(header=long, tcp_at=long, window=long, template=bytes)
    cpdef long segment(self, TcpFlow flow, long at, long flags, long seq, long length) except? -1
    @cython.locals(options=bytes)
    cpdef long syn(self, TcpFlow flow, long at, long flags, long mss) except? -1
    cpdef long acknowledgement(self, TcpFlow flow, long at, long seq, list blocks) except? -1
    @cython.locals(header=long, tcp_at=long)
    cpdef long _with_options(self, TcpFlow flow, long at, long length, bytes options) except? -1
    @cython.locals(header=long, udp_at=long, template=bytes)
    cpdef long datagram(self, DatagramFlow flow, long at, long length, long cut) except? -1
    cpdef long plain(self, long at, bytes frame) except? -1
    @cython.locals(total=long)
    cpdef _ip_length(self, long at, long length, long ip_sum)
    @cython.locals(total=long)
    cpdef _checksum(self, long at, long l4_at, long field, long pseudo, long length, long start)
    cpdef _store_sum(self, long at, long total)
    cpdef _vnet(self, long at, long flags, long gso, long headers, long size, long start, long offset)
