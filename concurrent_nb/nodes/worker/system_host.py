"""The system host: where a task system runs. A composition root, as the worker in which it lives is one.

    application --a task: run_system(system, access)--> worker: Drive <--> Hands --one more application--> master

To the application a task system is one long task; to the master its host is one more application, with a key of its own
that nobody keeps. So the host can do no more than push tasks, sees nothing of its owner's other jobs, and whatever ends
it (a result, an error, a stop, kill -9) ends its session, and with that all of its tasks.
"""

import contextlib
import sys
from collections.abc import Sequence
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue
from typing import Any, Final

import msgspec

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import NotPicklable, TooLarge
from concurrent_nb.ids import JobId, new_job_id
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.core import ClientJob, TaskEntry
from concurrent_nb.nodes.application.futures import Canceller
from concurrent_nb.nodes.application.payload import TaskLoader
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.common.registration import Membership, register
from concurrent_nb.nodes.common.system_access import SystemAccess
from concurrent_nb.nodes.common.system_log import print_line, print_log_of
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.shipping.environment.entering import HANDED_ON
from concurrent_nb.shipping.runtime import notes
from concurrent_nb.shipping.runtime.notes import Display, SystemCounts
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
from concurrent_nb.wire.codec import size_of

#: between two notes of how far the system is; after an hour it is one in SLOWEST_S
PACE_S: Final = 0.2
SLOWEST_S: Final = 2.0
#: arguments of unfinished tasks may take so much together; large ones are pushed fewer at a time
AHEAD_BYTES: Final = 64 << 20
#: tasks that are taken at once; then the system's next tasks leave
BATCH: Final = 512


def run_system(system: ITaskSystem, given: SystemAccess) -> Any:
    """Run a task system from its beginning to its end, as a task; give what `gather_result` gives.

    Raises what a method of the system raises, and AccessRefused, MasterUnreachable or MasterLost.
    """
    system.system_id = given.system_id
    log = print_log_of(system)
    hands = _SystemClient(given, type(system).__name__)
    drive = SystemDriver(system, given.client_id, print_line, hands.status, monotonic)
    teller = _ProgressReporter(drive)
    try:
        hands.do(drive.begin())
        teller.tell()
        while not drive.complete:
            hands.do(drive.handle(*hands.wait(teller.wait_s())))
            teller.tell()
        teller.tell(now=True)
        hands.leave()
        return drive.gather()
    finally:
        hands.leave()
        teller.tell(now=True)
        log.handlers.clear()


class _ProgressReporter:
    """Tells whoever waits how far the system is, at a pace that slows down as the system goes on."""

    def __init__(self, drive: SystemDriver) -> None:
        self._drive = drive
        self._started_s = self._told_s = monotonic()
        self.tell(now=True)

    def wait_s(self) -> float | None:
        """Give how long may be waited before `tell` is called again; None if there is nothing new to tell."""
        return max(0.0, self._told_s + self._pace_s() - monotonic()) if self._is_behind else None

    def tell(self, now: bool = False) -> None:
        """Tell it, if it is time, or else at once."""
        self._is_behind = True
        at = monotonic()
        if now or at - self._told_s >= self._pace_s():
            self._told_s = at
            self._is_behind = False
            notes.SINK.put_progress(msgspec.convert(self._drive.stats(), SystemCounts))

    def _pace_s(self) -> float:
        return min(SLOWEST_S, PACE_S * (1 + (monotonic() - self._started_s) / 360))


class _SystemClient:
    """Does what the drive says: an application without an Executor around it, and without memory of what has ended."""

    def __init__(self, given: SystemAccess, name: str) -> None:
        self._inbox: SimpleQueue[Event] = SimpleQueue()
        self._size_bytes = 0.0  # of a task's arguments of late
        self._blind = False
        self._left = False

        def join(former: Membership | None) -> Membership:
            who = f"system {name} of {given.client_id}"
            return register(given.info, "client", given.keys, former, name=who[:100], comes_back=False)

        name_of_host = f"system {given.system_id}"
        # The ends of its tasks tell all that a host needs to know of the master's going.
        store = ObjectStore()
        self._loader = TaskLoader(store, HANDED_ON)
        self._courier = ClientThread(
            join, given.info.name, name_of_host, store, gone=lambda gracefully: None, at_end=lambda: None
        )
        self._courier.present_display = self._show
        self._job = ClientJob[TaskHandle](new_job_id(), name)

    def status(self) -> dict[str, Any]:
        """Ask the master what there is."""
        return self._courier.member.status()

    def leave(self) -> None:
        """Leave the cluster, which cancels what is unfinished."""
        if not self._left:
            self._left = True
            self._courier.quit()

    def wait(self, timeout_s: float | None) -> list[Event]:
        """Wait until something has happened, or for so many seconds; give what has, not too much at once."""
        events: list[Event] = []
        with contextlib.suppress(Empty):
            events.append(self._inbox.get(timeout=timeout_s))
            while len(events) < BATCH:
                events.append(self._inbox.get_nowait())
        if self._size_bytes * AHEAD_MOST > AHEAD_BYTES:
            events.append(Room(int(AHEAD_BYTES / self._size_bytes)))
        return events

    def do(self, instructions: Sequence[Instruction]) -> None:
        """Push and cancel."""
        entries: list[TaskEntry[TaskHandle]] = []
        for instruction in instructions:
            if type(instruction) is CancelTasks:
                self._courier.post(entries)
                entries = []
                self._courier.cancel(self._job.id, instruction.indexes)
            elif type(instruction) is PushTask:
                try:
                    entries.append(self._entry(instruction.index, instruction.task))
                except NotPicklable as error:
                    self._inbox.put(SystemTaskEnded(instruction.index, None, error, ""))
        if entries:
            self._courier.post(entries)

    def _entry(self, index: int, task: Task) -> TaskEntry[TaskHandle]:
        function, payload = self._loader.load(task)
        self._size_bytes += (len(payload.body) + sum(map(size_of, payload.sizes)) - self._size_bytes) / 8
        handle = _SystemTaskHandle(self._job.id, index, self._courier.cancel, self._inbox)
        return TaskEntry(self._job, index, function, payload, handle)

    def _show(self, display: Display) -> None:
        """Hand on what a task displays; in the courier's thread, which must not fail."""
        try:
            notes.SINK.put(display)
        except TooLarge as error:
            if not self._blind:
                self._blind = True
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

    def end(self, value: Any, error: BaseException | None) -> bool:
        if error is not None:
            error.add_note(f"task {self.index} of the system, on slave {self.slave or '(none)'}")
        self._inbox.put(SystemTaskEnded(self.index, value, error, self.slave))
        return True

    def end_cancelled(self) -> None:
        self._inbox.put(
            SystemTaskEnded(self.index, None, CancelledError(f"task {self.task} was cancelled"), self.slave)
        )
