"""The workers as the books see them: who has what, who could take more, who has too much. Pure."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from concurrent_nb.workers.slave_side.attempt_queue import PACK_MAX
from concurrent_nb.workers.slave_side.attempts import Attempt

#: nothing is given ahead to a worker whose task is expected to take this long
NO_AHEAD_S: Final = 0.02
#: what a worker has ahead is worth moving to an idle one from this much work on
WORTH_MOVING_S: Final = 0.001
#: weight of the newest run time in the estimate
NEWEST: Final = 0.3


@dataclass(slots=True, eq=False)
class WorkerState:
    """One worker, as the books see it."""

    number: int
    since: float  #: when it was asked for, gave its last sign of life, or got work after a rest
    pid: int = 0  #: 0 until it is ready
    held: dict[int, Attempt] = field(default_factory=dict)  #: by ticket, in the order given
    packs: deque[int] = field(default_factory=deque)  #: the last ticket of each pack that is not finished
    recalled: bool = False  #: all that it had not started was taken back, so there is nothing to take
    stopping: int = 0  #: ticket of the task that is being stopped
    kill_at: float = 0.0  #: when to kill it, if that task still runs then
    killed: bool = False  #: or dismissed: it is about to end, and gets nothing more
    host: bool = False  #: it stands beside the slots, for one long task, and ends with it
    process: int = 0  #: number of the process that it is a thread of; 0: it has one of its own
    spent: bool = False  #: it has had that task
    blocked: bool = False  #: what it runs waits for tasks of its own, so another worker may use its slot
    left: float = math.inf  #: tasks that it may still be given before another takes its place
    outdated: bool = False  #: another takes its place as soon as what it runs has ended
    extra: int = 0  #: slots that its task takes besides its own; a thread has none of its own
    futile: int = 0  #: how often in a row everything was taken back from it
    is_broken: bool = False  #: it does not do what a worker does, and is killed for it
    how: str = ""  #: how it ends then, for people
    blamed: int = 0  #: ticket of the task that has broken it; 0 if that is not known
    begun_at: float = field(init=False)  #: when it was asked for
    shown: int = 0  #: ticket that its page has shown last ...
    shown_at: float = 0.0  #: ... from then on

    def __post_init__(self) -> None:
        self.begun_at = self.since

    @property
    def free(self) -> bool:
        """Say whether it is ready and has nothing."""
        return bool(self.pid) and not self.held and not self.killed

    @property
    def leaves(self) -> bool:
        """Say whether it gets nothing more, because another is to take its place."""
        return self.outdated or self.left <= 0

    @property
    def first(self) -> Attempt | None:
        """Return the attempt that it runs first, of those that it still has; None if it has none."""
        return next(iter(self.held.values()), None)

    def ran_s(self, ticket: int, started_at: float, now: float) -> float:
        """Say how long what its page shows has run, in seconds. The page may show nonsense, which nobody gains by."""
        if ticket != self.shown:
            self.shown, self.shown_at = ticket, now
        return now - (started_at if self.begun_at <= started_at <= self.shown_at else self.shown_at)

    @property
    def last(self) -> Attempt:
        """Return the last attempt that was given to it, of those that it still has."""
        return next(reversed(self.held.values()))

    def take(self, pack: Sequence[Attempt], now: float) -> None:
        """Note that it has got a pack."""
        if not self.held:
            self.since = now
        for attempt in pack:
            attempt.worker = self.number
            self.held[attempt.ticket] = attempt
        self.packs.append(pack[-1].ticket)
        self.left -= len(pack)
        self.recalled = False

    def settle(self) -> None:
        """Forget packs and a stop that are done with."""
        while self.packs and self.packs[0] not in self.held:
            self.packs.popleft()
        if self.stopping not in self.held:
            self.stopping = 0


class RunTimeEstimates:
    """Expected run times of functions: an average in which old values fade, in seconds."""

    def __init__(self) -> None:
        self._seconds: dict[bytes, float] = {}

    def learn(self, function: bytes, elapsed_s: float) -> None:
        """Take in how long one task took, or a run of them on average."""
        known = self._seconds.get(function)
        self._seconds[function] = elapsed_s if known is None else known + NEWEST * (elapsed_s - known)

    def of(self, function: bytes) -> float | None:
        """Say how long a task of this function takes, None if none has run yet."""
        return self._seconds.get(function)

    def forget(self, function: bytes) -> None:
        """Drop a function that nobody needs any more."""
        self._seconds.pop(function, None)


class WorkerTable:
    """All workers. Iterates over them."""

    def __init__(self, ahead_s: float) -> None:
        self.members: dict[int, WorkerState] = {}
        self.idle: dict[int, WorkerState] = {}  #: the last one in is the first to get work: its caches are warm
        self.hosts: dict[int, WorkerState] = {}  #: those that stand beside the slots; they are never among the idle
        self.threads: dict[int, WorkerState] = {}  #: those that are threads; nor are they
        self.extra = 0  #: so many of the idle have to stay so, because tasks of others take their slots
        self.blocked = 0  #: so many workers are blocked
        self.reserve = 0  #: so many workers there are beside the slots, to use those of the blocked ones
        self.estimates = RunTimeEstimates()
        self._ahead_s = ahead_s

    def __iter__(self) -> Iterator[WorkerState]:
        return iter(self.members.values())

    def get(self, worker: int) -> WorkerState | None:
        """Return the worker of this number, None if it is gone."""
        return self.members.get(worker)

    def add(self, member: WorkerState) -> None:
        """Take in a worker that has been asked for."""
        self.members[member.number] = member
        if member.host:
            self.hosts[member.number] = member
        if member.process:
            self.threads[member.number] = member

    def remove(self, worker: int) -> WorkerState | None:
        """Strike a worker off."""
        self.idle.pop(worker, None)
        self.hosts.pop(worker, None)
        self.threads.pop(worker, None)
        member = self.members.pop(worker, None)
        if member is not None:
            self.extra -= member.extra
            self.unblock(member)
        return member

    @property
    def spare(self) -> int:
        """Return how many slots are free."""
        return len(self.idle) - self.extra - max(0, self.reserve - self.blocked)

    def block(self, member: WorkerState) -> None:
        """Note that what a worker runs waits for tasks of its own."""
        member.blocked = True
        self.blocked += 1

    def unblock(self, member: WorkerState) -> None:
        """Note that a worker is blocked no more, if it was."""
        self.blocked -= member.blocked
        member.blocked = False

    def settle(self, member: WorkerState) -> None:
        """Bring a worker's record up to date after it got ready, finished or gave back tasks."""
        member.settle()
        if member.blocked and not member.held:
            self.unblock(member)
        if member.extra and not member.held:
            self.extra -= member.extra
            member.extra = 0
        if member.free and not (member.host or member.process or member.leaves):
            self.idle[member.number] = member

    def take_slots(self, width: int) -> WorkerState:
        """Choose the worker for a task of `width` slots, which are spare: it is idle no more, and others stay so."""
        _, member = self.idle.popitem()
        member.extra = width - 1
        self.extra += member.extra
        return member

    def take_slot(self, thread: WorkerState) -> WorkerState:
        """Let a thread have one of the spare slots: so many of the idle stay so until it has nothing."""
        thread.extra = 1
        self.extra += 1
        return thread

    def free_thread(self) -> WorkerState | None:
        """Return a thread that is ready and has nothing, None if there is none."""
        return next((member for member in self.threads.values() if member.free and not member.outdated), None)

    def mates(self, member: WorkerState) -> list[WorkerState]:
        """List those that end with a worker: the threads of its process, or only itself."""
        if not member.process:
            return [member]
        return [other for other in self.threads.values() if other.process == member.process]

    def next_taker(self) -> WorkerState | None:
        """Choose who gets the next pack, and is idle no more: an idle worker, else a busy one with nothing ahead."""
        if self.spare > 0:
            return self.idle.popitem()[1]
        for member in self.members.values():
            if len(member.packs) == 1 and not (member.recalled or member.stopping or member.killed or member.blocked):
                if member.leaves or member.last.needs is not None:
                    continue  # it goes, or that is a large one, and nothing is to stand behind it
                expected_s = self.estimates.of(member.last.function)
                if expected_s is None or expected_s < NO_AHEAD_S:
                    return member
        return None

    def most_loaded(self) -> WorkerState | None:
        """Find the worker with most work behind what it runs, if that is worth moving."""
        most_s, found = WORTH_MOVING_S, None
        for member in self.members.values():
            if len(member.held) > 1 and not (member.recalled or member.killed):
                expected_s = self.estimates.of(member.last.function)
                load_s = math.inf if expected_s is None else expected_s * (len(member.held) - 1)
                if load_s >= most_s:
                    most_s, found = load_s, member
        return found

    def pack_size(self, function: bytes) -> int:
        """Say how many tasks of a function make up `ahead_s` of work; 1 if that is not known."""
        expected_s = self.estimates.of(function)
        return 1 if expected_s is None else max(1, min(PACK_MAX, int(self._ahead_s / max(expected_s, 1e-6))))


class RestartLimit:
    """Say when to give up: more than `deaths` workers within `within_s` seconds that died without a task to blame."""

    def __init__(self, deaths: int = 5, within_s: float = 10.0) -> None:
        self.deaths = deaths
        self.within_s = within_s
        self._times: deque[float] = deque()

    def died(self, now: float) -> bool:
        """Count a death for which no task is to blame; True if that was one too many."""
        self._times.append(now)
        while self._times[0] <= now - self.within_s:
            self._times.popleft()
        return len(self._times) > self.deaths

    def worked(self) -> None:
        """Note that a worker finished a task: the environment is not broken."""
        self._times.clear()
