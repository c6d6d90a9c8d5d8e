"""Tasks and jobs of an application that have no answer yet, and news of them. A part of `nodes.application.core`."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

from msgspec import Struct

from concurrent_nb.ids import JobId
from concurrent_nb.object_store.store import Lease
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffers, length

T = TypeVar("T")


class NeededTask(Protocol):
    """A task whose result another task needs: its handle, which is a future."""

    @property
    def job_id(self) -> JobId:
        """Return the id of its job."""

    @property
    def index(self) -> int:
        """Return its number in its job."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn(handle)` when it has ended."""

    @property
    def is_kept(self) -> bool:
        """Return whether it has ended, and its result is kept in the cluster."""


#: called with the answer to a request for a kept result; None: the cluster is gone
Fetched = Callable[["ResultFetched | None"], object]


class Payload(Struct, frozen=True, gc=False):
    """The pickle of a function or of a task's arguments, ready to be sent.

    A Struct, because it is made several times as fast as a dataclass, and one is made for each task.
    """

    body: bytes
    sizes: m.Sizes = ()  #: of the large buffers, or where they lie in shared memory
    buffers: Buffers = ()  #: large buffers that travel as frames
    lease: Lease | None = None  #: keeps the blocks in shared memory
    kind: int = 0  #: `wire.messages.TaskKind`, of a task
    inputs: tuple[NeededTask, ...] = ()  #: handles of the tasks whose results it refers to

    @property
    def wire_bytes(self) -> int:
        """How many bytes of it travel in any case."""
        return len(self.body) + (sum(map(length, self.buffers)) if self.buffers else 0)


#: the payload of tasks that have ended in this process
NO_PAYLOAD: Final = Payload(b"")


class TaskLimits(Struct, frozen=True, gc=False):
    """The limits of a task. Tasks of one call share the object."""

    timeout_s: float | None = None  #: run time allowed per attempt; None: any
    retries: int = 0  #: how often it may run again after an error or a timeout
    keep: bool = False  #: its result stays in the cluster


NO_LIMITS: Final = TaskLimits()


@dataclass(eq=False, slots=True)
class FunctionPayload:
    """A pickled function, ready to be sent."""

    digest: bytes
    payload: Payload
    needs: m.Needs | None = None  #: those of its tasks, unless the task has needs of its own
    name: str = ""  #: for people


#: the function of tasks that another application has sent
NO_FUNCTION: Final = FunctionPayload(b"", NO_PAYLOAD)


@dataclass(eq=False, slots=True, weakref_slot=True)
class ClientJob(Generic[T]):
    """A job with tasks that may be unanswered."""

    id: JobId
    name: str = ""
    until: bool = False
    stop_on_error: bool = False
    strategy: m.StrategyName | None = None  #: how its tasks are spread over slaves; None: as the cluster is configured
    notebook: str = ""  #: path of the notebook that started it
    cell: str = ""  #: id of the cell that started it
    line: str = ""  #: first line of that cell
    detached: bool = False  #: the master keeps its outcomes, and it goes on without this application
    #: makes the handle of a task; of a job that this application has not started, and only reads
    new_handle: "Callable[[int], T] | None" = None
    is_read: bool = False  #: ... and it has read it already
    closed: bool = False  #: no more tasks will be added
    open_sent: bool = False
    close_sent: bool = False
    functions: set[bytes] = field(default_factory=set)  #: digests sent for it in this session
    function_bytes: int = 0  #: bytes of those that have travelled
    captured_segments: list[bytes] = field(default_factory=list)  #: our segments that they refer to
    sent: int = 0  #: tasks that are at the master, unanswered
    sent_bytes: int = 0  #: of those, and of the functions
    is_over: bool = False  #: all of it was cancelled, or it has ended at a hit or an error
    entries: "dict[int, TaskEntry[T]]" = field(default_factory=dict)  #: unanswered, by index
    is_linked: bool = False  #: some of its tasks need results of others
    kept: int = 0  #: results that are kept in the cluster
    freed: list[int] = field(default_factory=list)  #: those that were, as a former session may have kept them
    held: int = 0  #: tasks that are held until their application has the results that they need
    waiting: "deque[TaskEntry[T]]" = field(default_factory=deque)  #: those that are not sent yet, in order
    dropped: list[int] = field(
        default_factory=list
    )  #: cancelled ones of former sessions, which the master may still run


class TaskEntry(Struct, Generic[T], eq=False):
    """A task without an answer. `handle` receives its outcome: a future, for example.

    A Struct, as `Payload` is.
    """

    job: ClientJob[T]
    index: int
    function: FunctionPayload
    payload: Payload
    handle: T
    limits: TaskLimits = NO_LIMITS
    needs: m.Needs | None = None  #: None: a slot, in a worker process
    cancelled: bool = False  #: it was cancelled, and has no answer yet
    is_waiting: bool = False  #: it is not sent yet
    is_held: bool = False  #: ... until `ClientCore.give` is called: the cluster does not have all results that it needs


class TaskUnsent(Struct, Generic[T], frozen=True, gc=False):
    """A task has ended in this process: it was cancelled before it was sent, or is more than the master takes."""

    entry: TaskEntry[T]
    size_bytes: int = 0  #: if it is larger than the master allows; else 0
    inputs: int = 0  #: number of results that it needs, if that is more than a task may need; else 0


class TaskEnded(Struct, Generic[T], frozen=True, gc=False):
    """The cluster reports how a task ended."""

    entry: TaskEntry[T]
    frame: m.OutcomeFrame
    buffers: Buffers
    slave: str


class TaskRunning(Struct, Generic[T], frozen=True, gc=False):
    """The cluster reports that a task runs."""

    entry: TaskEntry[T]
    slave: str


class TaskWrote(Struct, Generic[T], frozen=True, gc=False):
    """A task has written to a stream."""

    entry: TaskEntry[T]
    attempt: int
    stream: int
    data: bytes


class UnclaimedResult(Struct, frozen=True, gc=False):
    """A result in shared memory belongs to no open task."""

    slices: list[m.Slice]


#: called with the answer to AttachJob; None: the cluster is gone
Found = Callable[[m.JobAttached | None], object]


class JobFound(Struct, Generic[T], frozen=True):
    """The master has a job that was asked for, or says why not."""

    job: ClientJob[T] | None  #: that this application reads
    answer: m.JobAttached
    then: Found | None  #: None: nobody waits for it


class ResultFetched(Struct, frozen=True):
    """A result that was kept in the cluster has come, or is not there any more (INPUT_GONE)."""

    then: Fetched
    job: JobId
    frame: m.OutcomeFrame
    buffers: Buffers
    slave: str


News = (
    TaskEnded[T]
    | TaskRunning[T]
    | TaskWrote[T]
    | UnclaimedResult
    | ResultFetched
    | JobFound[T]
    | m.Segment
    | m.DropSegments
)
