"""Collects single decisions within one call of the scheduler, and returns them as few, long instructions.

Decisions with the same recipient and subject become one instruction, in the order in which they were made.
"""

from collections.abc import Sequence

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.scheduling.instructions import (
    AnnounceStarted,
    AssignTasks,
    DeliverOutcomes,
    ForgetJob,
    Instruction,
    ReleaseResult,
    WithdrawTasks,
)
from concurrent_nb.scheduling.task_queue import QueuedRun
from concurrent_nb.tasks.task_record import Buffer, JobRecord, TaskRecord
from concurrent_nb.wire.messages import Needs, OutcomeFrame, StartedTask, TaskRef

#: slave, job, function, time limit and needs of tasks that travel together
_RunKey = tuple[SessionId, JobId, Digest, float | None, Needs | None]


class OutcomeParcel:
    """Outcomes for one client, of one job, from one slave."""

    __slots__ = ("_buffers", "_items")

    def __init__(self) -> None:
        self._items: list[OutcomeFrame] = []
        self._buffers: dict[int, Sequence[Buffer]] = {}  # by position in _items; most outcomes have none

    def add(self, item: OutcomeFrame, buffers: Sequence[Buffer] = ()) -> None:
        """Add an outcome."""
        if buffers:
            self._buffers[len(self._items)] = buffers
        self._items.append(item)

    def instruction(self, client: SessionId, job: JobId, slave: str) -> DeliverOutcomes | None:
        """Return the instruction to send the outcomes, None if there are none."""
        if not self._items:
            return None
        buffers = [self._buffers.get(place, ()) for place in range(len(self._items))] if self._buffers else ()
        return DeliverOutcomes(client, job, slave, self._items, buffers)


class Outbox:
    """Collects decisions until `flush`."""

    def __init__(self) -> None:
        self.silent: set[SessionId] = set()  #: clients to which no outcomes are sent for now
        self._sealed: list[Instruction] = []
        self._started: dict[tuple[SessionId, str], list[StartedTask]] = {}
        self._parcels: dict[tuple[SessionId, JobId, str], OutcomeParcel] = {}
        self._withdrawn: dict[tuple[SessionId, bool], list[TaskRef]] = {}
        self._released: list[ReleaseResult] = []
        self._assigned: dict[_RunKey, list[TaskRecord]] = {}
        self._ahead: list[tuple[_RunKey, list[TaskRecord], TaskRef]] = []

    def announce_started(self, client: SessionId, slave: str, task: StartedTask) -> None:
        """Announce to a client that a task runs."""
        self._started.setdefault((client, slave), []).append(task)

    def parcel(self, job: JobRecord, slave: str) -> OutcomeParcel | None:
        """Return the parcel for a job's outcomes from a slave, None while its owner is away or silent.

        Then the caller must call `SchedulerState.keep_undelivered`.
        """
        if job.client is None or job.client in self.silent:
            return None
        key = (job.client, job.id, slave)
        parcel = self._parcels.get(key)
        if parcel is None:
            parcel = self._parcels[key] = OutcomeParcel()
        return parcel

    def withdraw(self, slave: SessionId, task: TaskRef, *, stop: bool) -> None:
        """Have a slave return a task; with `stop`, stop it."""
        self._withdrawn.setdefault((slave, stop), []).append(task)

    def assign(self, slave: SessionId, run: QueuedRun, tasks: list[TaskRecord]) -> None:
        """Send tasks of a run to a slave."""
        self._assigned.setdefault((slave, run.job.id, run.function, run.timeout_s, run.needs), []).extend(tasks)

    def send_ahead(self, slave: SessionId, task: TaskRecord, leader: TaskRecord) -> None:
        """Send a task to the slave that has its leader."""
        key = (slave, task.job.id, task.function, task.timeout_s, task.needs)
        if self._ahead:
            last_key, tasks, _ = self._ahead[-1]
            if tasks[-1] is leader and last_key == key:
                tasks.append(task)
                return
        self._ahead.append((key, [task], TaskRef(leader.job.id, leader.index, leader.attempt)))

    def release_result(self, job: JobId, index: int, *, clean: bool) -> None:
        """Drop a result that was kept for other tasks, after all decisions so far."""
        self._released.append(ReleaseResult(job, index, clean))

    def forget(self, job: JobId) -> None:
        """Drop what is kept for a job, after all decisions so far: its id may be used again immediately."""
        self._seal()
        self._sealed.append(ForgetJob(job))

    def flush(self) -> list[Instruction]:
        """Return the instructions for all decisions since the last flush."""
        self._seal()
        sealed, self._sealed = self._sealed, []
        return sealed

    def _seal(self) -> None:
        out = self._sealed
        if self._started:
            out += [AnnounceStarted(client, slave, tasks) for (client, slave), tasks in self._started.items()]
            self._started = {}
        if self._parcels:
            delivers = (parcel.instruction(*key) for key, parcel in self._parcels.items())
            out += [deliver for deliver in delivers if deliver is not None]
            self._parcels = {}
        if self._released:
            out += self._released
            self._released = []
        if self._withdrawn:
            out += [WithdrawTasks(slave, tasks, stop) for (slave, stop), tasks in self._withdrawn.items()]
            self._withdrawn = {}
        if self._assigned:
            out += [AssignTasks(*key, tasks) for key, tasks in self._assigned.items()]
            self._assigned = {}
        if self._ahead:
            out += [AssignTasks(*key, tasks, behind) for key, tasks, behind in self._ahead]
            self._ahead = []
