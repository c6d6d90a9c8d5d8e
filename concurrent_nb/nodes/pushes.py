"""Tasks that are objects: on their way to the cluster, and their ends on the way back to them.

caller's thread: the first tasks --> courier --> cluster
desk's thread:   Task.finished, the application's task_finished, then more tasks of an iterator
"""

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from concurrent_nb.errors import ClusterError, ConfigurationError, NotPicklable
from concurrent_nb.nodes.courier import Courier
from concurrent_nb.nodes.desk import Desk
from concurrent_nb.nodes.futures import Job, TaskFuture
from concurrent_nb.nodes.ledger import Entry, OpenJob, Shipment
from concurrent_nb.shipping.pushed import call_of
from concurrent_nb.tasks.system import Task
from concurrent_nb.wire.codec import Buffers

log = logging.getLogger(__name__)

#: an iterator of tasks is read so far ahead of their ends
AHEAD: Final = 4096
#: tasks that are handed over at once
BATCH: Final = 256

#: called with a task, its result and its error, after the task itself has been told
Listener = Callable[[Task, Any, BaseException | None], object]


class Packer(Protocol):
    """What is needed of the application."""

    name: str

    def ship(self, fn: Callable[..., Any]) -> Shipment:
        """Pickle a function."""

    def pack(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, tuple[int, ...], Buffers]:
        """Pickle arguments."""


class Push:
    """The tasks of one `push_tasks`.

    Args:
        ahead: how far an iterator is read ahead; None for all at once.
    """

    def __init__(
        self,
        packer: Packer,
        courier: Courier,
        desk: Desk,
        tasks: Iterator[Task],
        record: OpenJob[TaskFuture],
        job: Job,
        limits: tuple[float | None, int],
        ahead: int | None,
        listener: Listener,
    ) -> None:
        self._packer = packer
        self._courier = courier
        self._desk = desk
        self._tasks = tasks
        self._record = record
        self._job = job
        self._limits = limits
        self._ahead = ahead
        self._listener = listener
        self._told = 0  # tasks whose end was told; the desk's thread counts them
        self._is_closed = False
        self._is_handed_over = False  # to the desk's thread, which reads on
        self._shipments: dict[Any, Shipment] = {}

    def start(self) -> None:
        """Push the first tasks. Raises what the iterator raises, ConfigurationError, RuntimeError after a shutdown."""
        try:
            self._fill()
        except BaseException:
            self._courier.cancel(self._record.id, None)
            raise
        self._is_handed_over = True
        self._desk.call(self._go_on)

    def _fill(self) -> None:
        """Push as far ahead as may be. What is raised is why nothing more will come."""
        try:
            while self._job.is_open and self._has_room(self._ahead):
                self._push(itertools.islice(self._tasks, BATCH))
        except BaseException as error:
            self._job.close(error)
            raise
        finally:
            if not self._job.is_open:
                self._is_closed = True
                self._courier.close_job(self._record)

    def _has_room(self, ahead: int | None) -> bool:
        return ahead is None or len(self._job.futures) - self._told < ahead

    def _push(self, tasks: Iterator[Task]) -> None:
        entries = []
        try:
            for task in tasks:
                entries.append(self._entry(task))
        finally:
            unsent = [entry for entry in entries if not entry.owner.done()]
            try:
                self._courier.post(unsent)
            except (RuntimeError, ClusterError) as error:
                for entry in unsent:
                    entry.owner.end(None, error)
                raise
        if len(entries) < BATCH:
            self._job.close()

    def _entry(self, task: Task) -> Entry[TaskFuture]:
        job = self._job
        future = TaskFuture(self._record.id, len(job.futures), self._courier.cancel, job)
        introduce(task, future, self._packer.name)
        future.add_done_callback(lambda ended: self._desk.call(self._ended, task, ended))
        job.futures.append(future)
        key, function, args = call_of(task)
        try:
            shipment = self._shipments.get(key)
            if shipment is None:
                shipment = self._shipments[key] = self._packer.ship(function)
            body, sizes, buffers = self._packer.pack(function, args, {})
        except NotPicklable as error:
            future.end(None, error)
            return Entry(self._record, future.index, Shipment(b"", b""), b"", (), (), None, 0, future)
        return Entry(self._record, future.index, shipment, body, sizes, buffers, *self._limits, future)

    def _ended(self, task: Task, future: TaskFuture) -> None:
        """Tell who wants to know, and go on. In the desk's thread."""
        self._told += 1
        try:
            tell(task, future, self._listener)
        finally:
            self._go_on()

    def _go_on(self) -> None:
        if not self._is_handed_over or self._is_closed:
            return
        job = self._job
        if job.is_open and self._record.stop_on_error and job.first_error is not None:
            job.close()
        if not job.is_open or (self._ahead is not None and self._has_room(self._ahead // 2)):
            try:
                self._fill()
            except Exception as error:  # noqa: BLE001  (the job has it, and `results` raises it)
                log.info("job %s gets no more tasks: %s", job.name, error)


def introduce(task: Task, future: TaskFuture, client: str) -> None:
    """Write its ids into a task. Raises ConfigurationError if it is none."""
    if not isinstance(task, Task):
        raise ConfigurationError(f"a {type(task).__name__} cannot be pushed: make it a concurrent_nb.Task")
    task.task_id = future.task
    task.client_id = client


def tell(task: Task, future: TaskFuture, listener: Listener) -> None:
    """Tell a task that has ended, and then `listener`. Those that were cancelled are not told."""
    if future.cancelled():
        return
    task.slave_id = future.slave
    error = future.exception()
    result = None if error is not None else future.result()
    try:
        task.finished(result, error)
    finally:
        listener(task, result, error)
