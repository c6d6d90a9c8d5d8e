"""What simulated tasks do when they run, and the record of each: how often it ran, how it may have ended.

    Application --body--> ClientCore ... slave --> VirtualPool: TaskCatalog.begin(function, body) --> TaskRun

A task's body names it, and so does its value, so an answer to the wrong task is detected. Uses no code of nodes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Any, Final

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_tasks import FunctionPayload
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import encode_error

#: without faults, no task starts later than so many seconds after its owner has cancelled it
STOPPED_WITHIN_S: Final = 0.3


class Violation(AssertionError):
    """The cluster has broken one of its guarantees."""


class Kind(Enum):
    """What a task does each time it runs."""

    PLAIN = "plain"  #: returns its value
    HIT = "hit"  #: returns its value as a Hit
    ERROR = "error"  #: raises
    FLAKY = "flaky"  #: raises the first times, then returns its value
    DIES = "dies"  #: kills its worker the first times, then returns its value
    POISON = "poison"  #: kills its worker
    KILLS = "kills"  #: kills its slave the first times, then returns its value
    ENDLESS = "endless"  #: never ends by itself
    UNPICKLABLE = "unpicklable"  #: returns what cannot be pickled


@dataclass(frozen=True, slots=True)
class Plan:
    """The behaviour of one task."""

    kind: Kind = Kind.PLAIN
    run_s: float = 0.0
    times: int = 0  #: how often FLAKY raises, DIES dies and KILLS kills before they return
    stubborn: bool = False  #: an interrupt does not stop it
    stuck_s: float = 0.0  #: ... nor does a kill, for so long after its start: it waits for a disk, say
    writes: int = 0  #: pieces of output


@dataclass(eq=False, slots=True)
class WantedJob:
    """A job that an application has submitted, and its record."""

    id: JobId
    owner: str
    until: bool = False
    stop_on_error: bool = False
    tasks: "list[WantedTask]" = field(default_factory=list)
    cancelled_s: float = inf  #: when its owner has cancelled it
    hits: int = 0  #: attempts that returned a Hit
    failures: int = 0  #: attempts that failed


@dataclass(eq=False, slots=True)
class WantedTask:
    """A task that an application has submitted, and its record."""

    job: WantedJob
    index: int
    plan: Plan
    function: FunctionPayload
    body: bytes
    timeout_s: float | None = None
    retries: int = 0
    needs: m.Needs | None = None
    inputs: "tuple[WantedTask, ...]" = ()  #: tasks whose results it needs
    keep: bool = False  #: its result is to be kept in the cluster
    is_kept: bool = False  #: its result is kept in the cluster
    has_come: bool = False  #: its kept result has come to its owner
    lost: bool = False  #: its kept result is not there any more
    cancelled_s: float = inf  #: when its owner has cancelled it
    status: Status | None = None  #: its end, as its owner received it
    dropped: bool = False  #: its owner has given it up, or cancelled it before it was sent
    runs: int = 0  #: attempts that began
    raised: int = 0  #: attempts that raised
    died: int = 0  #: attempts that killed their worker
    killed: int = 0  #: attempts that killed their slave
    wrote: tuple[int, int] = (0, 0)  #: run and piece of the last output that its owner received
    seen_running: bool = False  #: its owner was informed that it runs

    @property
    def name(self) -> str:
        """Return the task's name for messages."""
        return f"{self.job.owner}:{self.job.id.hex()[:4]}/{self.index}"

    @property
    def job_id(self) -> JobId:
        """Return the id of its job, as a handle does."""
        return self.job.id

    def done(self) -> bool:
        """Return whether it has ended, as a future does."""
        return self.over

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Raise: applications look at their tasks in each turn."""
        raise NotImplementedError

    @property
    def value(self) -> bytes:
        """Return what it returns if it succeeds."""
        payload = self.function.payload
        return value_of(payload.body or bytes(payload.buffers[0]), self.body)

    @property
    def cancelled(self) -> bool:
        """Return whether its owner has cancelled it or its job."""
        return min(self.cancelled_s, self.job.cancelled_s) < inf

    @property
    def over(self) -> bool:
        """Return whether its owner does not wait for it any more."""
        return self.dropped or self.status is not None


@dataclass(eq=False, slots=True)
class TaskRun:
    """One run of a task."""

    wanted: WantedTask
    run: int  #: number of the run
    run_s: float | None  #: None: it never ends by itself
    status: Status  #: how it ends; DIED: it kills its worker
    value: bytes  #: the answer of its worker then
    kills_slave: bool = False  #: it kills its slave, too

    def done(self) -> None:
        """Record that it has ended as planned."""
        wanted, status = self.wanted, self.status
        wanted.raised += status is Status.ERROR
        wanted.died += status is Status.DIED and not self.kills_slave
        wanted.killed += self.kills_slave
        wanted.job.hits += status is Status.HIT
        wanted.job.failures += status not in (Status.OK, Status.HIT)


_NOT_PICKLABLE: Final = encode_error(m.ErrorReport("", "cannot be pickled", ""))


class TaskCatalog:
    """All tasks, by what workers receive of them: the pickled function and the pickled arguments."""

    def __init__(self) -> None:
        self.jobs: list[WantedJob] = []
        self.punctual = False  #: no fault delays a cancellation
        self._wanted: dict[bytes, WantedTask] = {}

    def add(self, wanted: WantedTask) -> None:
        """Add a task that is about to be submitted."""
        self._wanted[wanted.body] = wanted
        wanted.job.tasks.append(wanted)

    def all(self) -> "list[WantedTask]":
        """Return all tasks."""
        return list(self._wanted.values())

    def begin(self, function: bytes, body: bytes, now: float, results: Mapping[tuple[bytes, int], bytes]) -> TaskRun:
        """Start a run of a task, with the results that have come with it.

        Raises KeyError if there is no such task, Violation if it was cancelled long ago, or has not the right results.
        """
        wanted = self._wanted[body]
        expected = {(needed.job.id, needed.index): needed.value for needed in wanted.inputs}
        if results != expected:
            raise Violation(f"{wanted.name} needs {expected}, and has come with {results}")
        cancelled_s = min(wanted.cancelled_s, wanted.job.cancelled_s)
        if self.punctual and now > cancelled_s + STOPPED_WITHIN_S:
            raise Violation(f"{wanted.name} starts at {now:.3f} s, it was cancelled at {cancelled_s:.3f} s")
        wanted.runs += 1
        plan, status, kills_slave = wanted.plan, Status.OK, False
        if plan.kind is Kind.HIT:
            status = Status.HIT
        elif plan.kind is Kind.ERROR or (plan.kind is Kind.FLAKY and wanted.raised < plan.times):
            status = Status.ERROR
        elif (
            plan.kind is Kind.POISON
            or (plan.kind is Kind.DIES and wanted.died < plan.times)
            or (kills_slave := plan.kind is Kind.KILLS and wanted.killed < plan.times)
        ):
            status = Status.DIED
        elif plan.kind is Kind.UNPICKLABLE:
            status = Status.NOT_PICKLABLE
        run_s = None if plan.kind is Kind.ENDLESS else plan.run_s
        return TaskRun(wanted, wanted.runs, run_s, status, answer_of(status, function, wanted), kills_slave)


def answer_of(status: Status, function: bytes, wanted: WantedTask) -> bytes:
    """Return the answer of a worker for a run that ends with this status."""
    if status in (Status.OK, Status.HIT):
        return value_of(function, wanted.body)
    return _NOT_PICKLABLE if status is Status.NOT_PICKLABLE else error_of(wanted)


def value_of(function: bytes, body: bytes) -> bytes:
    """Return the value of a function for a body."""
    return function[:8] + b" of " + body


def error_of(wanted: WantedTask) -> bytes:
    """Return the error report of a task that raises."""
    return encode_error(m.ErrorReport("ValueError", wanted.name, "Traceback ..."))
