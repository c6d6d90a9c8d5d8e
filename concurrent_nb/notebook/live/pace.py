"""How fast a job goes, and how long it still takes. Pure: time is an argument."""

from collections import deque
from typing import Final

#: throughput is measured over this time, in seconds
WINDOW_S: Final = 10.0
#: throughput is shown when this number of tasks has ended
RATE_TASKS: Final = 2
#: reports are used to estimate the time left after this time in seconds, and this part of the job
LEFT_S: Final = 0.5
LEFT_PART: Final = 0.01


class Pace:
    """Measures a job by what has ended, and by the reports of running tasks."""

    def __init__(self) -> None:
        # (time, ended tasks, reported parts of running tasks)
        self._samples: deque[tuple[float, int, float]] = deque([(0.0, 0, 0.0)])

    def measure(self, ended: int, part: float, total: int, elapsed: float) -> tuple[float | None, float | None]:
        """Return the recent throughput in tasks per second, and the estimated time left in seconds.

        Args:
            ended: tasks that have ended.
            part: the reported progress of running tasks, in tasks.
            total: all tasks.
            elapsed: seconds since the job was started; never less than before.
        """
        samples = self._samples
        if elapsed - samples[-1][0] >= WINDOW_S / 40:
            samples.append((elapsed, ended, part))
        while len(samples) > 2 and elapsed - samples[1][0] >= WINDOW_S:
            samples.popleft()
        since, before, before_part = samples[0]
        took = elapsed - since
        rate = (ended - before) / took if ended >= RATE_TASKS and took > 0 and ended != before else None
        if part == 0 and before_part == 0:
            return rate, (total - ended) / rate if rate is not None else None
        progress = ended + part - before - before_part
        if took < LEFT_S or progress < LEFT_PART * total:
            return rate, None
        return rate, took * (total - ended - part) / progress
