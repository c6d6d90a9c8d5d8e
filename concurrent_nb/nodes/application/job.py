"""A job: the futures of all its tasks as one object, with progress, output and events.

Its tasks are made by the thread that starts it and ended by the client thread. May be used from any thread.
"""

import concurrent.futures
import dis
import inspect
import itertools
import operator
import sys
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Generic, SupportsIndex, overload

from msgspec import Struct

from concurrent_nb.errors import ConcurrentError, ConfigurationError, StackUnavailable
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.condition import Condition
from concurrent_nb.nodes.application.futures import Canceller, T, TaskFuture
from concurrent_nb.nodes.application.progress_bar import Progress
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.common import nested
from concurrent_nb.nodes.common.trace_file import TraceSummary
from concurrent_nb.outcome import SUCCESSES, Status
from concurrent_nb.shipping.runtime.notes import (
    Display,
    Item,
    ItemEnded,
    Note,
    ProgressReport,
    Publication,
    SetupRan,
    SystemCounts,
    TaskStatistics,
)
from concurrent_nb.shipping.serialization import task_inputs
from concurrent_nb.telemetry.job_stats import JobStats, JobTimes, Share, edges_of
from concurrent_nb.telemetry.statistic_registry import StatisticRegistry

if TYPE_CHECKING:
    import asyncio

    from concurrent_nb.nodes.application.master_calls import MasterCalls

#: instructions in which `*job` asks a job for its iterator
_UNPACKING: Final = frozenset({"CALL_FUNCTION_EX", "LIST_EXTEND", "SET_UPDATE"})


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of a job's tasks in each state."""

    waiting: int
    running: int
    done: int
    failed: int
    cancelled: int

    @property
    def total(self) -> int:
        """The number of all tasks."""
        return self.waiting + self.running + self.done + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class OutputPiece:
    """Text that a task wrote: `stream` is 1 for standard output, 2 for standard error."""

    index: int
    stream: int
    text: str


@dataclass(frozen=True, slots=True)
class TaskDisplay:
    """What a task displayed with `display`."""

    index: int
    display: Display


class TaskEvent(Struct, frozen=True, gc=False):
    """A task of a watched job has started or ended. A Struct, because one is made for each task."""

    index: int
    kind: str  #: "started" (of tasks that have run for a while) or "ended"
    slave: str
    worker: int  #: pid, 0 if it is not known
    at_s: float  #: when the application received it, on the clock of `time.monotonic`
    elapsed_s: float = 0.0  #: time that the worker spent on it
    status: Status | None = None  #: how it ended on the cluster; None while it runs, or if it never got there


@dataclass(frozen=True, slots=True)
class TaskNote:
    """What a task has reported or published, or the counts that the host of a task system has reported."""

    index: int
    content: ProgressReport | Publication | SystemCounts


class Job(Generic[T]):
    """All tasks of one cell, one `map` of a task function, one `start_job` or one `push_tasks`. Their values, in order.

    >>> job = app.start_job(pow, [(n, 2) for n in range(4)])
    >>> job.results()
    [0, 1, 4, 9]
    >>> job[3], job[1:3], len(job), sum(job)
    (9, [1, 4], 4, 14)
    >>> job.counts().done, job.counts().failed
    (4, 0)

    Iterating gives each value as soon as it and all before it are there. `job[3]` and `job[1:4]` wait for those values.
    In a coroutine, `await job` returns the list of values, `async for` iterates over them, and `*job` gives the
    futures, for `await asyncio.gather(*job)`. Where a value is asked for, a task that failed raises its exception.

    A job that was cancelled, or that ended early, keeps the values that it has: see `done_results`. A `watched` job
    keeps events and notes until `take_events` and `take_notes` return them. Output of tasks is kept for `take_output`,
    unless the job `prints`. A job that `is_open` (of `push_tasks`) may get more tasks.
    """

    leaves_references: Final = True  #: as of `TaskFuture`: it stands for the list of its values

    def __init__(
        self,
        job: JobId,
        name: str,
        canceller: Canceller,
        watched: bool = False,
        prints: bool = False,
        is_open: bool = False,
    ) -> None:
        self.id = job
        self.name = name
        self.watched = watched
        self.prints = prints
        self.is_open = is_open  #: more tasks may come
        self.futures: list[TaskFuture[T]] = []
        self.ended: list[TaskFuture[T]] = []  #: those that have ended, in that order
        self.input_error: BaseException | None = None  #: why there are no more tasks, if that is an error
        self.hit: TaskFuture[T] | None = None  #: the first task whose value satisfied `until`
        self.first_error: TaskFuture[T] | None = None  #: the first task that failed
        self.slaves: set[str] = set()  #: names of the slaves where tasks ended
        self.ask: MasterCalls | None = None  #: calls methods of the master; None for a job without a cluster
        self.label: Callable[[int], str] | None = None  #: describes the arguments of a task, as in "k = 3"
        self._canceller = canceller
        self._cancel_requested = False  # by `cancel`, not by cancelling tasks
        self._started_s = time.monotonic()
        self._ended_s: float | None = None
        self._condition = Condition()
        # Called once, when tasks are added, all have ended or no more will be added.
        self._coroutine_wakers: list[Callable[[], object]] = []
        self._running: set[int] = set()
        self._done = self._failed = self._cancelled = 0
        self._statistics = StatisticRegistry()  # what its tasks have measured
        self._new_kept: Callable[[int], TaskFuture[T]] | None = None  # makes futures whose results stay in the cluster
        self._inputs = 0  # results of other tasks that its tasks need
        self._missing_inputs: list[weakref.ref[TaskFuture]] = []  # of those, the ones that were not there before
        self._is_batched = False
        self._index_at_master: Callable[[int], int] = _same  # of the task that a task travels in
        #: returns the master's statistics of a job; None: no master has it
        self._ask_statistics: Callable[[JobId], dict[str, Any]] | None = None
        self._output: deque[OutputPiece | TaskDisplay] = deque()
        self._events: deque[TaskEvent] = deque()
        self._notes: deque[TaskNote] = deque()

    # --------------------------------------------------------------------------------------------------- its values

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every task has ended.

        Args:
            timeout_s: seconds to wait; None: without a limit.

        Returns whether every task has ended; False after `timeout_s` seconds.
        """
        progress = self._progress()
        try:
            return self._wait_until(self._is_over, timeout_s, progress)
        finally:
            progress.close()

    def results(self, timeout_s: float | None = None) -> list[T]:
        """Wait for all tasks; return their values, in order.

        Args:
            timeout_s: seconds to wait, not a limit of the tasks; None: without a limit.

        Raises:
            Exception: that of the first task, in order, that failed; or what the iterable of tasks has raised.
            CancelledError: tasks were cancelled; `done_results` returns the other values.
            TimeoutError: after `timeout_s` seconds; the job continues.
        """
        self._wait_or_raise(timeout_s)
        if self.input_error is not None:
            raise self.input_error
        if self._new_kept is not None:
            for future in self.futures:  # all at once, and not one after another
                future.fetch()
        return [self._value_of(future) for future in self.futures]

    def result(self, timeout_s: float | None = None) -> Any:
        """Return what `results` returns; `timeout_s` is the time to wait, not a limit of the tasks."""
        return self.results(timeout_s)

    def done_results(self) -> dict[int, T]:
        """Return the values that exist now, by task index. For a job that still runs or was stopped."""
        done = (future for future in list(self.futures) if future.done() and not future.cancelled())
        return {future.index: future.result() for future in done if future.exception() is None}

    def exception(self, timeout_s: float | None = None) -> BaseException | None:
        """Wait for all tasks; return the exception that `results` would raise because of a task, None if there is none.

        Args:
            timeout_s: seconds to wait; None: without a limit.

        Raises CancelledError and TimeoutError as `results`.
        """
        self._wait_or_raise(timeout_s)
        if self.input_error is not None:
            return self.input_error
        for future in self.futures:
            if future.cancelled():
                if (why := self._why_without_value()) is not None:
                    return why
                raise self._cancelled_error()
            if (error := future.exception()) is not None:
                return error
        return None

    def as_completed(self, timeout_s: float | None = None) -> Iterator[TaskFuture[T]]:
        """Iterate over the futures in the order in which they end. Tasks that are added meanwhile are included.

        Args:
            timeout_s: seconds that the iteration may last; None: without a limit.

        Raises TimeoutError if it lasts longer.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for number in itertools.count():
            if nested.waiting is not None:
                left = None if deadline is None else deadline - time.monotonic()
                nested.waiting.for_job(self.id, lambda: len(self.ended) > number or self._is_over(), left)  # noqa: B023
            with self._condition:
                while len(self.ended) <= number:
                    if self._is_over():
                        return
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError(f"{self!r} has not ended within {timeout_s} s")
                    self._condition.wait(left)
            yield self.ended[number]

    def __iter__(self) -> Iterator[T]:
        """Iterate over the values, in order; for `*job` in a coroutine over the futures, which can be awaited."""
        if _is_unpacked_in_a_coroutine(sys._getframe(1)):
            return self._all_futures()  # type: ignore[return-value]  # types cannot express by whom it is called
        return self._values()

    def __len__(self) -> int:
        """Return the number of tasks; an open job may get more."""
        return len(self.futures)

    def __bool__(self) -> bool:
        """Return True, also for a job without tasks: `if job` asks whether there is one."""
        return True

    @overload
    def __getitem__(self, which: SupportsIndex) -> T: ...

    @overload
    def __getitem__(self, which: slice) -> list[T]: ...

    def __getitem__(self, which: SupportsIndex | slice) -> T | list[T]:
        """Wait for the value of a task, or for those of a slice. Raises IndexError, and as `results`."""
        if isinstance(which, slice):
            is_known = which.stop is not None and which.stop >= 0 and (which.start or 0) >= 0 and (which.step or 1) > 0
            self._wait_for_tasks(which.stop if is_known else None)
            return [self._value_of(future) for future in self.futures[which]]
        index = operator.index(which)
        self._wait_for_tasks(index + 1 if index >= 0 else None)
        if not -len(self.futures) <= index < len(self.futures):
            raise IndexError(f"{self._title} has {len(self.futures)} tasks, none of them is number {index}")
        return self._value_of(self.futures[index])

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for `result()` in a coroutine. Cancelling the coroutine cancels the job."""
        return self._awaited().__await__()

    async def __aiter__(self) -> AsyncIterator[T]:
        """Iterate over the values in a coroutine, in order. Cancelling the coroutine cancels no task."""
        for index in itertools.count():
            if index >= len(self.futures):
                await self._until(lambda: index < len(self.futures) or not self.is_open)  # noqa: B023  (called here)
                if index >= len(self.futures):
                    break
            future = self.futures[index]
            if not future.done():
                await _end_of(future)
            yield self._value_of(future)
        if self.input_error is not None:
            raise self.input_error

    # ------------------------------------------------------------------------------------------------- its state

    @property
    def elapsed_s(self) -> float:
        """Seconds from the start of the job to its end, or to now while it runs."""
        return (time.monotonic() if self._ended_s is None else self._ended_s) - self._started_s

    def done(self) -> bool:
        """Return whether all tasks have ended, and no more will be added."""
        return self._is_over()

    def cancelled(self) -> bool:
        """Return whether the job has ended because it, or tasks of it, were cancelled."""
        is_cut = self._is_over() and self._cancelled > 0 and self.hit is None
        return is_cut and self._why_without_value() is None

    def cancel(self) -> None:
        """Cancel all tasks, and stop running ones. Returns immediately; `wait` returns when all have ended."""
        self._cancel_requested = True
        if self.is_open:
            self._close()
        self._canceller(self.id, None)

    def counts(self) -> Counts:
        """Return task counts by state."""
        with self._condition:
            running = len(self._running)
            waiting = len(self.futures) - len(self.ended) - running
            return Counts(waiting, running, self._done, self._failed, self._cancelled)

    def input_counts(self) -> tuple[int, int]:
        """Return how many results of other tasks its tasks have needed in the cluster, and how many are not there yet.

        A result that was here when the job was started travels with its tasks, and does not count.
        """
        missing = [it for it in self._missing_inputs if (future := it()) is not None and not future.done()]
        self._missing_inputs = missing
        return self._inputs, len(missing)

    @property
    def stats(self) -> JobStats:
        """Statistics of the job until now: run times, CPU time, memory, bytes, shares of slaves and workers, what tasks
        added to `concurrent_nb.stats`, where the time went, and what would make it faster.

        >>> job = app.start_job(pow, [(n, 2) for n in range(4)])
        >>> job.wait()
        True
        >>> stats = job.stats
        >>> stats.done, stats.run_time.count, stats.times.ended
        (4, 4, 4)

        Each use makes it anew, and asks the master: if that does not answer, `times` is None, with the reason in
        `no_times`. A notebook shows it as a table.
        """
        counts = self.counts()
        stats = JobStats(
            self.id.hex(),
            self.name,
            counts.total,
            counts.waiting,
            counts.running,
            counts.done,
            counts.failed,
            counts.cancelled,
            self.elapsed_s,
            values=self._statistics.read(),
            is_batched=self._is_batched,
        )
        for future in list(self.ended):
            if not future.slave and not future.worker:
                continue  # it ran nowhere
            elapsed_s = future.elapsed_s
            stats.run_time.add(elapsed_s)
            stats.cpu_s += future.cpu_s
            stats.peak_bytes = max(stats.peak_bytes, future.peak_bytes)
            worker = f"{future.slave}/{future.worker}"
            for shares, name in ((stats.slaves, future.slave), (stats.workers, worker)):
                share = shares.get(name)
                if share is None:
                    share = shares[name] = Share()
                share.tasks += 1
                share.run_s += elapsed_s
        if self._ask_statistics is None:
            stats.no_times = "no master has the job"
            return stats
        try:
            answer = self._ask_statistics(self.id)
        except (ConcurrentError, OSError) as error:
            stats.no_times = str(error)
            return stats
        times = stats.times = JobTimes.from_answer(answer)
        stats.graph = edges_of(answer)
        # The master also has those of items that travelled together.
        stats.cpu_s, stats.peak_bytes = max(stats.cpu_s, times.cpu_s), max(stats.peak_bytes, times.peak_bytes)
        return stats

    def trace(self, path: Path | str) -> TraceSummary:
        """Write when and where its tasks ran to a file that Perfetto (https://ui.perfetto.dev) opens.

        It has the tasks that have ended so far and are among the last 100,000 of the cluster: those that travelled
        together (`batch`) are one, and tasks that a task system has pushed are not in it. The result describes it.

        Args:
            path: of the file, in Chrome's trace event format. It is replaced if it exists.

        Raises:
            ConfigurationError: the file cannot be written, or the job has run without a cluster.
            MasterUnreachable: the master does not answer.
        """
        if self.ask is None:
            raise ConfigurationError(f"{self._title} has no trace, because it runs without a cluster")
        return self.ask.write_trace(path, self.id.hex())

    def stack(self, index: int) -> str:
        """Find out what a running task is doing: where it runs, for how long, and its stack, the most recent call last.

        The task goes on, also if it computes in compiled code. Of tasks that travel together (`batch`) one runs at a
        time; this is the stack of that one.

        Args:
            index: of the task, as in `job[index]`.

        Raises:
            StackUnavailable: the task does not run, and where it is instead; or its worker did not answer, and why.
            IndexError: the job has no such task.
            ConfigurationError: the job runs without a cluster, or the master does not have it any more.
            MasterUnreachable: the master does not answer.
        """
        if self.ask is None:
            raise ConfigurationError(f"{self._title} has no stacks, because it runs without a cluster")
        index = operator.index(index)
        if not 0 <= index < len(self.futures):
            raise IndexError(f"{self._title} has {len(self.futures)} tasks, none of them is number {index}")
        if self.futures[index].done():
            raise StackUnavailable(f"task {index} of {self._title} has ended")
        try:
            sample = self.ask.sample_stack(self.id.hex(), self._index_at_master(index))
        except ConfigurationError:
            if self.done():
                raise
            raise StackUnavailable(f"the master does not have {self._title} yet: ask again in a moment") from None
        where = f"worker {sample['worker']} of slave {sample['slave']}"
        return f"task {index} has run for {sample['seconds']:.1f} s in {where}\n{sample['stack']}"

    def __reduce__(self) -> tuple[Any, ...]:
        if task_inputs.collector() is None:
            raise TypeError("a job cannot be sent: call its results() first and use those")
        if self.is_open:
            raise TypeError("a job that may get more tasks cannot be sent: call its results() first and use those")
        return self._reduced()

    def _reduced(self) -> tuple[Any, ...]:
        """Return what it is pickled as in the arguments of a task: the list of its values."""
        return list, (list(self.futures),)

    def __repr__(self) -> str:
        counts = self.counts()
        parts = [f"{counts.done} of {counts.total}{' or more' if self.is_open else ''} done"]
        named = (counts.failed, "failed"), (counts.cancelled, "cancelled"), (counts.running, "running")
        parts += [f"{count} {what}" for count, what in named if count]
        if self._is_over():
            parts.append(f"ended after {self.elapsed_s:.2f} s")
        return f"<Job {self.name or self.id.hex()[:8]}: {', '.join(parts)}>"

    # -------------------------------------------------------------------------------------------- for front ends

    def take_output(self) -> list[OutputPiece | TaskDisplay]:
        """Return what tasks have written and displayed since the last call, in order."""
        return _taken(self._output)

    def take_events(self) -> list[TaskEvent]:
        """Return the events of tasks since the last call, in order, if the job is watched."""
        return _taken(self._events)

    def take_notes(self) -> list[TaskNote]:
        """Return what tasks have reported and published since the last call, if the job is watched."""
        return _taken(self._notes)

    # ------------------------------------------------------------------------------------------------------- inside

    @property
    def _title(self) -> str:
        return f"job {self.name or self.id.hex()[:8]}"

    def _is_over(self) -> bool:
        return not self.is_open and len(self.ended) >= len(self.futures)

    def _progress(self) -> Progress:
        return Progress("job", self.name, lambda: (len(self.ended), len(self.futures)), self._started_s)

    def _values(self) -> Iterator[T]:
        """Iterate over the values, in order, and show the progress."""
        progress = self._progress()
        try:
            for future in self._all_futures():
                self._wait_until(future.done, None, progress)
                yield self._value_of(future)
        finally:
            progress.close()

    def _wait_until(self, holds: Callable[[], bool], timeout_s: float | None, progress: Progress) -> bool:
        """Wait until something holds that only the end of a task can change. False after `timeout_s` seconds."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not holds():
            if nested.waiting is not None:
                nested.waiting.for_job(self.id, holds, timeout_s)
            with self._condition:
                if holds():
                    break
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._condition.wait(progress.wait_s(left))
            progress.look()  # not while the lock is held: a stream may block
        return True

    def _wait_or_raise(self, timeout_s: float | None) -> None:
        if not self.wait(timeout_s):
            raise TimeoutError(f"{self!r} has not ended within {timeout_s} s")

    def _value_of(self, future: TaskFuture[T]) -> T:
        """Wait for a task's value. Raises its exception, or why there is none."""
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            if not future.cancelled():
                raise  # the task itself has raised that
        raise self._why_without_value() or self._cancelled_error()

    def _why_without_value(self) -> BaseException | None:
        """Return the exception because of which tasks were cancelled, None if there was another reason."""
        if self._cancel_requested or self.first_error is None:
            return None
        return self.first_error.exception()

    def _cancelled_error(self) -> concurrent.futures.CancelledError:
        counts = self.counts()
        why = "was cancelled" if self.hit is None else "has ended with its first hit, job.hit.result()"
        text = f"{self._title} {why}: {counts.cancelled} of its {counts.total} tasks have no result"
        return concurrent.futures.CancelledError(
            f"{text}; job.done_results() gives those of the {counts.done} that finished" if counts.done else text
        )

    def _all_futures(self) -> Iterator[TaskFuture[T]]:
        """Iterate over the futures; tasks that are added meanwhile are included."""
        for index in itertools.count():
            if not self._wait_for_tasks(index + 1):
                break
            yield self.futures[index]
        if self.input_error is not None:
            raise self.input_error

    def _wait_for_tasks(self, count: int | None) -> bool:
        """Wait until there are `count` tasks, or no more will be added (None). Return whether there are `count`."""
        if count is not None and count <= len(self.futures):
            return True
        with self._condition:
            while self.is_open and (count is None or count > len(self.futures)):
                self._condition.wait()
            return count is None or count <= len(self.futures)

    async def _awaited(self) -> Any:
        import asyncio  # as in `_until`

        try:
            await self._until(self._is_over)
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self.result()

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that only more tasks, their end or the end of the job can change."""
        import asyncio  # here, because it takes 100 ms and only coroutines need it

        loop = asyncio.get_running_loop()
        while True:
            woken = loop.create_future()
            with self._condition:
                if holds():
                    return
                self._coroutine_wakers.append(partial(_wake, loop, woken))
            await woken

    def _wake_coroutines(self) -> None:
        with self._condition:
            wakers, self._coroutine_wakers = self._coroutine_wakers, []
        for wake in wakers:
            wake()

    # -------------------------------------------------------------------------------------- for the client thread

    def _new_future(self, index: int) -> TaskFuture[T]:
        """Make the future of the next task, which is about to be sent."""
        kept = self._new_kept
        future: TaskFuture[T] = TaskFuture(self.id, index, self._canceller, self) if kept is None else kept(index)
        self._add(future)
        return future

    def _new_handle(self, index: int) -> TaskHandle:
        """Make the handle of the next task, which is about to be sent."""
        return self._new_future(index)

    def _note_inputs(self, futures: Iterable[TaskFuture]) -> None:
        """Note the results of other tasks that its tasks need. It does not keep them: a kept result may be dropped."""
        needed = dict.fromkeys(futures)
        self._inputs = len(needed)
        self._missing_inputs = [weakref.ref(future) for future in needed]

    def _add(self, future: TaskFuture[T]) -> None:
        """Add a task."""
        self.futures.append(future)
        if self.is_open:
            with self._condition:
                self._condition.notify_all()
            if self._coroutine_wakers:
                self._wake_coroutines()

    def _task_started(self, index: int) -> None:
        """Note that a task runs."""
        future = self.futures[index]
        with self._condition:
            if not future.done():
                self._running.add(index)
                if self.watched:
                    self._events.append(TaskEvent(index, "started", future.slave, 0, time.monotonic()))

    def _task_wrote(self, piece: OutputPiece) -> None:
        """Note what a task wrote."""
        self._output.append(piece)

    def _task_noted(self, index: int, notes: Sequence[Note]) -> None:
        """Keep what a task has reported, published and displayed."""
        for note in notes:
            if isinstance(note, TaskStatistics):
                self._statistics.merge(note.values)
            elif isinstance(note, Display):
                if not self.prints:
                    self._output.append(TaskDisplay(index, note))
            elif self.watched and not isinstance(note, (Item, ItemEnded, SetupRan)):
                self._notes.append(TaskNote(index, note))

    def _tasks_ended(self, futures: Sequence[TaskFuture[T]]) -> None:
        """Note that tasks have ended, in whichever thread."""
        if not futures:
            return
        with self._condition:
            for future in futures:
                self._note_end(future)
            if self._is_over():
                self._ended_s = time.monotonic()
            self._condition.notify_all()
        if self._coroutine_wakers and self._is_over():
            self._wake_coroutines()

    def _note_end(self, future: TaskFuture[T]) -> None:
        self._running.discard(future.index)
        slave, status = future.slave, future.status
        if self.watched:
            event = TaskEvent(future.index, "ended", slave, future.worker, time.monotonic(), future.elapsed_s, status)
            self._events.append(event)
        if slave:
            self.slaves.add(slave)
        if future.cancelled():
            self._cancelled += 1
        elif status in SUCCESSES:
            self._done += 1
            if status is Status.HIT and self.hit is None:
                self.hit = future
        else:
            self._failed += 1
            self.first_error = self.first_error or future
        self.ended.append(future)

    def _found(self, name: str, age_s: float) -> None:
        """Note that the master has the job, which it keeps, and that all tasks are here."""
        self.name = name
        self._started_s = time.monotonic() - age_s
        self._close()

    def _close(self, error: BaseException | None = None) -> None:
        """Note that no more tasks will be added, because of `error` if there is one."""
        with self._condition:
            self.is_open = False
            self.input_error = error
            if self._is_over():
                self._ended_s = time.monotonic()
            self._condition.notify_all()
        if self._coroutine_wakers:
            self._wake_coroutines()


def _same(index: int) -> int:
    return index


def _is_unpacked_in_a_coroutine(frame: FrameType) -> bool:
    """Return whether the code of a frame is a coroutine that is about to unpack something with a star."""
    code = frame.f_code
    if not code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        return False
    return dis.opname[code.co_code[frame.f_lasti]] in _UNPACKING


async def _end_of(future: TaskFuture[Any]) -> None:
    """Wait for the end of a task. Cancelling the coroutine does not cancel the task."""
    import asyncio  # as in `Job._until`

    loop = asyncio.get_running_loop()
    woken = loop.create_future()
    future.add_done_callback(lambda ended: _wake(loop, woken))
    await woken


def _wake(loop: "asyncio.AbstractEventLoop", woken: "asyncio.Future[None]") -> None:
    """Wake a coroutine of another thread's loop."""

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    with suppress(RuntimeError):  # the loop has been closed: no coroutine waits
        loop.call_soon_threadsafe(wake)


def _taken(gathered: "deque[T]") -> "list[T]":
    """Empty a deque that another thread fills."""
    taken = []
    while gathered:
        taken.append(gathered.popleft())
    return taken


def as_completed(
    futures: "Job | Iterable[concurrent.futures.Future[Any] | Job]", timeout: float | None = None
) -> "Iterator[concurrent.futures.Future[Any]]":
    """Iterate over futures in the order in which they end; those that have ended come first.

    >>> job = app.start_job(pow, [(n, 2) for n in range(4)])
    >>> sorted(future.result() for future in concurrent_nb.as_completed(job))
    [0, 1, 4, 9]

    Args:
        futures: a job (tasks that are added meanwhile are included), or futures and jobs, of any executors.
        timeout: seconds from the first `next`; None: without a limit.

    Raises TimeoutError after `timeout` seconds.
    """
    if isinstance(futures, Job):
        return futures.as_completed(timeout)
    given: list[concurrent.futures.Future[Any]] = []
    for one in futures:
        if isinstance(one, Job):
            given += one.futures
        else:
            given.append(one)
    return concurrent.futures.as_completed(given, timeout)
