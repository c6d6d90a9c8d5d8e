"""The system host: a worker process that runs a task system. A composition root, as the worker is.

    application --a task: run_system(system, access)--> worker: SystemDriver <--> _SystemClient --a client--> master

To the application a task system is one long task. To the master its host is one more client, with a key of its own that
is not stored. So the host can only push tasks and has no access to its owner's other jobs, and when it ends (a result,
an error, a stop, kill -9), its session and all of its tasks end.
"""

import contextlib
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue
from typing import Any, Final

import msgspec

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import NotPicklable, TooLarge
from concurrent_nb.ids import JobId, new_job_id
from concurrent_nb.nodes.application.client_tasks import ClientJob, TaskEntry
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.futures import Canceller
from concurrent_nb.nodes.application.payload import TaskLoader
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.common.registration import Membership, register
from concurrent_nb.nodes.common.system_access import SystemAccess
from concurrent_nb.nodes.common.system_log import print_line, print_log_of
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.shipping.environment.entering import TASK_ENVIRONMENT
from concurrent_nb.shipping.runtime import notes
from concurrent_nb.shipping.runtime.notes import Display, SystemCounts, TaskStatistics
from concurrent_nb.tasks.system import ITaskSystem, Task
from concurrent_nb.tasks.system_driver import (
    AHEAD_MOST,
    CancelTasks,
    Event,
    Instruction,
    PushTask,
    Room,
    SystemDriver,
    SystemTaskEnded,
    SystemTaskRunning,
)
from concurrent_nb.telemetry.statistic_registry import StatisticRegistry, packed_statistics
from concurrent_nb.wire.codec import size_of

#: time between two notes of the system's progress, in seconds; it grows to REPORT_MAX_S after an hour
REPORT_S: Final = 0.2
REPORT_MAX_S: Final = 2.0
#: limit of the arguments of all unfinished tasks; if they are large, fewer tasks are pushed at a time
AHEAD_BYTES: Final = 64 << 20
#: how many events are handled before the system's next tasks are sent
EVENTS_MAX: Final = 512


def run_system(system: ITaskSystem, access: SystemAccess) -> Any:
    """Run a whole task system as one task; return what `gather_result` returns.

    Raises what a method of the system raises, and AccessRefused, MasterUnreachable or MasterLost.
    """
    system.system_id = access.system_id
    log = print_log_of(system)
    client = _SystemClient(access, type(system).__name__)
    driver = SystemDriver(system, access.client_id, print_line, client.status, monotonic, client.statistics.read)
    reporter = _ProgressReporter(driver, client.take_measured)
    try:
        client.execute(driver.begin())
        reporter.report()
        while not driver.complete:
            client.execute(driver.handle(*client.wait(reporter.wait_s())))
            reporter.report()
        reporter.report(now=True)
        client.leave()
        return driver.gather()
    finally:
        client.leave()
        reporter.report(now=True)
        log.handlers.clear()


class _ProgressReporter:
    """Reports the progress of the system, at intervals that grow while the system runs."""

    def __init__(self, driver: SystemDriver, take_measured: Callable[[], TaskStatistics | None]) -> None:
        self._driver = driver
        self._take_measured = take_measured
        self._started_s = self._reported_s = monotonic()
        self.report(now=True)

    def wait_s(self) -> float | None:
        """Return after how many seconds `report` must be called again; None if there is nothing new to report."""
        return max(0.0, self._reported_s + self._interval_s() - monotonic()) if self._is_behind else None

    def report(self, now: bool = False) -> None:
        """Send a report if it is due, or `now`."""
        self._is_behind = True
        at = monotonic()
        if now or at - self._reported_s >= self._interval_s():
            self._reported_s = at
            self._is_behind = False
            if (measured := self._take_measured()) is not None:
                notes.SINK.put_progress(measured)
            notes.SINK.put_progress(msgspec.convert(self._driver.stats(), SystemCounts))

    def _interval_s(self) -> float:
        return min(REPORT_MAX_S, REPORT_S * (1 + (monotonic() - self._started_s) / 360))


class _SystemClient:
    """Executes the driver's instructions: a client of the master that keeps no futures."""

    def __init__(self, access: SystemAccess, name: str) -> None:
        self._inbox: SimpleQueue[Event] = SimpleQueue()
        self._size_bytes = 0.0  # of a task's arguments, a moving average
        self._is_over_display_limit = False
        self._has_left = False

        def join(former: Membership | None) -> Membership:
            who = f"system {name} of {access.client_id}"
            return register(access.info, "client", access.keys, former, name=who[:100], comes_back=False)

        host_name = f"system {access.system_id}"
        # A host needs no callback for the loss of the master: its tasks end then.
        store = ObjectStore()
        self._loader = TaskLoader(store, TASK_ENVIRONMENT)
        self._client_thread = ClientThread(
            join, access.info.name, host_name, store, gone=lambda gracefully: None, at_end=lambda: None
        )
        self._client_thread.streams.present_display = self._forward_display
        self._measured = StatisticRegistry()  # what tasks have measured since the last report
        self._client_thread.streams.task_measured = lambda note: self._measured.merge(note.values)
        self.statistics = self._client_thread.streams.statistics  #: what tasks have measured so far
        self._job = ClientJob[TaskHandle](new_job_id(), name)

    def take_measured(self) -> TaskStatistics | None:
        """Return what the tasks have measured since the last call, None if that is nothing."""
        taken = self._measured.take()
        return TaskStatistics(packed_statistics(taken)) if taken else None

    def status(self) -> dict[str, Any]:
        """Return the cluster's slaves, applications (`clients`) and task counts."""
        return self._client_thread.member.status()

    def leave(self) -> None:
        """Leave the cluster, which cancels unfinished tasks."""
        if not self._has_left:
            self._has_left = True
            self._client_thread.quit()

    def wait(self, timeout_s: float | None) -> list[Event]:
        """Wait for events, `timeout_s` seconds at most; return up to EVENTS_MAX of them."""
        events: list[Event] = []
        with contextlib.suppress(Empty):
            events.append(self._inbox.get(timeout=timeout_s))
            while len(events) < EVENTS_MAX:
                events.append(self._inbox.get_nowait())
        if self._size_bytes * AHEAD_MOST > AHEAD_BYTES:
            events.append(Room(int(AHEAD_BYTES / self._size_bytes)))
        return events

    def execute(self, instructions: Sequence[Instruction]) -> None:
        """Push and cancel tasks."""
        entries: list[TaskEntry[TaskHandle]] = []
        for instruction in instructions:
            if type(instruction) is CancelTasks:
                self._client_thread.post(entries)
                entries = []
                self._client_thread.cancel(self._job.id, instruction.indexes)
            elif type(instruction) is PushTask:
                try:
                    entries.append(self._entry(instruction.index, instruction.task))
                except NotPicklable as error:
                    self._inbox.put(SystemTaskEnded(instruction.index, None, error, ""))
        if entries:
            self._client_thread.post(entries)

    def _entry(self, index: int, task: Task) -> TaskEntry[TaskHandle]:
        function, payload = self._loader.load(task)
        self._size_bytes += (len(payload.body) + sum(map(size_of, payload.sizes)) - self._size_bytes) / 8
        handle = _SystemTaskHandle(self._job.id, index, self._client_thread.cancel, self._inbox)
        return TaskEntry(self._job, index, function, payload, handle)

    def _forward_display(self, display: Display) -> None:
        """Forward what a task displays. Runs in the client thread, so it must not raise."""
        try:
            notes.SINK.put(display)
        except TooLarge as error:
            if not self._is_over_display_limit:
                self._is_over_display_limit = True
                sys.stderr.write(f"what the system's tasks display from now on is not shown: {error}\n")


class _SystemTaskHandle(TaskHandle):
    """Passes the reports of a task on to the system's thread."""

    def __init__(self, job_id: JobId, index: int, canceller: Canceller, inbox: "SimpleQueue[Event]") -> None:
        self.job_id = job_id
        self.index = index
        self._canceller = canceller
        self._inbox = inbox

    def cancel(self) -> bool:
        self._canceller(self.job_id, (self.index,))
        return False  # it ends when the cluster has cancelled it

    def note_running(self, slave: str, begins: bool = True) -> None:
        self.slave = slave
        self._inbox.put(SystemTaskRunning(self.index))

    def add_notes(self, received: Sequence[notes.Note], attempt: int) -> None:
        for note in received:
            if isinstance(note, notes.ProgressReport):
                self.reported = note.text

    def end(self, value: Any, error: BaseException | None) -> bool:
        if error is not None:
            error.add_note(f"task {self.index} of the system, on slave {self.slave or '(none)'}")
        self._inbox.put(SystemTaskEnded(self.index, value, error, self.slave))
        return True

    def end_cancelled(self) -> None:
        self._inbox.put(
            SystemTaskEnded(self.index, None, CancelledError(f"task {self.task} was cancelled"), self.slave)
        )
