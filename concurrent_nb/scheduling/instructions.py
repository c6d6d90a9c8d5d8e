"""What a scheduler tells its node to do. Imperatives; a run of tasks is one instruction."""

from collections.abc import Sequence

from msgspec import Struct

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.tasks.task_record import Buffer, TaskRecord
from concurrent_nb.wire.messages import Needs, OutcomeFrame, TaskRef


class AssignTasks(Struct, frozen=True, gc=False):
    """Send these attempts to the slave. Each task's `attempt` is the number to send."""

    slave: SessionId
    job: JobId
    function: Digest
    timeout_s: float | None
    needs: Needs | None
    tasks: Sequence[TaskRecord]


class WithdrawTasks(Struct, frozen=True, gc=False):
    """Ask the slave to give these back if unstarted; with `stop`, to stop them if running."""

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


class AnnounceStarted(Struct, frozen=True, gc=False):
    """Tell the owner that these are running."""

    client: SessionId
    slave: str
    tasks: Sequence[TaskRef]


class ForgetJob(Struct, frozen=True, gc=False):
    """The job is over and acknowledged (or abandoned): drop what is kept for it."""

    job: JobId


Instruction = AssignTasks | WithdrawTasks | DeliverOutcomes | AnnounceStarted | ForgetJob
