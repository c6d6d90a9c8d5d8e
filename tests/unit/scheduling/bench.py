"""A scheduler on a bench: a clock that stands still, short names for events, and instructions in short form.

The bench checks all invariants after every call.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.events import (
    CancelRequested,
    ClientLost,
    Event,
    JobClosed,
    JobOpened,
    OutcomesAcknowledged,
    OutcomesReceived,
    SlaveJoined,
    SlaveLost,
    SlaveResized,
    TasksReturned,
    TasksStarted,
    TasksSubmitted,
)
from concurrent_nb.scheduling.instructions import (
    AnnounceStarted,
    AssignTasks,
    DeliverOutcomes,
    Instruction,
    WithdrawTasks,
)
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.tasks.task_record import ObjectSize
from concurrent_nb.wire.messages import ErrorReport, Needs, OutcomeFrame, TaskFrame, TaskRef

JOB = JobId(b"job 1".ljust(16))
OTHER_JOB = JobId(b"job 2".ljust(16))
F = Digest(b"f" * 32)
G = Digest(b"g" * 32)
ME = SessionId(b"me")
YOU = SessionId(b"you")

OK, HIT, ERROR, CANCELLED, TIMEOUT, DIED, POISON, REFUSED = (
    Status.OK,
    Status.HIT,
    Status.ERROR,
    Status.CANCELLED,
    Status.TIMEOUT,
    Status.DIED,
    Status.POISON,
    Status.REFUSED,
)


class Bench:
    """A scheduler, and the time."""

    def __init__(self, strategy: Strategy | None = None, **settings: Any) -> None:
        self.scheduler = Scheduler(strategy or PullRoundRobinStrategy(ahead_s=0.02), **settings)
        self.now = 0.0

    def __call__(self, *events: Event) -> list[Instruction]:
        """Let events happen now."""
        instructions = self.scheduler.handle(*events, now=self.now)
        self.scheduler.validate()
        return instructions

    def after(self, seconds: float, *events: Event) -> list[Instruction]:
        """Let time pass, then events happen."""
        self.now += seconds
        return self(*events)

    @property
    def tasks_kept(self) -> int:
        """How many tasks the scheduler remembers."""
        return sum(len(job.tasks) for job in self.scheduler.jobs.values())


# ---------------------------------------------------------------------------------------------------- events, in short


def slave_id(name: str) -> SessionId:
    return SessionId(name.encode())


def joined(name: str, slots: int = 1, credit: int = 100, *, shares_memory: bool = False) -> SlaveJoined:
    return SlaveJoined(slave_id(name), name, slots, credit, shares_memory)


def resized(name: str, slots: int, credit: int) -> SlaveResized:
    return SlaveResized(slave_id(name), slots, credit)


def lost(name: str) -> SlaveLost:
    return SlaveLost(slave_id(name))


def opened(
    client: SessionId = ME,
    owner: str = "me",
    job: JobId = JOB,
    *,
    until: bool = False,
    stop_on_error: bool = False,
    strategy: str = "",
) -> JobOpened:
    return JobOpened(client, owner, job, "a job", until, stop_on_error, strategy)


def submitted(
    indexes: Iterable[int],
    *,
    client: SessionId = ME,
    job: JobId = JOB,
    function: Digest = F,
    timeout_s: float | None = None,
    retries: int = 0,
    objects: Sequence[tuple[ObjectSize, ...]] = (),
    needs: Needs | None = None,
) -> TasksSubmitted:
    frames = [TaskFrame(index, 0, b"arguments") for index in indexes]
    return TasksSubmitted(client, job, function, frames, (), timeout_s, retries, objects, needs)


def closed(client: SessionId = ME, job: JobId = JOB) -> JobClosed:
    return JobClosed(client, job)


def cancelled(indexes: Sequence[int] | None = None, client: SessionId = ME, job: JobId = JOB) -> CancelRequested:
    return CancelRequested(client, job, indexes)


def acknowledged(indexes: Sequence[int], client: SessionId = ME, job: JobId = JOB) -> OutcomesAcknowledged:
    return OutcomesAcknowledged(client, job, indexes)


def gone(client: SessionId = ME, linger_s: float = 60.0) -> ClientLost:
    return ClientLost(client, linger_s)


def ended(
    slave: str,
    *indexes: int,
    status: int = OK,
    attempt: int = 1,
    job: JobId = JOB,
    elapsed_s: float = 1.0,
    body: bytes = b"value",
) -> OutcomesReceived:
    items = [OutcomeFrame(index, attempt, int(status), elapsed_s, 4321, body) for index in indexes]
    return OutcomesReceived(slave_id(slave), job, items, ())


def worker_died(slave: str, index: int, attempt: int, how: str = "killed by SIGSEGV") -> OutcomesReceived:
    body = msgspec.msgpack.encode(ErrorReport("", how, ""))
    return ended(slave, index, status=DIED, attempt=attempt, body=body)


def refs(*indexes: int, attempt: int = 1, job: JobId = JOB) -> list[TaskRef]:
    return [TaskRef(job, index, attempt) for index in indexes]


def started(slave: str, *indexes: int, attempt: int = 1, job: JobId = JOB) -> TasksStarted:
    return TasksStarted(slave_id(slave), refs(*indexes, attempt=attempt, job=job))


def returned(slave: str, *indexes: int, attempt: int = 1, job: JobId = JOB) -> TasksReturned:
    return TasksReturned(slave_id(slave), refs(*indexes, attempt=attempt, job=job))


# ---------------------------------------------------------------------------------------------- instructions, in short


def assigned(instructions: list[Instruction]) -> dict[str, list[int]]:
    """Which tasks go to which slave."""
    found: dict[str, list[int]] = {}
    for instruction in instructions:
        if isinstance(instruction, AssignTasks):
            found.setdefault(instruction.slave.decode(), []).extend(task.index for task in instruction.tasks)
    return found


def attempts(instructions: list[Instruction]) -> dict[int, int]:
    """Which attempt of which task is assigned."""
    runs = [instruction.tasks for instruction in instructions if isinstance(instruction, AssignTasks)]
    return {task.index: task.attempt for tasks in runs for task in tasks}


def delivered(instructions: list[Instruction]) -> dict[int, Status]:
    """The status of each delivered outcome by index."""
    parcels = [instruction.items for instruction in instructions if isinstance(instruction, DeliverOutcomes)]
    pairs = [(item.index, Status(item.status)) for items in parcels for item in items]
    assert len(pairs) == len(dict(pairs)), "an outcome is delivered twice at once"
    return dict(pairs)


def withdrawn(instructions: list[Instruction], *, stop: bool) -> dict[str, list[int]]:
    """Which tasks are to come back from which slave."""
    return {
        instruction.slave.decode(): [ref.index for ref in instruction.tasks]
        for instruction in instructions
        if isinstance(instruction, WithdrawTasks) and instruction.stop == stop
    }


def announced_started(instructions: list[Instruction]) -> list[int]:
    """The tasks that are announced as running."""
    runs = [instruction.tasks for instruction in instructions if isinstance(instruction, AnnounceStarted)]
    return [ref.index for tasks in runs for ref in tasks]


def report(instructions: list[Instruction]) -> str:
    """The message of the only delivered ErrorReport."""
    (deliver,) = [instruction for instruction in instructions if isinstance(instruction, DeliverOutcomes)]
    (item,) = deliver.items
    return msgspec.msgpack.decode(item.body, type=ErrorReport).message
