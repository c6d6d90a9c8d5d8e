"""The pool's bookkeeping: which task waits, which worker has what, who is too slow, who is to be stopped.

Pure: no process, no socket, no clock. The pool feeds it facts with the time they happened at and obeys the commands
that come back; what the slave has to know gathers in reports.

A worker that is free gets a pack: one task where the function's run time is unknown or long, else as many as make up
about `ahead_s`. A busy one gets a second pack ahead, so that it never waits for the slave, unless what it runs is
known to be slow. Whatever stands behind a task that turns out slow, or is wanted by a worker that has nothing, is
recalled and goes back to the front of the queue. Taking back is safe at any moment: a worker may start only what it
holds a token for, and tokens are taken by either side, never by both.

A task of several cores runs in one worker and keeps so many others from having work. While one waits, nobody gets a
new pack, so that it finds its slots as soon as what runs has ended. A host gets a worker of its own beside the slots,
started when it comes and dismissed when it has ended: what it leaves behind is nothing for others to find.

Tasks in threads share one process, started when the first one comes. Each of its threads is a worker of its own, which
takes a slot while it has something. What ends one ends all: the others' tasks go back to the master unblamed. Where it
ended by itself and several ran, nobody knows whose fault it was: each of those is a suspect, and runs in there alone
the next time that it comes here.

A task that is blocked, because it waits for tasks of its own, lends its slot: a worker of the reserve has it meanwhile,
else tasks that wait for tasks would hold all workers, and nothing would ever run. The reserve grows as it is needed and
is dismissed when it has not been needed for a while.

What a worker shows and says is a claim: a task may write to whatever its worker has. A worker whose task has ended, and
whose result does not come while nothing moves, is broken, as is one that says what makes no sense: it is killed, the
task that has broken it counts a death, and what stands behind that runs elsewhere.

A worker that has been given as many tasks as one may have gets nothing more; when they have ended it is dismissed, and
another takes its place when it has gone. That is no death that would count. So are all workers when they are to be
replaced; those that are stopped for it give back what they run.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import HOSTS_MAX, ErrorReport, Needs, OutcomeFrame, TaskFrame, TaskRef
from concurrent_nb.workers.protocol.records import Result, lengths
from concurrent_nb.workers.slave_side.attempt_queue import AttemptQueue
from concurrent_nb.workers.slave_side.attempts import (
    Attempt,
    Buffer,
    Command,
    Dismiss,
    Disposition,
    GiveTasks,
    Interrupt,
    Kill,
    PoolReports,
    Recall,
    Start,
)
from concurrent_nb.workers.slave_side.worker_table import RestartLimit, WorkerState, WorkerTable

#: how often the pages of busy workers are looked at, in seconds; also how late a deadline may be noticed
PAGE_POLL_S: Final = 0.02
#: behind a task that runs, or is expected to run, this long, nothing waits
SLOW_S: Final = 0.02
#: a worker that has never run a task, has some, runs none and says nothing for so long is stuck
STUCK_S: Final = 30.0
#: one whose task has ended, and whose result does not come for so long while nothing moves, is broken
RESULT_S: Final = 5.0
#: a worker that is not ready after so long never will be
START_S: Final = 60.0
#: a worker from which everything was taken back this often, unstarted, is stuck
EMPTY_RECALLS_MAX: Final = 100
#: an initializer may take as long as it likes, but may end so many workers in a row, at most
INITIALIZER_DEATHS: Final = 3
#: threads of which nothing has been heard yet, at most: what starts them takes only so many at once
THREADS_STARTING_MAX: Final = 8
#: most workers in the reserve: so many tasks can be blocked at once
RESERVE_MAX: Final = 128
#: a worker of the reserve that has not been needed for so long is dismissed
RESERVE_S: Final = 2.0
#: suspects that are remembered
SUSPECTS_MAX: Final = 1000

# A name in a module is found faster than a member of an enumeration.
_CANCELLED: Final = int(Status.CANCELLED)
#: how a task may end as its worker tells it
_FROM_WORKERS: Final = frozenset(
    map(int, (Status.OK, Status.HIT, Status.ERROR, _CANCELLED, Status.NOT_PICKLABLE, Status.NOT_LOADABLE))
)

_report: Final = msgspec.msgpack.Encoder().encode


class PoolScheduler:
    """Decide what the pool does. `slots` is the number of workers; see the module for the policy.

    Args:
        tasks_max: tasks that a worker runs before another takes its place; 0: as many as there are. Not for threads.
        initializes: workers run the user's initializer before they are ready.
        result_s: seconds that the result of a task that has ended may take to come, while nothing moves.

    Workers are numbered from 1 and never reuse a number. Unknown tickets, refs and workers are facts that came late,
    and are ignored.
    """

    def __init__(
        self,
        slots: int,
        *,
        ahead_s: float = 0.04,
        grace_s: float = 1.0,
        limit: RestartLimit | None = None,
        tasks_max: int = 0,
        initializes: bool = False,
        result_s: float = RESULT_S,
    ) -> None:
        self.slots = slots
        self.reports = PoolReports()
        self.degraded = False
        self.draining = False
        self.has_initializer_failed = False
        self._grace_s = grace_s
        self._result_s = result_s
        self._limit = limit or RestartLimit()
        self._tasks_max = tasks_max or math.inf
        self._start_s = math.inf if initializes else START_S
        self._start_limit = RestartLimit(INITIALIZER_DEATHS - 1, math.inf) if initializes else self._limit
        self._waiting = AttemptQueue()
        self._multi_slot = AttemptQueue()  # tasks of several cores
        self._system_hosts = AttemptQueue()
        self._threads = AttemptQueue()  # tasks in threads
        self._suspected = AttemptQueue()  # those of them that are suspects
        self._queues = (self._waiting, self._multi_slot, self._system_hosts, self._threads, self._suspected)
        self._suspects: dict[tuple[bytes, int], None] = {}  # by (job, index)
        self._process = 0  # in which threads are started; 0: in a new one
        self._threads_max = slots
        self._attempts: dict[int, Attempt] = {}  # by ticket: all without an outcome
        self._tickets: dict[tuple[bytes, int, int], int] = {}  # by (job, index, number)
        self._workers = WorkerTable(ahead_s)
        self._next_ticket = 1
        self._next_worker = 1
        self._next_poll: float | None = None
        self._reserve_needed_at = 0.0

    # ------------------------------------------------------------------------------------------------ asked by the pool

    def ref(self, number: int, ticket: int) -> TaskRef | None:
        """Name the attempt of a ticket that a worker has; None if it has its outcome.

        Raises ProtocolError if it is another's, or nobody's.
        """
        attempt = self._attempts.get(ticket)
        if attempt is not None and attempt.worker == number:
            return attempt.ref
        self._check_over(ticket)
        return None

    def _check_over(self, ticket: int) -> None:
        """Raise ProtocolError unless this is a ticket that has its outcome."""
        if ticket in self._attempts or not 0 < ticket < self._next_ticket:
            raise ProtocolError(f"named ticket {ticket}, which is not its own")

    def busy_workers(self) -> list[int]:
        """List the workers that have tasks: their pages are to be looked at."""
        return [worker.number for worker in self._workers if worker.held]

    def next_deadline(self) -> float | None:
        """Say when to call `tick` next, None if nothing is under way."""
        return self._next_poll

    def take_reports(self) -> PoolReports:
        """Hand over what has happened since the last call."""
        reports, self.reports = self.reports, PoolReports()
        return reports

    @property
    def usable_slots(self) -> int:
        """Return how many tasks can run at once, those not counted that wait for tasks of their own."""
        return self.slots + min(self._workers.blocked, RESERVE_MAX)

    @property
    def unfinished(self) -> int:
        """Return how many attempts have no outcome yet."""
        return len(self._attempts)

    @property
    def is_saturated(self) -> bool:
        """Say whether every worker has something to run next."""
        workers = [worker for worker in self._workers if not (worker.system_host or worker.process)]
        return bool(workers) and all(len(worker.held) > 1 for worker in workers)

    # ------------------------------------------------------------------------------------------- facts from the slave

    def start(self, now: float) -> list[Command]:
        """Ask for the first workers."""
        return [self._start_one(now) for _ in range(self.slots)]

    def assigned(
        self,
        job: bytes,
        function: bytes,
        timeout_s: float | None,
        frames: Iterable[TaskFrame],
        buffers: Sequence[Sequence[Buffer]],
        now: float,
        needs: Needs | None = None,
    ) -> list[Command]:
        """Take in a run of attempts. `buffers` has an entry for each frame, or none if no task has buffers."""
        for place, frame in enumerate(frames):
            key = (job, frame.index, frame.attempt)
            if key in self._tickets:
                continue
            ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
            own = buffers[place] if buffers else ()
            attempt = Attempt(
                ticket, job, frame.index, frame.attempt, function, timeout_s, frame.body, frame.sizes, own
            )
            if needs is not None:
                attempt.needs = needs
                attempt.suspect = (job, frame.index) in self._suspects
            self._attempts[ticket] = attempt
            self._tickets[key] = ticket
            self._queue_of(attempt).append(attempt)
        if self.degraded or self.draining:
            self._return_all()
        return self._dispatch(now)

    def withdrawn(self, refs: Iterable[TaskRef], stop: bool, now: float) -> list[Command]:
        """Give these back if they have not started; with `stop`, end them wherever they are."""
        disposition = Disposition.CANCEL if stop else Disposition.RETURN
        asked: dict[int, WorkerState] = {}
        special_left = False
        for ref in refs:
            ticket = self._tickets.get((ref.job, ref.index, ref.attempt))
            if ticket is None:
                continue
            attempt = self._attempts[ticket]
            if attempt.worker == 0:
                special_left = special_left or attempt.needs is not None
                self._remove_from_queue(attempt, disposition)
            elif attempt.disposition < disposition:
                attempt.disposition = disposition
                asked[attempt.worker] = self._workers.by_number[attempt.worker]
        commands: list[Command] = []
        for worker in asked.values():
            commands += self._after_recall(worker, now) if worker.recalled else [self._recall(worker)]
        return commands + self._dispatch(now) if special_left else commands  # others may have waited for it

    def drained(self) -> list[Command]:
        """Give back what has not started, now and from now on; what runs may end."""
        self.draining = True
        self._return_all()
        return [self._recall(worker) for worker in self._workers if worker.held and not worker.recalled]

    def restart_requested(self, now: float, *, stop: bool) -> list[Command]:
        """Have others take the place of all workers: as soon as what runs has ended, or with `stop` at once."""
        commands: list[Command] = []
        for worker in list(self._workers):
            if worker.system_host or worker.killed or not (worker.pid or worker.process):
                continue  # it ends with its task, is about to end, or is fresh
            worker.outdated = True
            self._workers.idle.pop(worker.number, None)
            if worker.process:
                self.process_ends(worker.process)
        for worker in list(self._workers):
            if not worker.outdated or worker.killed:
                continue
            if not worker.held:
                commands += self._update(worker)
            elif stop:
                commands.append(self._kill(worker))
            elif not worker.recalled:
                commands.append(self._recall(worker))
        return commands + self._dispatch(now)

    @property
    def outdated(self) -> int:
        """Return how many workers are still to be replaced, or have successors that are not ready."""
        return sum(worker.outdated or not worker.pid for worker in self._workers if not worker.system_host)

    def functions_dropped(self, functions: Iterable[bytes]) -> None:
        """Note that nobody needs these functions any more."""
        for function in functions:
            self._workers.estimates.forget(function)

    def reset(self) -> list[Command]:
        """Forget every attempt without a report, and kill the workers that have any."""
        self._attempts.clear()
        self._tickets.clear()
        self._suspects.clear()
        for queue in self._queues:
            queue.clear()
        self.reports = PoolReports()
        commands: list[Command] = []
        for worker in self._workers:
            if worker.held:
                worker.held.clear()
                commands.append(self._kill(worker))
        return commands

    # ------------------------------------------------------------------------------------------- facts from a worker

    def worker_ready(self, number: int, pid: int, now: float) -> list[Command]:
        """Note that a worker waits for work."""
        worker = self._workers.get(number)
        if worker is None or worker.pid:
            return []
        worker.pid, worker.last_progress_at = pid, now
        if self._start_limit is not self._limit:
            self._start_limit.worked()
        return self._update(worker) + self._dispatch(now)

    def initializer_failed(self, report: str) -> None:
        """Note that the initializer has raised an error in a worker: it would in the next one, too."""
        if not self.degraded:
            self.has_initializer_failed = True
            self._degrade(f"the initializer of the workers has failed:\n{report}")

    def outcomes(self, number: int, results: Sequence[Result], buffers: Sequence[Buffer], now: float) -> list[Command]:
        """Take in results of a worker, and their buffers in one row.

        Raises ProtocolError for a result that it cannot have; those before it have been taken.
        """
        worker = self._workers.get(number)
        if worker is None:
            return []
        at = ended = 0
        elapsed_s, function = 0.0, b""
        for result in results:
            own = buffers[at : at + len(lengths(result.sizes))] if result.sizes else ()
            at += len(own)
            attempt = worker.held.get(result.ticket)
            if attempt is None:  # it came before, through the page
                self._check_over(result.ticket)
                continue
            if result.status not in _FROM_WORKERS or not (result.body or result.sizes or result.status == _CANCELLED):
                raise ProtocolError(f"gave a result that is none, of status {result.status}")
            del worker.held[result.ticket]
            worker.recalled = False
            if attempt.function != function:
                self._record_run_time(function, elapsed_s, ended)
                function, elapsed_s, ended = attempt.function, 0.0, 0
            if result.status < _CANCELLED:
                elapsed_s += result.elapsed_s
                ended += 1
            if result.status == _CANCELLED or attempt.overran(result.elapsed_s):
                self._finish_stopped(attempt, worker, result.elapsed_s)
            else:
                self._finish(attempt, attempt.outcome(result, worker.pid), own)
        self._record_run_time(function, elapsed_s, ended)
        if results:
            self._limit.worked()
        worker.empty_recalls, worker.last_progress_at = 0, now
        return self._update(worker) + self._dispatch(now)

    def recall_finished(self, number: int, count: int, now: float) -> list[Command]:
        """Take back the last `count` tasks of a worker. Raises ProtocolError if it does not have so many."""
        worker = self._workers.get(number)
        if worker is None:
            return []
        if count > len(worker.held):
            raise ProtocolError(f"worker {number} gave back {count} tasks and had {len(worker.held)}")
        for _ in range(count):
            self._requeue(worker.held.popitem()[1])
        worker.tasks_left += count
        return self._after_recall(worker, now) + self._dispatch(now)

    def thread_refused(self, number: int, reason: str, now: float) -> list[Command]:
        """Note that a thread could not be started, as in "too many open files": those that there are have to do."""
        self._workers.remove(number)
        self._threads_max = max(1, len(self._workers.threads))
        if not self._workers.threads and self._limit.died(now):
            self._degrade_after_deaths(self._limit, reason)
        return self._dispatch(now)

    def worker_died(self, number: int, reason: str, ticket: int, started_at: float, now: float) -> list[Command]:
        """Take in the death of a worker, `death_reason` as in "died of SIGSEGV", and what its page shows."""
        worker = self._workers.remove(number)
        if worker is None:
            return []
        # What was stopped with force is over whatever the page says; what else ran then is not to blame.
        culprit = worker.blamed if worker.is_broken else worker.stopping if worker.killed else ticket
        blamed = worker.held.pop(culprit, None)
        if worker.killed and worker.outdated and (stopped := worker.held.pop(ticket, None)) is not None:
            self._return(stopped)  # and not kept here: the master's watch on its run time has to begin anew
        for attempt in reversed(worker.held.values()):
            self._requeue(attempt)
        elapsed_s = worker.run_time_s(ticket, started_at, now) if ticket == culprit else 0.0
        if blamed is not None and blamed.disposition >= Disposition.CANCEL:
            self._finish_stopped(blamed, worker, elapsed_s)
        elif blamed is not None:
            self._finish_died(blamed, worker, reason, elapsed_s)
        elif not worker.killed:
            limit = self._limit if worker.pid else self._start_limit
            if limit.died(now):
                self._degrade_after_deaths(
                    limit, reason if limit is self._limit else f"{reason} while it was initialized"
                )
        return ([] if self.degraded or worker.system_host or worker.spent else [self._start_one(now)]) + self._dispatch(
            now
        )

    def process_ends(self, process: int) -> None:
        """Start no more threads in this process: it is dead, and what its threads have left is about to be told."""
        if process == self._process:
            self._process = 0

    def process_died(
        self, reason: str, pages: Mapping[int, tuple[int, float]], culprits: Collection[int], now: float
    ) -> list[Command]:
        """Take in the death of a process of threads, of which `process_ends` has told.

        Args:
            how: as in "died of SIGSEGV".
            pages: of its threads: what they ran, and since when, (0, 0.0) for nothing.
            culprits: threads that may have caused it.
        """
        killed = broken = False
        ran: list[tuple[WorkerState, Attempt, float]] = []
        unstarted: list[Attempt] = []
        for number, (ticket, started_at) in pages.items():
            worker = self._workers.remove(number)
            if worker is None:
                continue
            killed = killed or worker.killed
            broken = broken or worker.is_broken
            reason = worker.death_reason or reason
            culprit = worker.blamed or (worker.stopping if worker.killed and worker.stopping else ticket)
            attempt = worker.held.pop(culprit, None)
            if attempt is not None:
                run_time_s = worker.run_time_s(ticket, started_at, now) if culprit == ticket else 0.0
                ran.append((worker, attempt, run_time_s))
            unstarted += worker.held.values()
        for attempt in sorted(unstarted, key=lambda attempt: attempt.ticket, reverse=True):
            self._requeue(attempt)
        # What a broken thread has done to itself, its neighbours may have done: they share all memory.
        suspects = [] if killed and not broken else [attempt for worker, attempt, _ in ran if worker.number in culprits]
        for attempt in suspects:
            self._suspect(attempt)
        for worker, attempt, elapsed_s in ran:
            if attempt.disposition >= Disposition.CANCEL:
                self._finish_stopped(attempt, worker, elapsed_s)
            elif suspects == [attempt]:
                self._finish_died(attempt, worker, reason, elapsed_s)
            else:
                self._return(attempt)  # and not kept here: the master's watch on its run time has to begin anew
        if not (killed or suspects) and self._limit.died(now):
            self._degrade_after_deaths(self._limit, reason)
        return self._dispatch(now)

    def page_read(
        self, number: int, ticket: int, started_at: float, moving: bool, now: float, ended: int = 0
    ) -> list[Command]:
        """Take in what a busy worker's page shows.

        Args:
            ticket: of the task that runs, 0 if none does.
            started_at: when that started.
            moving: a record has come or gone since the last look, or a good piece of one.
            ended: ticket of the task that has ended last, 0 if none has.
        """
        worker = self._workers.get(number)
        if worker is None or worker.killed:
            return []
        attempt, first = worker.held.get(ticket), worker.first
        if moving or attempt is first:
            worker.last_progress_at = now
        if worker.stopping and now >= worker.kill_at and (attempt is None or ticket == worker.stopping):
            return [self._kill(worker)]
        if attempt is not first and first is not None:
            has_ended = attempt is not None or ended in worker.held
            if commands := self._without_progress(worker, first, has_ended, has_worked=bool(ended), now=now):
                return commands
        if attempt is None:
            return []
        run_time_s = worker.run_time_s(ticket, started_at, now)
        commands = []
        if run_time_s >= SLOW_S:
            if not attempt.reported:
                attempt.reported = True
                self.reports.started.append(attempt.ref)
            if not worker.recalled and attempt is not worker.last:
                commands.append(self._recall(worker))
        if attempt.timeout_s is not None and run_time_s >= attempt.timeout_s and worker.stopping != ticket:
            commands.append(self._stop(worker, attempt, Disposition.TIME_OUT, now))
        return commands

    def _without_progress(
        self, worker: WorkerState, first: Attempt, has_ended: bool, *, has_worked: bool, now: float
    ) -> list[Command]:
        """Say what is to become of a worker of which nothing comes, though the task that was to run first runs no more.

        Args:
            has_ended: that task has ended, so its result should have come; else it has not begun.
            has_worked: the worker has run tasks before.
        """
        # A thread of a process may have to wait for another that holds the interpreter.
        wait_s = self._result_s if (has_ended or has_worked) and not worker.process else max(STUCK_S, self._result_s)
        if now - worker.last_progress_at <= wait_s:
            return []
        if has_ended:
            reason = f"was killed because the result of a task that had ended did not come within {wait_s:g} s"
            return self._break(worker, first, reason)
        # Whoever was there before may have stopped it, so the first time nobody is blamed.
        first.futile_workers += 1
        if first.futile_workers == 1 or worker.process:
            return [self._kill(worker)] if has_worked else [self._give_up_on(worker, now)]
        if first.timeout_s is not None:
            first.disposition = max(first.disposition, Disposition.TIME_OUT)
        return self._break(worker, first, f"was killed because it did nothing for {wait_s:g} s")

    def broken(self, number: int, reason: str, ticket: int, ended: int, *, may_be_former: bool) -> list[Command]:
        """Kill a worker that has said or done what no worker does.

        The first task without a result is to blame: what the worker said before has been understood.

        Args:
            how: it ends, for people, as in "was killed because it said what is no record".
            ticket: of the task that its page shows.
            ended: ticket of the task that has ended last.
            may_be_former: a task may have done it whose result has come by another way.
        """
        worker = self._workers.get(number)
        if worker is None or worker.is_broken:
            return []
        first = worker.first
        is_sure = (ticket in worker.held or ended in worker.held) and not may_be_former
        if first is not None and not is_sure and worker.stopping not in worker.held:
            first.futile_workers += 1
            first = first if first.futile_workers > 1 else None
        return self._break(worker, first, reason)

    def _break(self, worker: WorkerState, culprit: Attempt | None, reason: str) -> list[Command]:
        worker.is_broken, worker.death_reason = True, reason
        worker.blamed = worker.stopping if worker.stopping in worker.held else culprit.ticket if culprit else 0
        return [self._kill(worker)]

    def blocked(self, number: int, ticket: int, now: float) -> list[Command]:
        """Take in whether the task of this ticket, which a worker runs, waits for tasks of its own; 0: it does not."""
        worker = self._workers.get(number)
        if worker is None or worker.system_host or worker.process or worker.killed:
            return []
        attempt = worker.held.get(ticket)
        if (attempt is not None) == worker.blocked:
            return []
        if attempt is None:
            self._workers.unblock(worker)
            self._reserve_needed_at = now
            return []
        if self._workers.blocked >= RESERVE_MAX:
            return [] if worker.stopping else [self._stop(worker, attempt, Disposition.REFUSE, now)]
        self._workers.block(worker)
        commands: list[Command] = []
        if self._workers.blocked > self._workers.reserve and not self.degraded:
            self._workers.reserve += 1
            commands.append(self._start_one(now))
        return commands + self._dispatch(now)

    def _dismiss_reserve(self, now: float) -> list[Command]:
        """Dismiss the workers that have not been needed for a while."""
        workers = self._workers
        commands: list[Command] = []
        if now - self._reserve_needed_at >= RESERVE_S:
            while workers.idle and workers.reserve > workers.blocked and workers.free_slots >= 0:
                _, worker = workers.idle.popitem()
                worker.killed = worker.spent = True
                workers.reserve -= 1
                commands.append(Dismiss(worker.number))
        return commands

    def tick(self, now: float) -> list[Command]:
        """Note that time has passed. The pages of `busy` workers have been looked at before."""
        commands: list[Command] = self._dismiss_reserve(now) if self._workers.reserve else []
        busy = starting = False
        for worker in self._workers:
            busy = busy or bool(worker.held)
            if not worker.pid and not worker.killed:
                starting = True
                if now - worker.last_progress_at > self._start_s:
                    commands.append(self._give_up_on(worker, now))
        self._next_poll = now + PAGE_POLL_S if busy else now + START_S if starting else None
        if self._next_poll is None and self._workers.reserve:
            self._next_poll = now + RESERVE_S
        return commands + self._dispatch(now)

    # ------------------------------------------------------------------------------------------------- who gets what

    def _dispatch(self, now: float) -> list[Command]:
        """Give what waits to whoever can take it; with nothing waiting, find work for idle workers."""
        workers = self._workers
        commands = self._dispatch_system_hosts(now) if self._system_hosts or workers.system_hosts else []
        while self._multi_slot and workers.free_slots >= (width := self._width(self._multi_slot.first())):
            commands.append(self._give_one(workers.take_slots(width), self._multi_slot, now))
        if self._multi_slot:
            return commands  # whoever gets free keeps a slot for it
        if self._threads or self._suspected:
            commands += self._start_threads(now)
        while True:
            queue, thread = self._for_thread()
            if thread is not None and not (self._waiting and _is_older(self._waiting, queue)):
                if workers.free_slots < 1:
                    return commands  # here, too
                commands.append(self._give(workers.take_slot(thread), queue, now))
            elif self._waiting and (worker := workers.pop_next()):
                commands.append(self._give(worker, self._waiting, now))
            else:
                break
        if not (self._waiting or queue) and workers.free_slots > 0 and (loaded := workers.most_loaded()):
            commands.append(self._recall(loaded))
        return commands

    def _dispatch_system_hosts(self, now: float) -> list[Command]:
        """Give hosts to the workers that stand beside the slots; start such workers, and dismiss those without one."""
        commands: list[Command] = []
        system_hosts = self._workers.system_hosts
        for worker in system_hosts.values():
            if worker.is_free and self._system_hosts and not worker.spent:
                worker.spent = True
                commands.append(self._give_one(worker, self._system_hosts, now))
            elif worker.is_free:
                worker.killed = True
                commands.append(Dismiss(worker.number))
        starting = sum(not (worker.pid or worker.killed) for worker in system_hosts.values())
        for _ in range(min(len(self._system_hosts) - starting, HOSTS_MAX - len(system_hosts))):
            commands.append(self._start_one(now, system_host=True))
        return commands

    def _start_threads(self, now: float) -> list[Command]:
        """Start as many threads as can be of use now."""
        threads = [thread for thread in self._workers.threads.values() if not (thread.killed or thread.outdated)]
        starting = sum(not thread.pid for thread in threads)
        free = sum(thread.is_free for thread in threads)
        needed = len(self._threads) + len(self._suspected) - starting - free
        count = min(needed, self._threads_max - len(threads), THREADS_STARTING_MAX - starting)
        return [self._start_one(now, thread=True) for _ in range(count)]

    def _for_thread(self) -> tuple[AttemptQueue, WorkerState | None]:
        """Choose which tasks in threads are next, and the thread that can begin one now; None if none can."""
        queue = self._suspected or self._threads
        if not queue:
            return queue, None
        at_work = [thread for thread in self._workers.threads.values() if thread.held]
        is_free = not at_work if queue is self._suspected else not any(thread.last.suspect for thread in at_work)
        return queue, self._workers.free_thread() if is_free else None

    def _width(self, attempt: Attempt) -> int:
        """Say how many slots a task of several cores takes here."""
        cores = attempt.needs.cores if attempt.needs is not None else 1
        # No master asks for more than it was told of, but `slots` may have been told as fewer meanwhile.
        return min(cores or self.slots, self.slots)

    def _queue_of(self, attempt: Attempt) -> AttemptQueue:
        needs = attempt.needs
        if needs is None:
            return self._waiting
        if needs.kind == "thread":
            return self._suspected if attempt.suspect else self._threads
        return self._system_hosts if needs.kind == "host" else self._multi_slot if needs.cores != 1 else self._waiting

    def _give_one(self, worker: WorkerState, queue: AttemptQueue, now: float) -> GiveTasks:
        return self._give_pack(worker, queue.pop_pack(1), now)

    def _give(self, worker: WorkerState, queue: AttemptQueue, now: float) -> GiveTasks:
        """Make a pack of about `ahead_s` of work and at most a fair share of what waits; of suspects, one."""
        size = 1 if queue is self._suspected else self._workers.pack_size(queue.next_function())
        size = min(size, -(-len(queue) // self.slots))
        return self._give_pack(
            worker, queue.pop_pack(size if size < worker.tasks_left else int(worker.tasks_left)), now
        )

    def _give_pack(self, worker: WorkerState, pack: Sequence[Attempt], now: float) -> GiveTasks:
        worker.assign(pack, now)
        if self._next_poll is None or self._next_poll > now + PAGE_POLL_S:
            self._next_poll = now + PAGE_POLL_S
        return GiveTasks(worker.number, pack[0].function, pack)

    def _recall(self, worker: WorkerState) -> Recall:
        worker.recalled = True  # from now on, so that nothing is given to it before this is obeyed
        return Recall(worker.number)

    def _update(self, worker: WorkerState) -> list[Command]:
        """Bring a worker's record up to date; let it go if it has run what it may."""
        commands: list[Command] = []
        if worker.is_leaving and not worker.killed:
            siblings = self._workers.siblings(worker)  # threads go together
            if not any(sibling.held or not sibling.pid for sibling in siblings):
                for sibling in siblings:
                    sibling.killed = True
                    commands.append(Dismiss(sibling.number))
        self._workers.update(worker)
        return commands

    def _record_run_time(self, function: bytes, elapsed_s: float, ended: int) -> None:
        if ended:
            self._workers.estimates.learn(function, elapsed_s / ended)

    # ------------------------------------------------------------------------------------------- the way back, the end

    def _requeue(self, attempt: Attempt) -> None:
        """Put what a worker had, and did not finish, to the front of the queue, or where it is wished."""
        self._queue_of(attempt).push_front(attempt)
        if disposition := max(
            attempt.disposition, Disposition.RETURN if self.degraded or self.draining else Disposition.KEEP
        ):
            self._remove_from_queue(attempt, disposition)

    def _remove_from_queue(self, attempt: Attempt, disposition: Disposition) -> None:
        """End a waiting attempt: returned, or cancelled before it ran."""
        self._queue_of(attempt).remove(attempt)
        if disposition is Disposition.RETURN:
            self._return(attempt)
        else:
            self._forget(attempt)
            self.reports.ended(attempt.job, attempt.end(Status.CANCELLED))

    def _after_recall(self, worker: WorkerState, now: float) -> list[Command]:
        """Look at what a worker still has after a recall: all of it has started."""
        worker.recalled = True
        if not worker.held:
            worker.empty_recalls += 1
            return (
                [self._give_up_on(worker, now)] if worker.empty_recalls >= EMPTY_RECALLS_MAX else self._update(worker)
            )
        last = worker.last
        worker.packs = deque([last.ticket])
        for attempt in worker.held.values():
            if attempt.disposition is Disposition.RETURN:
                attempt.disposition = Disposition.KEEP
        # Only the last can be running; those before it are done, and their results are on the way.
        if last.disposition is Disposition.CANCEL and worker.stopping != last.ticket:
            return [self._stop(worker, last, Disposition.CANCEL, now)]
        return []

    def _stop(self, worker: WorkerState, attempt: Attempt, disposition: Disposition, now: float) -> Interrupt:
        attempt.disposition = disposition
        worker.stopping, worker.kill_at = attempt.ticket, now + self._grace_s
        return Interrupt(worker.number, attempt.ticket)

    def _kill(self, worker: WorkerState) -> Kill:
        for sibling in self._workers.siblings(worker):
            sibling.killed = True
        if worker.process:
            self.process_ends(worker.process)
        self._workers.idle.pop(worker.number, None)
        return Kill(worker.number)

    def _give_up_on(self, worker: WorkerState, now: float) -> Kill:
        """Kill a worker for its own sake; nobody is to blame."""
        if self._limit.died(now):
            self._degrade_after_deaths(self._limit, "does not answer")
        worker.stopping = 0
        return self._kill(worker)

    def _start_one(self, now: float, *, system_host: bool = False, thread: bool = False) -> Start:
        if thread and not self._process:
            self._process = self._next_number()
        process = self._process if thread else 0
        number = self._next_number()
        tasks_left = math.inf if system_host or thread else self._tasks_max
        self._workers.add(WorkerState(number, now, system_host=system_host, process=process, tasks_left=tasks_left))
        if self._next_poll is None:
            self._next_poll = now + START_S
        return Start(number, process)

    def _next_number(self) -> int:
        number, self._next_worker = self._next_worker, self._next_worker + 1
        return number

    def _degrade_after_deaths(self, limit: RestartLimit, reason: str) -> None:
        within = f" within {limit.within_s:g} s" if math.isfinite(limit.within_s) else " in a row"
        self._degrade(
            f"{limit.deaths + 1} workers ended{within} without a task to blame; the last one {reason}. No"
            " more are started"
        )
        self.has_initializer_failed = limit is not self._limit

    def _degrade(self, why: str) -> None:
        self.degraded = True
        self.reports.degraded = why
        self._return_all()

    def _return_all(self) -> None:
        for queue in self._queues:
            for attempt in queue.clear():
                self._return(attempt)

    def _return(self, attempt: Attempt) -> None:
        self._forget(attempt)
        self.reports.returned.append(attempt.ref)

    def _suspect(self, attempt: Attempt) -> None:
        self._suspects[attempt.job, attempt.index] = None
        if len(self._suspects) > SUSPECTS_MAX:
            del self._suspects[next(iter(self._suspects))]

    def _finish_stopped(self, attempt: Attempt, worker: WorkerState, elapsed_s: float) -> None:
        """End what was stopped: by its deadline, or cancelled."""
        if attempt.disposition is Disposition.TIME_OUT:
            message = f"task {attempt.name} ran longer than its timeout of {attempt.timeout_s:g} s and was stopped"
            message += f" after {elapsed_s:.2f} s"
            self._finish_report(attempt, Status.TIMEOUT, message, worker, elapsed_s)
        elif attempt.disposition is Disposition.REFUSE:
            message = f"task {attempt.name} waits for tasks of its own, as {RESERVE_MAX} tasks of its slave do already"
            message += ": let fewer of them wait at once, or let a task return what is to be run next"
            body = _report(ErrorReport("TaskRefused", message, ""))
            self._finish(attempt, attempt.end(Status.ERROR, elapsed_s, worker.pid, body))
        else:
            self._finish(attempt, attempt.end(Status.CANCELLED, elapsed_s, worker.pid))

    def _finish_died(self, attempt: Attempt, worker: WorkerState, reason: str, elapsed_s: float) -> None:
        message = f"worker {worker.pid} {worker.death_reason or reason} while it ran task {attempt.name}"
        if worker.is_broken:
            message = f"worker {worker.pid} {worker.death_reason}; it had task {attempt.name}"
        self._finish_report(attempt, Status.DIED, message, worker, elapsed_s)

    def _finish_report(
        self, attempt: Attempt, status: Status, message: str, worker: WorkerState, elapsed_s: float
    ) -> None:
        body = _report(ErrorReport("", message, ""))
        self._finish(attempt, attempt.end(status, elapsed_s, worker.pid, body))

    def _finish(self, attempt: Attempt, frame: OutcomeFrame, buffers: Sequence[Buffer] = ()) -> None:
        """Report an attempt's end, once."""
        self._forget(attempt)
        if attempt.suspect and frame.status != Status.DIED:
            self._suspects.pop((attempt.job, attempt.index), None)
        self.reports.ended(attempt.job, frame, buffers)

    def _forget(self, attempt: Attempt) -> None:
        del self._attempts[attempt.ticket]
        del self._tickets[attempt.job, attempt.index, attempt.number]


def _is_older(one: AttemptQueue, other: AttemptQueue) -> bool:
    """Say whether the first of one queue came before the first of the other."""
    return one.first().ticket < other.first().ticket
