"""What can happen to a scheduler. Events are facts in the past tense; a run of tasks is one event."""

from collections.abc import Sequence

from msgspec import Struct

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.tasks.task_record import Buffer, ObjectSize
from concurrent_nb.wire.messages import Needs, OutcomeFrame, TaskFrame, TaskRef


class SlaveJoined(Struct, frozen=True, gc=False):
    """A slave has registered and is heard on the compute channel."""

    slave: SessionId
    name: str
    slots: int  #: tasks that can run at once, >= 1
    credit: int  #: unfinished tasks that it accepts at most, >= slots
    shares_memory: bool = False  #: shared objects need not travel to it: it has all of them


class SlaveResized(Struct, frozen=True, gc=False):
    """A slave has said how much it can take from now on. slots may be 0 (it is draining)."""

    slave: SessionId
    slots: int
    credit: int


class SlaveSuspected(Struct, frozen=True, gc=False):
    """Nothing was heard of a slave for a while: it gets no new tasks until it is trusted again."""

    slave: SessionId


class SlaveTrusted(Struct, frozen=True, gc=False):
    """A suspected slave was heard again."""

    slave: SessionId


class SlaveLost(Struct, frozen=True, gc=False):
    """A slave is gone for good (a node that comes back registers anew)."""

    slave: SessionId
    reason: str = "nothing was heard of it"
    left: bool = False  #: of its own accord: it said goodbye, unregistered or was draining, so no task is to blame


class JobOpened(Struct, frozen=True, gc=False):
    """An owner has announced a job, or attached to one of his again from a new session."""

    client: SessionId
    owner: str
    job: JobId
    name: str = ""
    until: bool = False
    stop_on_error: bool = False
    strategy: str = ""  #: who gets its tasks; "" for the cluster's strategy
    shares_memory: bool = True  #: results that lie in shared memory need not be copied for this client


class TasksSubmitted(Struct, frozen=True, gc=False):
    """A run of tasks has arrived. Ids that are known already are not taken twice: a finished one is delivered again."""

    client: SessionId
    job: JobId
    function: Digest
    tasks: Sequence[TaskFrame]
    buffers: Sequence[Sequence[Buffer]]  #: for each task, in order; () for none. May be empty if no task has any
    timeout_s: float | None = None
    retries: int = 0
    objects: Sequence[tuple[ObjectSize, ...]] = ()  #: for each task, what it refers to; empty if no task does
    needs: Needs | None = None


class JobClosed(Struct, frozen=True, gc=False):
    """No more tasks will come for this job."""

    client: SessionId
    job: JobId


class CancelRequested(Struct, frozen=True, gc=False):
    """The owner wants tasks to stop, running ones too. indexes None means the whole job, and what comes later."""

    client: SessionId
    job: JobId
    indexes: Sequence[int] | None


class ClientLost(Struct, frozen=True, gc=False):
    """A client's session is gone. Its jobs go on for `linger_s`; then they are cancelled and forgotten."""

    client: SessionId
    linger_s: float


class ClientSilent(Struct, frozen=True, gc=False):
    """Nothing was heard of a client for a while, or its connection is gone: what is for it is kept."""

    client: SessionId


class ClientResumed(Struct, frozen=True, gc=False):
    """A silent client was heard again: it gets what was kept."""

    client: SessionId


class TasksStarted(Struct, frozen=True, gc=False):
    """A slave says that these have been running for a while."""

    slave: SessionId
    tasks: Sequence[TaskRef]


class TasksReturned(Struct, frozen=True, gc=False):
    """A slave gives back what had not started (answer to Withdraw, or because it is draining)."""

    slave: SessionId
    tasks: Sequence[TaskRef]


class AttemptsRefused(Struct, frozen=True, gc=False):
    """These were assigned to a slave, and could not be sent to it: what they need cannot be had. They never were."""

    slave: SessionId
    tasks: Sequence[TaskRef]
    why: str


class FunctionLost(Struct, frozen=True, gc=False):
    """A function is gone: what waits for it cannot be run any more."""

    function: Digest
    jobs: Sequence[JobId]  #: those that use it
    why: str


class OutcomesReceived(Struct, frozen=True, gc=False):
    """Attempts have ended on a slave."""

    slave: SessionId
    job: JobId
    items: Sequence[OutcomeFrame]
    buffers: Sequence[Sequence[Buffer]]  #: for each item, in order; may be empty if no item has any


class ObjectsHeld(Struct, frozen=True, gc=False):
    """A slave has these shared objects. That it gets those of the tasks assigned to it need not be said."""

    slave: SessionId
    objects: Sequence[bytes]


class ObjectsDropped(Struct, frozen=True, gc=False):
    """A slave has these shared objects no longer."""

    slave: SessionId
    objects: Sequence[bytes]


class OutcomesAcknowledged(Struct, frozen=True, gc=False):
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
    | ClientSilent
    | ClientResumed
    | TasksStarted
    | TasksReturned
    | AttemptsRefused
    | FunctionLost
    | OutcomesReceived
    | OutcomesAcknowledged
    | ObjectsHeld
    | ObjectsDropped
)
