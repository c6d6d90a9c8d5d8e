"""Results of other tasks in pickles of functions and arguments: references where they are pickled, values in the task.

    pickling thread: `collecting` --> a future's own pickling calls `collector().reduce` --> a reference in the pickle
    worker:          `Inputs.use` --> a reference is unpickled as the value, each once for one task

Both sides use data of the thread, because pickling has no other way to pass it.
"""

import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from concurrent_nb.ids import JobId, task_name

Buffer = bytes | bytearray | memoryview


class ForeignFuture(pickle.PicklingError):
    """A future belongs to another application, so the cluster cannot bring its value to the task."""


class Collector(Protocol):
    """Takes the futures that are met while something is pickled."""

    @property
    def futures(self) -> tuple[Any, ...]:
        """Return the futures that have left references."""

    def reduce(self, future: Any) -> tuple[Any, ...]:
        """Return what a future is pickled as: `reference_to` or `value_of`. Raises ForeignFuture."""

    def is_plain(self, future: Any, budget: int) -> int:
        """Return what is left of the budget of `pickles.is_plain` after what a future is pickled as; -1 if none is."""


class _OfThread(threading.local):
    collector: Collector | None = None
    values: "Inputs | None" = None


#: the data of this thread
OF_THREAD: Final = _OfThread()
#: makes a collector for futures of any application; set by what knows futures, if that is loaded
factories: list[Callable[[], Collector]] = []


@contextmanager
def collecting(collector: Collector) -> Iterator[None]:
    """Have futures that are pickled in this thread leave references."""
    before, OF_THREAD.collector = OF_THREAD.collector, collector
    try:
        yield
    finally:
        OF_THREAD.collector = before


@contextmanager
def collecting_any() -> Iterator[Collector | None]:
    """Do as `collecting`, for futures of any one application; the collector is None where there are no futures."""
    found = factories[0]() if factories else None
    if found is None:
        yield None
        return
    with collecting(found):
        yield found


def collector() -> Collector | None:
    """Return the collector of this thread; None outside of `collecting`."""
    return OF_THREAD.collector


def reference_to(job: JobId, index: int) -> tuple[Any, ...]:
    """Return what a future is pickled as whose value is not here."""
    return input_value, (job, index)


def value_of(value: Any) -> tuple[Any, ...]:
    """Return what a future is pickled as whose value is here."""
    return given_value, (value,)


def given_value(value: Any) -> Any:
    """Return the value: the unpickled form of a future that had ended."""
    return value


def input_value(job: JobId, index: int) -> Any:
    """Return the value of a task that the running task needs: the unpickled form of a future."""
    inputs = OF_THREAD.values
    if inputs is None:
        raise LookupError(f"the result of task {task_name(job, index)} is available in the task only that needs it")
    return inputs.value(job, index)


class Inputs:
    """The results of other tasks that one task has come with; each is unpickled once."""

    def __init__(self, results: Mapping[tuple[bytes, int], tuple[Buffer, Sequence[Buffer]]]) -> None:
        self._results = results
        self._values: dict[tuple[bytes, int], Any] = {}
        self.used = 0  #: how often a value was asked for

    def value(self, job: JobId, index: int) -> Any:
        """Return the value of a task. Raises LookupError, and what unpickling it raises."""
        key = job, index
        self.used += 1
        if key not in self._values:
            if key not in self._results:
                raise LookupError(f"the result of task {task_name(job, index)} has not come with this task")
            body, buffers = self._results[key]
            self._values[key] = pickle.loads(body, buffers=buffers)
        return self._values[key]

    @contextmanager
    def use(self) -> Iterator[None]:
        """Have references that are unpickled in this thread become these values."""
        before, OF_THREAD.values = OF_THREAD.values, self
        try:
            yield
        finally:
            OF_THREAD.values = before


NO_INPUTS: Final = Inputs({})
