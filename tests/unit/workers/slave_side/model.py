"""A pool without processes: it executes the commands of the scheduler, and its workers do what the test requires."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from concurrent_nb.clock import ManualClock
from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import Assign, Needs, OutcomeFrame, TaskFrame, TaskRef
from concurrent_nb.workers.protocol.records import Result
from concurrent_nb.workers.slave_side import attempts as a
from concurrent_nb.workers.slave_side.pool_scheduler.pool_scheduler import PoolScheduler

JOB = b"j" * 16
F, G = b"f" * 32, b"g" * 32


@dataclass
class Worker:
    """A worker as the slave knows it: what it was given, and what it has made of that."""

    number: int
    process: int = 0  #: it is a thread of this one
    ready: bool = False
    unstarted: deque[a.Attempt] = field(default_factory=deque)
    running: a.Attempt | None = None
    started_at: float = 0.0
    unsent: list[Result] = field(default_factory=list)
    ended: int = 0  #: ticket of the task that has ended last
    has_succeeded: bool = False  #: that one
    moves: bool = False  #: bytes come of it
    interrupted: set[int] = field(default_factory=set)
    killed: bool = False
    packs: list[int] = field(default_factory=list)  #: sizes of all packs that it got
    lines: list[int] = field(default_factory=list)  #: ... of tasks behind others


class Model:
    """Executes the commands of `scheduler`, and keeps its reports."""

    def __init__(self, scheduler: PoolScheduler) -> None:
        self.scheduler = scheduler
        self.clock = ManualClock(100.0)
        self.workers: dict[int, Worker] = {}
        self.gone: list[Worker] = []
        self.commands: list[a.Command] = []
        self.ended: list[tuple[TaskRef, OutcomeFrame]] = []
        self.given: set[TaskRef] = set()  # that were sent to a worker at some time
        self.reports = a.PoolReports()
        self.execute(scheduler.start(self.clock()))

    # ------------------------------------------------------------------------------------------ the pool's side

    def execute(self, commands: list[a.Command]) -> None:
        queue = deque(commands)
        while queue:
            command = queue.popleft()
            self.commands.append(command)
            if isinstance(command, a.Start):
                assert command.worker not in self.workers
                self.workers[command.worker] = Worker(command.worker, command.process)
                continue
            worker = self.workers.get(command.worker)
            if worker is None:  # it has just died, which is about to be reported: the pool ignores it, too
                continue
            if isinstance(command, a.GiveTasks):
                assert worker.ready
                assert not worker.killed
                assert {attempt.function for attempt in command.attempts} == {command.function}
                worker.unstarted += command.attempts
                self.given |= {attempt.ref for attempt in command.attempts}
                if command.attempts[0].behind:
                    worker.lines.append(len(command.attempts))
                else:
                    worker.packs.append(len(command.attempts))
            elif isinstance(command, a.Recall):
                count = len(worker.unstarted)
                worker.unstarted.clear()
                queue += self.scheduler.recall_finished(worker.number, count, self.clock())
            elif isinstance(command, a.Interrupt):
                worker.interrupted.add(command.ticket)
            elif isinstance(command, a.Kill):
                for sibling in self.siblings(worker):
                    sibling.killed = True
            elif isinstance(command, a.Dismiss):
                assert not worker.unstarted
                assert not worker.running
                worker.killed = True

    def take_reports(self) -> a.PoolReports:
        """Take the reports, and remember which attempts have ended."""
        self.reports = self.scheduler.take_reports()
        for job, frames, _ in self.reports.outcomes:
            self.ended += [(TaskRef(job, frame.index, frame.attempt), frame) for frame in frames]
        return self.reports

    def assign(
        self,
        indexes: range | list[int],
        function: bytes = F,
        timeout_s: float | None = None,
        attempt: int = 1,
        needs: Needs | None = None,
    ) -> None:
        frames = [TaskFrame(index, attempt, b"args") for index in indexes]
        self.execute(self.scheduler.assigned(Assign(JOB, function, timeout_s, frames, needs), (), self.clock()))

    def follow(self, indexes: range | list[int], behind: a.Attempt, function: bytes = F) -> int:
        """Let tasks follow an attempt in its worker; return how many do."""
        frames = [TaskFrame(index, 1, b"args") for index in indexes]
        run = Assign(JOB, function, None, frames, None, behind.ref)
        count, commands = self.scheduler.followed(run, self.clock())
        self.execute(commands)
        return count

    def withdraw(self, indexes: range | list[int], stop: bool, attempt: int = 1) -> None:
        refs = [TaskRef(JOB, index, attempt) for index in indexes]
        self.execute(self.scheduler.withdrawn(refs, stop, self.clock()))

    def pass_time(self, seconds: float) -> None:
        """Let time pass in steps, and look at the pages as the pool does."""
        until = self.clock() + seconds
        while self.clock() < until:
            due = self.scheduler.next_deadline()
            self.clock.now = until if due is None else min(until, max(due, self.clock()))
            if due is not None and self.clock() >= due:
                for number in self.scheduler.busy_workers():
                    self.look(number)
                self.execute(self.scheduler.tick(self.clock()))

    def look(self, number: int) -> None:
        worker = self.workers[number]
        if worker.running and self.clock() - worker.started_at >= 0.02 and worker.unsent:
            self.execute(self.scheduler.outcomes(number, worker.unsent, [], self.clock()))
        ticket = worker.running.ticket if worker.running else 0
        self.execute(
            self.scheduler.page_read(number, ticket, worker.started_at, worker.moves, self.clock(), worker.ended)
        )

    # ---------------------------------------------------------------------------------------- the workers' side

    def all_ready(self) -> None:
        for number in list(self.workers):
            self.ready(number)

    def ready(self, number: int) -> None:
        self.workers[number].ready = True
        self.execute(self.scheduler.worker_ready(number, 1000 + number, self.clock()))

    def begin(self, number: int) -> a.Attempt:
        """Let a worker start its next task."""
        worker = self.workers[number]
        assert worker.running is None
        worker.running = worker.unstarted.popleft()
        worker.started_at = self.clock()
        return worker.running

    def end(self, number: int, status: Status = Status.OK, elapsed_s: float | None = None) -> None:
        """Let a worker finish its task, and keep the result."""
        worker = self.workers[number]
        assert worker.running
        if elapsed_s is None:
            elapsed_s = self.clock() - worker.started_at
        worker.unsent.append(Result(worker.running.ticket, status, elapsed_s, b"value"))
        worker.ended, worker.running = worker.running.ticket, None
        worker.has_succeeded = status is Status.OK

    def skip_followers(self, number: int) -> None:
        """Let a worker skip the tasks that need a result which it does not have."""
        worker = self.workers[number]
        while worker.unstarted and (behind := worker.unstarted[0].behind):
            if behind == worker.ended and worker.has_succeeded:
                return
            worker.ended, worker.has_succeeded = worker.unstarted.popleft().ticket, False
            worker.unsent.append(Result(worker.ended, Status.INPUT_GONE, 0.0, b""))

    def swallow(self, number: int) -> None:
        """Let a worker send its results to where they are no results."""
        self.workers[number].unsent.clear()

    def flush(self, number: int) -> None:
        worker = self.workers[number]
        results, worker.unsent = worker.unsent, []
        self.execute(self.scheduler.outcomes(number, results, [], self.clock()))

    def run(self, number: int, seconds: float = 0.0, status: Status = Status.OK) -> None:
        """Let a worker run its next task and send the result."""
        self.begin(number)
        self.clock.advance(seconds)
        self.end(number, status, seconds)
        self.flush(number)

    def siblings(self, worker: Worker) -> list[Worker]:
        """List those that die with a worker."""
        same = [other for other in self.workers.values() if other.process == worker.process]
        return same if worker.process else [worker]

    def die(self, number: int, how: str = "died of SIGSEGV", culprits: list[int] | None = None) -> None:
        """Let a worker die; a thread with its whole process, for which one of the culprits is to blame, or any."""
        worker = self.workers[number]
        if worker.process:
            self.process_dies(worker.process, how, culprits)
            return
        del self.workers[number]
        self.gone.append(worker)
        if worker.unsent:
            self.execute(self.scheduler.outcomes(number, worker.unsent, [], self.clock()))
        ticket = worker.running.ticket if worker.running else 0
        self.execute(self.scheduler.worker_died(number, how, ticket, worker.started_at, self.clock()))

    def process_dies(self, process: int, how: str, culprits: list[int] | None) -> None:
        self.scheduler.process_ends(process)
        threads = [worker for worker in self.workers.values() if worker.process == process]
        for worker in threads:
            del self.workers[worker.number]
            self.gone.append(worker)
        for worker in threads:
            if worker.unsent:
                self.execute(self.scheduler.outcomes(worker.number, worker.unsent, [], self.clock()))
        pages = {w.number: (w.running.ticket, w.started_at) if w.running else (0, 0.0) for w in threads}
        self.execute(self.scheduler.process_died(how, pages, culprits or list(pages), self.clock()))

    # ------------------------------------------------------------------------------------------- for assertions

    def has(self, number: int) -> list[int]:
        """List the indexes of what a worker has not started."""
        return [attempt.index for attempt in self.workers[number].unstarted]

    def killed(self, number: int) -> bool:
        return self.workers[number].killed

    def statuses(self) -> dict[int, Status]:
        self.take_reports()
        return {ref.index: Status(frame.status) for ref, frame in self.ended}


def ready_model(slots: int, **options: Any) -> Model:
    """Make a pool of so many workers that are ready. Commands of the start are not kept."""
    model = Model(PoolScheduler(slots, **options))
    model.all_ready()
    model.commands.clear()
    return model


def who_has(model: Model, index: int) -> int:
    """Return which worker has a task, started or not; 0 if none."""
    for number, worker in model.workers.items():
        attempts = [*worker.unstarted, *([worker.running] if worker.running else [])]
        if any(attempt.index == index for attempt in attempts):
            return number
    return 0
