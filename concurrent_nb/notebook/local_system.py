"""`--local` for a task system: run it in this process, its tasks one after another, with the same result.

Used by the magics. The system and its tasks are pickled and unpickled as on a cluster, so what fails there fails here.
"""

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from concurrent_nb import ITaskSystem, SystemRun, TaskFuture
from concurrent_nb.errors import ConfigurationError, NotPicklable
from concurrent_nb.ids import JobId, new_job_id
from concurrent_nb.nodes.common.system_log import print_log_of
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.functions.pickled_functions import load_function
from concurrent_nb.shipping.functions.task_objects import TaskObjectPacker
from concurrent_nb.shipping.runtime.notes import SystemCounts
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.pickling_failures import describe_failure
from concurrent_nb.tasks.system_driver import CancelTasks, Instruction, PushTask, SystemDriver, SystemTaskEnded

#: seconds between two updates of the counts
COUNTS_EVERY_S: Final = 0.1


class LocalSystemRun(SystemRun):
    """A task system that runs in `wait`."""

    def __init__(self, system: ITaskSystem, name: str, watched: bool) -> None:
        super().__init__(new_job_id(), name, self._cancel_job, watched)
        system.system_id = self.id.hex()[:8]
        here: ITaskSystem = _sent(system)
        self._log = print_log_of(here)
        self._driver = SystemDriver(here, "here", print, _no_master, time.monotonic)
        self._packer = TaskObjectPacker()
        self._todo: deque[PushTask] = deque()
        self._has_begun = False
        self._counted_at = 0.0
        self.futures = [TaskFuture(self.id, 0, self._cancel_job, self)]

    def wait(self, timeout_s: float | None = None) -> bool:
        """Run tasks until the system ends, or until the first end of a task after `timeout_s` seconds."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.futures[0].done() and (deadline is None or time.monotonic() < deadline):
            self._step()
        return super().wait(0)

    def _cancel_job(self, job: JobId, indexes: Sequence[int] | None) -> None:
        self.futures[0].end_cancelled()

    def _step(self) -> None:
        future = self.futures[0]
        try:
            if not self._has_begun:
                self._has_begun, future.worker = True, os.getpid()
                future.set_running_or_notify_cancel()
                self._execute(self._driver.begin())
            elif not self._driver.complete:
                self._execute(self._driver.handle(self._run(self._todo.popleft())))
            if self._driver.complete:
                value = _copied(self._driver.gather())
                future.status = Status.OK
                self._send_counts()
                future.end(value, None)
        except KeyboardInterrupt:
            raise  # the stop button: the caller of `wait` cancels the job
        except BaseException as error:  # noqa: BLE001  (user code: the error is the result of the system)
            future.status = Status.ERROR
            self._send_counts()
            future.end(None, error)
        if future.done():
            self._log.handlers.clear()
        elif time.monotonic() - self._counted_at >= COUNTS_EVERY_S:
            self._send_counts()

    def _execute(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, CancelTasks):
                self._todo = deque(push for push in self._todo if push.index not in instruction.indexes)
            else:
                self._todo.append(instruction)

    def _run(self, push: PushTask) -> SystemTaskEnded:
        try:
            function, body, buffers = self._packer.pack(push.task)
            call = load_function(function)
            args = pickles.loads(body, [bytearray(buffer) for buffer in buffers])
            return SystemTaskEnded(push.index, _copied(call(*args)), None, "")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  (user code: the error is the result of the task)
            return SystemTaskEnded(push.index, None, error, "")

    def _send_counts(self) -> None:
        self._counted_at = time.monotonic()
        self._task_noted(0, [msgspec.convert(self._driver.stats(), SystemCounts)])


def _sent(system: ITaskSystem) -> Any:
    try:
        return _copied(system)
    except Exception as error:  # an object's own pickling may raise anything
        raise NotPicklable(describe_failure(type(system).__qualname__, system, error)) from error


def _copied(value: Any) -> Any:
    """Return a value as it would arrive over the network."""
    body, buffers = pickles.dumps(value)
    return pickles.loads(body, [bytearray(buffer) for buffer in buffers])


def _no_master() -> dict[str, Any]:
    raise ConfigurationError("--local: there is no master, so there is no status")
