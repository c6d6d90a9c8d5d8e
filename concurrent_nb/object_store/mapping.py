"""Map a piece of a file into memory, copy-on-write, without keeping the file open.

`mmap.mmap` duplicates the descriptor for each mapping (its `trackfd=False` came with Python 3.13), so a process that
keeps a thousand results would run out of descriptors. This module calls the system itself.
"""

import ctypes
import mmap
import os
import resource
import weakref
from collections.abc import Sequence
from io import FileIO
from typing import Any, Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_FAILED: Final = ctypes.c_void_p(-1).value


def map_private(fd: int, offset: int, size: int) -> Any:
    """Map `size` bytes of a file copy-on-write: a page is copied when it is written to.

    Returns an object with a buffer and weak references. Raises OSError.
    """
    address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, fd, offset)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"{size} bytes cannot be mapped: {os.strerror(number)}")
    mapped = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(mapped, _libc.munmap, address, size).atexit = False
    return mapped


#: bytes of /proc/self/pagemap for each page
_ENTRY_BYTES: Final = 8
#: bytes of it that are read with one call
_READ_BYTES: Final = 1 << 20
#: the highest bytes of the entries of unwritten pages: those not in memory (neither bit 7, present, nor bit 6, swapped
#: out), and those that still belong to the file (bit 5)
_NOT_WRITTEN: Final = bytes(byte for byte in range(256) if not byte & 0xC0 or byte & 0x20)


class Restorer:
    """Restores the original content of private mappings.

    Costs half a microsecond if the process has touched no new page since the last call, else 2 us for each MiB.
    """

    def __init__(self, mapped: Sequence[Any]) -> None:
        self._mapped = mapped
        self._faults = -1  # the first write to a page is a page fault

    def restore(self) -> None:
        """Undo all writes since the last call. Raises OSError."""
        faults = _faults()
        if faults == self._faults:
            return
        self._faults = faults
        for mapped in self._mapped:
            address, size = ctypes.addressof(mapped), ctypes.sizeof(mapped)
            if _is_written(address, size) and _libc.madvise(address, size, mmap.MADV_DONTNEED):
                number = ctypes.get_errno()
                raise OSError(number, f"{size} bytes cannot be restored: {os.strerror(number)}")


def _faults() -> int:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


class _OwnedFile(FileIO):
    """A file that is closed with its object, without a warning: a thread may be interrupted before `with` has it."""

    def close(self) -> None:
        self._finalizing = False  # of FileIO, which warns if it is true
        super().close()


def _is_written(address: int, size: int) -> bool:
    """Return whether pages of a private mapping were written to; True if the system does not report it."""
    at = address // mmap.PAGESIZE * _ENTRY_BYTES
    end = at + -(-size // mmap.PAGESIZE) * _ENTRY_BYTES
    try:
        # Opened each time, because a task may close descriptors that it did not open.
        with _OwnedFile("/proc/self/pagemap") as pagemap:
            while at < end:
                entries = os.pread(pagemap.fileno(), min(_READ_BYTES, end - at), at)
                if not entries or entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES].translate(None, _NOT_WRITTEN):
                    return True
                at += len(entries)
    except OSError:
        return True
    return False
