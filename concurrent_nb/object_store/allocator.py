"""Which place a buffer gets. Pure: segments are made and closed by whoever asks.

Memory that is touched for the first time is five times slower than memory that is warm, so a place that is free again
waits for the next buffer of its kind. Sizes are rounded up to a few kinds; a segment has places of one kind, many small
ones or one large one. A place that came back unclean (somebody may still look at it) is never used again: its segment
is used up and then closed, and the system frees it when the last one who looks has gone.
"""

import mmap
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

#: places begin at multiples of this, so that each can be mapped by itself
PAGE_BYTES: Final = mmap.ALLOCATIONGRANULARITY
#: small places share segments of this size
SLAB_BYTES: Final = 4 * 1024 * 1024
#: middle ones share segments of up to this size, at most so many of them
SLAB_BYTES_MAX: Final = 64 * 1024 * 1024
SLAB_PLACES_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Block:
    """Where a buffer may lie."""

    segment: bytes
    offset: int
    size: int  #: in bytes, as large as its kind


@dataclass(eq=False, slots=True)
class _Segment:
    places: int
    place_bytes: int
    used: int = 0
    spoilt: bool = False  #: a place came back unclean
    free: "OrderedDict[int, None]" = field(default_factory=OrderedDict)  #: offsets, the warmest last
    warm: set[int] = field(default_factory=set)  #: those of them that were used before


def kind_of(size: int) -> int:
    """Give the size in bytes of the places for buffers of `size` bytes: at most 1/4 more, for a large one."""
    if size <= PAGE_BYTES:
        return PAGE_BYTES
    step = max(PAGE_BYTES, 1 << (size.bit_length() - 3))
    return -(-size // step) * step


def places_in(kind: int) -> int:
    """Give how many places of a kind a segment has."""
    return max(1, SLAB_BYTES // kind, min(SLAB_PLACES_MAX, SLAB_BYTES_MAX // kind))


class Allocator:
    """Places in segments: taken, free, spoilt."""

    def __init__(self) -> None:
        self._segments: dict[bytes, _Segment] = {}
        self._open: dict[int, OrderedDict[bytes, None]] = {}  # by kind: segments with free places, the warmest last
        self.free_bytes = 0  #: in places that were used and are free

    def take(self, size: int) -> Block | None:
        """Give a free place for `size` bytes; None if a segment has to be added first."""
        kind = kind_of(size)
        candidates = self._open.get(kind)
        if not candidates:
            return None
        segment = next(reversed(candidates))
        record = self._segments[segment]
        offset, _ = record.free.popitem()
        record.used += 1
        if not record.free:
            del candidates[segment]
        self._cool(record, offset)
        return Block(segment, offset, kind)

    def retake(self, place: Block) -> None:
        """Take a place that is free, because what lies there is wanted again."""
        record = self._segments[place.segment]
        del record.free[place.offset]
        record.used += 1
        if not record.free:
            del self._open[place.size][place.segment]
        self._cool(record, place.offset)

    def add(self, segment: bytes, kind: int, places: int) -> None:
        """Have a new segment, all of whose places are free."""
        offsets = OrderedDict.fromkeys(range((places - 1) * kind, -1, -kind))
        self._segments[segment] = _Segment(places, kind, free=offsets)
        self._open.setdefault(kind, OrderedDict())[segment] = None

    def give_back(self, place: Block, *, clean: bool) -> bytes | None:
        """Take a place back; give the segment if it is to be closed now."""
        record = self._segments[place.segment]
        record.used -= 1
        if clean and not record.spoilt:
            record.free[place.offset] = None
            record.warm.add(place.offset)
            candidates = self._open.setdefault(place.size, OrderedDict())
            candidates[place.segment] = None
            candidates.move_to_end(place.segment)
            self.free_bytes += place.size
            return None
        if not record.spoilt:
            record.spoilt = True
            self._retire(place.segment, record)
        if record.used:
            return None
        del self._segments[place.segment]
        return place.segment

    def trim(self, most_bytes: int) -> list[bytes]:
        """Give up segments that are wholly free, the coldest first, until at most so many bytes are free."""
        closed = []
        for segment, record in list(self._segments.items()):
            if self.free_bytes <= most_bytes:
                break
            if record.warm and not record.used:
                self._retire(segment, record)
                del self._segments[segment]
                closed.append(segment)
        return closed

    def _retire(self, segment: bytes, record: _Segment) -> None:
        """Hand out nothing of a segment any more."""
        self.free_bytes -= len(record.warm) * record.place_bytes
        record.warm.clear()
        if record.free:
            del self._open[record.place_bytes][segment]
            record.free.clear()

    def _cool(self, record: _Segment, offset: int) -> None:
        if offset in record.warm:
            record.warm.discard(offset)
            self.free_bytes -= record.place_bytes
