"""The events of a scheduler: facts in the past tense. A run of tasks is one event."""

from collections.abc import Sequence

from msgspec import Struct

from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.tasks.task_record import Buffer, ObjectSize
from concurrent_nb.wire.messages import Needs, OutcomeFrame, StartedTask, TaskFrame, TaskRef


class SlaveJoined(Struct, frozen=True, gc=False):
    """A slave has registered, and its first envelope has arrived on the compute channel."""

    slave: SessionId
    name: str
    slots: int  #: tasks that run at the same time, >= 1
    credit: int  #: most unfinished tasks that it accepts, >= slots
    shares_memory: bool = False  #: it can open all shared objects, so none travels to it


class SlaveResized(Struct, frozen=True, gc=False):
    """A slave has reported its new capacity. slots is 0 while it drains."""

    slave: SessionId
    slots: int
    credit: int


class SlaveSuspected(Struct, frozen=True, gc=False):
    """A slave has been silent for a while: it gets no new tasks until it is trusted again."""

    slave: SessionId


class SlaveTrusted(Struct, frozen=True, gc=False):
    """A suspected slave has sent something again."""

    slave: SessionId


class SlaveLost(Struct, frozen=True, gc=False):
    """A slave is gone for good (a node that comes back registers again)."""

    slave: SessionId
    reason: str = "it was silent for too long"
    left: bool = False  #: it sent a Bye, unregistered or was draining, so no task has killed it
    place: str = ""  #: where a launcher has started it, which may take slaves away; "" if none has
    place_s: float | None = None  #: for how long that place has slaves; None: unknown, or without a limit


class JobOpened(Struct, frozen=True, gc=False):
    """An owner has announced a job, or attached a new session to one of theirs."""

    client: SessionId
    owner: str
    job: JobId
    name: str = ""
    until: bool = False
    stop_on_error: bool = False
    strategy: str = ""  #: name of its own strategy; "" for the cluster's
    shares_memory: bool = True  #: results in shared memory are not copied for this client
    notebook: str = ""  #: path of the notebook that started it
    cell: str = ""  #: id of the cell that started it
    line: str = ""  #: first line of that cell


class OwnerNamed(Struct, frozen=True, gc=False):
    """A session reads a job of its owner, and may cancel it, without being the one that gets its outcomes."""

    client: SessionId
    owner: str


class TasksSubmitted(Struct, frozen=True, gc=False):
    """A run of tasks has arrived. A known id is not accepted twice: a finished task is delivered again."""

    client: SessionId
    job: JobId
    function: Digest
    tasks: Sequence[TaskFrame]
    buffers: Sequence[Sequence[Buffer]]  #: for each task, in order, () for none; may be empty if no task has any
    timeout_s: float | None = None
    retries: int = 0
    objects: Sequence[
        tuple[ObjectSize, ...]
    ] = ()  #: for each task, the shared objects that it refers to; empty if no task does
    needs: Needs | None = None
    inputs: Sequence[
        tuple[int, Sequence[tuple[JobId, int]]]
    ] = ()  #: index of each task that needs results, and the tasks that have them
    keep: bool = False  #: their results stay until they are freed


class JobClosed(Struct, frozen=True, gc=False):
    """No more tasks will come for this job."""

    client: SessionId
    job: JobId


class CancelRequested(Struct, frozen=True, gc=False):
    """Tasks are cancelled, running ones too. indexes None: the whole job, and tasks that come later.

    With `unstarted_only`, their application takes these back that have not begun.
    """

    client: SessionId | None  #: None: not by its owner, but over the control channel
    job: JobId
    indexes: Sequence[int] | None
    unstarted_only: bool = False


class ResultsWanted(Struct, frozen=True, gc=False):
    """The owner asks for results that are kept."""

    client: SessionId
    job: JobId
    indexes: Sequence[int]


class ResultsFreed(Struct, frozen=True, gc=False):
    """The owner does not need kept results any more."""

    client: SessionId
    job: JobId
    indexes: Sequence[int]


class TasksRan(Struct, frozen=True, gc=False):
    """Tasks have run in their application's own process, which is a worker of a slave."""

    client: SessionId
    job: JobId
    function: Digest
    slave: str  #: its name
    items: Sequence[OutcomeFrame]


class ClientLost(Struct, frozen=True, gc=False):
    """A client's session is gone. Its jobs go on for `linger_s`; then they are cancelled and forgotten."""

    client: SessionId
    linger_s: float


class ClientSilent(Struct, frozen=True, gc=False):
    """A client has been silent for a while, or its connection is gone: outcomes for it are kept."""

    client: SessionId


class ClientResumed(Struct, frozen=True, gc=False):
    """A silent client has sent something again: it gets the outcomes that were kept."""

    client: SessionId


class TasksStarted(Struct, frozen=True, gc=False):
    """A slave reports that these have been running for a while."""

    slave: SessionId
    tasks: Sequence[StartedTask]


class TasksReturned(Struct, frozen=True, gc=False):
    """A slave returns tasks that had not started: the answer to Withdraw, or because it is draining."""

    slave: SessionId
    tasks: Sequence[TaskRef]


class AttemptsRefused(Struct, frozen=True, gc=False):
    """These were assigned to a slave, but not sent to it, because data that they need is not available."""

    slave: SessionId
    tasks: Sequence[TaskRef]
    why: str


class FunctionLost(Struct, frozen=True, gc=False):
    """A function is gone: waiting tasks of it cannot be run any more."""

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
    """A slave has these shared objects. Those of tasks that are assigned to it are counted without this event."""

    slave: SessionId
    objects: Sequence[bytes]


class ObjectsDropped(Struct, frozen=True, gc=False):
    """A slave no longer has these shared objects."""

    slave: SessionId
    objects: Sequence[bytes]


class OutcomesAcknowledged(Struct, frozen=True, gc=False):
    """The owner has these outcomes; they are no longer kept."""

    client: SessionId
    job: JobId
    indexes: Sequence[int]


class OutcomesRestored(Struct, frozen=True, gc=False):
    """Tasks had ended when a former run of the master ended; its journal has their outcomes."""

    job: JobId
    slave: str  #: its name
    items: Sequence[OutcomeFrame]
    buffers: Sequence[Sequence[Buffer]]  #: for each item, in order; may be empty if no item has any
    is_last: bool = True  #: no more of this job come: if one of its tasks ends the job, it ends now


class AttemptsOffered(Struct, frozen=True, gc=False):
    """A slave has attempts of a former run of the master, or outcomes of them: they go on there, or are stopped."""

    slave: SessionId
    tasks: Sequence[TaskRef]


Event = (
    SlaveJoined
    | SlaveResized
    | SlaveSuspected
    | SlaveTrusted
    | SlaveLost
    | JobOpened
    | OwnerNamed
    | TasksSubmitted
    | JobClosed
    | CancelRequested
    | TasksRan
    | ResultsWanted
    | ResultsFreed
    | ClientLost
    | ClientSilent
    | ClientResumed
    | TasksStarted
    | TasksReturned
    | AttemptsRefused
    | FunctionLost
    | OutcomesReceived
    | OutcomesAcknowledged
    | OutcomesRestored
    | AttemptsOffered
    | ObjectsHeld
    | ObjectsDropped
)
