"""Sends task objects to the cluster, and calls their methods when they have ended.

caller's thread: the first tasks --> client thread --> cluster
callback thread: Task.finished, the receiver's task_finished, then more tasks of an iterator
"""

import itertools
import math
from collections.abc import Iterator
from typing import Final

from concurrent_nb import foreign
from concurrent_nb.errors import ClusterError, ConfigurationError, NotPicklable
from concurrent_nb.nodes.application.callback_thread import CallbackThread
from concurrent_nb.nodes.application.client_tasks import ClientJob, TaskEntry, TaskLimits
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.job import Job
from concurrent_nb.nodes.application.payload import TaskLoader
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_options import not_an_object_of
from concurrent_nb.tasks.system import Task

log = foreign.Log(__name__)

#: tasks that are read from an iterator ahead of those that have ended
READ_AHEAD: Final = 4096
#: tasks that are posted together
BATCH: Final = 256


class PushedTasks:
    """The tasks of one `push_tasks`.

    Args:
        client_id: name of the application.
        ahead: how many tasks an iterator is read ahead of those that have ended; None: all are read now.
    """

    def __init__(
        self,
        client_id: str,
        loader: TaskLoader,
        client_thread: ClientThread,
        callbacks: CallbackThread,
        tasks: Iterator[Task],
        record: ClientJob[TaskHandle],
        job: Job,
        limits: TaskLimits,
        ahead: int | None,
    ) -> None:
        self._client_id = client_id
        self._loader = loader
        self._client_thread = client_thread
        self._callbacks = callbacks
        self._tasks = tasks
        self._record = record
        self._job = job
        self._limits = limits
        self._ahead = ahead
        self._notified = 0  # tasks whose end was reported; the callback thread counts them
        self._is_closed = False
        self._callback_thread_reads = False  # after the first tasks

    def start(self) -> None:
        """Push the first tasks. Raises what the iterator raises, ConfigurationError, RuntimeError after a shutdown."""
        try:
            self._fill()
        except BaseException:
            self._client_thread.cancel(self._record.id, None)
            raise
        self._callback_thread_reads = True
        self._callbacks.call(self._go_on)

    def _fill(self) -> None:
        """Push as many tasks as there is room for. What is raised is why no more will be pushed."""
        room = self._room()  # a snapshot: if tasks end quickly, a caller that follows would never stop
        try:
            while self._job.is_open and room > 0:
                count = int(min(room, BATCH))
                room -= count
                if self._push(itertools.islice(self._tasks, count)) < count:
                    self._job._close()
        except BaseException as error:
            self._job._close(error)
            raise
        finally:
            if not self._job.is_open:
                self._is_closed = True
                self._client_thread.close_job(self._record)

    def _room(self) -> float:
        return math.inf if self._ahead is None else self._ahead - (len(self._job.futures) - self._notified)

    def _push(self, tasks: Iterator[Task]) -> int:
        count = 0
        entries: list[TaskEntry[TaskHandle]] = []
        try:
            for task in tasks:
                count += 1
                if (entry := self._entry(task)) is not None:
                    entries.append(entry)
        finally:
            try:
                self._client_thread.post(entries)
            except (RuntimeError, ClusterError) as error:
                for entry in entries:
                    entry.handle.end(None, error)
                raise
        return count

    def _entry(self, task: Task) -> TaskEntry[TaskHandle] | None:
        """Make the entry of a task; None for one that cannot be sent, whose future has ended with the reason."""
        job = self._job
        future = TaskFuture(self._record.id, len(job.futures), self._client_thread.cancel, job)
        assign_ids(task, future, self._client_id)
        future.add_done_callback(lambda ended: self._callbacks.call(self._ended, task, ended))
        job._add(future)
        try:
            function, payload = self._loader.load(task)
        except NotPicklable as error:
            future.end(None, error)
            return None
        return TaskEntry(self._record, future.index, function, payload, future, self._limits)

    def _ended(self, task: Task, future: TaskFuture) -> None:
        """Call the task and the receiver, and continue. In the callback thread."""
        self._notified += 1
        try:
            notify_ended(task, future, self._callbacks)
        finally:
            self._go_on()

    def _go_on(self) -> None:
        if not self._callback_thread_reads or self._is_closed:
            return
        job = self._job
        if job.is_open and self._record.stop_on_error and job.first_error is not None:
            job._close()
        if not job.is_open or self._room() > READ_AHEAD // 2:
            try:
                self._fill()
            except Exception as error:  # noqa: BLE001  (the job has it, and `results` raises it)
                log.info("job %s gets no more tasks: %s", job.name, error)


def assign_ids(task: object, future: TaskFuture, client_id: str) -> Task:
    """Set the ids of a task, and return it. Raises ConfigurationError if it is not a Task."""
    if not isinstance(task, Task):
        raise ConfigurationError(f"what is pushed is a concurrent_nb.Task, {not_an_object_of(Task, task)}")
    task.task_id = future.task
    task.client_id = client_id
    return task


def notify_ended(task: Task, future: TaskFuture, callbacks: CallbackThread) -> None:
    """Call `finished` of a task that has ended, then the receiver. Cancelled tasks are left out."""
    if future.cancelled():
        return
    task.slave_id = future.slave
    error = future.exception()
    result = None if error is not None else future.result()
    try:
        task.finished(result, error)
    finally:
        callbacks.call_receiver("task_finished", task, result, error)
