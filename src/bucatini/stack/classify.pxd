cimport cython

from bucatini.wire.icmp cimport IcmpView
from bucatini.wire.ip cimport IpView
from bucatini.wire.octets cimport load16, load32
from bucatini.wire.tcp cimport TcpOptions, TcpView
from bucatini.wire.udp cimport UdpView
from bucatini.wire.virtio_net cimport VirtioNetHeader


@cython.final
cdef class Packet:
    cdef public unsigned char[::1] buf
    cdef public object memory, sum_of, copy
    cdef public bytes gateway_mac
    cdef public bint ipv4, ipv6
    cdef public VirtioNetHeader vnet
    cdef public IpView ip
    cdef public TcpView tcp
    cdef public TcpOptions options
    cdef public UdpView udp
    cdef public IcmpView icmp
    cdef public long ethernet_at, end, kind, mac_high, mac_low, header

    cpdef long parse(self, long at, long length) except? -1
    @cython.locals(ethertype=long)
    cpdef long inside(self) except? -1
    cpdef bint _is_for_us(self, long at) except -1
    @cython.locals(bad=long, ip=IpView)
    cpdef long _ip(self, long version) except? -1
    @cython.locals(source=long, destination=long)
    cpdef long _ipv4_addresses(self) except? -1
    cpdef long _ipv6_addresses(self) except? -1
    @cython.locals(index=long)
    cpdef long _tiny(self, long at) except? -2
    @cython.locals(protocol=long, end=long, ip=IpView)
    cpdef long transport(self) except? -1
    @cython.locals(ip=IpView)
    cpdef bint _sum_is_right(self, long end) except -1
    cpdef bytes source(self)
    cpdef bytes destination(self)
    @cython.locals(ip=IpView, addresses=bytes)
    cpdef bytes key(self)
