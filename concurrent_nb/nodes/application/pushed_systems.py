"""Task systems on their way to the cluster: each is one long task, whose job is a `SystemRun`.

push:        system --> the task of a job
start_cell:  function --> the task of a job --> if it returns a system: that, as the next task of the same job
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from concurrent_nb.errors import ConfigurationError, NotPicklable
from concurrent_nb.nodes.application.callback_thread import CallbackThread
from concurrent_nb.nodes.application.client_tasks import ClientJob, TaskLimits
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.job_origin import new_record
from concurrent_nb.nodes.application.system_job import CellRun, SystemRun
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_options import JobOptions, not_an_object_of
from concurrent_nb.nodes.application.task_packer import TaskPacker
from concurrent_nb.nodes.common.system_access import restricted_access, run_system
from concurrent_nb.shipping.serialization.pickling_failures import describe_failure
from concurrent_nb.tasks.system import ITaskSystem
from concurrent_nb.transport import connection_file, keys
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.wire.messages import Needs


@dataclass(frozen=True, slots=True, eq=False)
class SystemPusher:
    """Pushes the task systems of one application.

    Args:
        where: path of the cluster's connection file, or its content.
        client_id: name of the application.
        callbacks: pickles systems that cells return, and reports ends of systems to the application's receiver.
    """

    where: Path | ConnectionFile
    client_id: str
    packer: TaskPacker
    client_thread: ClientThread
    callbacks: CallbackThread

    def push(self, system: ITaskSystem, options: JobOptions) -> SystemRun:
        """Push a system; return its job. Raises as `ApplicationNode.push_tasksystem`."""
        if not isinstance(system, ITaskSystem):
            raise ConfigurationError(f"a task system is an ITaskSystem, {not_an_object_of(ITaskSystem, system)}")
        record = options.new_record()
        run = SystemRun(record.id, options.name, self.client_thread.cancel, options.watched, options.prints)
        self._begin(run, record, system, options.limits)
        return run

    def start_cell(self, function: Callable[[], Any], options: JobOptions) -> CellRun:
        """Run a function, and the system that it may return. Raises as `ApplicationNode.start_cell`."""
        record = options.new_record()
        limits = TaskLimits(options.limits.timeout_s)

        def push_system(run: CellRun, system: ITaskSystem) -> None:
            again = new_record(run.name)
            again.notebook, again.cell = record.notebook, record.cell
            # In the callback thread, because pickling a system runs the user's code.
            self.callbacks.call(self._push_returned, run, again, system, limits)

        run = CellRun(record.id, options.name, self.client_thread.cancel, options.watched, options.prints, push_system)
        self.client_thread.post(self.packer.job_entries(run, record, function, [()], options))
        self.client_thread.close_job(record)
        return run

    def _push_returned(
        self, run: CellRun, record: ClientJob[TaskHandle], system: ITaskSystem, limits: TaskLimits
    ) -> None:
        """Push the system that the task of a job has returned."""
        (future,) = run.futures
        if run.was_cancelled():
            future.end_cancelled()
            return
        try:
            self._begin(run, record, system, limits)
        except BaseException as error:  # noqa: BLE001  (pickling it runs the user's code; the future has the error)
            future.end(None, error)
        if run.was_cancelled():  # meanwhile, when there was nothing that could be stopped
            self.client_thread.cancel(run.id, None)

    def _begin(self, run: SystemRun, record: ClientJob[TaskHandle], system: ITaskSystem, limits: TaskLimits) -> None:
        """Submit a task system as the task of a job."""
        run.id = record.id
        system.system_id = record.id.hex()[:8]
        access = restricted_access(connection_file.read(self.where), keys.fresh(), system.system_id, self.client_id)
        options = JobOptions(limits=limits, needs=Needs(kind="system_host"))
        try:
            entries = self.packer.job_entries(run, record, run_system, [(system, access)], options)
        except NotPicklable as error:
            raise NotPicklable(describe_failure(type(system).__qualname__, system, error)) from error.__cause__
        self.client_thread.post(entries)
        self.client_thread.close_job(record)
        run.futures[0].add_done_callback(partial(self._ended, run, system))

    def _ended(self, run: SystemRun, system: ITaskSystem, future: Future[Any]) -> None:
        """Report to the application's receiver how a system has ended. In the thread that has ended it."""
        if self.callbacks.receiver is None or future.cancelled():
            return
        error = future.exception()
        result = None if error is not None else future.result()
        if error is None:
            self.callbacks.call(self.callbacks.call_receiver, "work_finished", result, system)
        self.callbacks.call(self.callbacks.call_receiver, "task_system_finished", result, error, run.progress())
