"""What the system knows of TCP connections that a library holds: how much has come over one, and how to end it.

ZeroMQ tells descriptors and nothing else. By the time one is looked at, its number may be another file's, so each look
duplicates it and compares addresses first. On Linux alone; elsewhere there is nothing to be told, and nothing is ended.
"""

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from typing import Any, Final

#: whether connections can be looked at here
IS_AVAILABLE: Final = sys.platform == "linux"
#: where `tcpi_bytes_received` is in `struct tcp_info`, and how long that is with it (Linux 4.1)
_RECEIVED_AT, _INFO_BYTES = 128, 136

#: both addresses of a connection, by which it is known again
Ends = tuple[Any, Any]


def ends_of(fd: int, ports: Collection[int]) -> Ends | None:
    """Give both addresses of a connection to one of our ports; None if the descriptor is no such thing (any more)."""
    with _duplicate(fd) as sock:
        ends = None if sock is None else _ends(sock)
        return ends if ends is not None and ends[0][1] in ports else None


def received_bytes(fd: int, ends: Ends) -> int | None:
    """Give how much has come over a connection so far; None if the descriptor is not that connection any more."""
    with _duplicate(fd) as sock:
        if sock is None or _ends(sock) != ends:
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        return struct.unpack_from("Q", info, _RECEIVED_AT)[0] if len(info) >= _INFO_BYTES else None


def cut(fd: int, ends: Ends) -> bool:
    """End a connection: whoever holds it finds it closed. False if the descriptor is not that connection any more."""
    with _duplicate(fd) as sock:
        if sock is None or _ends(sock) != ends:
            return False
        with contextlib.suppress(OSError):  # the peer was quicker
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
            except OSError:  # no socket
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
