"""The reader's side of shared memory: segments of other processes, kept open; slices read or mapped.

A small slice is copied, which is faster than mapping it. A large one is mapped copy-on-write, anew each time: pages are
shared until they are written to, and writes are visible only in that mapping.
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
    """Opens segments of other processes and reads their slices. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[bytes, SegmentHandle] = {}  # with our own descriptors

    def add(self, handle: SegmentHandle) -> None:
        """Open a segment; no effect if it is open. Raises CannotOpen."""
        with self._lock:
            if handle.segment not in self._opened:
                fd = open_segment(handle)
                self._opened[handle.segment] = SegmentHandle(handle.segment, os.getpid(), fd, handle.size)

    def drop(self, segments: Iterable[bytes]) -> None:
        """Close segments; unknown ones are ignored. Mappings stay."""
        with self._lock:
            for segment in segments:
                if (handle := self._opened.pop(segment, None)) is not None:
                    os.close(handle.fd)

    def close(self) -> None:
        """Close all segments."""
        self.drop(list(self._opened))

    def handle(self, segment: bytes) -> SegmentHandle | None:
        """Return the handle by which others open a segment that is open here; None if it is not."""
        return self._opened.get(segment)

    def read(self, slice_: Slice) -> bytearray:
        """Copy a slice. Raises CannotOpen if its segment is not open."""
        with self._lock:
            fd = self._fd_of(slice_)
            data = bytearray(slice_.size)
            view = memoryview(data)
            done = 0
            while done < slice_.size:
                count = os.preadv(fd, [view[done:]], slice_.offset + done)
                if not count:
                    raise CannotOpen(f"segment {slice_.segment.hex()[:8]} ends before its slice does")
                done += count
        return data

    def map_watched(self, slice_: Slice, watch: "Callable[[weakref.ref[Any]], None]") -> memoryview:
        """Return a private copy of a slice, which the caller may change. Raises CannotOpen.

        Args:
            watch: called with a weak reference that dies with the last reference to the mapping. It matters for changed
                mappings too, because their unwritten pages are still shared.
        """
        if slice_.size < MAPPED_BYTES:
            return memoryview(self.read(slice_))
        mapped = self._mapped(slice_)
        watch(weakref.ref(mapped))
        return memoryview(mapped).cast("B")

    def map(self, slice_: Slice) -> Any:
        """Map a slice copy-on-write; the result has a buffer. Raises CannotOpen."""
        return self._mapped(slice_)

    def map_until_unused(self, slice_: Slice, done: Callable[[Slice], None]) -> memoryview | bytearray:
        """Return a private copy of a slice; `done` is called when it no longer needs the slice. Raises CannotOpen."""
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
            raise CannotOpen(f"segment {slice_.segment.hex()[:8]} is not open here")
        if slice_.offset + slice_.size > handle.size:
            raise CannotOpen(f"a slice ends beyond its segment {slice_.segment.hex()[:8]}")
        return handle.fd
