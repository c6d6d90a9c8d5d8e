"""The owner's side of shared memory: lays buffers down once, however often they are sent.

    place(buffer) -> Slice      copied into a place, or recognised
    let_go(slices, clean)       every placing is let go once; then the place is free, and what lies there still known

What was placed is recognised in two ways. A buffer that is a placed one itself (what `put` gives) costs nothing. One at
the same address and of the same length as one before is compared by xxh3-128, which costs as much as copying it but
saves the memory and every later copy. A buffer that was found changed is not compared again, but copied each time.
"""

import ctypes
import mmap
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from concurrent_nb import foreign
from concurrent_nb.object_store.allocator import Allocator, Block, kind_of, places_in
from concurrent_nb.object_store.segment_reader import MAPPED_BYTES
from concurrent_nb.object_store.segments import SegmentHandle, create
from concurrent_nb.wire.messages import Slice

log = foreign.Log(__name__)

#: smaller buffers are not recognised: copying them is as fast
RECOGNISED_BYTES: Final = 1024 * 1024
#: addresses that are remembered
SEEN_MAX: Final = 1024
#: so much free memory is kept warm for the next buffers
WARM_BYTES: Final = 256 * 1024 * 1024


class _PyBuffer(ctypes.Structure):
    """The head of C's Py_buffer, and room for the rest."""

    _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_void_p * 15))


def address_of(buffer: memoryview) -> int:
    """Give the address of a contiguous buffer's first byte."""
    head = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(head), 0)
    address: int = head.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(head))
    return address


@dataclass(eq=False, slots=True)
class _Placed:
    slice: Slice
    place: Block
    address: int  #: where it lies in this process
    source: tuple[int, int] | None  #: the address and length that it was copied from, if it may be recognised
    users: int = 1
    clean: bool = True  #: so far everybody who let it go was done with it
    digest: bytes | None = None  #: xxh3-128, once it was asked for


class ObjectStore:
    """Shared memory that this process owns. Safe to use from many threads.

    Args:
        recognise: look for buffers that were placed before.
        warm_bytes: so much free memory is kept for the next buffers.
    """

    def __init__(self, *, recognise: bool = True, warm_bytes: int = WARM_BYTES) -> None:
        self._recognises = recognise
        self._warm_bytes = warm_bytes
        self._lock = threading.Lock()
        self._heap = Allocator()
        self._handles: dict[bytes, SegmentHandle] = {}
        self._kinds: dict[bytes, int] = {}  # how large their places are
        self._maps: dict[bytes, tuple[mmap.mmap, int]] = {}  # and their addresses
        self._placed: dict[tuple[bytes, int], _Placed] = {}  # by segment and offset; free ones too, until reused
        self._backed: set[tuple[bytes, int]] = set()  # large places that have memory
        self._own: dict[int, _Placed] = {}  # by address: what can be recognised without looking at it
        self._seen: OrderedDict[tuple[int, int], _Placed] = OrderedDict()  # by the address and length it came from
        self._fickle: OrderedDict[tuple[int, int], None] = OrderedDict()  # addresses whose content changed
        self._count = 0
        self._is_closed = False
        self._returns: deque[tuple[Slice, bool]] = deque()  # let go, also by finalizers, which may take no lock
        self._closed: list[bytes] = []  # segments, since they were last asked for

    # ------------------------------------------------------------------------------------------------------ laying down

    def place(self, buffer: memoryview) -> Slice | None:
        """Lay a buffer down, or find it; None if there is no memory for it. It is let go once for each call.

        None also after `close`: what is submitted after a shutdown is refused, but pickled before that.
        """
        if self._is_closed:
            return None
        buffer = buffer.cast("B")
        if not self._recognises:
            with self._lock:
                self._take_returns()
            return self._lay_down(buffer, None)
        key = (address_of(buffer), buffer.nbytes)
        with self._lock:
            self._take_returns()
            known = self._own.get(key[0])
            if known is not None and known.slice.size == key[1]:
                return self._use(known)
            known = self._seen.get(key) if key not in self._fickle else None
            if known is not None:
                self._use(known)
        if known is not None:
            if self._is_same(known, buffer):
                return known.slice
            with self._lock:
                self._fickle[key] = None
                if len(self._fickle) > SEEN_MAX:
                    self._fickle.popitem(last=False)
            self.let_go([known.slice], clean=True)
        return self._lay_down(buffer, key)

    def _use(self, placed: _Placed) -> Slice:
        """Count one more user, also of what is free, but still lies there."""
        if placed.users == 0:
            self._heap.retake(placed.place)
        placed.users += 1
        return placed.slice

    def _is_same(self, placed: _Placed, buffer: memoryview) -> bool:
        import xxhash  # here, because most applications never send the same large buffer twice

        if placed.digest is None:
            placed.digest = xxhash.xxh3_128_digest(self.view(placed.slice))
        return placed.digest == xxhash.xxh3_128_digest(buffer)

    def _lay_down(self, buffer: memoryview, key: tuple[int, int] | None) -> Slice | None:
        with self._lock:
            if self._is_closed:  # meanwhile
                return None
            try:
                place = self._find_place(buffer.nbytes)
            except OSError as error:
                _warn(buffer, error)
                return None
            former = self._placed.pop((place.segment, place.offset), None)
            if former is not None:
                self._forget(former)
            self._count += 1
            slice_ = Slice(place.segment, place.offset, buffer.nbytes, self._count)
            placed = _Placed(slice_, place, self._maps[place.segment][1] + place.offset, key)
            self._placed[place.segment, place.offset] = placed
            # A small one is written through its file, which touches no page of ours: a third of the time if it is cold.
            # Under the lock, which keeps the file open.
            if buffer.nbytes < MAPPED_BYTES and not self._write(slice_, buffer):
                return None
        if buffer.nbytes >= MAPPED_BYTES:
            self.view(slice_)[:] = buffer
        if key is not None:
            with self._lock:
                self._own[placed.address] = placed
                if buffer.nbytes >= RECOGNISED_BYTES:
                    self._seen[key] = placed
                    if len(self._seen) > SEEN_MAX:
                        self._seen.popitem(last=False)
        return slice_

    def _find_place(self, size: int) -> Block:
        place = self._heap.take(size)
        if place is None:
            kind = kind_of(size)
            handle = create(kind * places_in(kind))
            self._handles[handle.segment] = handle
            self._kinds[handle.segment] = kind
            mapped = mmap.mmap(handle.fd, handle.size)
            self._maps[handle.segment] = mapped, address_of(memoryview(mapped))
            self._heap.add(handle.segment, kind, places_in(kind))
            place = self._heap.take(size)
            assert place is not None
        if size >= MAPPED_BYTES and (place.segment, place.offset) not in self._backed:
            try:
                # Memory that runs out while it is written to kills the process; asked for beforehand it is an error.
                os.posix_fallocate(self._handles[place.segment].fd, place.offset, place.size)
            except OSError:
                self._close(self._heap.give_back(place, clean=False))
                raise
            self._backed.add((place.segment, place.offset))
        return place

    def _write(self, slice_: Slice, buffer: memoryview) -> bool:
        fd, done = self._handles[slice_.segment].fd, 0
        try:
            while done < slice_.size:
                done += os.pwrite(fd, buffer[done:], slice_.offset + done)
        except OSError as error:
            _warn(buffer, error)
            self.let_go([slice_], clean=False)
            return False
        return True

    def view(self, slice_: Slice) -> memoryview:
        """Give what lies in a slice of ours, for as long as it is not let go."""
        return memoryview(self._maps[slice_.segment][0])[slice_.offset : slice_.offset + slice_.size]

    def read(self, slice_: Slice) -> bytes:
        """Copy what lies in a slice of ours."""
        return bytes(self.view(slice_))

    @property
    def placings(self) -> int:
        """Return a number that grows with each buffer that is laid down."""
        return self._count

    def handle(self, segment: bytes) -> SegmentHandle | None:
        """Say how others open a segment of ours; None for one that is closed, or not ours."""
        return self._handles.get(segment)

    # ------------------------------------------------------------------------------------------------------ taking back

    def let_go(self, slices: Iterable[Slice], *, clean: bool) -> None:
        """Give up one placing of each. `clean`: whoever had it refers to it no more. For finalizers too."""
        self._returns.extend((slice_, clean) for slice_ in slices)

    def tidy(self, warm_bytes: int | None = None) -> list[bytes]:
        """Take back what was let go, and close what is too much; give the segments closed since the last call."""
        with self._lock:
            self._take_returns()
            for segment in self._heap.trim(self._warm_bytes if warm_bytes is None else warm_bytes):
                self._close(segment)
            closed, self._closed = self._closed, []
        return closed

    def close(self) -> None:
        """Close everything. Readers that have mapped something keep it."""
        with self._lock:
            self._is_closed = True
            self._heap = Allocator()
            for segment in list(self._handles):
                self._close(segment)

    def _take_returns(self) -> None:
        while self._returns:
            slice_, clean = self._returns.popleft()
            placed = self._placed.get((slice_.segment, slice_.offset))
            if placed is None or placed.slice.serial != slice_.serial or placed.users == 0:
                continue  # of a segment that is closed
            placed.users -= 1
            placed.clean = placed.clean and clean
            if placed.users:
                continue
            if not placed.clean:
                del self._placed[slice_.segment, slice_.offset]
                self._forget(placed)
            self._close(self._heap.give_back(placed.place, clean=placed.clean))

    def _forget(self, placed: _Placed) -> None:
        """Recognise it no more."""
        if self._own.get(placed.address) is placed:
            del self._own[placed.address]
        if placed.source is not None and self._seen.get(placed.source) is placed:
            del self._seen[placed.source]

    def _close(self, segment: bytes | None) -> None:
        if segment is None:
            return
        handle = self._handles.pop(segment)
        for offset in range(0, handle.size, self._kinds.pop(segment)):
            self._backed.discard((segment, offset))
            if (placed := self._placed.pop((segment, offset), None)) is not None:
                self._forget(placed)
        del self._maps[segment]  # unmapped when the last view of it is gone
        os.close(handle.fd)
        self._closed.append(segment)


def _warn(buffer: memoryview, error: OSError) -> None:
    log.warning("no shared memory for %d bytes, which travel by themselves: %s", buffer.nbytes, error)


class Lease:
    """What somebody who placed buffers holds: when it is gone they are let go, as unclean unless said otherwise."""

    __slots__ = ("_clean", "_slices", "_store")

    def __init__(self, store: ObjectStore, slices: list[Slice]) -> None:
        self._store = store
        self._slices = slices
        self._clean = False

    def end(self, *, clean: bool) -> None:
        """Let go now."""
        slices, self._slices = self._slices, []
        self._store.let_go(slices, clean=clean)

    def __del__(self) -> None:
        self.end(clean=False)
