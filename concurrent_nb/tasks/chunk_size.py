"""How many items of a map travel as one task. Pure: told what took how long, it says how many are next.

A chunk is to be a few milliseconds of work: much more than a task costs by itself, much less than anybody waits for.
The first chunks are single items, so that something is known soon; from then on measured times decide. Towards the end
chunks become smaller, so that all workers end at about the same time.
"""

import math
from typing import Final

#: work that one chunk is to be, in seconds
CHUNK_S: Final = 0.005
#: towards the end chunks shrink to this, in seconds, and not below: all told a task costs about half of it
LAST_CHUNK_S: Final = 0.002
#: no chunk is more than so many times as long as the longest that was measured: what is short may be so by chance
GROWTH: Final = 16
#: chunks that are to be left for each slot when one is cut
CHUNKS_LEFT: Final = 4
#: chunks that are on their way for each slot: one runs, the others see to it that it never waits
IN_FLIGHT: Final = 3
#: an older measurement counts so much of the one after it
_MEMORY: Final = 0.5


class AdaptiveSize:
    """Decide on sizes by measured times.

    Args:
        slots: tasks that the cluster can run at once, as far as is known.
    """

    def __init__(self, slots: int) -> None:
        self.slots = max(1, slots)
        self._items = 0.0  # of what was measured, lately
        self._elapsed_s = 0.0
        self._longest = 0

    @property
    def in_flight(self) -> int:
        """Return how many chunks may be unanswered at once."""
        return IN_FLIGHT * self.slots

    def measured(self, items: int, elapsed_s: float) -> None:
        """Learn how long a chunk took, in seconds. What no clock can have measured counts as nothing."""
        if not 0 <= elapsed_s < math.inf:
            return
        self._items = self._items * _MEMORY + items
        self._elapsed_s = self._elapsed_s * _MEMORY + elapsed_s
        self._longest = max(self._longest, items)

    def next_size(self, waiting: int) -> int:
        """Say how many of `waiting` items the next chunk should have, at least one."""
        if not self._longest:
            return 1
        item_s = max(self._elapsed_s / self._items, 1e-9)
        share = waiting / (CHUNKS_LEFT * self.slots)
        wanted = min(CHUNK_S / item_s, max(share, LAST_CHUNK_S / item_s), self._longest * GROWTH)
        return max(1, min(int(wanted), waiting))
