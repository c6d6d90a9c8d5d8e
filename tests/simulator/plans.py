"""What the simulator's tasks do when they run, and what is known of each: how often it ran, how it may have ended.

    Application --body--> ledger ... slave --> crew: Deeds.begin(function, body) --> Deed: how long, how it ends

A task's body names it, and so does its value, so an answer that goes to the wrong task is seen. Knows nothing of nodes.
"""

from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.core import FunctionPayload
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import encode_error

#: where nothing goes wrong no task begins later than so many seconds after its owner has cancelled it
STOPPED_WITHIN_S: Final = 0.3


class Violation(AssertionError):
    """The cluster did what it may never do."""


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
    UNPICKLABLE = "unpicklable"  #: returns what cannot be sent


@dataclass(frozen=True, slots=True)
class Plan:
    """One task, as its author wrote it."""

    kind: Kind = Kind.PLAIN
    run_s: float = 0.0
    times: int = 0  #: how often FLAKY raises, DIES dies and KILLS kills before they return
    stubborn: bool = False  #: an interrupt does not stop it
    stuck_s: float = 0.0  #: ... and a kill does not, so long after it began: it waits for a disk, say
    writes: int = 0  #: pieces of output


@dataclass(eq=False, slots=True)
class WantedJob:
    """A job, as its owner sees it."""

    id: JobId
    owner: str
    until: bool = False
    stop_on_error: bool = False
    tasks: "list[WantedTask]" = field(default_factory=list)
    cancelled_s: float = inf  #: when its owner has asked for its end
    hits: int = 0  #: attempts that returned a Hit
    failures: int = 0  #: attempts that failed


@dataclass(eq=False, slots=True)
class WantedTask:
    """A task that an application has submitted, and what has become of it."""

    job: WantedJob
    index: int
    plan: Plan
    function: FunctionPayload
    body: bytes
    timeout_s: float | None = None
    retries: int = 0
    needs: m.Needs | None = None
    cancelled_s: float = inf  #: when its owner has asked for its end
    status: Status | None = None  #: how it ended, as its owner was told
    dropped: bool = False  #: its owner has given it up, or was told that it need not wait for it
    runs: int = 0  #: attempts that began
    raised: int = 0  #: attempts that raised
    died: int = 0  #: attempts that killed their worker
    killed: int = 0  #: attempts that killed their slave
    wrote: tuple[int, int] = (0, 0)  #: run and piece of the last output that its owner saw
    seen_running: bool = False  #: its owner was told that it runs

    @property
    def name(self) -> str:
        """Return the task's name for people."""
        return f"{self.job.owner}:{self.job.id.hex()[:4]}/{self.index}"

    @property
    def cancelled(self) -> bool:
        """Say whether its owner has asked for its end, or for that of its job."""
        return min(self.cancelled_s, self.job.cancelled_s) < inf

    @property
    def over(self) -> bool:
        """Say whether its owner waits no longer."""
        return self.dropped or self.status is not None


@dataclass(eq=False, slots=True)
class Deed:
    """One run of a task, under way."""

    wanted: WantedTask
    run: int  #: number of the run
    run_s: float | None  #: None: it never ends by itself
    status: Status  #: how it ends; DIED: it kills its worker
    value: bytes  #: what a worker answers then
    kills_slave: bool = False  #: and its slave

    def done(self) -> None:
        """Note that it has ended as it had to."""
        wanted, status = self.wanted, self.status
        wanted.raised += status is Status.ERROR
        wanted.died += status is Status.DIED and not self.kills_slave
        wanted.killed += self.kills_slave
        wanted.job.hits += status is Status.HIT
        wanted.job.failures += status not in (Status.OK, Status.HIT)


_NOT_PICKLABLE: Final = encode_error(m.ErrorReport("", "cannot be pickled", ""))


class Deeds:
    """All tasks, by what workers know of them: the pickled function and the pickled arguments."""

    def __init__(self) -> None:
        self.jobs: list[WantedJob] = []
        self.punctual = False  #: nothing keeps a cancellation from arriving at once
        self._wanted: dict[bytes, WantedTask] = {}

    def add(self, wanted: WantedTask) -> None:
        """Take a task in that is about to be submitted."""
        self._wanted[wanted.body] = wanted
        wanted.job.tasks.append(wanted)

    def all(self) -> "list[WantedTask]":
        """Return all tasks."""
        return list(self._wanted.values())

    def begin(self, function: bytes, body: bytes, now: float) -> Deed:
        """Run a task once more. KeyError if there never was such a task."""
        wanted = self._wanted[body]
        cancelled_s = min(wanted.cancelled_s, wanted.job.cancelled_s)
        if self.punctual and now > cancelled_s + STOPPED_WITHIN_S:
            raise Violation(f"{wanted.name} begins at {now:.3f} s, it was cancelled at {cancelled_s:.3f} s")
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
        return Deed(wanted, wanted.runs, run_s, status, answer_of(status, function, wanted), kills_slave)


def answer_of(status: Status, function: bytes, wanted: WantedTask) -> bytes:
    """Give what a worker answers for a run that ends so."""
    if status in (Status.OK, Status.HIT):
        return value_of(function, wanted.body)
    return _NOT_PICKLABLE if status is Status.NOT_PICKLABLE else error_of(wanted)


def value_of(function: bytes, body: bytes) -> bytes:
    """Give the value of a function for a body."""
    return function[:8] + b" of " + body


def error_of(wanted: WantedTask) -> bytes:
    """Give the report of a task that raises."""
    return encode_error(m.ErrorReport("ValueError", wanted.name, "Traceback ..."))
