"""How many calls of a stream travel as one task, when their total is unknown. Pure.

Measured run times and sizes in, sizes of the next batches out. The first batches are single calls, so that run times
are known soon; the longer a stream takes, the longer its batches. The caller makes batches smaller towards the end,
once the total is known.
"""

import math
from typing import Final

from concurrent_nb.tasks.chunk_size import LAST_CHUNK_S, AdaptiveSize

#: run time of the first batches, in seconds
BATCH_S: Final = 0.04
#: largest run time: so long an interrupt, a failure or the end of the stream may find a slot busy
BATCH_MAX_S: Final = 0.2
#: processor time that a batch takes in all processes beside its calls (1.3 ms, up to 4 ms where all cores are busy), in
#: seconds, times 4 or more. Larger batches save some of it, and leave slots idle at the end for a part of their run
#: time: the sum is least with `sqrt(GROWTH_S * elapsed)`
GROWTH_S: Final = 0.02
#: limits of a batch: calls, and bytes of arguments if each call has its own
CALLS_MAX: Final = 8192
BYTES_MAX: Final = 16 * 1024 * 1024
#: batches for each slot that should be left when one is cut from calls of a known number
BATCHES_LEFT: Final = 2
#: run time to which batches shrink towards the end, in seconds; a smaller one in streams that end sooner: this part of
#: the time that they have taken
LAST_BATCH_S: Final = 0.008
LAST_PART: Final = 0.25
#: largest ratio of a batch to the largest measured one
GROWTH_MAX: Final = 256


class StreamBatchSize:
    """Chooses sizes by measured run times.

    Args:
        slots: tasks that the cluster can run at the same time.
    """

    def __init__(self, slots: int) -> None:
        self._by_time = AdaptiveSize(slots, BATCH_S, BATCHES_LEFT, GROWTH_MAX)
        self._many = CALLS_MAX * BATCHES_LEFT * max(1, slots)
        self._elapsed_s = 0.0  # of all batches
        self._common_bytes = 0.0  # of arguments that calls share, as far as is known
        self._call_bytes = 0.0  # of those that each call has of its own

    def measured(self, calls: int, elapsed_s: float, size_bytes: int) -> None:
        """Note how long a batch took, in seconds, and the bytes of its arguments."""
        by_time = self._by_time
        by_time.measured(calls, elapsed_s)
        if 0 <= elapsed_s < math.inf:
            self._elapsed_s += elapsed_s
            of_slot_s = self._elapsed_s / by_time.slots
            by_time.chunk_s = min(max(BATCH_S, math.sqrt(GROWTH_S * of_slot_s)), BATCH_MAX_S)
            by_time.last_s = min(max(LAST_CHUNK_S, LAST_PART * of_slot_s), LAST_BATCH_S)
        if calls == 1:
            self._common_bytes = size_bytes
            if not self._call_bytes:
                self._call_bytes = size_bytes / 2  # so that the next batch is not much larger than a few such calls
        else:
            self._call_bytes = max((size_bytes - self._common_bytes) / (calls - 1), 0.0)

    def next_size(self, waiting: int | None = None) -> int:
        """Return how many calls the next batch should have, at least one.

        Args:
            waiting: how many calls are left; None: probably many.
        """
        size = min(self._by_time.next_size(self._many if waiting is None else waiting), CALLS_MAX)
        if size * self._call_bytes > BYTES_MAX:
            size = max(int(BYTES_MAX / self._call_bytes), 2)
        return max(size, 1)

    def expected_s(self, calls: int) -> float:
        """Return how long so many calls will probably run, in seconds; 0 if none was measured."""
        return calls * self._by_time.item_s
