"""Counters over the tasks of a cluster that have ended. Pure."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from concurrent_nb.outcome import Status
from concurrent_nb.tasks.task_log import Used

#: upper bounds of the buckets of run times, in seconds
BUCKETS_S: Final = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0)


class TaskTotals:
    """Counters over the tasks that were added."""

    def __init__(self) -> None:
        self.following = 0  #: number of the next record to add
        self.missed = 0  #: records that were dropped before they could be added
        self.by_status: Counter[int] = Counter()  #: tasks
        self.by_bucket = [0] * (len(BUCKETS_S) + 1)  #: tasks by run time
        self.run_s = self.cpu_s = 0.0
        self.in_bytes = self.out_bytes = 0

    def add(self, first: int, tasks: Iterable[Used]) -> None:
        """Add tasks, of which `first` is the number of the first one."""
        self.missed += max(0, first - self.following)
        self.following = first
        for task in tasks:
            self.following += 1
            self.by_status[task.status] += 1
            self.by_bucket[bisect_left(BUCKETS_S, task.run_s)] += 1
            self.run_s += task.run_s
            self.cpu_s += task.cpu_s
            self.in_bytes += task.in_bytes
            self.out_bytes += task.out_bytes

    def as_json(self) -> dict[str, Any]:
        """Return the counters: tasks by status, seconds, bytes."""
        return {
            "ended": {status.name.lower(): self.by_status[status] for status in Status},
            "missed": self.missed,
            "run_s": self.run_s,
            "cpu_s": self.cpu_s,
            "in_bytes": self.in_bytes,
            "out_bytes": self.out_bytes,
        }
