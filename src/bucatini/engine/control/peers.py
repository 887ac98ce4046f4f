"""Who may speak on a control socket: the engine's own user, from the engine's own network namespace.

A sandboxed command has the same user as its engine and often the same files, so the socket's mode keeps nobody out.
What it cannot be is in the host's network namespace: a process gets there only by a capability in the host's own user
namespace (setns(2)). So the namespace of whoever called connect(2) is looked at. Its process identifier means something
only while it lives, hence the pidfd: the kernel's own of the peer (SO_PEERPIDFD, Linux 6.5), else one opened here.

An engine that gave its capabilities up may not look at a process of its user's that has some. Then the socket says it:
the kernel makes our end of a connection in the network namespace of the socket that called, and a namespace has a
number (SO_NETNS_COOKIE, Linux 5.14).

Who cannot be looked at either way, or is gone already, is refused. Root, where the engine is an ordinary user's, is let
in without a look, which it would not allow: no command of that user's is root, and root needs no door.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct

__all__ = ["is_welcome"]

SO_PEERPIDFD = 77
SO_NETNS_COOKIE = 71
_CREDENTIALS = struct.Struct("=iII")  # pid, uid, gid: unix(7)


def is_welcome(sock: socket.socket) -> bool:
    """Whether the peer of a connected UNIX socket may speak."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(credentials)
    if user != os.geteuid():
        return bool(user == 0)
    return process > 0 and _shares_network(sock, process)


def _shares_network(sock: socket.socket, process: int) -> bool:
    try:
        pidfd = _open_pidfd(sock, process)
    except OSError:
        return False
    try:
        theirs, ours = os.stat(f"/proc/{process}/ns/net"), os.stat("/proc/self/ns/net")
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        lives = not poll.poll(0)
    except PermissionError:
        return _was_made_here(sock)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return lives and (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def _was_made_here(sock: socket.socket) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as own:
            return _cookie(sock) == _cookie(own)
    except OSError:
        return False


def _cookie(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)


def _open_pidfd(sock: socket.socket, process: int) -> int:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
    return os.pidfd_open(process)
