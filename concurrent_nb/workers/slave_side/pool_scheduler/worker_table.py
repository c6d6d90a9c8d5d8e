"""The workers as the pool scheduler sees them: the tasks of each, which is idle, which has too many. Pure."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from concurrent_nb.scheduling.estimates import TaskEstimates
from concurrent_nb.workers.slave_side.attempts import Attempt
from concurrent_nb.workers.slave_side.pool_scheduler.attempt_queue import PACK_MAX

#: a worker gets nothing ahead behind a task that is expected to take this long
NO_AHEAD_S: Final = 0.02
#: from this much work on, it is worth moving what a worker has ahead to an idle one
WORTH_MOVING_S: Final = 0.001
#: seconds of work that follow a task in its worker
FOLLOW_S: Final = 0.1
#: weight of the newest mean run time of a function in its estimate
NEWEST: Final = 0.3


@dataclass(slots=True, eq=False)
class WorkerState:
    """One worker."""

    number: int
    last_progress_at: float  #: when it was requested, last showed progress, or got work after it had none
    pid: int = 0  #: 0 until it is ready
    held: dict[int, Attempt] = field(default_factory=dict)  #: its attempts by ticket, in the order of assignment
    packs: deque[int] = field(default_factory=deque)  #: the last ticket of each pack that is not finished
    recalled: bool = False  #: all that it had not started was recalled, so a recall would return nothing
    stopping: int = 0  #: ticket of the task that is being stopped
    kill_at: float = 0.0  #: when to kill it, if that task still runs then
    killed: bool = False  #: or dismissed: it is about to end, and gets nothing more
    system_host: bool = False  #: it is beside the slots, for one task system, and ends with it
    process: int = 0  #: number of the process that it is a thread of; 0: it has one of its own
    spent: bool = False  #: no other worker takes its place: it has had its task system, or leaves the reserve
    blocked: bool = False  #: its task waits for tasks of its own, so another worker may use its slot
    tasks_left: float = math.inf  #: tasks that it may still get before another takes its place
    outdated: bool = False  #: another takes its place as soon as its running task has ended
    extra_slots: int = 0  #: slots that its task takes besides its own; a thread has none of its own
    empty_recalls: int = 0  #: how often in a row everything was recalled from it
    is_broken: bool = False  #: it violated the protocol or stopped working, and is killed for it
    death_reason: str = ""  #: how a broken worker ends, for messages
    followers: int = 0  #: how many of its attempts need the result of the one before: no other worker can run them
    blamed: int = 0  #: ticket of the task that broke it; 0 if that is not known
    requested_at: float = field(init=False)
    page_ticket: int = 0  #: the last ticket that its status page showed ...
    page_ticket_at: float = 0.0  #: ... since this time

    def __post_init__(self) -> None:
        self.requested_at = self.last_progress_at

    @property
    def is_free(self) -> bool:
        """Return whether it is ready and has no attempt."""
        return bool(self.pid) and not self.held and not self.killed

    @property
    def is_leaving(self) -> bool:
        """Return whether it gets nothing more, because another one is to take its place."""
        return self.outdated or self.tasks_left <= 0

    @property
    def first(self) -> Attempt | None:
        """Return the first attempt that it still has, None if it has none."""
        return next(iter(self.held.values()), None)

    @property
    def last(self) -> Attempt:
        """Return the last attempt that it still has. It must have one."""
        return next(reversed(self.held.values()))

    def run_time_s(self, ticket: int, started_at: float, now: float) -> float:
        """Return how long the task in its page has run, in seconds; a start time that cannot be true counts nothing."""
        if ticket != self.page_ticket:
            self.page_ticket, self.page_ticket_at = ticket, now
        return now - (started_at if self.requested_at <= started_at <= self.page_ticket_at else self.page_ticket_at)

    def assign(self, pack: Sequence[Attempt], now: float) -> None:
        """Add a pack to its attempts."""
        if not self.held:
            self.last_progress_at = now
        for attempt in pack:
            attempt.worker = self.number
            self.held[attempt.ticket] = attempt
        if pack[0].behind:
            self.followers += len(pack)
        self.packs.append(pack[-1].ticket)
        self.tasks_left -= len(pack)
        self.recalled = False

    def update(self) -> None:
        """Forget finished packs, and a stop whose task has ended."""
        while self.packs and self.packs[0] not in self.held:
            self.packs.popleft()
        if self.stopping not in self.held:
            self.stopping = 0


class WorkerTable:
    """All workers. Iterates over them."""

    def __init__(self, ahead_s: float) -> None:
        self.by_number: dict[int, WorkerState] = {}
        self.idle: dict[int, WorkerState] = {}  #: the last one in gets work first: its caches are warm
        self.system_hosts: dict[int, WorkerState] = {}  #: those beside the slots, which are never in `idle`
        self.threads: dict[int, WorkerState] = {}  #: those that are threads, which are never in `idle`
        self.extra_slots = 0  #: how many idle workers must stay so, because tasks of others take their slots
        self.blocked = 0  #: how many workers are blocked that are processes
        self.blocked_threads = 0  #: ... that are threads
        self.reserve = 0  #: how many workers there are beside the slots, for the slots of blocked ones
        self.estimates = TaskEstimates(weight=NEWEST)
        self._ahead_s = ahead_s

    def __iter__(self) -> Iterator[WorkerState]:
        return iter(self.by_number.values())

    def get(self, number: int) -> WorkerState | None:
        """Return the worker of this number, None if it is gone."""
        return self.by_number.get(number)

    def add(self, worker: WorkerState) -> None:
        """Add a worker that has been requested."""
        self.by_number[worker.number] = worker
        if worker.system_host:
            self.system_hosts[worker.number] = worker
        if worker.process:
            self.threads[worker.number] = worker

    def remove(self, number: int) -> WorkerState | None:
        """Remove a worker, and return it; None if there is none of this number."""
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
        """Mark a worker whose task waits for tasks of its own."""
        worker.blocked = True
        if worker.process:  # the idle worker whose slot it has taken may be used
            self.blocked_threads += 1
            self.extra_slots -= worker.extra_slots
        else:
            self.blocked += 1

    def unblock(self, worker: WorkerState) -> None:
        """Remove that mark, if it is there."""
        if not worker.blocked:
            return
        worker.blocked = False
        if worker.process:
            self.blocked_threads -= 1
            self.extra_slots += worker.extra_slots
        else:
            self.blocked -= 1

    def update(self, worker: WorkerState) -> None:
        """Update the table after a worker got ready, finished tasks or returned some."""
        worker.update()
        if worker.blocked and not worker.held:
            self.unblock(worker)
        if worker.extra_slots and not worker.held:
            self.extra_slots -= worker.extra_slots
            worker.extra_slots = 0
        if worker.is_free and not (worker.system_host or worker.process or worker.is_leaving):
            self.idle[worker.number] = worker

    def take_slots(self, width: int) -> WorkerState:
        """Choose the worker for a task of `width` slots, which must be free: it leaves `idle`, the others must stay."""
        _, worker = self.idle.popitem()
        worker.extra_slots = width - 1
        self.extra_slots += worker.extra_slots
        return worker

    def take_slot(self, thread: WorkerState) -> WorkerState:
        """Let a thread use a free slot until it has no attempt: one more of the idle workers must stay so."""
        thread.extra_slots = 1
        self.extra_slots += 1
        return thread

    def free_thread(self) -> WorkerState | None:
        """Return a thread that is ready and has no attempt, None if there is none."""
        return next((worker for worker in self.threads.values() if worker.is_free and not worker.outdated), None)

    def siblings(self, worker: WorkerState) -> list[WorkerState]:
        """Return those that end with a worker: all threads of its process, or only itself."""
        if not worker.process:
            return [worker]
        return [other for other in self.threads.values() if other.process == worker.process]

    def pop_next(self) -> WorkerState | None:
        """Choose who gets the next pack: an idle worker, which leaves `idle`, else a busy one with nothing ahead."""
        if self.free_slots > 0:
            return self.idle.popitem()[1]
        for worker in self.by_number.values():
            if len(worker.packs) == 1 and not (worker.recalled or worker.stopping or worker.killed or worker.blocked):
                if worker.is_leaving or worker.last.needs is not None:
                    continue  # nothing may wait behind a task that needs more than a slot
                expected_s = self.estimates.get(worker.last.function)
                if expected_s is None or expected_s < NO_AHEAD_S:
                    return worker
        return None

    def can_follow(self, leader: Attempt, function: bytes) -> int:
        """Return how many tasks of a function may go to the worker of a leader, behind it; each needs the one before.

        0 if another task is behind the leader there, or if the run times of both functions are not known to be short.
        """
        worker = self.by_number.get(leader.worker)
        if worker is None or worker.last is not leader or leader.needs is not None or leader.timeout_s is not None:
            return 0
        if worker.recalled or worker.stopping or worker.killed or worker.blocked or worker.is_leaving:
            return 0
        leader_s, expected_s = self.estimates.get(leader.function), self.estimates.get(function)
        if leader_s is None or expected_s is None or max(leader_s, expected_s) >= NO_AHEAD_S or leader.disposition:
            return 0
        return int(min(worker.tasks_left, max(1.0, FOLLOW_S / max(expected_s, 1e-6))))

    def most_loaded(self) -> WorkerState | None:
        """Return the worker with most work behind its running task, None if no such work is worth moving."""
        most_s, found = WORTH_MOVING_S, None
        for worker in self.by_number.values():
            count = len(worker.held) - worker.followers
            if count > 1 and not (worker.recalled or worker.killed):
                expected_s = self.estimates.get(worker.last.function)
                load_s = math.inf if expected_s is None else expected_s * (count - 1)
                if load_s >= most_s:
                    most_s, found = load_s, worker
        return found

    def pack_size(self, function: bytes) -> int:
        """Return how many tasks of a function make up `ahead_s` of work; 1 if its run time is not known."""
        expected_s = self.estimates.get(function)
        return 1 if expected_s is None else max(1, min(PACK_MAX, int(self._ahead_s / max(expected_s, 1e-6))))
