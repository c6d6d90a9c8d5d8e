"""The master's record of one task and of one job. Payloads are opaque: nothing here unpickles.

Records are mutable and belong to the scheduler; nobody else changes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import msgspec

from concurrent_nb.ids import Digest, JobId, SessionId, task_name
from concurrent_nb.wire.messages import Needs, OutcomeFrame, Sizes

#: anything that can be sent as one frame
Buffer = bytes | bytearray | memoryview
#: id of an object that many tasks may share, and its size in bytes
ObjectSize = tuple[bytes, int]


class TaskState(IntEnum):
    """Where an accepted task is. Transitions are the table `states.TRANSITIONS`."""

    WAITING = 0  #: accepted, on no slave
    ASSIGNED = 1  #: sent to a slave; its worker may have started it
    FINISHED = 2  #: has its outcome, which the owner has not acknowledged yet
    FORGOTTEN = 3  #: acknowledged; the record is dropped


@dataclass(slots=True, eq=False)
class JobRecord:
    """All tasks of one cell, one map or one batch of submits."""

    id: JobId
    owner: str  #: principal (CURVE public key) that owns it
    name: str = ""
    until: bool = False
    stop_on_error: bool = False
    strategy: str = ""  #: the name of its own strategy; "" for the cluster's
    client: SessionId | None = None  #: session that gets the outcomes; None while the owner is away
    closed: bool = False  #: no more tasks will come
    opened_s: float = 0.0  #: when it was opened
    accepted: int = 0  #: tasks that have come so far
    ended: bool = False  #: hit, first error or cancelled: what comes now is cancelled at once
    shares_memory: bool = True  #: its client opens results that lie in shared memory; else they are copied for it
    tasks: "dict[int, TaskRecord]" = field(default_factory=dict, repr=False)  #: by index; forgotten ones are gone


class TaskRecord(msgspec.Struct, eq=False):
    """One accepted task. A Struct, because it is made three times as fast as a dataclass, and many are made."""

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
    attempt: int = 0  #: number of the current or last attempt, 0 before the first
    slave: SessionId | None = None  #: where it is assigned
    started: bool = False  #: the slave has said that it runs
    cancelled: bool = False  #: cancellation asked for; it ends as CANCELLED unless a result was faster
    estimate_s: float = 0.0  #: what its run time was estimated at when it was assigned
    objects: tuple[ObjectSize, ...] = ()  #: shared objects that it refers to
    deaths: tuple[str, ...] = ()  #: how each worker died that was running it, and each slave that had it
    lost_slaves: int = 0  #: how many of those were slaves
    suspect: bool = False  #: it runs alone on a slave, so that one more loss of a slave is surely its own
    outcome: OutcomeFrame | None = None  #: how it ended, kept until the owner acknowledges it
    outcome_buffers: Sequence[Buffer] = ()
    outcome_slave: str = ""  #: name of the slave where it ended, "" if it ran nowhere
    needs: Needs | None = None  #: None: a slot, in a worker process
    width: int = 1  #: slots that it takes on the slave where it is assigned; 0: it is a host

    @property
    def name(self) -> str:
        """Return the task's name for people."""
        return task_name(self.job.id, self.index)

    def __repr__(self) -> str:
        return f"<task {self.name}, {self.state.name}, attempt {self.attempt}>"
