cimport cython


@cython.final
cdef class TcpFlow:
    cdef public list beyond
    cdef public object guest, peer, host, direction, rule, key, template, sock
    cdef public long id, protocol, state, fd, ip_sum, pseudo_sum
    cdef public bint open
    cdef public long iss, snd_una, snd_nxt, snd_max, snd_wnd, snd_wl1, snd_wl2, snd_scale, mss, link_mss, superframe
    cdef public bint fin_sent
    cdef public long discard_due, kept_acks, duplicate_acks, recover, retries, probes
    cdef public long irs, rcv_nxt, rcv_edge, rcv_acked, rcv_scale
    cdef public bint guest_fin, ack_due, ack_now
    cdef public long space, pushed, beyond_bytes, beyond_last
    cdef public bint refused_tail, await_space, readable, careful, sack, rdhup, segmented, peek_skips, queued, in_line, blocked, gathering
    cdef public double ack_wait, timer_at, deadline, armed_at, idle_at, last_guest_at, opened_at
    cdef public long sent, received
    cpdef move(self, long state)
    cpdef set_mss(self, long offered)
    cpdef set_segmented(self, bint segmented)
    cpdef set_link(self, long link_mss, bint segmented)
