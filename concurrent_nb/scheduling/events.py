"""What can happen to a scheduler. Events are facts in the past tense; a run of tasks is one event."""

from collections.abc import Sequence
from dataclasses import dataclass

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.tasks.task import Buffer
from concurrent_nb.wire.messages import OutcomeFrame, TaskFrame, TaskRef


@dataclass(frozen=True, slots=True)
class SlaveJoined:
    """A slave has registered and is heard on the compute channel."""

    slave: SessionId
    name: str
    slots: int  #: tasks that can run at once, >= 1
    credit: int  #: unfinished tasks that it accepts at most, >= slots


@dataclass(frozen=True, slots=True)
class SlaveResized:
    """A slave has said how much it can take from now on. slots may be 0 (it is draining)."""

    slave: SessionId
    slots: int
    credit: int


@dataclass(frozen=True, slots=True)
class SlaveSuspected:
    """Nothing was heard of a slave for a while: it gets no new tasks until it is trusted again."""

    slave: SessionId


@dataclass(frozen=True, slots=True)
class SlaveTrusted:
    """A suspected slave was heard again."""

    slave: SessionId


@dataclass(frozen=True, slots=True)
class SlaveLost:
    """A slave is gone for good (a node that comes back registers anew)."""

    slave: SessionId


@dataclass(frozen=True, slots=True)
class JobOpened:
    """An owner has announced a job, or attached to one of his again from a new session."""

    client: SessionId
    owner: str
    job: JobId
    name: str = ""
    until: bool = False
    stop_on_error: bool = False


@dataclass(frozen=True, slots=True)
class TasksSubmitted:
    """A run of tasks has arrived. Ids that are known already are not taken twice: a finished one is delivered again."""

    client: SessionId
    job: JobId
    function: Digest
    tasks: Sequence[TaskFrame]
    buffers: Sequence[Sequence[Buffer]]  #: for each task, in order; () for none. May be empty if no task has any
    timeout_s: float | None = None
    retries: int = 0


@dataclass(frozen=True, slots=True)
class JobClosed:
    """No more tasks will come for this job."""

    client: SessionId
    job: JobId


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The owner wants tasks to stop, running ones too. indexes None means the whole job, and what comes later."""

    client: SessionId
    job: JobId
    indexes: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class ClientLost:
    """A client's session is gone. Its jobs go on for `linger_s`; then they are cancelled and forgotten."""

    client: SessionId
    linger_s: float


@dataclass(frozen=True, slots=True)
class TasksStarted:
    """A slave says that these have been running for a while."""

    slave: SessionId
    tasks: Sequence[TaskRef]


@dataclass(frozen=True, slots=True)
class TasksReturned:
    """A slave gives back what had not started (answer to Withdraw, or because it is draining)."""

    slave: SessionId
    tasks: Sequence[TaskRef]


@dataclass(frozen=True, slots=True)
class OutcomesReceived:
    """Attempts have ended on a slave."""

    slave: SessionId
    job: JobId
    items: Sequence[OutcomeFrame]
    buffers: Sequence[Sequence[Buffer]]  #: for each item, in order; may be empty if no item has any


@dataclass(frozen=True, slots=True)
class OutcomesAcknowledged:
    """The owner has these outcomes; they need not be kept."""

    client: SessionId
    job: JobId
    indexes: Sequence[int]


Event = (
    SlaveJoined
    | SlaveResized
    | SlaveSuspected
    | SlaveTrusted
    | SlaveLost
    | JobOpened
    | TasksSubmitted
    | JobClosed
    | CancelRequested
    | ClientLost
    | TasksStarted
    | TasksReturned
    | OutcomesReceived
    | OutcomesAcknowledged
)
