"""How many calls of a stream travel as one task, when nobody knows how many will come. Pure.

Measured run times and sizes in, sizes of the next batches out. The first batches are single calls, so that run times
are known soon. Whoever cuts the batches makes them smaller towards the end, once that is known.
"""

from typing import Final

from concurrent_nb.tasks.chunk_size import AdaptiveSize

#: run time of a batch, in seconds: its overhead is about a millisecond, and so much may be left to do at the very end
BATCH_S: Final = 0.02
#: limits of a batch: calls, and bytes of arguments if each call has its own
CALLS_MAX: Final = 8192
BYTES_MAX: Final = 16 * 1024 * 1024
#: batches for each slot that should be left when one is cut from calls of a known number
BATCHES_LEFT: Final = 2
#: largest ratio of a batch to the largest measured one
GROWTH_MAX: Final = 64


class StreamBatchSize:
    """Chooses sizes by measured run times.

    Args:
        slots: tasks that the cluster can run at the same time.
    """

    def __init__(self, slots: int) -> None:
        self._by_time = AdaptiveSize(slots, BATCH_S, BATCHES_LEFT, GROWTH_MAX)
        self._many = CALLS_MAX * BATCHES_LEFT * max(1, slots)
        self._common_bytes = 0.0  # of arguments that calls share, as far as is known
        self._call_bytes = 0.0  # of those that each call has of its own

    def measured(self, calls: int, elapsed_s: float, size_bytes: int) -> None:
        """Note how long a batch took, in seconds, and the bytes of its arguments."""
        self._by_time.measured(calls, elapsed_s)
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
