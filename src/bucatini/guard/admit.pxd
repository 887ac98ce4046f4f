cimport cython

from bucatini.guard.binding cimport Binding
from bucatini.guard.frame cimport Frame
from bucatini.guard.reach cimport is_global_ipv4, is_open, readings
from bucatini.wire.ip cimport IpView
from bucatini.wire.octets cimport load32


@cython.locals(topic=long, to_all=bint)
cpdef long admit(Frame frame, Binding binding, object rules, double now) except? -1
cpdef long admit_to_guest(Frame frame, Binding binding, object rules) except? -1
cpdef bint is_payload_to_guest(Frame frame) except -1
@cython.locals(address=bytes, verdict=long)
cpdef long reaches(Frame frame, Binding binding, object rules) except? -1
cpdef bint _is_own_source(Frame frame, Binding binding, double now) except -1
@cython.locals(at=long)
cpdef bint _is_unspecified(Frame frame) except -1
@cython.locals(to_all=bint)
cpdef bint _to_dhcp_server(Frame frame, Binding binding, double now) except -1
@cython.locals(ip=IpView, kind=long)
cpdef bint _about_itself(Frame frame, Binding binding, double now) except -1
@cython.locals(high=long)
cpdef bint _to_link(Frame frame) except -1
cpdef long _to_neighbor(Frame frame, Binding binding, object rules) except? -1
@cython.locals(first=long)
cpdef bint _is_local_report(Frame frame) except -1
cpdef long _reason(Frame frame, Binding binding, double now) except? -1
@cython.locals(destination=long, is_leased=bint, is_dhcp=bint, verdict=long, port=long, packed=bytes)
cpdef long admit_faithful(Frame frame, Binding binding, object rules, double now) except? -1
cpdef long admit_faithful_to_guest(Frame frame) except? -1
cpdef long _faithful_arp(Frame frame, Binding binding, double now) except? -1
