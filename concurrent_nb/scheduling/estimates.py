"""How long tasks take: moving averages of measured run times, in seconds; and how large results are, if they are.

The scheduler asks before it assigns, so that a slave is fed ahead by time and not by count.
"""

from concurrent_nb.ids import Digest

#: how much of an average one more measurement replaces
WEIGHT = 0.2
#: a task is never taken to be shorter, so that a clock which stands still makes no endless run of it
SHORTEST_S = 1e-6
#: results that count for less are not remembered
LARGE_BYTES = 64 * 1024


def blend(average_s: float | None, mean_s: float, count: int) -> float:
    """Return the moving average after `count` more measurements whose mean is `mean_s`."""
    if average_s is None:
        return mean_s
    keep: float = (1.0 - WEIGHT) ** count
    return keep * average_s + (1.0 - keep) * mean_s


class TaskEstimates:
    """The expected run time of each function that was measured lately.

    They outlive their job, because the next cell often maps the same function again; of more than `most` functions the
    one that was measured longest ago is dropped.
    """

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._average_s: dict[Digest, float] = {}
        self.large_bytes: dict[Digest, int] = {}  #: what results count for, of functions whose results are large

    def __len__(self) -> int:
        return len(self._average_s)

    def get(self, function: Digest) -> float | None:
        """Return a function's expected run time in seconds, None if it was never measured."""
        return self._average_s.get(function)

    def measured(self, function: Digest, mean_s: float, count: int) -> None:
        """Learn that `count` tasks of a function took `mean_s` seconds on average."""
        average_s = blend(self._average_s.pop(function, None), mean_s, count)
        self._average_s[function] = max(average_s, SHORTEST_S)
        if len(self._average_s) > self._most:
            dropped = next(iter(self._average_s))
            del self._average_s[dropped]
            self.large_bytes.pop(dropped, None)

    def weighed(self, function: Digest, mean_bytes: int) -> None:
        """Learn what results of a function count for, on average; of one that was measured."""
        if mean_bytes >= LARGE_BYTES:
            self.large_bytes[function] = mean_bytes
        elif self.large_bytes:
            self.large_bytes.pop(function, None)
