"""Assigns blocks of segments to buffers. Pure: the caller creates and closes segments.

Memory that is touched for the first time is five times slower than resident memory, so a freed block is kept for the
next buffer of its size class. Sizes are rounded up to a few size classes; a segment has blocks of one class, many small
ones or one large one. A block that was freed unclean (a process may still refer to it) is never used again: its segment
is retired, closed when its last block is free, and freed by the system when its last reader has ended.
"""

import mmap
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

#: blocks begin at multiples of this, so that each can be mapped alone
PAGE_BYTES: Final = mmap.ALLOCATIONGRANULARITY
#: small blocks share segments of this size
SLAB_BYTES: Final = 4 * 1024 * 1024
#: middle ones share segments of up to this size, at most SLAB_BLOCKS_MAX of them
SLAB_BYTES_MAX: Final = 64 * 1024 * 1024
SLAB_BLOCKS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a segment that holds one buffer."""

    segment: bytes
    offset: int
    size: int  #: in bytes: its size class


@dataclass(eq=False, slots=True)
class _SegmentBlocks:
    blocks: int
    block_bytes: int
    used: int = 0
    retired: bool = False  #: a block was freed unclean
    free: "OrderedDict[int, None]" = field(default_factory=OrderedDict)  #: offsets, the most recently used last
    resident: set[int] = field(default_factory=set)  #: those free offsets that were used before


def size_class_of(size: int) -> int:
    """Return the size in bytes of the blocks for buffers of `size` bytes: at most 1/4 more for a large one."""
    if size <= PAGE_BYTES:
        return PAGE_BYTES
    step = max(PAGE_BYTES, 1 << (size.bit_length() - 3))
    return -(-size // step) * step


def blocks_in(size_class: int) -> int:
    """Return how many blocks of a size class a segment has."""
    return max(1, SLAB_BYTES // size_class, min(SLAB_BLOCKS_MAX, SLAB_BYTES_MAX // size_class))


class Allocator:
    """Blocks of segments: used, free, retired."""

    def __init__(self) -> None:
        self._segments: dict[bytes, _SegmentBlocks] = {}
        self._open: dict[
            int, OrderedDict[bytes, None]
        ] = {}  # by size class: segments with free blocks, the most recently used last
        self.free_bytes = 0  #: in blocks that were used before and are free

    def allocate(self, size: int) -> Block | None:
        """Return a free block for `size` bytes; None if a segment must be added first."""
        size_class = size_class_of(size)
        candidates = self._open.get(size_class)
        if not candidates:
            return None
        segment = next(reversed(candidates))
        record = self._segments[segment]
        offset, _ = record.free.popitem()
        record.used += 1
        if not record.free:
            del candidates[segment]
        self._leave_resident(record, offset)
        return Block(segment, offset, size_class)

    def reuse(self, block: Block) -> None:
        """Use a free block again, because its content is needed again."""
        record = self._segments[block.segment]
        del record.free[block.offset]
        record.used += 1
        if not record.free:
            del self._open[block.size][block.segment]
        self._leave_resident(record, block.offset)

    def is_free(self, block: Block) -> bool:
        """Return whether a block may be used again."""
        record = self._segments.get(block.segment)
        return record is not None and block.offset in record.free

    def add(self, segment: bytes, size_class: int, blocks: int) -> None:
        """Add a new segment, all of whose blocks are free."""
        offsets = OrderedDict.fromkeys(range((blocks - 1) * size_class, -1, -size_class))
        self._segments[segment] = _SegmentBlocks(blocks, size_class, free=offsets)
        self._open.setdefault(size_class, OrderedDict())[segment] = None

    def free(self, block: Block, *, clean: bool) -> bytes | None:
        """Free a block; return its segment if it must be closed now."""
        record = self._segments[block.segment]
        record.used -= 1
        if clean and not record.retired:
            record.free[block.offset] = None
            record.resident.add(block.offset)
            candidates = self._open.setdefault(block.size, OrderedDict())
            candidates[block.segment] = None
            candidates.move_to_end(block.segment)
            self.free_bytes += block.size
            return None
        if not record.retired:
            record.retired = True
            self._retire(block.segment, record)
        if record.used:
            return None
        del self._segments[block.segment]
        return block.segment

    def trim(self, limit_bytes: int) -> list[bytes]:
        """Drop wholly free segments, the oldest first, until at most `limit_bytes` are free; return them."""
        closed = []
        for segment, record in list(self._segments.items()):
            if self.free_bytes <= limit_bytes:
                break
            if record.resident and not record.used:
                self._retire(segment, record)
                del self._segments[segment]
                closed.append(segment)
        return closed

    def _retire(self, segment: bytes, record: _SegmentBlocks) -> None:
        """Allocate nothing from a segment any more."""
        self.free_bytes -= len(record.resident) * record.block_bytes
        record.resident.clear()
        if record.free:
            del self._open[record.block_bytes][segment]
            record.free.clear()

    def _leave_resident(self, record: _SegmentBlocks, offset: int) -> None:
        if offset in record.resident:
            record.resident.discard(offset)
            self.free_bytes -= record.block_bytes
