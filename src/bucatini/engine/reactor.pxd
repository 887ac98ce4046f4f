# The class stays a Python class, as asyncio wants a `selectors.BaseSelector`; its code is compiled all the same.

cimport cython

from bucatini.native.fast_poller cimport Poller as FastPoller


@cython.locals(index=int, descriptor=int, events=long)
cpdef serve(FastPoller poller, int count, double now, dict handlers, dict keys, list theirs, object struck)
