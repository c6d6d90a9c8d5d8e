"""`concurrent_nb.stats`: what tasks, and this process, measure by themselves.

    in a task:      add, timed --> registry of the task --every 0.3 s, and at its end--> note --> application
    anywhere else:  add, timed --> registry of this process

The application merges what tasks have sent: `Job.stats`, `ApplicationNode.stats`.
"""

import time
from typing import Final

from concurrent_nb.shipping.runtime import notes
from concurrent_nb.shipping.runtime.notes import TaskStatistics
from concurrent_nb.telemetry.statistic import Statistic
from concurrent_nb.telemetry.statistic_registry import StatisticRegistry, Timing, packed_statistics

#: least time between two notes of a task, in seconds
NOTE_S: Final = 0.3

_monotonic: Final = time.monotonic
_sink: Final = notes.sink


class _TaskRegistry(StatisticRegistry):
    """The statistics of the running task."""

    def __init__(self) -> None:
        super().__init__()
        self.due_s = _monotonic() + NOTE_S  #: when the next note is sent

    def take_note(self) -> TaskStatistics | None:
        """Return what has been added since the last call, None if that is nothing."""
        self.due_s = _monotonic() + NOTE_S
        taken = self.take()
        return TaskStatistics(packed_statistics(taken)) if taken else None


class Stats:
    """Statistics of values that tasks measure: count, total, average, minimum, maximum and percentiles by name.

    >>> def read(lines):
    ...     with concurrent_nb.stats.timed("reading"):
    ...         words = sum(len(line.split()) for line in lines)
    ...     concurrent_nb.stats.add("words", words)
    ...     return words
    >>> job = app.start_job(read, [(["a b", "c"],), (["d"],)])
    >>> job.results()
    [3, 1]
    >>> job.stats.values["words"]
    <Statistic: 2 values, average 2, minimum 1, maximum 3>
    >>> job.stats.values["reading"].count
    2

    What a task adds travels to its application, merged, so adding costs less than a microsecond and few messages:
    `Job.stats` has the statistics of a job, `ApplicationNode.stats` those of all tasks. A task whose worker dies has
    sent what it added until 0.3 s before. Outside of tasks the values are kept in this process, for `read`.
    """

    __name__ = "stats"

    def __init__(self) -> None:
        self._own = StatisticRegistry()

    def add(self, name: str, value: float) -> None:
        """Add a value to a statistic.

        >>> concurrent_nb.stats.add("rows", 1000)

        Args:
            name: of the statistic: 1 to 200 characters.
            value: a finite number.

        Raises:
            TypeError: the name is no string, or the value no number.
            ValueError: the name is empty or too long, the value is infinite or not a number, or there are 1,000 other
                names already.
        """
        sink = _sink()
        if not sink.is_open:
            self._own.add(name, value)
            return
        registry = sink.statistics
        if not isinstance(registry, _TaskRegistry):
            registry = sink.statistics = _TaskRegistry()
        registry.add(name, value)
        if _monotonic() >= registry.due_s:
            sink.send_statistics()

    def timed(self, name: str) -> Timing:
        """Return a context manager that adds the seconds which its block takes.

        >>> with concurrent_nb.stats.timed("sorting"):
        ...     _ = sorted(range(1000))

        Args:
            name: of the statistic. Raises as `add`.
        """
        return Timing(self.add, name)

    def read(self, *, reset: bool = False) -> dict[str, Statistic]:
        """Return what was added in this process outside of tasks, by name.

        >>> _ = concurrent_nb.stats.read(reset=True)
        >>> concurrent_nb.stats.add("rows", 3)
        >>> concurrent_nb.stats.read()
        {'rows': <Statistic: 1 value, average 3, minimum 3, maximum 3>}

        Args:
            reset: begin anew, for statistics of each step. False: they accumulate.
        """
        return self._own.take() if reset else self._own.read()

    def __reduce__(self) -> str:
        return "stats"  # in a worker it is that of the worker


stats = Stats()
