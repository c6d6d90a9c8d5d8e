"""Jobs that tests make up: tasks end when the test says so, and time is what it says."""

from typing import Any

from concurrent_nb import Job, TaskFuture
from concurrent_nb.api import TaskEvent
from concurrent_nb.ids import JobId
from concurrent_nb.notebook.live.job_view_model import JobViewModel
from concurrent_nb.notebook.live.views import View
from concurrent_nb.outcome import Status


class MadeUpJob:
    """A job, the story that is told of it, and what happens next."""

    def __init__(self, tasks: int, view: View | None = None, name: str = "In[1]") -> None:
        self.job = Job(JobId(b"\1" * 16), name, lambda job, indexes: None, watched=True)
        self.job.futures = [TaskFuture(self.job.id, index, lambda job, indexes: None) for index in range(tasks)]
        self.model = JobViewModel(self.job, 0.0, view, lambda future: f"Traceback of {future.index}")

    def start(self, index: int, at: float, slave: str = "one") -> TaskEvent:
        return TaskEvent(index, "started", slave, 0, at)

    def end(
        self, index: int, value: Any, at: float = 1.0, took: float = 0.5, slave: str = "one", worker: int = 7
    ) -> TaskEvent:
        """End a task: with an error if the value is one."""
        future = self.job.futures[index]
        future.slave, future.worker, future.elapsed_s = slave, worker, took
        failed = isinstance(value, BaseException)
        future.status = Status.ERROR if failed else Status.OK
        future.end(None if failed else value, value if failed else None)
        return TaskEvent(index, "ended", slave, worker, at, took, future.status)

    def hit(self, index: int, value: Any, at: float = 1.0) -> TaskEvent:
        event = self.end(index, value, at)
        self.job.futures[index].status = Status.HIT
        return TaskEvent(index, "ended", event.slave, event.worker, at, event.elapsed_s, Status.HIT)

    def cancel(self, index: int, at: float = 1.0) -> TaskEvent:
        self.job.futures[index].end_cancelled()
        return TaskEvent(index, "ended", "", 0, at)
