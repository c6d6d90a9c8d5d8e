"""What an application holds of its tasks: futures as in the standard library, and jobs.

Futures are made by the thread that submits and ended by the application's own thread; both are safe to use from any.
"""

import concurrent.futures
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from msgspec import Struct

from concurrent_nb import foreign
from concurrent_nb.ids import JobId, task_name
from concurrent_nb.nodes.condition import Condition
from concurrent_nb.outcome import SUCCESSES, Status
from concurrent_nb.shipping.notes import Display, Ended, Item, Note, Publication, Report, SetupRan, SystemCounts

T = TypeVar("T")

#: callbacks that raise are logged where the standard library logs them
_log: Final = foreign.Log("concurrent.futures")

#: (job, indexes, None for all): asks the application's thread to cancel
Canceller = Callable[[JobId, Sequence[int] | None], None]


#: called with each exception of a task before its future has it
Presenter = Callable[["TaskFuture", BaseException], None]

#: guards whether a future has its condition yet
_FURNISHING: Final = threading.RLock()  # reentrant, for signal handlers
#: what a future needs once somebody waits for it
_FURNITURE: Final = frozenset({"_condition", "_waiters", "_done_callbacks"})
_ENDED: Final = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})


class TaskFuture(concurrent.futures.Future[Any]):
    """A `concurrent.futures.Future` whose task runs on a cluster; it can also be awaited.

    As in the standard library `cancel` returns False for a task that is known to run. True is a promise: the task never
    starts, or is stopped if it has started in the last moment.

    Of many futures most have ended before anybody looks at them. So the condition, which makes up half of a future's
    memory and a third of its time, and the lists of who waits are made when they are first asked for.
    """

    def __init__(self, job_id: JobId, index: int, canceller: Canceller, job: "Job | None" = None) -> None:
        # As the standard library's, but for the furniture.
        self._state = PENDING
        self._result = None
        self._exception = None
        self._is_furnished = False
        self.job_id = job_id
        self.index = index
        self.job = job  #: the job that it belongs to, None for a submit or a map
        self.slave = ""  #: name of the slave where it ran
        self.worker = 0  #: pid of the worker that ran it
        self.attempt = 0  #: number of the attempt that ended it
        self.elapsed_s = 0.0  #: time that the worker spent on it
        self.status: Status | None = None  #: how it ended on the cluster
        self._canceller = canceller

    def __getattr__(self, name: str) -> Any:
        """Furnish the future, for whoever waits for it or asks to be called."""
        if name not in _FURNITURE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with _FURNISHING:
            if not self._is_furnished:
                self._waiters: list[Any] = []
                self._done_callbacks: list[Any] = []
                self._condition = Condition()  # type: ignore[assignment]  # has all that is used of it
                self._is_furnished = True
        return object.__getattribute__(self, name)

    def cancelled(self) -> bool:
        """Return whether the task was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """Return whether the task is known to run."""
        return self._state == RUNNING

    def done(self) -> bool:
        """Return whether the task has ended, or was cancelled."""
        return self._state in _ENDED

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the task's value, as in the standard library."""
        if self._state == FINISHED and self._exception is None:
            return self._result
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the task's exception, as in the standard library."""
        if self._state == FINISHED:
            return self._exception
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Have `fn(future)` called when it has ended, at once if it has. What it raises is logged, whatever it is."""
        with self._condition:
            if self._state not in _ENDED:
                self._done_callbacks.append(fn)
                return
        foreign.call(_log, f"exception calling callback for {self!r}", fn, self)

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the result in a coroutine. Cancelling the coroutine cancels the task if it does not run."""
        import asyncio  # here, because it takes 100 ms and only coroutines come by

        return asyncio.wrap_future(self).__await__()

    @property
    def task(self) -> str:
        """Return the task's name for people."""
        return task_name(self.job_id, self.index)

    def cancel(self) -> bool:
        """Cancel the task unless it runs or has ended. Return whether it is cancelled."""
        with self._condition:
            known = self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)
        if known:
            return True
        is_cancelled = False
        try:
            is_cancelled = super().cancel()
        finally:  # an interrupt may come while callbacks run
            if is_cancelled or self._state == CANCELLED:
                if self._notify_waiters() and self.job is not None:
                    self.job.tasks_ended((self,))
                self._canceller(self.job_id, (self.index,))
        return is_cancelled

    def note_running(self, slave: str, begins: bool = True) -> None:
        """Note that the task runs, or, if it does not begin yet, that it will where it is. For the same thread."""
        self.slave = slave
        with self._condition:
            if self._state == PENDING:
                self._state = RUNNING
        if begins and self.job is not None:
            self.job.task_started(self.index)

    def pieces(self, text: str, stream: int, attempt: int) -> Sequence[tuple[int, str]]:
        """Say which task of its job has written what of `text`, by index. For the application's thread."""
        return ((self.index, text),)

    def take_notes(self, notes: Sequence[Note], attempt: int) -> None:
        """Note what the task has said. For the application's thread."""
        if self.job is not None:
            self.job.task_said(self.index, notes)

    def answer(self, value: Any, error: BaseException | None, present: "Presenter | None") -> None:
        """Set the result, or the exception, which `present` is shown before. For the application's thread."""
        if error is not None and present is not None:
            present(self, error)
        self.end(value, error)

    def end_cancelled(self) -> None:
        """Take the cluster's word that the task was cancelled, running or not. For the application's thread."""
        if self.set_cancelled() and self.job is not None:
            self.job.tasks_ended((self,))

    def end(self, value: Any, error: BaseException | None) -> bool:
        """Set the result or the exception; False if it was cancelled meanwhile. For the application's thread."""
        if not self.set_end(value, error):
            return False
        if self.job is not None:
            self.job.tasks_ended((self,))
        return True

    def set_cancelled(self) -> bool:
        """Do as `end_cancelled`, and leave it to the caller to tell the job. False if it has ended already."""
        if not self._is_furnished and self._state == PENDING:
            with _FURNISHING:
                if not self._is_furnished:  # so nobody waits, has cancelled it, or wants to be called
                    self._state = CANCELLED_AND_NOTIFIED
                    return True
        with self._condition:
            if self._state in _ENDED:
                return False
            self._state = CANCELLED
            self._condition.notify_all()
        self._invoke_callbacks()
        return self._notify_waiters()

    def set_end(self, value: Any, error: BaseException | None) -> bool:
        """Do as `end`, and leave it to the caller to tell the job."""
        if not self._is_furnished and self._state == PENDING:
            with _FURNISHING:
                if not self._is_furnished:  # the same
                    self._result, self._exception = value, error
                    self._state = FINISHED
                    return True
        try:
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)
        except concurrent.futures.InvalidStateError:
            return False
        return True

    def _invoke_callbacks(self) -> None:
        """Call who wants to know that it has ended; what they raise is logged, whatever it is."""
        interrupt: BaseException | None = None
        for callback in self._done_callbacks:
            try:
                callback(self)
            except BaseException as error:  # noqa: BLE001  (a callback is the user's)
                if foreign.is_interrupt(error):
                    interrupt = error
                else:
                    _log.exception("exception calling callback for %r", self)
        if interrupt is not None:
            raise interrupt

    def _notify_waiters(self) -> bool:
        try:
            self.set_running_or_notify_cancel()
        except RuntimeError:  # two threads cancelled at once; the other one has told the waiters
            return False
        return True


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tasks of a job are where."""

    waiting: int
    running: int
    done: int
    failed: int
    cancelled: int

    @property
    def total(self) -> int:
        """Return the number of tasks."""
        return self.waiting + self.running + self.done + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class OutputPiece:
    """What a task wrote: `stream` is 1 for standard output, 2 for standard error."""

    index: int
    stream: int
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What a task showed with `display`."""

    index: int
    display: Display


class TaskEvent(Struct, frozen=True, gc=False):
    """What has happened to a task of a watched job. A Struct, because one is made for each task."""

    index: int
    kind: str  #: "started" (of tasks that have run for a while) or "ended"
    slave: str
    worker: int  #: pid, 0 if it is not known
    at_s: float  #: when it was heard of, on the clock of `time.monotonic`
    elapsed_s: float = 0.0  #: time that the worker spent on it
    status: Status | None = None  #: how it ended on the cluster; None while it runs, or if it never got there


@dataclass(frozen=True, slots=True)
class TaskNote:
    """What a task has said with `report` or `publish`, or the host of a task system of the system."""

    index: int
    content: Report | Publication | SystemCounts


class Job:
    """All tasks of one cell: their futures, how far they are, what they write.

    Made by `ApplicationNode.start_job`. The futures keep everything that finished, also when the job ended early.
    Of a `watched` job events and notes gather until they are taken. What tasks write and display gathers too, unless
    the job `prints`: then it comes out of this process at once. A job that `is_open` may get more tasks, and has not
    ended before it is closed.
    """

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
        self.futures: list[TaskFuture] = []
        self.ended: list[TaskFuture] = []  #: those that have ended, in that order
        self.input_error: BaseException | None = None  #: why there are no more tasks, if that is an error
        self.hit: TaskFuture | None = None  #: the first task whose value satisfied `until`
        self.first_error: TaskFuture | None = None  #: the first task that failed
        self.slaves: set[str] = set()  #: names of the slaves where tasks ended
        self._canceller = canceller
        self._started_s = time.monotonic()
        self._ended_s: float | None = None
        self._condition = Condition()
        self._running: set[int] = set()
        self._done = self._failed = self._cancelled = 0
        self._output: deque[OutputPiece | Shown] = deque()
        self._events: deque[TaskEvent] = deque()
        self._notes: deque[TaskNote] = deque()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every task has ended. Return whether that is so; False after `timeout_s` seconds."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._condition:
            while not self._is_over():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._condition.wait(left)
            return True

    def results(self, timeout_s: float | None = None) -> list[Any]:
        """Wait for all tasks; return their values, in order.

        Raises the first task's exception that has one, in order, CancelledError for a task that was cancelled, and
        TimeoutError after `timeout_s` seconds; of tasks from an iterator, also what the iterator has raised.
        """
        if not self.wait(timeout_s):
            raise TimeoutError(f"{self!r} has not ended within {timeout_s} s")
        if self.input_error is not None:
            raise self.input_error
        return [future.result() for future in self.futures]

    def as_completed(self, timeout_s: float | None = None) -> Iterator[TaskFuture]:
        """Iterate over the futures in the order in which they end, also over those that are still to come.

        Raises TimeoutError if it lasts longer than `timeout_s` seconds.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for number in itertools.count():
            with self._condition:
                while len(self.ended) <= number:
                    if self._is_over():
                        return
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError(f"{self!r} has not ended within {timeout_s} s")
                    self._condition.wait(left)
            yield self.ended[number]

    @property
    def elapsed_s(self) -> float:
        """Seconds from the start of the job to its end, or to now while it runs."""
        return (time.monotonic() if self._ended_s is None else self._ended_s) - self._started_s

    def cancel(self) -> None:
        """Stop the whole job, running tasks too. Returns at once; `wait` tells when all have ended."""
        if self.is_open:
            self.close()
        self._canceller(self.id, None)

    def counts(self) -> Counts:
        """Tell how many tasks are where."""
        with self._condition:
            running = len(self._running)
            waiting = len(self.futures) - len(self.ended) - running
            return Counts(waiting, running, self._done, self._failed, self._cancelled)

    def take_output(self) -> list[OutputPiece | Shown]:
        """Give what tasks have written and displayed since the last call, in order."""
        return _taken(self._output)

    def take_events(self) -> list[TaskEvent]:
        """Give what has happened to tasks since the last call, in order, if the job is watched."""
        return _taken(self._events)

    def take_notes(self) -> list[TaskNote]:
        """Give what tasks have reported and published since the last call, if the job is watched."""
        return _taken(self._notes)

    def future_of(self, index: int) -> TaskFuture:
        """Make the future of a task, the next one, that is about to be sent."""
        future = TaskFuture(self.id, index, self._canceller, self)
        self.futures.append(future)
        return future

    def _is_over(self) -> bool:
        return not self.is_open and len(self.ended) >= len(self.futures)

    def __repr__(self) -> str:
        counts = self.counts()
        return f"<Job {self.name or self.id.hex()[:8]}: {counts.done} of {counts.total} done, {counts.failed} failed>"

    # ------------------------------------------------------------------------------- for the application's thread

    def task_started(self, index: int) -> None:
        """Note that a task runs."""
        future = self.futures[index]
        with self._condition:
            if not future.done():
                self._running.add(index)
                if self.watched:
                    self._events.append(TaskEvent(index, "started", future.slave, 0, time.monotonic()))

    def task_wrote(self, piece: OutputPiece) -> None:
        """Note what a task wrote."""
        self._output.append(piece)

    def task_said(self, index: int, notes: Sequence[Note]) -> None:
        """Note what a task has said."""
        for note in notes:
            if isinstance(note, Display):
                if not self.prints:
                    self._output.append(Shown(index, note))
            elif self.watched and not isinstance(note, (Item, Ended, SetupRan)):
                self._notes.append(TaskNote(index, note))

    def tasks_ended(self, futures: Sequence[TaskFuture]) -> None:
        """Note that tasks have ended, whoever ended them."""
        if not futures:
            return
        with self._condition:
            for future in futures:
                self._note_end(future)
            if self._is_over():
                self._ended_s = time.monotonic()
            self._condition.notify_all()

    def _note_end(self, future: TaskFuture) -> None:
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

    def close(self, error: BaseException | None = None) -> None:
        """Note that no more tasks will come, because of `error` if there is one."""
        with self._condition:
            self.is_open = False
            self.input_error = error
            if self._is_over():
                self._ended_s = time.monotonic()
            self._condition.notify_all()


def _taken(gathered: "deque[T]") -> "list[T]":
    """Empty a deque that another thread fills."""
    taken = []
    while gathered:
        taken.append(gathered.popleft())
    return taken


def as_completed(
    futures: "Job | Iterable[concurrent.futures.Future[Any] | Job]", timeout: float | None = None
) -> "Iterator[concurrent.futures.Future[Any]]":
    """Iterate over futures in the order in which they end, those that have ended first.

    Args:
        futures: a job (also one whose tasks are still to come), or futures and jobs, of any executors.
        timeout: seconds from the first `next`, after which TimeoutError is raised.
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
