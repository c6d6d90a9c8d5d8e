"""The owner's side of shared memory: stores each buffer once, however often it is sent.

    put(buffer) -> Slice        copies the buffer into a block, or recognises it
    release(slices, clean)      must follow each put; then the block is free, and its content is still recognised

A stored buffer is recognised in two ways. Memory of the store itself (as `ApplicationNode.put` returns) costs nothing.
A buffer at the address and of the length of an earlier one is compared by xxh3-128, which costs as much as copying it
but saves the memory and every later copy. A buffer that has changed once is not compared again, but copied each time.
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
from concurrent_nb.object_store.allocator import Allocator, Block, blocks_in, size_class_of
from concurrent_nb.object_store.segment_reader import MAPPED_BYTES
from concurrent_nb.object_store.segments import SegmentHandle, create
from concurrent_nb.wire.messages import Slice

log = foreign.Log(__name__)

#: smaller buffers are not compared: copying them is as fast
RECOGNISED_BYTES: Final = 1024 * 1024
#: source addresses that are remembered
REMEMBERED_MAX: Final = 1024
#: most buffers that are stored without a comparison after one that had changed
SKIPS_MAX: Final = 7
#: free memory that stays resident for the next buffers
RESIDENT_BYTES: Final = 256 * 1024 * 1024


class _PyBuffer(ctypes.Structure):
    """The head of C's Py_buffer, with space for the rest."""

    _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_void_p * 15))


def address_of(buffer: memoryview) -> int:
    """Return the address of a contiguous buffer's first byte."""
    head = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(head), 0)
    address: int = head.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(head))
    return address


@dataclass(eq=False, slots=True)
class _StoredBuffer:
    slice: Slice
    block: Block
    address: int  #: in this process
    source: tuple[int, int] | None  #: the address and length that it was copied from; None if it must not be recognised
    users: int = 1
    clean: bool = True  #: no release so far was unclean
    digest: bytes | None = None  #: xxh3-128, once it was computed


@dataclass(eq=False, slots=True)
class _Mismatches:
    """How often the buffer at an address is stored without a comparison: once after one mismatch, then more rarely."""

    skips_next: int = 0
    skips_left: int = 0


class ObjectStore:
    """Shared memory that this process owns. Safe to use from many threads.

    Args:
        recognise: whether buffers that are stored already are found again.
        resident_bytes: free memory that is kept for the next buffers.
    """

    def __init__(self, *, recognise: bool = True, resident_bytes: int = RESIDENT_BYTES) -> None:
        self._recognises = recognise
        self._resident_bytes = resident_bytes
        self._lock = threading.Lock()
        self._allocator = Allocator()
        self._handles: dict[bytes, SegmentHandle] = {}
        self._size_classes: dict[bytes, int] = {}  # of their blocks, in bytes
        self._maps: dict[bytes, tuple[mmap.mmap, int]] = {}  # with their addresses
        self._stored: dict[tuple[bytes, int], _StoredBuffer] = {}  # by segment and offset; also free ones, until reused
        self._backed: set[tuple[bytes, int]] = set()  # large blocks whose memory is allocated
        self._by_address: dict[int, _StoredBuffer] = {}  # recognised by address alone
        self._by_source: OrderedDict[tuple[int, int], _StoredBuffer] = OrderedDict()  # by address and length
        self._changing: OrderedDict[tuple[int, int], _Mismatches] = OrderedDict()  # sources whose content changed
        self._count = 0
        self._is_closed = False
        self._released: deque[tuple[Slice, bool]] = deque()  # also by finalizers, which may take no lock
        self._closed: list[bytes] = []  # segments closed since the last `tidy`

    # ---------------------------------------------------------------------------------------------------------- storing

    def put(self, buffer: memoryview, *, recognise: bool = True) -> Slice | None:
        """Store a buffer or recognise it, and return its slice, which must be released once for each call.

        Args:
            buffer: what to store.
            recognise: whether it may get the slice of an equal one, or be found as an equal one itself.

        Returns None if there is no memory for it, or after `close`: a submit after a shutdown is refused only after it
        was pickled.
        """
        if self._is_closed:
            return None
        buffer = buffer.cast("B")
        if not (self._recognises and recognise):
            with self._lock:
                self._free_released()
            return self._copy_in(buffer, None)
        key = (address_of(buffer), buffer.nbytes)
        with self._lock:
            self._free_released()
            known = self._by_address.get(key[0])
            if known is not None and known.slice.size == key[1]:
                return self._add_user(known)
            known = self._by_source.get(key) if self._may_be_same(key) else None
            if known is not None:
                self._add_user(known)
        if known is not None:
            if self._is_same(known, buffer):
                with self._lock:
                    self._changing.pop(key, None)
                return known.slice
            with self._lock:
                mismatches = self._changing.setdefault(key, _Mismatches())
                mismatches.skips_next = min(2 * mismatches.skips_next + 1, SKIPS_MAX)
                mismatches.skips_left = mismatches.skips_next
                if len(self._changing) > REMEMBERED_MAX:
                    self._changing.popitem(last=False)
            self.release([known.slice], clean=True)
        return self._copy_in(buffer, key)

    def _may_be_same(self, key: tuple[int, int]) -> bool:
        """Return whether it is worth comparing a buffer with the last one at its address: a changing one rarely is.

        Called with the lock held.
        """
        mismatches = self._changing.get(key)
        if mismatches is None or not mismatches.skips_left:
            return True
        mismatches.skips_left -= 1
        return False

    def _add_user(self, stored: _StoredBuffer) -> Slice:
        """Count one more user, also of a free buffer that is still there. Called with the lock held."""
        if stored.users == 0:
            self._allocator.reuse(stored.block)
        stored.users += 1
        return stored.slice

    def _is_same(self, stored: _StoredBuffer, buffer: memoryview) -> bool:
        import xxhash  # here, because most applications never send the same large buffer twice

        if stored.digest is None:
            stored.digest = xxhash.xxh3_128_digest(self.view(stored.slice))
        return stored.digest == xxhash.xxh3_128_digest(buffer)

    def _copy_in(self, buffer: memoryview, key: tuple[int, int] | None) -> Slice | None:
        with self._lock:
            if self._is_closed:  # since `put` checked it
                return None
            try:
                block = self._allocate(buffer.nbytes)
            except OSError as error:
                _warn(buffer, error)
                return None
            former = self._stored.pop((block.segment, block.offset), None)
            if former is not None:
                self._forget(former)
            self._count += 1
            slice_ = Slice(block.segment, block.offset, buffer.nbytes, self._count)
            stored = _StoredBuffer(slice_, block, self._maps[block.segment][1] + block.offset, key)
            self._stored[block.segment, block.offset] = stored
            # A small one is written through its file, which touches no page of ours: a third of the time if it is new.
            # The lock keeps the file open.
            if buffer.nbytes < MAPPED_BYTES and not self._write(slice_, buffer):
                return None
        if buffer.nbytes >= MAPPED_BYTES:
            self.view(slice_)[:] = buffer
        if key is not None:
            with self._lock:
                self._by_address[stored.address] = stored
                if buffer.nbytes >= RECOGNISED_BYTES:
                    self._by_source[key] = stored
                    if len(self._by_source) > REMEMBERED_MAX:
                        self._by_source.popitem(last=False)
        return slice_

    def _allocate(self, size: int) -> Block:
        """Return a block with memory, in a new segment if needed. Called with the lock held. Raises OSError."""
        block = self._allocator.allocate(size)
        if block is None:
            size_class = size_class_of(size)
            handle = create(size_class * blocks_in(size_class))
            self._handles[handle.segment] = handle
            self._size_classes[handle.segment] = size_class
            mapped = mmap.mmap(handle.fd, handle.size)
            self._maps[handle.segment] = mapped, address_of(memoryview(mapped))
            self._allocator.add(handle.segment, size_class, blocks_in(size_class))
            block = self._allocator.allocate(size)
            assert block is not None
        if size >= MAPPED_BYTES and (block.segment, block.offset) not in self._backed:
            try:
                # Running out of memory during a write kills the process; allocating it before raises an error.
                os.posix_fallocate(self._handles[block.segment].fd, block.offset, block.size)
            except OSError:
                self._forget_unused(block.segment)
                self._close(self._allocator.free(block, clean=False))
                raise
            self._backed.add((block.segment, block.offset))
        return block

    def _write(self, slice_: Slice, buffer: memoryview) -> bool:
        fd, done = self._handles[slice_.segment].fd, 0
        try:
            while done < slice_.size:
                done += os.pwrite(fd, buffer[done:], slice_.offset + done)
        except OSError as error:
            _warn(buffer, error)
            self.release([slice_], clean=False)
            return False
        return True

    def view(self, slice_: Slice) -> memoryview:
        """Return the memory of a slice of ours, valid until the slice is released."""
        return memoryview(self._maps[slice_.segment][0])[slice_.offset : slice_.offset + slice_.size]

    def read(self, slice_: Slice) -> bytes:
        """Copy the content of a slice of ours."""
        return bytes(self.view(slice_))

    @property
    def stored_count(self) -> int:
        """Return the number of buffers that were copied so far."""
        return self._count

    def handle(self, segment: bytes) -> SegmentHandle | None:
        """Return the handle by which others open a segment of ours; None for one that is closed, or not ours."""
        return self._handles.get(segment)

    # -------------------------------------------------------------------------------------------------------- releasing

    def release(self, slices: Iterable[Slice], *, clean: bool) -> None:
        """Release one `put` of each. `clean`: no process refers to it any more. Finalizers may call this."""
        self._released.extend((slice_, clean) for slice_ in slices)

    def hold(self, slices: Iterable[Slice]) -> None:
        """Count one more user of each, as another `put` of the same buffers would."""
        with self._lock:
            for slice_ in slices:
                stored = self._stored.get((slice_.segment, slice_.offset))
                if stored is not None and stored.slice.serial == slice_.serial:
                    self._add_user(stored)

    def tidy(self, resident_bytes: int | None = None) -> list[bytes]:
        """Free released blocks, close surplus segments, and return the segments closed since the last call."""
        with self._lock:
            self._free_released()
            for segment in self._allocator.trim(self._resident_bytes if resident_bytes is None else resident_bytes):
                self._close(segment)
            closed, self._closed = self._closed, []
        return closed

    def close(self) -> None:
        """Close all segments. Mappings of readers stay."""
        with self._lock:
            self._is_closed = True
            self._allocator = Allocator()
            for segment in list(self._handles):
                self._close(segment)

    def _free_released(self) -> None:
        """Free the blocks of released slices without users. Called with the lock held."""
        while self._released:
            slice_, clean = self._released.popleft()
            stored = self._stored.get((slice_.segment, slice_.offset))
            if stored is None or stored.slice.serial != slice_.serial or stored.users == 0:
                continue  # its segment is closed, or the block has another buffer
            stored.users -= 1
            stored.clean = stored.clean and clean
            if stored.users:
                continue
            if not stored.clean:
                self._forget_unused(slice_.segment)
            self._close(self._allocator.free(stored.block, clean=stored.clean))
            if not self._allocator.is_free(stored.block):  # its segment is not used again
                self._forget(stored)

    def _forget(self, stored: _StoredBuffer) -> None:
        """Stop recognising a buffer. Called with the lock held."""
        if self._by_address.get(stored.address) is stored:
            del self._by_address[stored.address]
        if stored.source is not None and self._by_source.get(stored.source) is stored:
            del self._by_source[stored.source]

    def _forget_unused(self, segment: bytes) -> None:
        """Stop recognising what has no users in a segment that is going to be retired. Called with the lock held."""
        for offset in range(0, self._handles[segment].size, self._size_classes[segment]):
            stored = self._stored.get((segment, offset))
            if stored is not None and not stored.users:
                del self._stored[segment, offset]
                self._forget(stored)

    def _close(self, segment: bytes | None) -> None:
        """Close a segment, if there is one. Called with the lock held."""
        if segment is None:
            return
        handle = self._handles.pop(segment)
        for offset in range(0, handle.size, self._size_classes.pop(segment)):
            self._backed.discard((segment, offset))
            if (stored := self._stored.pop((segment, offset), None)) is not None:
                self._forget(stored)
        del self._maps[segment]  # unmapped with its last view
        os.close(handle.fd)
        self._closed.append(segment)


def _warn(buffer: memoryview, error: OSError) -> None:
    log.warning("no shared memory for %d bytes, which travel as frames: %s", buffer.nbytes, error)


class Lease:
    """Holds stored buffers: without an `end` they are released as unclean when the lease is garbage."""

    __slots__ = ("_clean", "_slices", "_store")

    def __init__(self, store: ObjectStore, slices: list[Slice]) -> None:
        self._store = store
        self._slices = slices
        self._clean = False

    def again(self) -> "Lease":
        """Return another lease of the same buffers, which must not have ended."""
        self._store.hold(self._slices)
        return Lease(self._store, list(self._slices))

    def take_over(self, other: "Lease") -> None:
        """Hold the buffers of another lease of the same store as well, which ends."""
        self._slices, other._slices = self._slices + other._slices, []

    def end(self, *, clean: bool) -> None:
        """Release the buffers now."""
        slices, self._slices = self._slices, []
        self._store.release(slices, clean=clean)

    def __del__(self) -> None:
        self.end(clean=False)
