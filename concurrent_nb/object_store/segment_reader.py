"""The reader's side of shared memory: segments of other processes, kept open; slices read or mapped.

A small slice is copied, which is faster than mapping it. A large one is mapped copy-on-write, anew each time: pages are
shared until they are written to, and what is written is the writer's own.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final

from concurrent_nb.object_store.mapping import map_private
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle, open_segment
from concurrent_nb.wire.messages import Slice

#: slices of at least this size are mapped
MAPPED_BYTES: Final = 1024 * 1024


class SegmentReader:
    """Segments of other processes. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[bytes, SegmentHandle] = {}  # with our own descriptors

    def add(self, handle: SegmentHandle) -> None:
        """Open a segment; again is harmless. Raises CannotOpen."""
        with self._lock:
            if handle.segment not in self._opened:
                fd = open_segment(handle)
                self._opened[handle.segment] = SegmentHandle(handle.segment, os.getpid(), fd, handle.size)

    def drop(self, segments: Iterable[bytes]) -> None:
        """Close segments; unknown ones are ignored. What is mapped stays mapped."""
        with self._lock:
            for segment in segments:
                if (handle := self._opened.pop(segment, None)) is not None:
                    os.close(handle.fd)

    def close(self) -> None:
        """Close all."""
        self.drop(list(self._opened))

    def handle(self, segment: bytes) -> SegmentHandle | None:
        """Say how others open a segment that is open here; None if it is not."""
        return self._opened.get(segment)

    def read(self, slice_: Slice) -> bytearray:
        """Copy a slice. Raises CannotOpen for one that is not here."""
        with self._lock:
            fd = self._fd_of(slice_)
            data = bytearray(slice_.size)
            view = memoryview(data)
            got = 0
            while got < slice_.size:
                count = os.preadv(fd, [view[got:]], slice_.offset + got)
                if not count:
                    raise CannotOpen(f"segment {slice_.segment.hex()[:8]} ends before its slice does")
                got += count
        return data

    def look(self, slice_: Slice, watch: "Callable[[weakref.ref[Any]], None]") -> memoryview:
        """Give a slice as memory of its own, which may be changed and is nobody else's. Raises CannotOpen.

        Args:
            watch: gets a reference that dies when nobody refers to shared memory any more; also for what was changed,
                because the pages that were not written to are still shared.
        """
        if slice_.size < MAPPED_BYTES:
            return memoryview(self.read(slice_))
        mapped = self._mapped(slice_)
        watch(weakref.ref(mapped))
        return memoryview(mapped).cast("B")

    def map(self, slice_: Slice) -> Any:
        """Map a slice, which may be changed as with `look`; has a buffer. Raises CannotOpen."""
        return self._mapped(slice_)

    def take(self, slice_: Slice, done: Callable[[Slice], None]) -> memoryview | bytearray:
        """Give a slice to be changed at will; `done` is called once nobody needs it any more. Raises CannotOpen."""
        if slice_.size < MAPPED_BYTES:
            data = self.read(slice_)
            done(slice_)
            return data
        mapped = self._mapped(slice_)
        weakref.finalize(mapped, done, slice_).atexit = False
        return memoryview(mapped).cast("B")

    def _mapped(self, slice_: Slice) -> Any:
        with self._lock:
            try:
                return map_private(self._fd_of(slice_), slice_.offset, slice_.size)
            except OSError as error:  # no memory, or too many mappings
                raise CannotOpen(f"a slice of segment {slice_.segment.hex()[:8]}: {error.strerror}") from error

    def _fd_of(self, slice_: Slice) -> int:
        handle = self._opened.get(slice_.segment)
        if handle is None:
            raise CannotOpen(f"segment {slice_.segment.hex()[:8]} is not known here")
        if slice_.offset + slice_.size > handle.size:
            raise CannotOpen(f"a slice that ends behind its segment {slice_.segment.hex()[:8]}")
        return handle.fd
