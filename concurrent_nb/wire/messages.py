"""All messages of the compute channel and the records in them. The contract is PROTOCOL.md.

Structs are arrays on the wire (msgpack), tagged by a small integer. A client may send only messages of `FromClient`, a
slave only those of `FromSlave`: the master decodes with the union of the sender's role, so another role's message fails
to decode. Pickles are opaque bytes here.
"""

from enum import IntEnum
from typing import Annotated, Final, Literal, get_args

import msgspec

#: this protocol; a node with another one is refused at registration, with both versions named
PROTOCOL_VERSION: Final = 4
#: the stream of Output that carries a task's notes; 1 and 2 are its standard streams
NOTES: Final = 3
#: the reason in a Bye after which nodes do not look for the master again
CLUSTER_STOPPED: Final = "the cluster has been stopped"
#: start of the reason in a Bye to a client that must not register again, as it would exceed the limit again
OVER_LIMIT: Final = "over a limit: "
#: the class in an ErrorReport about a task that has ended, but whose result is not available
RESULT_LOST: Final = "concurrent_nb.errors.ResultNotLoadable"

#: strategies that a job may name; the docstrings in scheduling/strategies/ describe them
StrategyName = Literal["pull_round_robin", "push_best", "stealing", "locality"]
STRATEGIES: Final[tuple[StrategyName, ...]] = get_args(StrategyName)

#: most buffers of one body, so that a header has room for their sizes
BUFFERS_MAX: Final = 16_384

#: a count, size or position
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
#: most statistics of a job in a `Measured`, and most characters of the name of one
VALUES_MAX: Final = 100
VALUE_NAME_MAX: Final = 200
#: 16 random bytes each
JobId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
SegmentId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
#: SHA-256
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
#: most cores that a task may need: more than any slave has
CORES_MAX: Final = 4096
#: most inputs of a task
INPUTS_MAX: Final = 100_000
#: most system hosts of a slave; they do not count in its slots and its credit
HOSTS_MAX: Final = 8

#: most bytes of the stack of a task, as UTF-8
STACK_BYTES_MAX: Final = 65_536

#: levels of logs, the most detailed first
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Cores = Annotated[int, msgspec.Meta(ge=0, le=CORES_MAX)]


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all messages."""


class Slice(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A buffer in shared memory on this host. It must not change while a process refers to it."""

    segment: SegmentId
    offset: Count
    size: Annotated[int, msgspec.Meta(ge=1, le=2**62)]  #: length in bytes
    serial: Count  #: number of the content, unique for the segment's owner


#: for each buffer of a body, in order: its length in bytes if it follows as frames of its own, else its slice
Sizes = Annotated[tuple[Count | Slice, ...], msgspec.Meta(max_length=BUFFERS_MAX)]


#: most characters of the name of a function, and of the path of a notebook
NAME_MAX: Final = 200
PATH_MAX: Final = 1000


class TaskKind(IntEnum):
    """What a task does, and so what its body is the pickle of. `arguments` are those of a call, as a tuple."""

    CALL = 0  #: arguments
    KEYWORD_CALL = 1  #: (arguments, keywords)
    ITEM = 2  #: one item of a job: (arguments, number of the item)
    CHUNK = 3  #: several items: (calls, numbers), see `shipping.runtime.call_chunks`
    BATCH = 4  #: several items that are tasks of a job: (calls, (numbers, ...)), see `shipping.runtime.job_batches`
    BOUND = 5  #: no pickle: a task and the results that it needs, see `wire.bound_tasks`


#: a `TaskKind` on the wire, where a number is read and compared faster than a member of an enumeration
Kind = Annotated[int, msgspec.Meta(ge=0, le=int(max(TaskKind)))]


class TaskFrame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One task of a run: its arguments, opaque."""

    index: int  #: the task's number in its job, from 0
    attempt: int  #: 0 from an application; the master counts from 1
    body: bytes  #: pickle, see `TaskKind`; empty if it is the first buffer
    sizes: Sizes = ()
    kind: Kind = 0  #: `TaskKind`


class OutcomeFrame(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How one attempt of one task ended."""

    index: int
    attempt: int
    status: int  #: outcome.Status
    elapsed_s: float  #: time that the worker spent on it, with unpickling and pickling; 0 if it never ran
    worker: int  #: pid of the worker, 0 if it never ran
    body: bytes  #: pickled value or encoded ErrorReport; empty if it is the first buffer
    sizes: Sizes = ()
    keeps: bool = False  #: the worker still refers to shared memory of the arguments, maybe for a long time
    ago_us: Count = 0  #: how long ago it ended when the slave reported it, in microseconds
    cpu_us: Count = 0  #: CPU time of the thread that ran it, in microseconds; 0 if it took less than a millisecond
    peak_kib: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = (
        0  #: most memory that its process had taken by then, in KiB; 0 likewise
    )


class TaskRef(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The name of one attempt of one task."""

    job: JobId
    index: int
    attempt: int


class StartedTask(TaskRef, array_like=True, frozen=True, gc=False):
    """An attempt that runs, and the process that runs it."""

    worker: Count = 0  #: pid of the worker; 0: unknown


class Needs(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What each task needs of a slave: how many cores, and what kind of worker.

    >>> two_cores = concurrent_nb.Needs(cores=2)
    >>> app.options(needs=two_cores).submit(pow, 2, 10).result()
    1024

    Args:
        cores: slots that each task takes, and threads that numerical libraries may use in it; 0: all of one slave.
        kind: "process": a worker process, which runs one task at a time. "thread": a thread of a process that all such
            tasks of a slave share, for tasks that release the GIL or wait. "system_host": a process beside the slots,
            for a task that runs long and mostly waits. It takes no slot. With "thread" and "system_host", `cores` must
            be 1.

    Tasks in threads share memory, current folder, `sys.stdout` if they replace it, and C libraries that may not allow
    that. Only what they print by Python, in their own thread, is shown with them. When one has to be killed, the tasks
    beside it run once more.
    """

    cores: Cores = 1  #: slots that each takes, and threads that it may use; 0: all of one slave
    #: "system_host": a process that takes no slot, for a long task that mostly waits; cores is 1.
    #: "thread": a slot, in a process that all such tasks of a slave share; cores is 1
    kind: Literal["process", "thread", "system_host"] = "process"


class ErrorReport(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Description of an error: text for people, and the pickled exception if it could be pickled."""

    type_name: str  #: qualified name of the exception's class, "" if it is not an exception
    message: str
    traceback: str  #: formatted as Python does, "" if there is none
    exception: bytes = b""  #: pickled exception, b"" if it cannot be pickled


class KernelAccess(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a Jupyter client connects to a slave's kernel over TCP, with its keys."""

    ip: str
    shell_port: Port
    iopub_port: Port
    stdin_port: Port
    control_port: Port
    hb_port: Port
    key: str  #: signs every message (HMAC-SHA256)
    curve_publickey: str  #: Z85; both are empty for a kernel that listens on loopback without encryption
    curve_secretkey: str

    def __repr__(self) -> str:  # keys must not be printed or logged
        return f"KernelAccess(ip={self.ip!r}, shell_port={self.shell_port}, key=<hidden>)"


# ---------------------------------------------------------------------------------------------- both ways


class Function(Message, tag=1, frozen=True):
    """A pickled function, sent to a peer that lacks it before the first task that needs it."""

    digest: Digest  #: SHA-256 of the pickle, see `codec.function_digest`
    body: bytes
    sizes: Sizes = ()
    name: Annotated[str, msgspec.Meta(max_length=NAME_MAX)] = ""  #: for people


class Outcomes(Message, tag=2, frozen=True):
    """Ends of attempts of one job. From the slave to the master, and on to the job's owner."""

    job: JobId
    slave: str  #: name of the slave where they ran
    items: list[OutcomeFrame]


class Started(Message, tag=3, frozen=True):
    """These tasks have been running for a while (short tasks are never reported as started)."""

    slave: str
    tasks: list[StartedTask]


class Output(Message, tag=4, frozen=True):
    """Bytes that a task wrote to its standard output (stream 1) or error (2), or its notes (3), each in order.

    Lines of slave and master on stream 2 say what has become of its worker or its slave; they begin with
    "concurrent_nb: ".
    """

    task: TaskRef
    stream: int
    data: bytes


class Bye(Message, tag=5, frozen=True):
    """The session is over, with the reason; sent outside the numbered stream (seq 0)."""

    reason: str


class ShareMemory(Message, tag=6, frozen=True):
    """The sender has opened the segment that the master showed at registration: its buffers may be in shared memory."""


class Segment(Message, tag=7, frozen=True):
    """A segment of shared memory, before its first slice. The peer must open it immediately."""

    segment: SegmentId
    pid: Count  #: the process on this host ...
    fd: Count  #: ... that has it open under this number
    size: Count  #: in bytes


class Content(Message, tag=40, frozen=True):
    """The content of a slice, once, for a peer that cannot open it. It replaces an earlier content of its place."""

    segment: SegmentId
    offset: Count
    serial: Count
    body: bytes  #: empty if it is the first buffer
    sizes: Sizes


class Part(Message, tag=42, frozen=True):
    """The next frames of the last message that was not a Part, which is too large for one envelope."""

    sizes: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=BUFFERS_MAX)]  #: of each frame, in order


class DropSegments(Message, tag=8, frozen=True):
    """Nothing refers to these segments any more. They may be announced, or their contents sent, again."""

    segments: list[SegmentId]


class Release(Message, tag=9, frozen=True):
    """The results in these slices are not needed any more: their memory returns to the worker that made them."""

    slices: list[Slice]
    clean: bool  #: no process refers to them any more; else their memory must not be used again


# --------------------------------------------------------------------------------------- application to master


class OpenJob(Message, tag=10, frozen=True):
    """Announce a job before its first task."""

    job: JobId
    name: str
    until: bool  #: a HIT ends the job
    stop_on_error: bool  #: the first failed task ends the job
    strategy: StrategyName | None = None  #: None for the cluster's strategy
    notebook: Annotated[str, msgspec.Meta(max_length=PATH_MAX)] = ""  #: path of the notebook that started it
    cell: Annotated[str, msgspec.Meta(max_length=NAME_MAX)] = ""  #: id of the cell that started it
    line: Annotated[str, msgspec.Meta(max_length=NAME_MAX)] = ""  #: first line of that cell
    detached: bool = False  #: the master keeps the job and its outcomes, for all who attach to it


class AttachJob(Message, tag=19, frozen=True):
    """Read a detached job: what there is, then what comes. JobAttached answers it."""

    job: JobId
    again: bool = False  #: it has read the job before: without the output that there is


class Submit(Message, tag=11, frozen=True):
    """A run of tasks of one job that share function and limits."""

    job: JobId
    function: Digest
    timeout_s: float | None  #: run time allowed per attempt, None for no limit
    retries: int  #: how often it may run again after an error or a timeout
    tasks: list[TaskFrame]
    needs: Needs | None = None
    keep: bool = False  #: their results stay in the cluster until they are freed


class Cancel(Message, tag=12, frozen=True):
    """Cancel tasks of a job, running ones too."""

    job: JobId
    indexes: list[int] | None  #: None for all
    #: only those that have not begun, which end as TAKEN_BACK: the application runs them itself
    unstarted_only: bool = False


class CloseJob(Message, tag=13, frozen=True):
    """No more tasks will come; the master forgets the job when its last outcome is acknowledged."""

    job: JobId


class MeasuredValue(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A statistic of values that tasks have measured by themselves, of all tasks of a job so far."""

    name: Annotated[str, msgspec.Meta(max_length=VALUE_NAME_MAX)]
    count: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    total: float
    minimum: float
    maximum: float
    p50: float
    p90: float
    p99: float


class JobTasks(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Tasks of one job."""

    job: JobId
    indexes: Annotated[list[Count], msgspec.Meta(max_length=INPUTS_MAX)]


class TaskInputs(Message, tag=16, frozen=True):
    """A task of the next Submit needs the results of these tasks of the same owner. Several of one task add up."""

    job: JobId
    index: Count
    inputs: Annotated[list[JobTasks], msgspec.Meta(max_length=INPUTS_MAX)]


class FetchResults(Message, tag=17, frozen=True):
    """Send these kept results. Each is answered by an outcome: its own, or INPUT_GONE."""

    job: JobId
    indexes: list[Count]


class FreeResults(Message, tag=18, frozen=True):
    """These results need not be kept any more, but for tasks that need them and have not ended."""

    job: JobId
    indexes: list[Count]


class Measured(Message, tag=14, frozen=True):
    """What the tasks of a job have measured by themselves so far, for people who ask for its statistics."""

    job: JobId
    values: Annotated[list[MeasuredValue], msgspec.Meta(max_length=VALUES_MAX)]


class Ran(Message, tag=15, frozen=True):
    """Tasks that an application in a task has run itself, for statistics and traces. Others may not send it."""

    job: JobId
    function: Digest
    name: Annotated[str, msgspec.Meta(max_length=NAME_MAX)]  #: of the function, for people
    items: list[OutcomeFrame]  #: without their bodies


# --------------------------------------------------------------------------------------- master to application


class JobAttached(Message, tag=41, frozen=True):
    """The answer to AttachJob. Output, Started and Outcomes of the job follow."""

    job: JobId
    error: str  #: why it cannot be attached to, "" if it can
    name: str = ""
    tasks: Count = 0  #: how many it has, with the indexes 0 to tasks - 1
    notebook: str = ""
    cell: str = ""
    line: str = ""
    age_s: float = 0.0  #: from when it was opened until its end, or until now


# --------------------------------------------------------------------------------------------- master to slave


class Assign(Message, tag=20, frozen=True):
    """A run of attempts for a slave."""

    job: JobId
    function: Digest
    timeout_s: float | None
    tasks: list[TaskFrame]
    needs: Needs | None = None
    #: the first task needs the result of this attempt, which the slave has, and each other one that of the one before
    behind: TaskRef | None = None


class Withdraw(Message, tag=21, frozen=True):
    """Return these if they have not started. With `stop`, stop them if they have (they end as CANCELLED)."""

    tasks: list[TaskRef]
    stop: bool


class DropFunctions(Message, tag=22, frozen=True):
    """These functions are not needed any more."""

    digests: list[Digest]


class OpenKernel(Message, tag=23, frozen=True):
    """Open a Jupyter kernel, unless it is open. Answered by one KernelOpened, with its access."""

    request: int  #: the master's number of this request


class RestartWorkers(Message, tag=24, frozen=True):
    """Replace all worker processes. Answered by WorkersOutdated."""

    request: int  #: the master's number of this request
    stop: bool  #: running tasks are stopped and returned; else they end first


class Drain(Message, tag=27, frozen=True):
    """Return all tasks that have not started, accept no more, and leave when those that run have ended."""


class SetLogLevel(Message, tag=28, frozen=True):
    """Log what is at least as severe as this from now on."""

    level: LogLevel


class SampleStack(Message, tag=29, frozen=True):
    """Say what a running task is doing. Answered by one StackSampled."""

    request: int  #: the master's number of this request
    task: TaskRef


# --------------------------------------------------------------------------------------------- slave to master


class Returned(Message, tag=30, frozen=True):
    """These have not started here and never will; or the process of their threads was ended by others."""

    tasks: list[TaskRef]


class Capacity(Message, tag=31, frozen=True):
    """The slave's capacity from now on."""

    slots: int  #: tasks that run at the same time
    credit: int  #: most unfinished tasks that it accepts


class KernelOpened(Message, tag=32, frozen=True):
    """Answer to OpenKernel."""

    request: int
    access: KernelAccess | None  #: None if there is no kernel
    error: str  #: why there is none, and what to do


class HostLoad(Message, tag=33, frozen=True):
    """The load of the slave's host, with all its processes. Sent every few seconds, for `status` only."""

    load: float | None  #: load average of the last minute; None if it is unknown
    memory_used_bytes: int
    memory_total_bytes: int


class WorkersOutdated(Message, tag=34, frozen=True):
    """Progress of the last RestartWorkers."""

    request: int
    left: int  #: workers that are not replaced yet, or whose successors are not ready


class StackSampled(Message, tag=35, frozen=True):
    """Answer to SampleStack."""

    request: int
    worker: Count  #: pid of the worker; 0 if the task has none
    run_s: float  #: how long the task had run, in seconds
    stack: Annotated[str, msgspec.Meta(max_length=STACK_BYTES_MAX)]  #: the most recent call last; "" if there is none
    error: str  #: why there is none


class OfferAttempts(Message, tag=36, frozen=True):
    """Attempts of a former run of this master that are here, or whose outcomes it has not acknowledged.

    Sent to a restarted master with a journal, before all else but ShareMemory. It continues them, or has them stopped.
    """

    tasks: list[TaskRef]
    is_last: bool  #: no other OfferAttempts follows


#: messages that every node sends, and takes
FromAnyone = Segment | Part | DropSegments | Bye
FromClient = (
    FromAnyone
    | Function
    | OpenJob
    | AttachJob
    | Submit
    | Cancel
    | CloseJob
    | Measured
    | Ran
    | TaskInputs
    | FetchResults
    | FreeResults
    | ShareMemory
    | Content
    | Release
)
FromSlave = (
    FromAnyone
    | Outcomes
    | Started
    | Output
    | Returned
    | Capacity
    | KernelOpened
    | WorkersOutdated
    | StackSampled
    | HostLoad
    | OfferAttempts
    | ShareMemory
)
ToClient = FromAnyone | Outcomes | Started | Output | JobAttached
ToSlave = (
    FromAnyone
    | Function
    | Assign
    | Withdraw
    | DropFunctions
    | OpenKernel
    | RestartWorkers
    | Drain
    | SetLogLevel
    | SampleStack
    | Content
    | Release
)
AnyMessage = FromClient | FromSlave | ToClient | ToSlave
