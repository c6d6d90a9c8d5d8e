"""Estimates by function: moving averages of measured run times, in seconds, and sizes of large results.

The scheduler uses them when it assigns, so that slaves get tasks ahead by time and not by count.
"""

#: the weight of one more measurement in an average
WEIGHT = 0.2
#: shortest estimate, in seconds: with a clock that stands still, a run of tasks would otherwise have no end
SHORTEST_S = 1e-6
#: sizes of smaller results are not stored
LARGE_BYTES = 64 * 1024


def blend(average_s: float | None, mean_s: float, count: int, weight: float = WEIGHT) -> float:
    """Return the moving average after `count` more measurements whose mean is `mean_s`."""
    if average_s is None:
        return mean_s
    keep: float = (1.0 - weight) ** count
    return keep * average_s + (1.0 - keep) * mean_s


class TaskEstimates:
    """The expected run time of each recently measured function.

    Estimates outlive their job, because the next cell often maps the same function again. Above `most` functions the
    one that was measured longest ago is dropped.
    """

    def __init__(self, most: int = 1000, weight: float = WEIGHT) -> None:
        self._most = most
        self._weight = weight
        self._average_s: dict[bytes, float] = {}
        self.large_bytes: dict[bytes, int] = {}  #: size of results, of functions whose results are large

    def __len__(self) -> int:
        return len(self._average_s)

    def get(self, function: bytes) -> float | None:
        """Return a function's expected run time in seconds, None if it was never measured."""
        return self._average_s.get(function)

    def measured(self, function: bytes, mean_s: float, count: int) -> None:
        """Note that `count` tasks of a function took `mean_s` seconds on average."""
        average_s = blend(self._average_s.pop(function, None), mean_s, count, self._weight)
        self._average_s[function] = max(average_s, SHORTEST_S)
        if len(self._average_s) > self._most:
            dropped = next(iter(self._average_s))
            del self._average_s[dropped]
            self.large_bytes.pop(dropped, None)

    def forget(self, function: bytes) -> None:
        """Remove a function that is not needed any more."""
        self._average_s.pop(function, None)
        self.large_bytes.pop(function, None)

    def weighed(self, function: bytes, mean_bytes: int) -> None:
        """Note the average size of results of a function that was measured."""
        if mean_bytes >= LARGE_BYTES:
            self.large_bytes[function] = mean_bytes
        elif self.large_bytes:
            self.large_bytes.pop(function, None)
