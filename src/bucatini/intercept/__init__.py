"""A separate process that terminates TLS and reads HTTP; it receives connected sockets and answers over one socket."""
