"""The master's records of a task and of a job. Payloads are opaque: nothing here unpickles.

Records are mutable and belong to the scheduler; other code must not change them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import msgspec

from concurrent_nb.ids import Digest, JobId, SessionId, task_name
from concurrent_nb.tasks.error_kinds import ErrorKinds
from concurrent_nb.tasks.function_graph import FunctionNode
from concurrent_nb.tasks.job_sums import JobSums
from concurrent_nb.wire.messages import Needs, OutcomeFrame, Sizes

#: anything that can be sent as one frame
Buffer = bytes | bytearray | memoryview
#: id of an object that many tasks may share, and its size in bytes
ObjectSize = tuple[bytes, int]


class TaskState(IntEnum):
    """The state of an accepted task. Transitions are the table `states.TRANSITIONS`."""

    WAITING = 0  #: accepted, on no slave
    ASSIGNED = 1  #: sent to a slave; a worker may have started it
    FINISHED = 2  #: it has an outcome, which its owner has not acknowledged
    FORGOTTEN = 3  #: acknowledged; the record is dropped
    BLOCKED = 4  #: accepted, and it needs the result of a task that has not ended; in no queue
    AHEAD = 5  #: blocked, and sent to the slave of the only task for whose end it waits, its leader


@dataclass(slots=True, eq=False)
class JobRecord:
    """All tasks of one cell, one map or one series of submits."""

    id: JobId
    owner: str  #: the public key (CURVE) to which it belongs
    name: str = ""
    until: bool = False
    stop_on_error: bool = False
    strategy: str = ""  #: name of its own strategy; "" for the cluster's
    client: SessionId | None = None  #: the session that gets the outcomes; None while the owner is away
    closed: bool = False  #: no more tasks will come
    opened_s: float = 0.0  #: when it was opened
    accepted: int = 0  #: number of tasks accepted so far
    ended: bool = False  #: hit, first error or cancelled: tasks that come now are cancelled
    is_cancelled: bool = False  #: its owner or an admin has cancelled all of it
    shares_memory: bool = True  #: its client opens results in shared memory; else they are copied for it
    notebook: str = ""  #: path of the notebook that started it
    cell: str = ""  #: id of the cell that started it
    line: str = ""  #: first line of that cell
    sums: JobSums = field(default_factory=JobSums, repr=False)  #: of its tasks that have ended
    errors: ErrorKinds | None = field(default=None, repr=False)  #: of its tasks; None: there was none
    forgotten_s: float | None = None  #: when it was forgotten: closed, and all outcomes acknowledged
    tasks: "dict[int, TaskRecord]" = field(default_factory=dict, repr=False)  #: by index, without forgotten ones
    #: how many edges lead from tasks of one function to its tasks of another, by the names of both
    edges: dict[tuple[str, str], int] = field(default_factory=dict, repr=False)
    kept: "dict[int, TaskRecord]" = field(default_factory=dict, repr=False)  #: tasks whose results its owner keeps
    #: tasks that it had when its owner came back: they are sent again, maybe when they are answered and forgotten
    sent_again: set[int] = field(default_factory=set, repr=False)
    ahead_max: int = 8  #: most tasks that are sent ahead in one line: more after each that ran so, fewer after others
    ahead_skipped: int = 0  #: how often none was sent because that is 0, since the last one that was


@dataclass(slots=True, eq=False)
class Line:
    """Tasks of which each was sent ahead to the slave of the one before."""

    tail: "TaskRecord"  #: the last one
    length: int = 0  #: how many of them wait for the one before


@dataclass(slots=True, eq=False)
class TaskLinks:
    """The edges of a task that needs results of others, or whose result others need."""

    inputs: "tuple[TaskRecord, ...]" = ()  #: tasks whose results it needs; until it has ended
    missing: int = 0  #: how many of these have not ended
    dependents: "list[TaskRecord]" = field(default_factory=list)  #: tasks that wait for its end
    users: int = 0  #: tasks that need its result and have not ended
    is_kept: bool = False  #: its owner counts as one of those tasks: it may ask for the result, or give it to others
    clean: bool = True  #: no process can still refer to shared memory of its result, once these have ended
    leader: "TaskRecord | None" = None  #: the input behind which it was sent ahead, while it is AHEAD
    follower: "TaskRecord | None" = None  #: the task that was sent ahead behind it, while that one is AHEAD
    line: Line | None = None  #: in which it is, while it has a leader, or had one in this attempt, or has a follower
    was_ahead: bool = False  #: this attempt was sent ahead, and its leader has succeeded
    node: FunctionNode | None = None  #: the node of its function in the graph of its owner, if it has, or had, an edge


class TaskRecord(msgspec.Struct, eq=False):
    """One accepted task. A Struct, because creating one takes a third of the time of a dataclass."""

    job: JobRecord
    index: int
    function: Digest
    body: bytes  #: the arguments, until it has finished
    sizes: Sizes = ()
    buffers: Sequence[Buffer] = ()
    timeout_s: float | None = None
    retries_left: int = 0
    kind: int = 0  #: `wire.messages.TaskKind`
    state: TaskState = TaskState.WAITING
    attempt: int = 0  #: number of the current or last attempt; 0 before the first
    slave: SessionId | None = None  #: the slave to which it is assigned
    started: bool = False  #: the slave has reported that it runs
    cancelled: bool = False  #: its cancellation was requested; it ends as CANCELLED unless a result was faster
    taken_back: bool = False  #: its application takes it back, if its slave returns it before it begins
    estimate_s: float = 0.0  #: estimated run time when it was assigned
    objects: tuple[ObjectSize, ...] = ()  #: the shared objects that it refers to
    deaths: tuple[str, ...] = ()  #: for each death of its worker or slave: how it died
    lost_slaves: int = 0  #: number of those that were slaves
    suspect: bool = False  #: it runs alone on a slave, so that one more loss of a slave is certainly its fault
    outcome: OutcomeFrame | None = None  #: how it ended; kept until its owner acknowledges it
    outcome_buffers: Sequence[Buffer] = ()
    outcome_slave: str = ""  #: name of the slave where it ended, "" if it ran nowhere
    needs: Needs | None = None  #: None: one slot, in a worker process
    width: int = 1  #: slots that it takes on its slave; 0: it is a system host
    accepted_s: float = 0.0  #: when it was accepted
    assigned_s: float = 0.0  #: when it was last assigned
    started_s: float = 0.0  #: when its slave last reported that it runs
    worker: int = 0  #: pid of the worker that ran it then; 0 if the slave did not say
    links: TaskLinks | None = None  #: None for a task without inputs and dependents

    @property
    def name(self) -> str:
        """The task's name for people."""
        return task_name(self.job.id, self.index)

    def __repr__(self) -> str:
        return f"<task {self.name}, {self.state.name}, attempt {self.attempt}>"
