cimport cython

cpdef long load16(unsigned char[::1] buf, long at)

@cython.locals(high=long, low=long)
cpdef long load32(unsigned char[::1] buf, long at)

cpdef void store16(unsigned char[::1] buf, long at, long value)

cpdef void store32(unsigned char[::1] buf, long at, long value)

cpdef bytes load_bytes(unsigned char[::1] buf, long at, long length)

@cython.locals(i=long)
cpdef void store_bytes(unsigned char[::1] buf, long at, bytes data)
