cimport cython

from bucatini.guard.binding cimport Binding


cpdef bint is_open(bytes address, long port, Binding binding) except -1
@cython.locals(high=long)
cpdef bint is_public(bytes address) except -1
@cython.locals(high=long)
cpdef bint is_global_ipv4(long address) noexcept
cpdef tuple readings(bytes address)
