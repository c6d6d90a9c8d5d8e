"""Time as an argument: nodes take the real clock, tests a manual one.

Times are seconds of a monotonic clock; nothing in the cluster compares the wall clocks of two machines.
"""

import time
from collections.abc import Callable

#: gives seconds; only differences mean anything
Clock = Callable[[], float]

#: the clock that nodes use
monotonic: Clock = time.monotonic


class ManualClock:
    """A clock that stands still until it is told to move. For tests and the simulator.

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
        """Let `seconds` pass; never backwards."""
        if seconds < 0:
            raise ValueError(f"a clock does not run backwards ({seconds} s)")
        self.now += seconds
