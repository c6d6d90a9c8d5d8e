"""What an application holds of a task: a future as in the standard library.

Made by the thread that submits and ended by the application's own thread; safe to use from any.
"""

import concurrent.futures
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, Final, NoReturn

from concurrent_nb import foreign
from concurrent_nb.ids import JobId, task_name
from concurrent_nb.nodes.application.condition import Condition
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.runtime.notes import Note

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # for the default

    from concurrent_nb.nodes.application.job import Job

    #: what a task returns
    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

#: callbacks that raise are logged where the standard library logs them
_log: Final = foreign.Log("concurrent.futures")

#: (job, indexes, None for all): asks the application's thread to cancel
Canceller = Callable[[JobId, Sequence[int] | None], None]


#: called with each exception of a task before its future has it
Presenter = Callable[["TaskFuture", BaseException], None]

#: guards whether a future has its condition yet
_WAITER_STATE_LOCK: Final = threading.RLock()  # reentrant, for signal handlers
#: what a future needs once somebody waits for it
_WAITER_STATE: Final = frozenset({"_condition", "_waiters", "_done_callbacks"})
_ENDED: Final = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})


class TaskFuture(concurrent.futures.Future[T]):
    """A `concurrent.futures.Future` whose task runs on a cluster; it can also be awaited.

    As in the standard library `cancel` returns False for a task that is known to run. True is a promise: the task never
    starts, or is stopped if it has started in the last moment.

    Of many futures most have ended before anybody looks at them. So the condition, which makes up half of a future's
    memory and a third of its time, and the lists of who waits are made when they are first asked for.
    """

    # As the standard library's, but for the furniture. In the class, because most futures need most of it only later.
    _state = PENDING
    _result: T | None = None
    _exception: BaseException | None = None
    _has_waiter_state = False
    slave = ""  #: name of the slave where it ran
    worker = 0  #: pid of the worker that ran it
    attempt = 0  #: number of the attempt that ended it
    elapsed_s = 0.0  #: time that the worker spent on it
    status: Status | None = None  #: how it ended on the cluster

    def __init__(self, job_id: JobId, index: int, canceller: Canceller, job: "Job | None" = None) -> None:
        self.job_id = job_id
        self.index = index
        self.job = job  #: the job that it belongs to, None for a submit or a map
        self._canceller = canceller

    def __getattr__(self, name: str) -> Any:
        """Furnish the future, for whoever waits for it or asks to be called."""
        if name not in _WAITER_STATE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with _WAITER_STATE_LOCK:
            if not self._has_waiter_state:
                self._waiters: list[Any] = []
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
        """Wait for the task's value, as in the standard library."""
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]  # None is one, too
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

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result in a coroutine. Cancelling the coroutine cancels the task if it does not run."""
        import asyncio  # here, because it takes 100 ms and only coroutines come by

        return asyncio.wrap_future(self).__await__()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a future cannot be sent: call its result() first and use that")

    @property
    def task(self) -> str:
        """Return the task's name for people."""
        return task_name(self.job_id, self.index)

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
        """Note that the task runs, or, if it does not begin yet, that it will where it is. For the same thread."""
        self.slave = slave
        with self._condition:
            if self._state == PENDING:
                self._state = RUNNING
        if begins and self.job is not None:
            self.job._task_started(self.index)

    def split_output(self, text: str, stream: int, attempt: int) -> Sequence[tuple[int, str]]:
        """Say which task of its job has written what of `text`, by index. For the application's thread."""
        return ((self.index, text),)

    def add_notes(self, notes: Sequence[Note], attempt: int) -> None:
        """Note what the task has said. For the application's thread."""
        if self.job is not None:
            self.job._task_noted(self.index, notes)

    def set_outcome(self, value: Any, error: BaseException | None, present: Presenter | None) -> None:
        """Set the result, or the exception, which `present` is shown before. For the application's thread."""
        if error is not None and present is not None:
            present(self, error)
        self.end(value, error)

    def end_cancelled(self) -> None:
        """Take the cluster's word that the task was cancelled, running or not. For the application's thread."""
        if self.set_cancelled() and self.job is not None:
            self.job._tasks_ended((self,))

    def end(self, value: Any, error: BaseException | None) -> bool:
        """Set the result or the exception; False if it was cancelled meanwhile. For the application's thread."""
        if not self.set_end(value, error):
            return False
        if self.job is not None:
            self.job._tasks_ended((self,))
        return True

    def set_cancelled(self) -> bool:
        """Do as `end_cancelled`, and leave it to the caller to tell the job. False if it has ended already."""
        if not self._has_waiter_state and self._state == PENDING:
            with _WAITER_STATE_LOCK:
                if not self._has_waiter_state:  # so nobody waits, has cancelled it, or wants to be called
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
        if not self._has_waiter_state and self._state == PENDING:
            with _WAITER_STATE_LOCK:
                if not self._has_waiter_state:  # the same
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
