"""Return freed memory to the system, which C's allocator otherwise keeps. Only with glibc 2.33 or later."""

import asyncio
import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Final

#: seconds between two checks
CHECK_S: Final = 3.0
#: least freed memory that is worth the milliseconds that its return takes
TRIM_BYTES_MIN: Final = 8 * 1024 * 1024


class _Info(ctypes.Structure):
    """C's struct mallinfo2."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def resident_bytes() -> int:
    """Return how much memory this process has."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


class LibcAllocator:
    """C's allocator."""

    def __init__(self, trim: Callable[[int], int], info: Callable[[], _Info]) -> None:
        self._trim = trim
        self._info = info
        self._free_min = self.free_bytes  # since the last time
        self._resident = resident_bytes()  # after the last time

    @property
    def free_bytes(self) -> int:
        """Return how much is free in it, whether or not it was returned to the system."""
        free: int = self._info().fordblks
        return free

    def trim_if_worthwhile(self) -> bool:
        """Return free memory to the system, if much was freed since the last time; return whether it was."""
        free = self.free_bytes
        # What was allocated and freed between two checks is visible only in the size of the process.
        has_grown = free >= TRIM_BYTES_MIN and resident_bytes() >= self._resident + TRIM_BYTES_MIN
        if free < self._free_min + TRIM_BYTES_MIN and not has_grown:
            self._free_min = min(self._free_min, free)
            return False
        self._trim(0)  # without the interpreter's lock: other threads go on
        self._free_min, self._resident = self.free_bytes, resident_bytes()
        return True


def find_allocator() -> LibcAllocator | None:
    """Return this process's allocator; None if it cannot return memory on request."""
    if sys.platform != "linux":
        return None
    try:
        libc = ctypes.CDLL(None)
        trim, info = libc.malloc_trim, libc.mallinfo2
    except (OSError, AttributeError):  # another C library, or an old one
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    info.argtypes, info.restype = (), _Info
    return LibcAllocator(trim, info)


async def trim_periodically() -> None:
    """Return freed memory every CHECK_S seconds, if there is enough."""
    allocator = find_allocator()
    while allocator is not None:
        await asyncio.sleep(CHECK_S)
        allocator.trim_if_worthwhile()
