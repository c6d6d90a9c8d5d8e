"""What the books write down, tell and say: attempts, commands, reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from msgspec import Struct

from concurrent_nb.ids import task_name
from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import Needs, OutcomeFrame, Sizes, TaskRef
from concurrent_nb.workers.protocol.records import AddSegment, Result

Buffer = bytes | bytearray | memoryview


class Disposition(IntEnum):
    """What is to become of an attempt that was assigned. A stronger wish replaces a weaker one."""

    KEEP = 0  #: run it
    RETURN = 1  #: give it back to the master if it has not started
    CANCEL = 2  #: stop it wherever it is
    TIME_OUT = 3  #: it ran too long and is being stopped
    REFUSE = 4  #: it is blocked, as too many others are, and is being stopped


class Attempt(Struct, eq=False):
    """One attempt of one task, as long as it has no outcome."""

    ticket: int  #: names the attempt between slave and worker; never 0, never used twice
    job: bytes
    index: int
    number: int  #: the attempt's number, minted by the master
    function: bytes  #: digest
    timeout_s: float | None
    body: bytes
    sizes: Sizes
    buffers: Sequence[Buffer]
    kind: int = 0  #: `wire.messages.TaskKind`
    worker: int = 0  #: the worker that has it, 0 while it waits
    wish: Disposition = Disposition.KEEP
    over: bool = False  #: it left the books while it stood in the queue, where it is skipped
    reported: bool = False  #: reported as started
    needs: Needs | None = None  #: None: a slot, in a process
    suspect: bool = False  #: it may have ended a process of threads, so it runs in one alone
    in_vain: int = 0  #: workers that had it as their next one, and did nothing

    @property
    def ref(self) -> TaskRef:
        """Name the attempt for the master."""
        return TaskRef(self.job, self.index, self.number)

    def outcome(self, result: Result, worker: int) -> OutcomeFrame:
        """Say how the attempt ended, as its worker has told."""
        return OutcomeFrame(
            self.index,
            self.number,
            result.status,
            result.elapsed_s,
            worker,
            result.body,
            result.sizes,
            result.keeps,
        )

    def end(self, status: Status, elapsed_s: float = 0.0, worker: int = 0, body: bytes = b"") -> OutcomeFrame:
        """Say how the attempt ended, as its slave knows."""
        return OutcomeFrame(self.index, self.number, status, elapsed_s, worker, body)

    def overran(self, elapsed_s: float) -> bool:
        """Say whether it ran too long and was told to stop: what it returned after that is not to be trusted."""
        return self.wish is Disposition.TIME_OUT and self.timeout_s is not None and elapsed_s > self.timeout_s

    @property
    def name(self) -> str:
        """Name the task for people."""
        return task_name(self.job, self.index)


# ------------------------------------------------------------------------------------------- commands to the pool


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker of this number."""

    worker: int
    process: int = 0  #: it is a thread of the process of this number, which is started for the first of them


class GiveTasks(Struct, frozen=True):
    """Send a pack of tasks of one function."""

    worker: int
    function: bytes
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True)
class Recall:
    """Take back what the worker has not started, and tell `Books.gave_back` how many that were."""

    worker: int


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Ask the worker to stop this task: the page, then SIGINT."""

    worker: int
    ticket: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the worker's process group; a thread's, with all that run in there."""

    worker: int


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Have the worker end by itself, soon; it has nothing to do, and gets nothing more."""

    worker: int


Command = Start | GiveTasks | Recall | Interrupt | Kill | Dismiss

# --------------------------------------------------------------------------------------------- reports to the slave

#: of one job: outcomes, and for each its buffers (empty if no outcome has any)
JobOutcomes = tuple[bytes, list[OutcomeFrame], list[Sequence[Buffer]]]


class PoolReports(Struct):
    """What has happened since the last reports were taken."""

    outcomes: list[JobOutcomes] = []
    started: list[TaskRef] = []  #: these have been running for a while
    returned: list[TaskRef] = []  #: these never started, and never will here
    output: list[tuple[TaskRef, int, bytes]] = []  #: of streams 1 and 2, in order
    degraded: str = ""  #: why no worker is started any more; every task is returned from then on
    segments: list[AddSegment] = []  #: shared memory that workers have made for results, some of them in these outcomes
    forgotten: list[bytes] = []  #: segments that their workers have given up
    orphaned: list[bytes] = []  #: segments whose workers have died
    _places: dict[bytes, int] = {}  # job to its place in outcomes

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.started or self.returned or self.output or self.degraded)

    def ended(self, job: bytes, frame: OutcomeFrame, buffers: Sequence[Buffer] = ()) -> None:
        """Add the end of an attempt."""
        place = self._places.get(job)
        if place is None:
            self._places[job] = len(self.outcomes)
            self.outcomes.append((job, [frame], [buffers] if buffers else []))
            return
        _, frames, all_buffers = self.outcomes[place]
        if buffers or all_buffers:
            all_buffers.extend([()] * (len(frames) - len(all_buffers)))
            all_buffers.append(buffers)
        frames.append(frame)
