"""Measures the CPU time of tasks, and the memory of their process: not for tasks that take less than a millisecond.

Reading the clock takes 0.3 us, a large part of the time of the shortest tasks. After such a task it is not read before
the next one, whose CPU time is then at most its run time.
"""

import resource
import sys
import time
from collections.abc import Callable
from typing import Final

#: shorter tasks are not measured
MEASURED_S: Final = 0.001
#: after shorter tasks the clock is not read
_SHORT_S: Final = 0.0001

#: returns the CPU time so far, in seconds
CpuClock = Callable[[], float]


class UsageMeter:
    """Measures one task after another.

    >>> meter = UsageMeter()
    >>> meter.begin()
    >>> meter.end(0.0005)
    (0, 0)

    Args:
        clock: CPU seconds so far: `time.thread_time` where other tasks run in the same process.
    """

    def __init__(self, clock: CpuClock = time.process_time) -> None:
        self._clock = clock
        self._cpu_s = clock()
        self.reads = True  #: whether `begin` reads the clock; else it does nothing, and need not be called

    def begin(self) -> None:
        """Note that a task begins."""
        if self.reads:
            self._cpu_s = self._clock()

    def end(self, elapsed_s: float) -> tuple[int, int]:
        """Return CPU time in microseconds of a task that has taken so long, and peak memory of its process in KiB."""
        was_read, self.reads = self.reads, elapsed_s >= _SHORT_S
        if elapsed_s < MEASURED_S:
            return 0, 0
        now_s = self._clock()
        cpu_s, self._cpu_s = now_s - self._cpu_s, now_s
        if not was_read:
            cpu_s = min(cpu_s, elapsed_s)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(cpu_s * 1e6), peak // 1024 if sys.platform == "darwin" else peak
