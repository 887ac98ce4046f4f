cpdef long distance(long a, long b) noexcept
cpdef long add(long a, long count) noexcept
