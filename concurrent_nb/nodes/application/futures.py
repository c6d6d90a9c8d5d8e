"""The future of a task, as in the standard library.

Made by the thread that submits and ended by the client thread. May be used from any thread.
"""

import concurrent.futures
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, Final

from concurrent_nb import foreign
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import JobId, task_name
from concurrent_nb.nodes.application.condition import Condition
from concurrent_nb.nodes.application.task_handle import NO_USAGE
from concurrent_nb.nodes.common import nested
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.runtime.notes import Note, ProgressReport
from concurrent_nb.shipping.serialization import pickles, task_inputs

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # for the default

    from concurrent_nb.nodes.application.job import Job

    #: what a task returns
    T = TypeVar("T", default=Any)
    #: ... and the task after it
    R = TypeVar("R", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")
    R = TypeVar("R")

#: callbacks that raise are logged where the standard library logs them
_log: Final = foreign.Log("concurrent.futures")

#: called with a job and indexes (None for all): has the client thread cancel these tasks
Canceller = Callable[[JobId, Sequence[int] | None], None]


#: called with each exception of a task before its future has it
Presenter = Callable[["TaskFuture", BaseException], None]

#: guards whether a future has its condition and lists of waiters yet
_WAITER_STATE_LOCK: Final = threading.RLock()  # reentrant, for signal handlers
#: what a future needs once a thread waits for it or adds a callback
_WAITER_STATE: Final = frozenset({"_condition", "_waiters", "_done_callbacks"})
_ENDED: Final = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})


class TaskFuture(concurrent.futures.Future[T]):
    """The result of one task that runs on a cluster. A `concurrent.futures.Future` that can also be awaited.

    >>> future = app.submit(pow, 2, 10)
    >>> future.result(timeout=60)
    1024
    >>> future.done(), future.exception(), future.slave != ""
    (True, None, True)

    `result`, `exception`, `add_done_callback` and the functions `wait` and `as_completed` of `concurrent.futures` work
    as with any future. In a coroutine `await future` returns the result. `cancel` returns False for a task that is
    known to run. If it returns True, the task never starts, or is stopped if it has just started.

    When it has ended, `slave`, `worker`, `attempt`, `elapsed_s`, `status`, `cpu_s` and `peak_bytes` describe where and
    how the task ran.
    """

    #: as a part of arguments or of a function it stands for its value, which the task waits for
    leaves_references: Final = True
    #: the last text that the task has given to `report`; of the class, because most tasks report nothing
    reported: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the task has ended and its result stays in the cluster."""
        return False

    def __init__(self, job_id: JobId, index: int, canceller: Canceller, job: "Job | None" = None) -> None:
        # Most futures have ended before any thread waits for them. So the condition, which makes up half of a future's
        # memory and a third of its time, and the lists of waiters are made when they are first used. All else is set
        # here: CPython makes a dict for each object that gets attributes later.
        self._state = PENDING
        self._result: T | None = None
        self._exception: BaseException | None = None
        self._has_waiter_state = False
        self._canceller = canceller
        self.job_id = job_id
        self.index = index
        self.job = job  #: the job that it belongs to, None for a submit or a map
        self.slave = ""  #: name of the slave where it ran
        self.worker = 0  #: pid of the worker that ran it
        self.attempt = 0  #: number of the attempt that ended it, from 1
        self.elapsed_s = 0.0  #: seconds that the worker spent on it
        self.usage = NO_USAGE  #: CPU time in microseconds, peak memory in KiB
        self.status: Status | None = None  #: how it ended on the cluster; None if it has not, or never got there

    def __getattr__(self, name: str) -> Any:
        """Make the condition and the lists of waiters when they are first used."""
        if name not in _WAITER_STATE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with _WAITER_STATE_LOCK:
            if not self._has_waiter_state:
                self._waiters: list[Any] = [] if nested.waiting is None else nested.waiting.waiters_of(self)
                self._done_callbacks: list[Any] = []
                self._condition = Condition()  # type: ignore[assignment]  # has all that is used of it
                self._has_waiter_state = True
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

    def result(self, timeout: float | None = None) -> T:
        """Wait for the task's value and return it.

        Args:
            timeout: seconds to wait; None: without a limit.

        Raises:
            Exception: what the function has raised, with the remote traceback as its cause.
            CancelledError: the task was cancelled.
            TimeoutError: after `timeout` seconds; the task continues.
        """
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]  # None is one, too
        if nested.waiting is not None and self._state not in _ENDED:
            timeout = nested.waiting.for_future(self, timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the task's end; return its exception, or None if it has a value.

        Args:
            timeout: seconds to wait; None: without a limit.

        Raises CancelledError and TimeoutError as `result`.
        """
        if self._state == FINISHED:
            return self._exception
        if nested.waiting is not None and self._state not in _ENDED:
            timeout = nested.waiting.for_future(self, timeout)
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn(future)` when the task has ended, immediately if it has.

        It is called in the client thread, the one that exchanges messages with the master for all tasks of an
        application, so it must be short, and a wait for another task raises RuntimeError. What it raises is logged.
        """
        with self._condition:
            if self._state not in _ENDED:
                self._done_callbacks.append(fn)
                return
        foreign.call(_log, f"exception calling callback for {self!r}", fn, self)

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result in a coroutine. Cancelling the coroutine cancels the task unless it runs."""
        import asyncio  # here, because it takes 100 ms and only coroutines need it

        return asyncio.wrap_future(self).__await__()

    def __reduce__(self) -> tuple[Any, ...]:
        if (collector := task_inputs.collector()) is None:
            raise TypeError("a future cannot be sent: call its result() first and use that")
        return collector.reduce(self)

    def plain_budget(self, budget: int) -> int:
        """Return what is left of a budget of `pickles.is_plain`. For the pickling of tasks."""
        collector = task_inputs.collector()
        return -1 if collector is None else collector.is_plain(self, budget)

    @property
    def task(self) -> str:
        """The task's name for people: the job's id and the task's index."""
        return task_name(self.job_id, self.index)

    @property
    def cpu_s(self) -> float:
        """CPU time of the thread that ran the task, in seconds; 0 if it took less than a millisecond, or in a batch."""
        return self.usage[0] * 1e-6

    @property
    def peak_bytes(self) -> int:
        """Most memory that its worker had taken by the end of the task, in bytes; 0 as for `cpu_s`."""
        return self.usage[1] * 1024

    def fetch(self) -> None:
        """Ask for the value if it stays in the cluster; other values arrive without that."""

    def then(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> "TaskFuture[R]":
        """Run `fn(value, *args, **kwargs)` on the cluster with this task's value; return its future immediately.

        >>> app.submit(pow, 2, 10).then(str).then(len).result()
        4

        It is the same as `app.submit(fn, future, *args, **kwargs)`: the value goes from worker to worker. If this task
        fails or is cancelled, the other one ends with DependencyFailed.

        Raises ConfigurationError for a future without an application, and as `submit`.
        """
        submit = getattr(home_of(self), "submit", None)
        if submit is None:
            raise ConfigurationError("this future belongs to no application that could run another task")
        follower: TaskFuture[R] = submit(fn, self, *args, **kwargs)
        return follower

    def cancel(self) -> bool:
        """Cancel the task unless it runs or has ended. Return whether it is cancelled."""
        with self._condition:
            was_cancelled = self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)
        if was_cancelled:
            return True
        is_cancelled = False
        try:
            is_cancelled = super().cancel()
        finally:  # an interrupt may come while callbacks run
            if is_cancelled or self._state == CANCELLED:
                if self._notify_waiters() and self.job is not None:
                    self.job._tasks_ended((self,))
                self._canceller(self.job_id, (self.index,))
        return is_cancelled

    def note_running(self, slave: str, begins: bool = True) -> None:
        """Note that the task runs on `slave`, or, unless it `begins`, that it is going to. For the application's
        thread."""
        self.slave = slave
        with self._condition:
            if self._state == PENDING:
                self._state = RUNNING
        if begins and self.job is not None:
            self.job._task_started(self.index)

    def split_output(self, text: str, stream: int, attempt: int) -> Sequence[tuple[int, str]]:
        """Return which task of the job has written which part of `text`, by index. For the client thread."""
        return ((self.index, text),)

    def add_notes(self, notes: Sequence[Note], attempt: int) -> None:
        """Pass what the task has reported, published and displayed on to its job. For the client thread."""
        for note in notes:
            if isinstance(note, ProgressReport):
                self.reported = note.text
        if self.job is not None:
            self.job._task_noted(self.index, notes)

    def set_outcome(self, value: Any, error: BaseException | None, present: Presenter | None) -> None:
        """Set the result, or the exception, with which `present` is called first. For the client thread."""
        if error is not None and present is not None:
            present(self, error)
        if self.set_end(value, error) and self.job is not None:
            self.job._tasks_ended((self,))

    def end_cancelled(self) -> None:
        """End the task: the cluster has cancelled it, running or not. For the client thread."""
        if self.set_cancelled() and self.job is not None:
            self.job._tasks_ended((self,))

    def end(self, value: Any, error: BaseException | None) -> bool:
        """Set the result or the exception; return False if it was cancelled meanwhile. For the client thread."""
        if not self.set_end(value, error):
            return False
        if self.job is not None:
            self.job._tasks_ended((self,))
        return True

    def set_cancelled(self) -> bool:
        """Do as `end_cancelled`, but do not report it to the job. Return False if it has ended already."""
        if not self._has_waiter_state and self._state == PENDING:
            with _WAITER_STATE_LOCK:
                if not self._has_waiter_state:  # so no thread waits, has cancelled it or has added a callback
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
        """Do as `end`, but do not report it to the job."""
        if not self._has_waiter_state and self._state == PENDING:
            with _WAITER_STATE_LOCK:
                if not self._has_waiter_state:  # as in `set_cancelled`
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
        """Call the callbacks; what they raise is logged."""
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
        except RuntimeError:  # two threads cancelled it; the other one has notified the waiters
            return False
        return True


def home_of(future: TaskFuture) -> object:
    """Return the client thread of the application that a future belongs to; None for one without an application."""
    owner = getattr(future._canceller, "__self__", None)
    return getattr(owner, "client_thread", owner)


def gather(futures: "Iterable[TaskFuture[T] | T]") -> "TaskFuture[list[T]]":
    """Return one future for the list of the values of many, which a task puts together in the cluster.

    >>> futures = [app.submit(pow, n, 2) for n in range(4)]
    >>> concurrent_nb.gather(futures).then(sum).result()
    14

    Args:
        futures: futures of one application, at least one; values among them stay as they are.

    Raises ConfigurationError if there is no future. If one of the tasks fails, the future ends with DependencyFailed.
    """
    items = tuple(futures)
    first = next((item for item in items if isinstance(item, TaskFuture)), None)
    submit = getattr(home_of(first), "submit", None) if first is not None else None
    if submit is None:
        raise ConfigurationError("gather needs at least one future of an application, as app.submit returns")
    gathered: TaskFuture[list[T]] = submit(list, items)
    return gathered


pickles.REFERENCE_TYPES.add(TaskFuture)
