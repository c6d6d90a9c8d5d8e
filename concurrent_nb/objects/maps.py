"""Map a piece of a file into memory without keeping the file open.

`mmap.mmap` duplicates the descriptor for each mapping (its `trackfd=False` came with Python 3.13), and whoever keeps a
thousand results would run out of descriptors. This calls the system itself.
"""

import ctypes
import mmap
import os
import weakref
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
