"""Bytes on the wire <-> fields: one module per format, no I/O, no state between packets.

The contract every module keeps:

* `parse` never raises whatever the bytes are; it answers with a value (false, a reason number or None).
* After `parse` succeeds every offset of the view lies inside the bounds it was given, and no read through it can fail.
* `emit` fills exactly the header it names, so `parse(emit(x)) == x`. Its arguments come from us and are legal.

`buf` is a writable byte memoryview (a `bytearray` underneath) and is only read by `parse`; a view keeps offsets into
it, not the buffer, so it may be reused for the next frame. The hot modules are pairs of `.py` and `.pxd`: Cython
compiles the pair, and without a compiler the `.py` runs alone. Numbers in them fit 64 bits and are masked to their
field's width.
"""
