cimport cython

from bucatini.wire.ip cimport IpView
from bucatini.wire.octets cimport load16, load32


@cython.final
cdef class Frame:
    cdef public unsigned char[::1] buf
    cdef public object copy
    cdef public IpView ip
    cdef public bint faithful, honest, link_option
    cdef public long at, end, bad, kind, topic, source_high, source_low, address
    cdef public long protocol, source_port, destination_port, udp_end

    cpdef parse(self, long at, long length)
    cpdef adopt(self, long at, long end)
    @cython.locals(ethertype=long, high=long)
    cpdef bint _ethernet(self, long at, long end) except -1
    @cython.locals(ip=IpView, bad=long)
    cpdef long _ip(self) except? -1
    @cython.locals(ip=IpView, at=long, bad=long, protocol=long, high=long)
    cpdef long _inside(self) except? -1
    @cython.locals(ip=IpView)
    cpdef bint _is_router_alert(self) except -1
    @cython.locals(ip=IpView, kind=long, at=long, length=long)
    cpdef long _extensions(self) except? -1
    cpdef bint _has_home_address(self, long at, long end) except -1
    @cython.locals(at=long)
    cpdef long _tcp(self) except? -1
    @cython.locals(ip=IpView, source=long, destination=long, relayed=bint)
    cpdef long _udp(self) except? -1
    @cython.locals(ip=IpView, at=long, room=long, length=long)
    cpdef bint _ports(self) except -1
    cpdef bint _is_own_request(self, long at) except -1
    cpdef bint _is_sender(self, long at) except -1
    @cython.locals(ip=IpView, kind=long)
    cpdef long _icmp(self) except? -1
    @cython.locals(ip=IpView, kind=long)
    cpdef long _igmp(self) except? -1
    @cython.locals(ip=IpView, kind=long)
    cpdef long _icmpv6(self) except? -1
    @cython.locals(ip=IpView, at=long, options=long, length=long)
    cpdef long _neighbor(self, long kind) except? -1
    @cython.locals(at=long)
    cpdef long _arp(self) except? -1
    @cython.locals(at=long, hardware=long, address=long)
    cpdef long _any_arp(self) except? -1
    @cython.locals(ip=IpView, at=long, header=long, total=long)
    cpdef long _any_ipv4(self) except? -1
