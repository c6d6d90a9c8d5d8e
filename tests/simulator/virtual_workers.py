"""A pool of virtual workers: the real PoolScheduler of a slave, whose commands are carried out in virtual time.

    SlaveCore --assign, withdraw--> VirtualPool -- PoolScheduler (real) --commands--> VirtualWorker
                                        ^------------ events: ready, results, died ------------'

Implements `nodes.slave.core.WorkerPool`. `TaskCatalog` decides what a task does when it runs. Events gather until
`turn`, as they wait in sockets and pipes while a slave is busy or frozen. No processes, and no code of tasks.
"""

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.slave_state import is_multi_slot, is_system_host
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.bound_tasks import ResultParts, bind, unbind
from concurrent_nb.wire.codec import Buffer, Buffers, ItemBuffers, pack_body, unpack_body
from concurrent_nb.workers.protocol.records import Result
from concurrent_nb.workers.slave_side import attempts as a
from concurrent_nb.workers.slave_side.pool_scheduler.pool_scheduler import PoolScheduler
from concurrent_nb.workers.slave_side.pool_scheduler.pool_state import PAGE_POLL_S
from tests.simulator.checkers import check_references
from tests.simulator.plans import TaskCatalog, TaskRun, Violation
from tests.simulator.virtual_clock import Action, VirtualClock
from tests.unshared_pool import UnsharedPool, travelled

#: seconds that a worker needs to start, at most
START_S: Final = 0.3
#: seconds that an interrupt or a kill needs to end a task, at most
STOP_S: Final = 0.01
#: seconds for which results are kept back while there is more to run, at most
FLUSH_S: Final = 0.001
#: the status pages of busy workers are read less and less often while nothing happens, but at least this often
POLL_AT_LEAST_S: Final = 0.5

#: an event of a worker: called with the time, it informs the pool scheduler, and returns its commands
WorkerEvent = Callable[[float], list[a.Command]]


class VirtualWorker:
    """A worker: runs its tasks one after another."""

    def __init__(self, pool: "VirtualPool", number: int, process: int) -> None:
        self.number = number
        self.process = process  #: the process of which it is a thread; 0: it has its own
        self.queue: deque[tuple[a.Attempt, bytes]] = deque()  #: with the function
        self.ticket = 0  #: as its status page shows
        self.started_at = 0.0
        self.alive = True
        self.attempt: a.Attempt | None = None  #: that it runs
        self.to_stop = 0  #: ticket that is to be stopped
        self._pool = pool
        self._task_run: TaskRun | None = None
        self._unsent: list[tuple[Result, Buffers]] = []
        self._last: tuple[a.Attempt, Status, bytes] | None = None  # what it has run last, and its value

    def give(self, function: bytes, attempts: Sequence[a.Attempt]) -> None:
        """Queue tasks of a function."""
        self.queue.extend((attempt, function) for attempt in attempts)
        if self._task_run is None:
            self._next()

    def recall(self) -> int:
        """Return how many tasks have not started, and drop them."""
        count = len(self.queue)
        self.queue.clear()
        return count

    def interrupt(self, ticket: int) -> None:
        """Stop a task, unless it is over or ignores interrupts."""
        self.to_stop = ticket
        task_run = self._task_run
        if task_run is not None and self.ticket == ticket and not task_run.wanted.plan.stubborn:
            self._pool.clock.after(self._pool.moment_s(STOP_S), lambda: self._stopped(task_run))

    def kill_takes_s(self) -> float:
        """Return how long it takes to kill it."""
        stuck_until_s = self.started_at + (self._task_run.wanted.plan.stuck_s if self._task_run else 0.0)
        return max(stuck_until_s - self._pool.clock.now, self._pool.moment_s(STOP_S))

    def die(self, how: str) -> None:
        """Die, with all threads of its process."""
        if not self.alive:
            return
        scheduler, process = self._pool.scheduler, self.process

        def end_process(now: float) -> list[a.Command]:
            scheduler.process_ends(process)
            return []

        same_process = self._pool.same_process(self)
        if process:
            self._pool.post(end_process)
        pages = {worker.number: worker.end() for worker in same_process}
        if process:
            self._pool.post(lambda now: scheduler.process_died(how, pages, list(pages), now))
        else:
            ((number, page),) = pages.items()
            self._pool.post(lambda now: scheduler.worker_died(number, how, *page, now))

    def end(self) -> tuple[int, float]:
        """End; results that were kept back are read from the page. Return what it shows: ticket, and its start."""
        self.alive = False
        self._task_run = None
        self.flush()
        return self.ticket, self.started_at

    def flush(self) -> None:
        """Send the results that were kept back."""
        if self._unsent:
            results = [result for result, _ in self._unsent]
            buffers = [buffer for _, own in self._unsent for buffer in own]
            self._unsent = []
            self._pool.post(lambda now: self._pool.scheduler.outcomes(self.number, results, buffers, now))

    def _next(self) -> None:
        """Start the next task; those that take no time end immediately."""
        pool = self._pool
        while self.queue:
            attempt, function = self.queue.popleft()
            self.attempt, self.ticket, self.started_at = attempt, attempt.ticket, pool.clock.now
            if attempt.behind:
                last = self._last
                if last is None or last[0].ticket != attempt.behind or last[1] is not Status.OK:
                    self._last = attempt, Status.INPUT_GONE, b""
                    self._unsent.append((Result(attempt.ticket, Status.INPUT_GONE, 0.0, b""), ()))
                    continue
                parts = ResultParts(last[0].job, last[0].index, last[2], (), ())
                attempt.body, _, _ = bind(attempt.kind, attempt.body, (), (), [parts])
                attempt.kind = int(m.TaskKind.BOUND)
            task_run = self._task_run = pool.begin(attempt, function)
            if self.to_stop == attempt.ticket:
                self._answer(task_run, Status.CANCELLED)
                continue
            if task_run.run_s is None:
                return
            if task_run.run_s > 0:
                pool.clock.after(task_run.run_s, lambda task_run=task_run: self._over(task_run))  # type: ignore[misc]
                return
            if not self._finish(task_run):
                return
        self._task_run, self.attempt, self.ticket = None, None, 0
        self.flush()

    def _over(self, task_run: TaskRun) -> None:
        if self._task_run is task_run and self.alive and self._finish(task_run):
            self._next()

    def _stopped(self, task_run: TaskRun) -> None:
        if self._task_run is task_run and self.alive:
            self._answer(task_run, Status.CANCELLED)
            self._next()

    def _finish(self, task_run: TaskRun) -> bool:
        """End a run as planned; False if the worker has died."""
        task_run.done()
        if task_run.kills_slave:
            self.alive = False
            self._pool.killed()
            return False
        if task_run.status is Status.DIED:
            self.die("died of SIGSEGV")
            return False
        self._answer(task_run, task_run.status)
        return True

    def _answer(self, task_run: TaskRun, status: Status) -> None:
        body, sizes, buffers = pack_body(b"" if status is Status.CANCELLED else task_run.value, ())
        elapsed_s = self._pool.clock.now - self.started_at
        if self.attempt is not None:
            self._last = self.attempt, status, task_run.value
        self._unsent.append((Result(self.ticket, status, elapsed_s, body, sizes), buffers))
        self._task_run, self.attempt, self.ticket = None, None, 0
        if elapsed_s >= FLUSH_S:
            self.flush()


class VirtualPool(UnsharedPool):
    """The workers of one slave."""

    def __init__(
        self,
        clock: VirtualClock,
        chance: random.Random,
        catalog: TaskCatalog,
        name: str,
        slots: int,
        wake: Action,
        killed: Action,
    ) -> None:
        self.clock = clock
        self.scheduler = PoolScheduler(slots)
        self.credit = slots  #: most unfinished attempts that its slave has offered to accept in its session
        self.functions: dict[bytes, bytes] = {}
        self._chance = chance
        self._catalog = catalog
        self._name = name
        self._wake = wake
        self._killed = killed
        self._workers: dict[int, VirtualWorker] = {}
        self._open: set[tuple[bytes, int, int]] = set()  # assigned and not reported yet
        self._on_top: set[tuple[bytes, int, int]] = set()  # of these, those that do not count as credit
        self._events: deque[WorkerEvent] = deque()
        self._output: list[tuple[m.TaskRef, int, bytes]] = []
        self._stacks: list[m.StackSampled] = []
        self.broken = False  #: every new worker dies before its first task
        self._poll_at = 0.0
        self._poll_after_s = PAGE_POLL_S
        self._obey(self.scheduler.start(clock.now))

    # ---------------------------------------------------------------------------------------- called by SlaveCore

    def add_function(self, digest: bytes, body: bytes, buffers: Sequence[Buffer | m.Slice]) -> None:
        """Keep a pickled function."""
        self.functions[digest] = bytes(unpack_body(body, travelled(buffers))[0])

    def drop_functions(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""
        for digest in digests:
            if self.functions.pop(digest, None) is None:
                raise Violation(f"slave {self._name} is to drop function {digest.hex()[:8]}, which it does not have")
        self.scheduler.functions_dropped(digests)

    def assign(self, run: m.Assign, buffers: ItemBuffers, now: float) -> None:
        """Take a run of attempts, and check that the master may assign it."""
        if run.function not in self.functions:
            raise Violation(f"slave {self._name} lacks function {run.function.hex()[:8]} that it is to run")
        keys = {(run.job, frame.index, frame.attempt) for frame in run.tasks}
        if len(keys) < len(run.tasks) or keys & self._open:
            raise Violation(f"slave {self._name} is assigned an attempt twice, of job {run.job.hex()[:4]}")
        self._open |= keys
        self._on_top -= keys
        if is_system_host(run.needs) or is_multi_slot(run.needs):
            self._on_top |= keys
        elif len(self._open - self._on_top) > self.credit:
            raise Violation(f"slave {self._name} has {len(self._open)} attempts, its credit is {self.credit}")
        self._obey(self.scheduler.assigned(run, buffers, now))

    def withdraw(self, tasks: Sequence[m.TaskRef], stop: bool, now: float) -> None:
        """Return what has not started; with `stop`, stop what has."""
        self._obey(self.scheduler.withdrawn(tasks, stop, now))

    def has(self, ref: m.TaskRef) -> bool:
        """Return whether this attempt is here, and its end is in no report yet."""
        return self.scheduler.place_of(ref) is not None

    def attempts(self) -> list[m.TaskRef]:
        """Return all attempts that are here, and whose end is in no report yet."""
        return self.scheduler.attempts()

    def follow(self, run: m.Assign, now: float) -> int:
        """Have a worker take tasks behind their leader, and check that they are not here."""
        count, commands = self.scheduler.followed(run, now)
        keys = {(run.job, frame.index, frame.attempt) for frame in run.tasks[:count]}
        if keys & self._open:
            raise Violation(f"slave {self._name} is assigned an attempt twice, of job {run.job.hex()[:4]}")
        self._open |= keys
        self._on_top |= keys
        self._obey(commands)
        return count

    def sample_stack(self, request: int, ref: m.TaskRef, now: float) -> None:
        """Answer for a task that a worker has; others are said to wait, or to have ended."""
        place = self.scheduler.place_of(ref)
        worker = place[1] if place is not None else 0
        if worker:
            self._stacks.append(m.StackSampled(request, worker, 0.5, '  File "x.py", line 1, in f', ""))
        else:
            self._stacks.append(m.StackSampled(request, 0, 0.0, "", "it does not run"))

    def restart_workers(self, now: float, *, stop: bool) -> None:
        """Replace all workers."""
        self._obey(self.scheduler.restart_requested(now, stop=stop))

    @property
    def outdated(self) -> int:
        """Return how many workers are still to be replaced, or have successors that are not ready."""
        return self.scheduler.outdated

    def take_reports(self) -> a.PoolReports:
        """Return the reports, and check that they are about assigned attempts, each once."""
        reports = self.scheduler.take_reports()
        reports.output, self._output = self._output, []
        reports.stacks, self._stacks = self._stacks, []
        for job, frames, _ in reports.outcomes:
            refs = [m.TaskRef(job, frame.index, frame.attempt) for frame in frames]
            check_references(f"slave {self._name}", refs, self._open)
        check_references(f"slave {self._name}", reports.returned, self._open)
        if reports.degraded and not self.broken:
            raise Violation(f"slave {self._name} gives up: {reports.degraded}")
        return reports

    # ------------------------------------------------------------------------------------------ called by the slave

    def next_deadline(self) -> float:
        """Return when `turn` is to be called at the latest."""
        due = self.scheduler.next_deadline()
        return float("inf") if due is None else max(due, self._poll_at)

    @property
    def usable_slots(self) -> int:
        """Return how many tasks can run at once."""
        return self.scheduler.usable_slots

    def drain(self, now: float) -> None:
        """Return what has not started, now and from now on."""
        self._obey(self.scheduler.drained())

    def turn(self, ready: Mapping[int, int], now: float) -> None:
        """Handle the events of workers, and read the pages of busy ones."""
        if self._events:
            self._poll_after_s = PAGE_POLL_S
            self._poll_at = now + PAGE_POLL_S
        while self._events:
            self._obey(self._events.popleft()(now))
        if now >= self._poll_at:
            self._poll_after_s = min(2 * self._poll_after_s, POLL_AT_LEAST_S)
            self._poll_at = now + self._poll_after_s
            for number in self.scheduler.busy_workers():
                worker = self._workers[number]
                worker.flush()
                self._obey(self.scheduler.page_read(number, worker.ticket, worker.started_at, False, now))
            self._obey(self.scheduler.tick(now))

    def reset(self) -> None:
        """Drop everything that was assigned, functions too, and stop what runs."""
        self.drop_functions(list(self.functions))
        self._open.clear()
        self._on_top.clear()
        self._output.clear()
        self._stacks.clear()
        self._obey(self.scheduler.reset())

    @property
    def is_saturated(self) -> bool:
        """Return whether every worker has something to run next."""
        return self.scheduler.is_saturated

    @property
    def unfinished(self) -> int:
        """Return how many attempts have not been reported."""
        return len(self._open)

    def killed(self) -> None:
        """End the slave now: a task has killed it."""
        self.clock.after(0.0, self._killed)  # not in the middle of its turn

    def kill_a_worker(self) -> None:
        """Kill a worker, whatever it does."""
        living = [worker for worker in self._workers.values() if worker.alive]
        if living:
            self._chance.choice(living).die("died of SIGKILL")

    def break_down(self) -> int:
        """Kill all workers, and all that are started from now on. Return how many have died."""
        self.broken = True
        living = [worker for worker in self._workers.values() if worker.alive]
        for worker in living:
            worker.die("died of SIGSEGV")
        return len(living)

    def stop(self) -> None:
        """End all workers: their slave has crashed."""
        for worker in self._workers.values():
            worker.alive = False

    # ------------------------------------------------------------------------------------------- called by workers

    def begin(self, attempt: a.Attempt, function: bytes) -> TaskRun:
        """Start a run, and check that there is a slot for it."""
        running = [worker.attempt for worker in self._workers.values() if worker.alive and worker.attempt is not None]
        if (used := sum(map(self._width, running))) > self.scheduler.slots:
            raise Violation(f"slave {self._name} uses {used} slots, it has {self.scheduler.slots}")
        if (hosts := sum(is_system_host(other.needs) for other in running)) > m.HOSTS_MAX:
            raise Violation(f"slave {self._name} has {hosts} hosts, at most {m.HOSTS_MAX} are allowed")
        body, parts = unpack_body(attempt.body, attempt.buffers)
        kind, results = attempt.kind, dict[tuple[bytes, int], tuple[Buffer, Sequence[Buffer]]]()
        while kind == m.TaskKind.BOUND:
            kind, body, parts = unbind(body, parts, results)
        values = {key: bytes(result) for key, (result, _) in results.items()}
        task_run = self._catalog.begin(function, bytes(body), self.clock.now, values)
        for piece in range(1, task_run.wanted.plan.writes + 1):
            self._output.append((attempt.ref, 1, f"{task_run.wanted.name} {task_run.run} {piece}".encode()))
        return task_run

    def _width(self, attempt: a.Attempt) -> int:
        """Return how many slots an attempt takes."""
        if attempt.needs is None:
            return 1
        return (
            0
            if is_system_host(attempt.needs)
            else min(attempt.needs.cores or self.scheduler.slots, self.scheduler.slots)
        )

    def same_process(self, worker: VirtualWorker) -> list[VirtualWorker]:
        """Return the workers that die with a worker."""
        if not worker.process:
            return [worker]
        return [other for other in self._workers.values() if other.alive and other.process == worker.process]

    def post(self, fact: WorkerEvent) -> None:
        """Queue an event for the slave's next turn."""
        self._events.append(fact)
        self._wake()

    def moment_s(self, most_s: float) -> float:
        """Draw a duration of at most `most_s`."""
        return self._chance.uniform(0, most_s)

    def _obey(self, commands: Sequence[a.Command]) -> None:
        todo = deque(commands)
        while todo:
            command = todo.popleft()
            if isinstance(command, a.Start):
                self._start(command.worker, command.process)
                continue
            worker = self._workers[command.worker]
            if isinstance(command, a.GiveTasks):
                self._poll_at = min(self._poll_at, self.clock.now + PAGE_POLL_S)
                if worker.alive:  # else the event of its death is on the way
                    worker.give(self.functions[command.function], command.attempts)
            elif isinstance(command, a.Recall):
                todo.extend(self.scheduler.recall_finished(worker.number, worker.recall(), self.clock.now))
            elif isinstance(command, a.Interrupt):
                worker.interrupt(command.ticket)
            elif isinstance(command, a.Dismiss):
                self.clock.after(self.moment_s(STOP_S), lambda worker=worker: worker.die("ended with exit code 0"))  # type: ignore[misc]
            elif isinstance(command, a.Kill):
                self.clock.after(worker.kill_takes_s(), lambda worker=worker: worker.die("was killed"))  # type: ignore[misc]

    def _start(self, number: int, process: int) -> None:
        worker = self._workers[number] = VirtualWorker(self, number, process)

        def ready() -> None:
            if worker.alive and self.broken:
                worker.die("died of SIGSEGV")
            elif worker.alive:
                self.post(lambda now: self.scheduler.worker_ready(number, 1000 + number, now))

        self.clock.after(self.moment_s(START_S), ready)
