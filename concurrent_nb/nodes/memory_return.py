"""Give memory back to the system that this process has freed: C's allocator keeps it for itself otherwise.

With glibc only; elsewhere nothing is done, and the allocator does what it does.
"""

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Final

#: how often to look
CHECK_S: Final = 3.0
#: so much more than after the last time is worth the milliseconds that it takes
WORTH_BYTES: Final = 16 * 1024 * 1024

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def resident_bytes() -> int:
    """Return how much memory this process has; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES
    return 0


def find_trim() -> Callable[[], object] | None:
    """Give what makes the allocator give back what is free; None if it has no such thing."""
    if sys.platform != "linux":
        return None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return lambda: trim(0)


async def keep_giving_back() -> None:
    """Look every CHECK_S seconds whether much was taken since the last time, and give back what of it is free."""
    trim = find_trim()
    if trim is None:
        return
    trim()
    least = resident_bytes()
    while True:
        await asyncio.sleep(CHECK_S)
        now = resident_bytes()
        if now > least + WORTH_BYTES:
            trim()  # without the interpreter's lock: the other thread goes on
            now = resident_bytes()
        least = now  # what could not be given back is in use: it is not tried again and again
