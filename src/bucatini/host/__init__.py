"""Typed thin wrappers on the kernel: namespaces, the TAP, netlink, sockets, processes, the terminal.

Everything here does I/O and may raise `HostError`; nothing here knows about frames, flows or policy. Modules that run
in the guest's processes import nothing but the standard library, so that they can be forked before the engine is
loaded.
"""
