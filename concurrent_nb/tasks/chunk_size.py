"""How many items of a map travel as one task. Pure: measured run times in, sizes of the next chunks out.

A chunk should be a few milliseconds of work: much more than the overhead of a task, much less than a noticeable delay.
The first chunks are single items, so that run times are known soon; from then on measured times decide. Towards the end
chunks become smaller, so that all workers end at about the same time.
"""

import math
from typing import Final

#: run time of a chunk, in seconds
CHUNK_S: Final = 0.005
#: run time to which chunks shrink towards the end, in seconds: the overhead of a task is at most half of it
LAST_CHUNK_S: Final = 0.002
#: largest ratio of a chunk's size to that of the largest measured chunk, as a short measurement may be chance
GROWTH: Final = 16
#: chunks for each slot that should be left when one is cut
CHUNKS_LEFT: Final = 4
#: unanswered chunks for each slot: one runs, the others are there before it ends
IN_FLIGHT: Final = 3
#: weight of a measurement, relative to the next one
_MEMORY: Final = 0.5


class AdaptiveSize:
    """Chooses sizes by measured run times.

    Args:
        slots: tasks that the cluster can run at the same time, as far as is known.
        chunk_s: run time of a chunk, in seconds.
        chunks_left: chunks for each slot that should be left when one is cut.
        growth: as GROWTH.
        last_s: as LAST_CHUNK_S.
    """

    def __init__(
        self,
        slots: int,
        chunk_s: float = CHUNK_S,
        chunks_left: int = CHUNKS_LEFT,
        growth: int = GROWTH,
        last_s: float = LAST_CHUNK_S,
    ) -> None:
        self.slots = max(1, slots)
        self.chunk_s = chunk_s  #: may change
        self.last_s = last_s  #: may change
        self._chunks_left = chunks_left
        self._growth = growth
        self._items = 0.0  # recently measured, decaying
        self._elapsed_s = 0.0
        self._longest = 0

    @property
    def in_flight(self) -> int:
        """The number of chunks that may be unanswered at the same time."""
        return IN_FLIGHT * self.slots

    @property
    def item_s(self) -> float:
        """The run time of an item in recent chunks, in seconds; 0 if none was measured."""
        return max(self._elapsed_s / self._items, 1e-9) if self._items else 0.0

    def measured(self, items: int, elapsed_s: float) -> None:
        """Note how long a chunk of `items` items took, in seconds. Negative and infinite times are ignored."""
        if not 0 <= elapsed_s < math.inf:
            return
        self._items = self._items * _MEMORY + items
        self._elapsed_s = self._elapsed_s * _MEMORY + elapsed_s
        self._longest = max(self._longest, items)

    def next_size(self, waiting: int) -> int:
        """Return how many of `waiting` items the next chunk should have, at least one."""
        if not self._longest:
            return 1
        item_s = self.item_s
        share = waiting / (self._chunks_left * self.slots)
        wanted = min(self.chunk_s / item_s, max(share, self.last_s / item_s), self._longest * self._growth)
        return max(1, min(int(wanted), waiting))
