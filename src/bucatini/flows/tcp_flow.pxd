cimport cython


@cython.final
cdef class TcpFlow:
    cdef public object guest, peer, host, direction, rule, key, template, sock
    cdef public long id, protocol, state, fd, ip_sum, pseudo_sum
    cdef public bint open
    cdef public long iss, snd_una, snd_nxt, snd_max, snd_wnd, snd_wl1, snd_wl2, snd_scale, mss, superframe
    cdef public bint fin_sent
    cdef public long discard_due, duplicate_acks, recover, retries, probes
    cdef public long irs, rcv_nxt, rcv_edge, rcv_scale
    cdef public bint guest_fin, ack_due, ack_now
    cdef public long space, pushed
    cdef public bint refused_tail, await_space, readable, rdhup, peek_skips, queued
    cdef public double timer_at, deadline, armed_at, idle_at, last_guest_at, opened_at
    cdef public long sent, received
    cpdef move(self, long state)
    @cython.locals(mss=long)
    cpdef set_mss(self, long offered, long link_mss, bint segmented)
