"""Reads from the system how much has arrived on a TCP connection of a library, and ends such a connection.

ZeroMQ reports only descriptors. When one is used, its number may belong to another file, so each function duplicates it
and compares addresses first. On Linux only; elsewhere the functions return None or False.
"""

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from typing import Any, Final

#: whether connections can be checked here
IS_AVAILABLE: Final = sys.platform == "linux"
#: the offset of `tcpi_bytes_received` in `struct tcp_info`, and the length up to its end (Linux 4.1)
_RECEIVED_AT, _INFO_BYTES = 128, 136

#: both addresses of a connection, which identify it
Ends = tuple[Any, Any]


def ends_of(fd: int, ports: Collection[int]) -> Ends | None:
    """Return both addresses of a connection to one of our ports; None if the descriptor is not one (any more)."""
    with _duplicate(fd) as sock:
        ends = None if sock is None else _ends(sock)
        return ends if ends is not None and ends[0][1] in ports else None


def received_bytes(fd: int, ends: Ends) -> int | None:
    """Return the bytes received on a connection so far; None if the descriptor is not that connection any more."""
    with _duplicate(fd) as sock:
        if sock is None or _ends(sock) != ends:
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        return struct.unpack_from("Q", info, _RECEIVED_AT)[0] if len(info) >= _INFO_BYTES else None


def cut(fd: int, ends: Ends) -> bool:
    """Shut a connection down. Return False if the descriptor is not that connection any more."""
    with _duplicate(fd) as sock:
        if sock is None or _ends(sock) != ends:
            return False
        with contextlib.suppress(OSError):  # the peer has closed it already
            sock.shutdown(socket.SHUT_RDWR)
        return True


@contextlib.contextmanager
def _duplicate(fd: int) -> Iterator[socket.socket | None]:
    sock = None
    if IS_AVAILABLE and fd >= 0:
        try:
            duplicate = os.dup(fd)
        except OSError:
            duplicate = -1
        if duplicate >= 0:
            try:
                sock = socket.socket(fileno=duplicate)
            except OSError:  # not a socket
                os.close(duplicate)
    try:
        yield sock
    finally:
        if sock is not None:
            sock.close()


def _ends(sock: socket.socket) -> Ends | None:
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        return sock.getsockname(), sock.getpeername()
    except OSError:  # not connected any more
        return None
