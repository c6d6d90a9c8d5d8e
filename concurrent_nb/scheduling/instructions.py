"""The instructions of a scheduler to the master: imperatives. A run of tasks is one instruction."""

from collections.abc import Sequence

from msgspec import Struct

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.tasks.task_record import Buffer, TaskRecord
from concurrent_nb.wire.messages import Needs, OutcomeFrame, StartedTask, TaskRef


class AssignTasks(Struct, frozen=True, gc=False):
    """Send these attempts to the slave. Each task's `attempt` is the number to send."""

    slave: SessionId
    job: JobId
    function: Digest
    timeout_s: float | None
    needs: Needs | None
    tasks: Sequence[TaskRecord]
    #: the first task waits there for the end of this attempt, and each other one for that of the one before
    behind: TaskRef | None = None


class WithdrawTasks(Struct, frozen=True, gc=False):
    """Have the slave return these if they have not started; with `stop`, stop them if they run."""

    slave: SessionId
    tasks: Sequence[TaskRef]
    stop: bool


class DeliverOutcomes(Struct, frozen=True, gc=False):
    """Send these outcomes to the owner's session. Each is kept until it is acknowledged."""

    client: SessionId
    job: JobId
    slave: str  #: name of the slave where they ran, "" if they ran nowhere
    items: Sequence[OutcomeFrame]
    buffers: Sequence[Sequence[Buffer]]  #: for each item; empty if no item has any


class ShowOutcomes(DeliverOutcomes, frozen=True, gc=False):
    """Send these outcomes, which the master keeps, to a reader of a detached job. Not of the scheduler."""


class AnnounceStarted(Struct, frozen=True, gc=False):
    """Send the owner that these are running."""

    client: SessionId
    slave: str
    tasks: Sequence[StartedTask]


class ForgetJob(Struct, frozen=True, gc=False):
    """Drop what is kept for a job: it is over and acknowledged, or abandoned."""

    job: JobId


class ReleaseResult(Struct, frozen=True, gc=False):
    """No task needs the result of this one any more, which its owner has acknowledged."""

    job: JobId
    index: int
    clean: bool  #: no process can refer to its shared memory, as far as tasks are concerned


Instruction = AssignTasks | WithdrawTasks | DeliverOutcomes | ShowOutcomes | AnnounceStarted | ForgetJob | ReleaseResult
