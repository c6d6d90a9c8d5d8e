"""Time as an argument: nodes use the real clock, tests a manual one.

Times are seconds of a monotonic clock; nothing in the cluster compares the wall clocks of two machines.
"""

import time
from collections.abc import Callable

#: returns seconds; only differences have a meaning
Clock = Callable[[], float]

#: the clock that nodes use
monotonic: Clock = time.monotonic


class ManualClock:
    """A clock that moves only when `advance` is called. For tests and the simulator.

    >>> clock = ManualClock()
    >>> clock.advance(2.5)
    >>> clock()
    2.5
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance by `seconds`. Raises ValueError if they are negative."""
        if seconds < 0:
            raise ValueError(f"a clock does not run backwards ({seconds} s)")
        self.now += seconds
