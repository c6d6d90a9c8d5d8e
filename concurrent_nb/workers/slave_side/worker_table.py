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
    last_progress_at: float  #: when it was asked for, gave its last sign of life, or got work after a rest
    pid: int = 0  #: 0 until it is ready
    held: dict[int, Attempt] = field(default_factory=dict)  #: by ticket, in the order given
    packs: deque[int] = field(default_factory=deque)  #: the last ticket of each pack that is not finished
    recalled: bool = False  #: all that it had not started was taken back, so there is nothing to take
    stopping: int = 0  #: ticket of the task that is being stopped
    kill_at: float = 0.0  #: when to kill it, if that task still runs then
    killed: bool = False  #: or dismissed: it is about to end, and gets nothing more
    system_host: bool = False  #: it stands beside the slots, for one long task, and ends with it
    process: int = 0  #: number of the process that it is a thread of; 0: it has one of its own
    spent: bool = False  #: it has had that task
    blocked: bool = False  #: what it runs waits for tasks of its own, so another worker may use its slot
    tasks_left: float = math.inf  #: tasks that it may still be given before another takes its place
    outdated: bool = False  #: another takes its place as soon as what it runs has ended
    extra_slots: int = 0  #: slots that its task takes besides its own; a thread has none of its own
    empty_recalls: int = 0  #: how often in a row everything was taken back from it
    is_broken: bool = False  #: it does not do what a worker does, and is killed for it
    death_reason: str = ""  #: how it ends then, for people
    blamed: int = 0  #: ticket of the task that has broken it; 0 if that is not known
    requested_at: float = field(init=False)  #: when it was asked for
    page_ticket: int = 0  #: ticket that its page has shown last ...
    page_ticket_at: float = 0.0  #: ... from then on

    def __post_init__(self) -> None:
        self.requested_at = self.last_progress_at

    @property
    def is_free(self) -> bool:
        """Say whether it is ready and has nothing."""
        return bool(self.pid) and not self.held and not self.killed

    @property
    def is_leaving(self) -> bool:
        """Say whether it gets nothing more, because another is to take its place."""
        return self.outdated or self.tasks_left <= 0

    @property
    def first(self) -> Attempt | None:
        """Return the attempt that it runs first, of those that it still has; None if it has none."""
        return next(iter(self.held.values()), None)

    def run_time_s(self, ticket: int, started_at: float, now: float) -> float:
        """Say how long what its page shows has run, in seconds. The page may show nonsense, which nobody gains by."""
        if ticket != self.page_ticket:
            self.page_ticket, self.page_ticket_at = ticket, now
        return now - (started_at if self.requested_at <= started_at <= self.page_ticket_at else self.page_ticket_at)

    @property
    def last(self) -> Attempt:
        """Return the last attempt that was given to it, of those that it still has."""
        return next(reversed(self.held.values()))

    def assign(self, pack: Sequence[Attempt], now: float) -> None:
        """Note that it has got a pack."""
        if not self.held:
            self.last_progress_at = now
        for attempt in pack:
            attempt.worker = self.number
            self.held[attempt.ticket] = attempt
        self.packs.append(pack[-1].ticket)
        self.tasks_left -= len(pack)
        self.recalled = False

    def update(self) -> None:
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
        self.by_number: dict[int, WorkerState] = {}
        self.idle: dict[int, WorkerState] = {}  #: the last one in is the first to get work: its caches are warm
        self.system_hosts: dict[
            int, WorkerState
        ] = {}  #: those that stand beside the slots; they are never among the idle
        self.threads: dict[int, WorkerState] = {}  #: those that are threads; nor are they
        self.extra_slots = 0  #: so many of the idle have to stay so, because tasks of others take their slots
        self.blocked = 0  #: so many workers are blocked
        self.reserve = 0  #: so many workers there are beside the slots, to use those of the blocked ones
        self.estimates = RunTimeEstimates()
        self._ahead_s = ahead_s

    def __iter__(self) -> Iterator[WorkerState]:
        return iter(self.by_number.values())

    def get(self, number: int) -> WorkerState | None:
        """Return the worker of this number, None if it is gone."""
        return self.by_number.get(number)

    def add(self, worker: WorkerState) -> None:
        """Take in a worker that has been asked for."""
        self.by_number[worker.number] = worker
        if worker.system_host:
            self.system_hosts[worker.number] = worker
        if worker.process:
            self.threads[worker.number] = worker

    def remove(self, number: int) -> WorkerState | None:
        """Strike a worker off."""
        self.idle.pop(number, None)
        self.system_hosts.pop(number, None)
        self.threads.pop(number, None)
        worker = self.by_number.pop(number, None)
        if worker is not None:
            self.extra_slots -= worker.extra_slots
            self.unblock(worker)
        return worker

    @property
    def free_slots(self) -> int:
        """Return how many slots are free."""
        return len(self.idle) - self.extra_slots - max(0, self.reserve - self.blocked)

    def block(self, worker: WorkerState) -> None:
        """Note that what a worker runs waits for tasks of its own."""
        worker.blocked = True
        self.blocked += 1

    def unblock(self, worker: WorkerState) -> None:
        """Note that a worker is blocked no more, if it was."""
        self.blocked -= worker.blocked
        worker.blocked = False

    def update(self, worker: WorkerState) -> None:
        """Bring a worker's record up to date after it got ready, finished or gave back tasks."""
        worker.update()
        if worker.blocked and not worker.held:
            self.unblock(worker)
        if worker.extra_slots and not worker.held:
            self.extra_slots -= worker.extra_slots
            worker.extra_slots = 0
        if worker.is_free and not (worker.system_host or worker.process or worker.is_leaving):
            self.idle[worker.number] = worker

    def take_slots(self, width: int) -> WorkerState:
        """Choose the worker for a task of `width` slots, which are spare: it is idle no more, and others stay so."""
        _, worker = self.idle.popitem()
        worker.extra_slots = width - 1
        self.extra_slots += worker.extra_slots
        return worker

    def take_slot(self, thread: WorkerState) -> WorkerState:
        """Let a thread have one of the spare slots: so many of the idle stay so until it has nothing."""
        thread.extra_slots = 1
        self.extra_slots += 1
        return thread

    def free_thread(self) -> WorkerState | None:
        """Return a thread that is ready and has nothing, None if there is none."""
        return next((worker for worker in self.threads.values() if worker.is_free and not worker.outdated), None)

    def siblings(self, worker: WorkerState) -> list[WorkerState]:
        """List those that end with a worker: the threads of its process, or only itself."""
        if not worker.process:
            return [worker]
        return [other for other in self.threads.values() if other.process == worker.process]

    def pop_next(self) -> WorkerState | None:
        """Choose who gets the next pack, and is idle no more: an idle worker, else a busy one with nothing ahead."""
        if self.free_slots > 0:
            return self.idle.popitem()[1]
        for worker in self.by_number.values():
            if len(worker.packs) == 1 and not (worker.recalled or worker.stopping or worker.killed or worker.blocked):
                if worker.is_leaving or worker.last.needs is not None:
                    continue  # it goes, or that is a large one, and nothing is to stand behind it
                expected_s = self.estimates.of(worker.last.function)
                if expected_s is None or expected_s < NO_AHEAD_S:
                    return worker
        return None

    def most_loaded(self) -> WorkerState | None:
        """Find the worker with most work behind what it runs, if that is worth moving."""
        most_s, found = WORTH_MOVING_S, None
        for worker in self.by_number.values():
            if len(worker.held) > 1 and not (worker.recalled or worker.killed):
                expected_s = self.estimates.of(worker.last.function)
                load_s = math.inf if expected_s is None else expected_s * (len(worker.held) - 1)
                if load_s >= most_s:
                    most_s, found = load_s, worker
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
