"""Pieces of shared memory: anonymous files in memory (Linux's memfd), which another process opens through /proc.

An owner sends a `SegmentHandle`. A process that may open the owner's descriptors (the same user on the same host, or
root) opens it and keeps the memory as long as it wants. The opened file must be the announced segment, and sealed
against shrinking, so that an owner cannot kill its readers by cutting it off. Systems without memfd share no memory:
`is_available` returns False, and buffers travel as frames.
"""

import contextlib
import fcntl
import functools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

#: begins the name of each segment, which the system shows to processes that may open it
_NAME: Final = "concurrent_nb-"
_ID_BYTES: Final = 16
_SEALS: Final = 0x0002 | 0x0004 | 0x0001  # F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL
_F_ADD_SEALS: Final = 1033
_F_GET_SEALS: Final = 1034


class CannotOpen(Exception):
    """A segment does not exist, or is not the announced one."""


@dataclass(frozen=True, slots=True)
class SegmentHandle:
    """How another process on this host opens a segment."""

    segment: bytes
    pid: int
    fd: int  #: in that process
    size: int  #: in bytes


@functools.cache
def is_available() -> bool:
    """Return whether this system can share memory in this way."""
    return sys.platform == "linux" and hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


def create(size: int) -> SegmentHandle:
    """Create a segment of `size` bytes, which take no memory before they are used. Raises OSError."""
    segment = os.urandom(_ID_BYTES)
    fd = os.memfd_create(_NAME + segment.hex(), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return SegmentHandle(segment, os.getpid(), fd, size)


@contextlib.contextmanager
def probe() -> Iterator[SegmentHandle | None]:
    """Yield a small segment with which others check whether they can open ours; None if memory cannot be shared."""
    if not is_available():
        yield None
        return
    handle = create(1)
    try:
        yield handle
    finally:
        os.close(handle.fd)


def open_segment(handle: SegmentHandle) -> int:
    """Open a segment for reading; return the descriptor. Raises CannotOpen."""
    path = f"/proc/{handle.pid:d}/fd/{handle.fd:d}"
    try:
        _check_name(path, handle)  # before it is opened: opening a device, for example, may have effects
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CannotOpen(f"segment {handle.segment.hex()[:8]} of process {handle.pid}: {error.strerror}") from error
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, fd)
        _check_name(f"/proc/self/fd/{fd}", handle)  # the number may belong to another file by now
        if os.fstat(fd).st_size != handle.size or fcntl.fcntl(fd, _F_GET_SEALS) & _SEALS != _SEALS:
            raise CannotOpen(f"segment {handle.segment.hex()[:8]} of process {handle.pid} is not sealed at its size")
        undo.pop_all()
    return fd


def _check_name(path: str, handle: SegmentHandle) -> None:
    if os.readlink(path) != f"/memfd:{_NAME}{handle.segment.hex()} (deleted)":
        raise CannotOpen(f"descriptor {handle.fd} of process {handle.pid} is not segment {handle.segment.hex()[:8]}")
