"""Map a piece of a file into memory, copy-on-write, without keeping the file open.

`mmap.mmap` duplicates the descriptor for each mapping (its `trackfd=False` came with Python 3.13), and whoever keeps a
thousand results would run out of descriptors. This calls the system itself.
"""

import ctypes
import mmap
import os
import resource
import weakref
from collections.abc import Sequence
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
    """Map `size` bytes to look at them, or to change them for oneself alone: a page is copied when it is written to.

    What is returned has a buffer, and can be referred to weakly. Raises OSError.
    """
    address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, fd, offset)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"{size} bytes cannot be mapped: {os.strerror(number)}")
    mapped = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(mapped, _libc.munmap, address, size).atexit = False
    return mapped


#: the system has 8 bytes for each page
_ENTRY_BYTES: Final = 8
#: so much of that is read at once, in bytes
_READ_BYTES: Final = 1 << 20
#: the highest bytes of the entries of pages that were not written to: those that are not there (neither bit 7, present,
#: nor bit 6, swapped out), and those that still are the file's (bit 5)
_NOT_WRITTEN: Final = bytes(byte for byte in range(256) if not byte & 0xC0 or byte & 0x20)


class Restorer:
    """Make private mappings again what they were.

    Costs half a microsecond while the process has touched no new page since the last time, else 2 us for each MiB.
    """

    def __init__(self, mapped: Sequence[Any]) -> None:
        self._mapped = mapped
        self._faults = -1  # a page that is written to for the first time is one more

    def restore(self) -> None:
        """Undo what was written since the last time. Raises OSError."""
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


def _is_written(address: int, size: int) -> bool:
    """Say whether pages of a private mapping were written to; yes where the system does not say."""
    at = address // mmap.PAGESIZE * _ENTRY_BYTES
    end = at + -(-size // mmap.PAGESIZE) * _ENTRY_BYTES
    try:
        # Opened each time, because a task may close what it does not know.
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        while at < end:
            entries = os.pread(fd, min(_READ_BYTES, end - at), at)
            if not entries or entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES].translate(None, _NOT_WRITTEN):
                return True
            at += len(entries)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
