"""The records of the pool scheduler: attempts, commands to the pool, reports to the slave."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from msgspec import Struct

from concurrent_nb.ids import task_name
from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import Needs, OutcomeFrame, Sizes, StackSampled, StartedTask, TaskRef
from concurrent_nb.workers.protocol.records import AddSegment, Result

Buffer = bytes | bytearray | memoryview


class Disposition(IntEnum):
    """What is to happen to an attempt. A higher one replaces a lower one."""

    KEEP = 0  #: run it
    RETURN = 1  #: return it to the master if it has not started
    CANCEL = 2  #: end it, also if it has started
    TIME_OUT = 3  #: it ran too long and is being stopped
    REFUSE = 4  #: it is blocked while too many others are, and is being stopped


class Attempt(Struct, eq=False, gc=False):
    """One attempt of one task, until it has an outcome."""

    ticket: int  #: its name between slave and worker; never 0, never used twice
    job: bytes
    index: int
    number: int  #: the attempt's number, from the master
    function: bytes  #: digest
    timeout_s: float | None
    body: bytes
    sizes: Sizes
    buffers: Sequence[Buffer]
    kind: int = 0  #: `wire.messages.TaskKind`
    worker: int = 0  #: the worker that has it, 0 while it waits
    disposition: Disposition = Disposition.KEEP
    is_removed: bool = False  #: it was reported while it waited, and is skipped in its queue
    reported: bool = False  #: reported as started
    needs: Needs | None = None  #: None: a slot, in a process
    suspect: bool = False  #: its task may have ended a process of threads, so it is the only one in its process
    behind: int = 0  #: ticket of the attempt whose result it needs, which is before it in its worker; 0: none
    futile_workers: int = 0  #: how many workers had it as their next one, and did nothing

    @property
    def ref(self) -> TaskRef:
        """Return its name on the wire."""
        return TaskRef(self.job, self.index, self.number)

    def outcome(self, result: Result, worker: int, now: float) -> OutcomeFrame:
        """Return the outcome that its worker has reported, `now` by the worker's clock."""
        ago_s = now - result.ended_s if result.ended_s else 0.0
        return OutcomeFrame(
            self.index,
            self.number,
            result.status,
            result.elapsed_s,
            worker,
            result.body,
            result.sizes,
            result.keeps,
            int(ago_s * 1e6) if ago_s > 0 else 0,
            result.cpu_us,
            result.peak_kib,
        )

    def end(self, status: Status, elapsed_s: float = 0.0, worker: int = 0, body: bytes = b"") -> OutcomeFrame:
        """Return an outcome that its worker has not reported."""
        return OutcomeFrame(self.index, self.number, status, elapsed_s, worker, body)

    def overran(self, elapsed_s: float) -> bool:
        """Return whether it was stopped by its timeout: a value that it returned after that does not count."""
        return self.disposition is Disposition.TIME_OUT and self.timeout_s is not None and elapsed_s > self.timeout_s

    @property
    def name(self) -> str:
        """Return the name of the task for messages."""
        return task_name(self.job, self.index)


# ------------------------------------------------------------------------------------------- commands to the pool


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker of this number."""

    worker: int
    process: int = 0  #: as a thread of the process of this number, which is started for the first of its threads


class GiveTasks(Struct, frozen=True):
    """Send a pack of tasks of one function."""

    worker: int
    function: bytes
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True)
class Recall:
    """Recall what the worker has not started, and call `PoolScheduler.recall_finished` with the number of tasks."""

    worker: int


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Ask the worker to stop this task: the page, then SIGINT."""

    worker: int
    ticket: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the worker's process group; that of a thread contains all threads of its process."""

    worker: int


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Let the worker end by itself, soon; it has no task and gets none."""

    worker: int


Command = Start | GiveTasks | Recall | Interrupt | Kill | Dismiss

# --------------------------------------------------------------------------------------------- reports to the slave

#: job, its outcomes, and the buffers of each (empty if no outcome has any)
JobOutcomes = tuple[bytes, list[OutcomeFrame], list[Sequence[Buffer]]]


class PoolReports(Struct):
    """What has happened since the last reports."""

    outcomes: list[JobOutcomes] = []
    started: list[StartedTask] = []  #: these have been running for a while
    returned: list[TaskRef] = []  #: these never started, and never will here
    output: list[tuple[TaskRef, int, bytes]] = []  #: of streams 1 and 2, in order
    stacks: list[StackSampled] = []  #: answers to questions for stacks
    degraded: str = ""  #: why no worker is started any more; from then on every task is returned
    segments: list[AddSegment] = []  #: shared memory that workers have made for results, also for those in `outcomes`
    forgotten: list[bytes] = []  #: segments that their workers have closed
    orphaned: list[bytes] = []  #: segments whose workers have died
    _by_job: dict[bytes, JobOutcomes] = {}  # the members of outcomes

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.started or self.returned or self.output or self.stacks or self.degraded)

    def add(self, others: "PoolReports") -> None:
        """Add later reports."""
        for job, frames, buffers in others.outcomes:
            for at, frame in enumerate(frames):
                self.ended(job, frame, buffers[at] if buffers else ())
        self.started += others.started
        self.returned += others.returned
        self.output += others.output
        self.stacks += others.stacks
        self.degraded = self.degraded or others.degraded
        self.segments += others.segments
        self.forgotten += others.forgotten
        self.orphaned += others.orphaned

    def ended(self, job: bytes, frame: OutcomeFrame, buffers: Sequence[Buffer] = ()) -> None:
        """Add an outcome."""
        known = self._by_job.get(job)
        if known is None:
            known = self._by_job[job] = (job, [], [])
            self.outcomes.append(known)
        _, frames, all_buffers = known
        if buffers or all_buffers:
            all_buffers.extend([()] * (len(frames) - len(all_buffers)))
            all_buffers.append(buffers)
        frames.append(frame)
