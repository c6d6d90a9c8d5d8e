"""What the client thread reports the fate of a task to.

    client thread: note_running, split_output, add_notes, set_outcome | end_cancelled --> handle

A user's task has a `TaskFuture`. A batch (`batched_job`), the task of a cell (`system_job`) and a task of a task system
(`nodes/worker/system_host.py`) have handles of their own, which are no futures: each passes the reports on.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from concurrent_nb.ids import JobId, task_name
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.runtime.notes import Note

if TYPE_CHECKING:
    from concurrent_nb.nodes.application.futures import Presenter
    from concurrent_nb.nodes.application.job import Job


#: the usage of a task that took less than a millisecond
NO_USAGE: Final = (0, 0)


class TaskHandle(Protocol):
    """One task, as the client thread sees it. All methods but `cancel` are called in that thread.

    The attributes are set before `set_outcome` or `end_cancelled` is called. Classes that inherit from this protocol
    get the defaults below.
    """

    job_id: JobId
    index: int
    job: "Job | None" = None  #: the job that shows what the task prints and displays; None: this process does
    slave: str = ""  #: name of the slave where it ran
    worker: int = 0  #: pid of the worker that ran it
    attempt: int = 0  #: number of the attempt that ended it
    elapsed_s: float = 0.0  #: time that the worker spent on it
    usage: tuple[int, int] = NO_USAGE  #: CPU time in microseconds, peak memory in KiB
    status: Status | None = None  #: how it ended on the cluster
    reported: str = ""  #: the last text that the task has reported

    @property
    def task(self) -> str:
        """Return the task's name for people."""
        return task_name(self.job_id, self.index)

    def cancel(self) -> bool:
        """Cancel the task unless it runs or has ended. Return whether it is cancelled. For any thread."""

    def cancelled(self) -> bool:
        """Return whether the task was cancelled in this process, and so needs not be sent."""
        return False

    def note_running(self, slave: str, begins: bool = True) -> None:
        """Note that the task runs on `slave`, or, unless it `begins`, that it is going to run there."""

    def split_output(self, text: str, stream: int, attempt: int) -> Sequence[tuple[int, str]]:
        """Return which part of `text` which task of the job has written, as (index, part)."""
        return ((self.index, text),)

    def add_notes(self, notes: Sequence[Note], attempt: int) -> None:
        """Receive what the task has reported, published and displayed."""
        return

    def set_outcome(self, value: Any, error: BaseException | None, present: "Presenter | None") -> None:
        """End the task with what the cluster has returned; `present`, if any, is called with an exception first."""
        self.end(value, error)

    def end(self, value: Any, error: BaseException | None) -> bool:
        """End the task with a value or an exception. Return False if it had ended already."""

    def end_cancelled(self) -> None:
        """End the task: the cluster has cancelled it, running or not."""
