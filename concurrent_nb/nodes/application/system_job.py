"""The job of a task system, and of a cell that may return one."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.futures import Canceller, Presenter, TaskFuture
from concurrent_nb.nodes.application.job import Counts, Job
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.shipping.runtime.notes import Note, SystemCounts
from concurrent_nb.shipping.serialization import task_inputs
from concurrent_nb.tasks.system import ITaskSystem

_NO_COUNTS = SystemCounts("waiting", 0, 0, 0, 0, 0, 0, 0, False, 0.0, [])


class SystemRun(Job):
    """A task system that runs on the cluster: its job, with the result of the whole system.

    >>> class Double(concurrent_nb.Task):
    ...     def __init__(self, n):
    ...         super().__init__()
    ...         self.n = n
    ...     def __call__(self):
    ...         return 2 * self.n
    >>> class Doubles(concurrent_nb.ITaskSystem):
    ...     def init_system(self, master):
    ...         self.total = 0
    ...     def generate_tasks(self, master):
    ...         return (Double(n) for n in range(10))
    ...     def task_finished(self, master, task, result, error):
    ...         self.total += result
    ...     def gather_result(self, master):
    ...         return self.total
    >>> run = app.push_tasksystem(Doubles())
    >>> run.result()
    90
    >>> run.counts().done
    10

    `ApplicationNode.push_tasksystem` returns one. `counts` and `progress` are about the system's own tasks. So are the
    counts and `values` of `stats`; its times and shares are those of the process in which the system runs. `cancel`
    stops the system and its tasks. If that process dies, the system runs again from its start; after the third death
    the run ends with PoisonTask.
    """

    is_system: bool = True  #: False while it is a task that may yet return a task system
    last_counts: SystemCounts = _NO_COUNTS  #: what its host has reported last

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the end of the system; return what its `gather_result` has returned.

        Args:
            timeout_s: seconds to wait, not a limit of the system; None: without a limit.

        Raises:
            Exception: what a method of the system has raised, or a task, unless the system handles errors of tasks.
            CancelledError: it was cancelled.
            TimeoutError: after `timeout_s` seconds; the system continues.
        """
        (value,) = self.results(timeout_s)
        return value

    def _reduced(self) -> tuple[Any, ...]:
        return task_inputs.value_of(self.futures[0])

    def progress(self) -> dict[str, Any]:
        """Return the progress of the system, as `MasterHandle.stats` does in the system; a moment old."""
        progress: dict[str, Any] = msgspec.to_builtins(self.last_counts)
        progress["values"] = self._statistics.read()
        return progress

    def counts(self) -> Counts:
        """Return counts of the system's tasks by state."""
        last_counts = self.last_counts
        if self._ended_s is not None:
            return Counts(0, 0, last_counts.done, last_counts.failed, last_counts.cancelled + last_counts.unfinished)
        return Counts(
            last_counts.waiting, last_counts.running, last_counts.done, last_counts.failed, last_counts.cancelled
        )

    def _task_noted(self, index: int, notes: Sequence[Note]) -> None:
        """Keep the counts that the host has reported."""
        for note in notes:
            if isinstance(note, SystemCounts):
                self.last_counts = note
        super()._task_noted(index, notes)


class CellRun(SystemRun):
    """The job of one task that continues if the task returns a task system: the job's result is the system's then.

    Made by `ApplicationNode.start_cell`. Until the task has returned a system, it counts as any job.

    Args:
        push_system: pushes a system as part of the job; called in the client thread.
    """

    def __init__(
        self,
        job: JobId,
        name: str,
        canceller: Canceller,
        watched: bool,
        prints: bool,
        push_system: Callable[["CellRun", ITaskSystem], None],
    ) -> None:
        super().__init__(job, name, canceller, watched, prints)
        self.is_system = False
        self._push_system = push_system

    def was_cancelled(self) -> bool:
        """Return whether the job or its task was cancelled."""
        return self._cancel_requested or self.futures[0].cancelled()

    def counts(self) -> Counts:
        """Return task counts by state."""
        return super().counts() if self.is_system else Job.counts(self)

    def _new_handle(self, index: int) -> TaskHandle:
        """Make the handle of the task, or of the system: both end the one future."""
        if not self.futures:
            return _CellHandle(self, self._new_future(index))
        (future,) = self.futures
        future.job_id = self.id
        return future

    def run_returned_system(self, value: Any) -> bool:
        """Push what the task has returned if it is a task system; return False for everything else."""
        if self.is_system or not isinstance(value, ITaskSystem):
            return False
        self.is_system = True
        self._push_system(self, value)
        return True


class _CellHandle(TaskHandle):
    """The task that may return a task system. It ends the future of the job unless the job goes on with a system."""

    def __init__(self, run: CellRun, future: TaskFuture) -> None:
        self.job_id = future.job_id
        self.index = future.index
        self.job = run
        self._run = run
        self._future = future

    def cancel(self) -> bool:
        return self._future.cancel()

    def cancelled(self) -> bool:
        return self._future.cancelled()

    def note_running(self, slave: str, begins: bool = True) -> None:
        self._future.note_running(slave, begins)

    def add_notes(self, notes: Sequence[Note], attempt: int) -> None:
        self._future.add_notes(notes, attempt)

    def set_outcome(self, value: Any, error: BaseException | None, present: Presenter | None) -> None:
        if error is not None and present is not None:
            present(self._future, error)
        self.end(value, error)

    def end(self, value: Any, error: BaseException | None) -> bool:
        self._copy_run()
        if error is None and self._run.run_returned_system(value):
            return True
        return self._future.end(value, error)

    def end_cancelled(self) -> None:
        self._copy_run()
        self._future.end_cancelled()

    def _copy_run(self) -> None:
        """Copy to the future where and how the task has run."""
        future = self._future
        future.slave, future.worker, future.attempt = self.slave, self.worker, self.attempt
        future.elapsed_s, future.usage, future.status = self.elapsed_s, self.usage, self.status
