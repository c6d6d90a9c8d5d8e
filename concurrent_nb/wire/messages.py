"""Every message of the compute channel and every record that travels in one. The contract is PROTOCOL.md.

Structs are arrays on the wire (msgpack), tagged by a small integer. A client may say only what is in `FromClient`, a
slave only what is in `FromSlave`; the master decodes with the union of the sender's role, so a message from the wrong
role is malformed rather than forbidden. Pickles are opaque bytes here.
"""

from enum import IntEnum
from typing import Annotated, Final, Literal, get_args

import msgspec

#: this protocol; a node that speaks another one is refused at registration, both versions named
PROTOCOL_VERSION: Final = 3
#: the stream of Output that carries a task's notes; 1 and 2 are its standard streams
NOTES: Final = 3
#: the reason in a Bye after which nobody need look for the master
CLUSTER_STOPPED: Final = "the cluster has been stopped"
#: begins the reason in a Bye to a client that registers again in vain: it would go beyond the limit again
OVER_LIMIT: Final = "over a limit: "
#: the class in an ErrorReport about a task that has ended, but whose result cannot be had
RESULT_LOST: Final = "concurrent_nb.errors.ResultNotLoadable"

#: who gets a job's next tasks; what each is good for is in the docstrings of scheduling/strategies/
StrategyName = Literal["pull_round_robin", "push_best", "stealing", "locality"]
STRATEGIES: Final[tuple[StrategyName, ...]] = get_args(StrategyName)

#: most buffers that one body may have, so that a header has room for their sizes
BUFFERS_MAX: Final = 16_384

#: a number that counts something, or where something is
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
#: 16 random bytes each
JobId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
SegmentId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
#: SHA-256
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
#: most cores that a task may ask for: more than any slave has
CORES_MAX: Final = 4096
#: hosts that a slave runs at once at most; they come on top of its slots and its credit
HOSTS_MAX: Final = 8

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Cores = Annotated[int, msgspec.Meta(ge=0, le=CORES_MAX)]


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all messages."""


class Slice(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A buffer that lies in shared memory on this host. It never changes while anybody refers to it."""

    segment: SegmentId
    offset: Count
    size: Annotated[int, msgspec.Meta(ge=1, le=2**62)]  #: length in bytes
    serial: Count  #: of the segment's owner: two contents never have the same


#: of each buffer of a body, in order: its length in bytes if it follows as frames of its own, or where it lies
Sizes = Annotated[tuple[Count | Slice, ...], msgspec.Meta(max_length=BUFFERS_MAX)]


class TaskKind(IntEnum):
    """What a task does, and so what its body is the pickle of. `arguments` are those of a call, as a tuple."""

    CALL = 0  #: arguments
    KEYWORD_CALL = 1  #: (arguments, keywords)
    ITEM = 2  #: one item of a job: (arguments, number of the item)
    CHUNK = 3  #: several items: (calls, numbers), see `shipping.runtime.call_chunks`
    BATCH = 4  #: several items that are tasks of a job: (calls, (numbers, ...)), see `shipping.runtime.job_batches`


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
    elapsed_s: float  #: time that the worker spent on it, unpickling and pickling included; 0 if it never ran
    worker: int  #: pid of the worker, 0 if it never ran
    body: bytes  #: pickled value or encoded ErrorReport; empty if it is the first buffer
    sizes: Sizes = ()
    keeps: bool = False  #: the worker still refers to shared memory of the arguments, and may do so for long


class TaskRef(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One attempt of one task, named."""

    job: JobId
    index: int
    attempt: int


class Needs(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a run's tasks need of a slave. None in its place is what nearly all need: one slot, in a worker process.

    Tasks in threads gain where they release the GIL. They share memory, current folder, `sys.stdout` if they replace
    it, and C libraries that may not be made for that. Only what they print by Python, in their own thread, is shown
    with them. When one has to be killed, its neighbours run once more.
    """

    cores: Cores = 1  #: slots that each takes, and threads that it gets; 0: all of one slave
    #: "host": a process beside the slots, for what lives long and mostly waits; it takes no slot, and cores is 1.
    #: "thread": a slot, in a process that all such tasks of a slave share; for what releases the GIL; cores is 1
    kind: Literal["process", "thread", "host"] = "process"


class ErrorReport(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is known of an error: text for people, and the pickled exception where it could be pickled."""

    type_name: str  #: qualified name of the exception's class, or "" for what is no exception
    message: str
    traceback: str  #: formatted as Python does, "" if there is none
    exception: bytes = b""  #: pickled exception, b"" where it cannot be pickled


class KernelAccess(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a Jupyter client reaches a slave's kernel over TCP, and the keys that let it in."""

    ip: str
    shell_port: Port
    iopub_port: Port
    stdin_port: Port
    control_port: Port
    hb_port: Port
    key: str  #: signs every message (HMAC-SHA256)
    curve_publickey: str  #: Z85; both are empty for a kernel that listens on loopback without encryption
    curve_secretkey: str

    def __repr__(self) -> str:  # what is printed or logged must not let anybody in
        return f"KernelAccess(ip={self.ip!r}, shell_port={self.shell_port}, key=<hidden>)"


# ---------------------------------------------------------------------------------------------- both ways


class Function(Message, tag=1, frozen=True):
    """A pickled function, sent before the first task that needs it to a peer that lacks it."""

    digest: Digest  #: SHA-256 of the pickle, see `codec.function_digest`
    body: bytes
    sizes: Sizes = ()


class Outcomes(Message, tag=2, frozen=True):
    """Ends of attempts, of one job. From the slave to the master, and on to the job's owner."""

    job: JobId
    slave: str  #: name of the slave where they ran
    items: list[OutcomeFrame]


class Started(Message, tag=3, frozen=True):
    """These tasks have been running for a while (short tasks are never reported as started)."""

    slave: str
    tasks: list[TaskRef]


class Output(Message, tag=4, frozen=True):
    """What a task wrote to its standard output (stream 1) or error (2), or said in notes (3), each in order."""

    task: TaskRef
    stream: int
    data: bytes


class Bye(Message, tag=5, frozen=True):
    """The session is over, and why; sent outside the numbered stream (seq 0)."""

    reason: str


class ShareMemory(Message, tag=6, frozen=True):
    """I have opened what you showed me at registration: buffers for me may lie in shared memory."""


class Segment(Message, tag=7, frozen=True):
    """A piece of shared memory, before the first slice of it. The peer opens it at once, and need not ask again."""

    segment: SegmentId
    pid: Count  #: the process on this host ...
    fd: Count  #: ... that has it open under this number
    size: Count  #: in bytes


class Content(Message, tag=40, frozen=True):
    """What lies in a slice, once, for a peer that cannot open it. It takes the place of what lay there before."""

    segment: SegmentId
    offset: Count
    serial: Count
    body: bytes  #: empty if it is the first buffer
    sizes: Sizes


class Part(Message, tag=42, frozen=True):
    """The next frames of the last message that was no Part: it is too large for one envelope."""

    sizes: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=BUFFERS_MAX)]  #: of each frame, in order


class DropSegments(Message, tag=8, frozen=True):
    """Nothing refers to these any more. They may be introduced, or told, again."""

    segments: list[SegmentId]


class Release(Message, tag=9, frozen=True):
    """Results have been taken from these slices, which go back to the worker that made them."""

    slices: list[Slice]
    clean: bool  #: nobody refers to them any more; else they are not to be used again


# --------------------------------------------------------------------------------------- application to master


class OpenJob(Message, tag=10, frozen=True):
    """Announce a job before its first task."""

    job: JobId
    name: str
    until: bool  #: a HIT ends the job
    stop_on_error: bool  #: the first failed task ends the job
    strategy: StrategyName | None = None  #: who gets its tasks; None for the cluster's strategy


class Submit(Message, tag=11, frozen=True):
    """A run of tasks of one job that share function and limits."""

    job: JobId
    function: Digest
    timeout_s: float | None  #: run time allowed per attempt, None for no limit
    retries: int  #: how often it may run again after an error or a timeout
    tasks: list[TaskFrame]
    needs: Needs | None = None


class Cancel(Message, tag=12, frozen=True):
    """Cancel tasks of a job, running ones too."""

    job: JobId
    indexes: list[int] | None  #: None for all


class CloseJob(Message, tag=13, frozen=True):
    """No more tasks will come; the master forgets the job when its last outcome is acknowledged."""

    job: JobId


# --------------------------------------------------------------------------------------------- master to slave


class Assign(Message, tag=20, frozen=True):
    """A run of attempts for a slave."""

    job: JobId
    function: Digest
    timeout_s: float | None
    tasks: list[TaskFrame]
    needs: Needs | None = None


class Withdraw(Message, tag=21, frozen=True):
    """Give these back if they have not started. With `stop`, stop them if they have (they end as CANCELLED)."""

    tasks: list[TaskRef]
    stop: bool


class DropFunctions(Message, tag=22, frozen=True):
    """Nobody needs these functions any more."""

    digests: list[Digest]


class OpenKernel(Message, tag=23, frozen=True):
    """Be a Jupyter kernel, if you are none yet, and say how to attach. Answered by one KernelOpened."""

    request: int  #: number that the master gave this question


class RestartWorkers(Message, tag=24, frozen=True):
    """Have fresh processes in the place of all workers. Answered by WorkersOutdated."""

    request: int  #: number that the master gave this order
    stop: bool  #: what runs is stopped and given back, else it ends first


# --------------------------------------------------------------------------------------------- slave to master


class Returned(Message, tag=30, frozen=True):
    """These had not started here and never will; or others have ended the process in which they ran, in threads."""

    tasks: list[TaskRef]


class Capacity(Message, tag=31, frozen=True):
    """How much the slave can take from now on."""

    slots: int  #: tasks that can run at once
    credit: int  #: unfinished tasks that it accepts at most


class KernelOpened(Message, tag=32, frozen=True):
    """Answer to OpenKernel."""

    request: int
    access: KernelAccess | None  #: None if there is no kernel
    error: str  #: why there is none, and what to do


class HostLoad(Message, tag=33, frozen=True):
    """How busy the slave's host is, all its processes counted. Said every few seconds, for `status` alone."""

    load: float | None  #: processes that ran or wanted to, on average over the last minute; None where it is not known
    memory_used_bytes: int
    memory_total_bytes: int


class WorkersOutdated(Message, tag=34, frozen=True):
    """How far the last RestartWorkers is."""

    request: int
    left: int  #: workers that are still to be replaced, or whose successors are not ready


FromClient = (
    Function
    | OpenJob
    | Submit
    | Cancel
    | CloseJob
    | ShareMemory
    | Segment
    | Content
    | Part
    | DropSegments
    | Release
    | Bye
)
FromSlave = (
    Outcomes
    | Started
    | Output
    | Returned
    | Capacity
    | KernelOpened
    | WorkersOutdated
    | HostLoad
    | ShareMemory
    | Segment
    | Part
    | DropSegments
    | Bye
)
ToClient = Outcomes | Started | Output | Segment | Part | DropSegments | Bye
ToSlave = (
    Function
    | Assign
    | Withdraw
    | DropFunctions
    | OpenKernel
    | RestartWorkers
    | Segment
    | Content
    | Part
    | DropSegments
    | Release
    | Bye
)
AnyMessage = (
    Function
    | Outcomes
    | Started
    | Output
    | Bye
    | OpenJob
    | Submit
    | Cancel
    | CloseJob
    | Assign
    | Withdraw
    | DropFunctions
    | OpenKernel
    | RestartWorkers
    | Returned
    | Capacity
    | KernelOpened
    | WorkersOutdated
    | HostLoad
    | ShareMemory
    | Segment
    | Content
    | Part
    | DropSegments
    | Release
)
