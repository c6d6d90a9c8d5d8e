"""The pool scheduler: what has happened goes in, commands for the pool come out. See the package for the policy."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from concurrent_nb.errors import ProtocolError
from concurrent_nb.outcome import Status
from concurrent_nb.restart_limit import RestartLimit
from concurrent_nb.wire.codec import ItemBuffers
from concurrent_nb.wire.messages import Assign, TaskRef
from concurrent_nb.workers.protocol.records import Result, lengths
from concurrent_nb.workers.slave_side.attempts import Buffer, Command, Disposition, GiveTasks, PoolReports
from concurrent_nb.workers.slave_side.pool_scheduler import outcome_frames
from concurrent_nb.workers.slave_side.pool_scheduler.assignment import Assignment
from concurrent_nb.workers.slave_side.pool_scheduler.pool_state import PoolState
from concurrent_nb.workers.slave_side.pool_scheduler.reserve import RESERVE_S, Reserve
from concurrent_nb.workers.slave_side.pool_scheduler.thread_process import ThreadProcess
from concurrent_nb.workers.slave_side.pool_scheduler.worker_lifecycle import RESULT_S, WorkerLifecycle
from concurrent_nb.workers.slave_side.pool_scheduler.worker_table import WorkerState

# A name in a module is found faster than a member of an enumeration.
_CANCELLED: Final = int(Status.CANCELLED)
_INPUT_GONE: Final = int(Status.INPUT_GONE)
#: the statuses that a worker may report
_FROM_WORKERS: Final = frozenset(
    map(int, (Status.OK, Status.HIT, Status.ERROR, _CANCELLED, Status.NOT_PICKLABLE, Status.NOT_LOADABLE))
)


class PoolScheduler:
    """Decides what the pool does.

    Args:
        slots: number of workers that run tasks at the same time.
        ahead_s: seconds of work in a pack.
        grace_s: seconds between the interrupt of a task and the kill of its worker.
        limit: after how many deaths without a task to blame no worker is started any more.
        tasks_max: tasks that a worker may get before another takes its place; 0: no limit. Not for threads.
        initializes: workers run the user's initializer before they are ready.
        result_s: seconds that the result of an ended task may take to come, while nothing moves.

    Workers are numbered from 1, and no number is used twice. Events about unknown tickets, refs and workers came too
    late, and are ignored.
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
        self._state = PoolState(slots, ahead_s)
        self._workers = self._state.workers
        self._lifecycle = WorkerLifecycle(
            self._state,
            grace_s=grace_s,
            limit=limit or RestartLimit(),
            tasks_max=tasks_max,
            initializes=initializes,
            result_s=result_s,
        )
        self._threads = ThreadProcess(self._state, self._lifecycle)
        self._reserve = Reserve(self._state, self._lifecycle)
        self._assignment = Assignment(self._state, self._lifecycle, self._threads)

    # ---------------------------------------------------------------------------------------------- asked by the pool

    @property
    def slots(self) -> int:
        """Return the number of slots."""
        return self._state.slots

    @property
    def degraded(self) -> bool:
        """Return whether no worker is started any more."""
        return self._state.degraded

    @property
    def has_initializer_failed(self) -> bool:
        """Return whether that is because of the user's initializer."""
        return self._lifecycle.has_initializer_failed

    @property
    def usable_slots(self) -> int:
        """Return how many tasks can run at the same time, not counting blocked ones."""
        return self._state.slots + self._reserve.lent_slots

    @property
    def unfinished(self) -> int:
        """Return how many attempts have no outcome yet."""
        return len(self._state.attempts)

    @property
    def is_saturated(self) -> bool:
        """Return whether every worker has a task to run next."""
        workers = [worker for worker in self._workers if not (worker.system_host or worker.process)]
        return bool(workers) and all(len(worker.held) > 1 for worker in workers)

    @property
    def outdated(self) -> int:
        """Return how many workers are still to be replaced, or have successors that are not ready."""
        return sum(worker.outdated or not worker.pid for worker in self._workers if not worker.system_host)

    def ref(self, number: int, ticket: int) -> TaskRef | None:
        """Return the attempt of a ticket that a worker has, None if it has its outcome.

        Raises ProtocolError if the ticket is another worker's, or none.
        """
        attempt = self._state.attempts.get(ticket)
        if attempt is not None and attempt.worker == number:
            return attempt.ref
        self._state.check_over(ticket)
        return None

    def attempts(self) -> list[TaskRef]:
        """Return all attempts without an outcome."""
        return [attempt.ref for attempt in self._state.attempts.values()]

    def place_of(self, ref: TaskRef) -> tuple[int, int] | None:
        """Return the ticket of an attempt and the number of the worker that has it, 0 while it waits.

        None if it is not here, or no longer.
        """
        ticket = self._state.tickets.get((ref.job, ref.index, ref.attempt))
        return None if ticket is None else (ticket, self._state.attempts[ticket].worker)

    def run_time_s(self, number: int, ticket: int, started_at: float, now: float) -> float:
        """Return how long the task in a worker's page has run, in seconds; impossible claims count nothing."""
        worker = self._workers.get(number)
        return 0.0 if worker is None else worker.run_time_s(ticket, started_at, now)

    def busy_workers(self) -> list[int]:
        """Return the numbers of the workers that have tasks: the pool must read their pages."""
        return [worker.number for worker in self._workers if worker.held]

    def next_deadline(self) -> float | None:
        """Return when to call `tick` next, None if no worker is busy or starting."""
        return self._state.next_poll

    def take_reports(self) -> PoolReports:
        """Return what has happened since the last call."""
        reports, self._state.reports = self._state.reports, PoolReports()
        return reports

    # ------------------------------------------------------------------------------------------ events from the slave

    def start(self, now: float) -> list[Command]:
        """Start the first workers."""
        return [self._lifecycle.start(now) for _ in range(self._state.slots)]

    def assigned(self, run: Assign, buffers: ItemBuffers, now: float) -> list[Command]:
        """Add attempts. `buffers` has an entry for each task, or is empty if no task has buffers."""
        self._state.add(run, buffers)
        if self._state.degraded or self._state.draining:
            self._state.return_all()
        return self._assignment.assign(now)

    def followed(self, run: Assign, now: float) -> tuple[int, list[Command]]:
        """Add attempts behind `run.behind`, in its worker. Returns how many of the first ones, maybe none."""
        state, leader = self._state, run.behind
        ticket = None if leader is None else state.tickets.get((leader.job, leader.index, leader.attempt))
        if ticket is None or state.degraded or state.draining:
            return 0, []
        attempt = state.attempts[ticket]
        if not (most := self._workers.can_follow(attempt, run.function)):
            return 0, []
        pack = state.follow(run, attempt, most)
        if not pack:
            return 0, []
        worker = self._workers.by_number[attempt.worker]
        worker.assign(pack, now)
        return len(pack), [GiveTasks(worker.number, run.function, pack)]

    def withdrawn(self, refs: Iterable[TaskRef], stop: bool, now: float) -> list[Command]:
        """Return these attempts if they have not started; with `stop`, also stop those that have."""
        state, lifecycle = self._state, self._lifecycle
        disposition = Disposition.CANCEL if stop else Disposition.RETURN
        affected: dict[int, WorkerState] = {}
        special_removed = False
        for ref in refs:
            ticket = state.tickets.get((ref.job, ref.index, ref.attempt))
            if ticket is None:
                continue
            attempt = state.attempts[ticket]
            if attempt.worker == 0:
                special_removed = special_removed or attempt.needs is not None
                state.remove_from_queue(attempt, disposition)
            elif attempt.disposition < disposition:
                attempt.disposition = disposition
                affected[attempt.worker] = self._workers.by_number[attempt.worker]
        commands: list[Command] = []
        for worker in affected.values():
            commands += lifecycle.after_recall(worker, now) if worker.recalled else [lifecycle.recall(worker)]
        # Other tasks may have waited for slots that were kept for a removed one.
        return commands + self._assignment.assign(now) if special_removed else commands

    def drained(self) -> list[Command]:
        """Return what has not started, now and from now on. Running tasks may end."""
        self._state.draining = True
        self._state.return_all()
        return [self._lifecycle.recall(worker) for worker in self._workers if worker.held and not worker.recalled]

    def restart_requested(self, now: float, *, stop: bool) -> list[Command]:
        """Replace all workers: each one when its running task has ended, or with `stop` immediately."""
        return self._lifecycle.restart_all(now, stop=stop) + self._assignment.assign(now)

    def functions_dropped(self, functions: Iterable[bytes]) -> None:
        """Forget functions that no task needs any more."""
        for function in functions:
            self._workers.estimates.forget(function)

    def reset(self) -> list[Command]:
        """Forget all attempts and reports, and kill the workers that have tasks."""
        self._state.clear()
        commands: list[Command] = []
        for worker in self._workers:
            if worker.held:
                worker.held.clear()
                commands.append(self._lifecycle.kill(worker))
        return commands

    def tick(self, now: float) -> list[Command]:
        """Handle the passing of time. The pool must have read the pages of `busy_workers` before."""
        workers = self._workers
        commands = self._reserve.dismiss_unused(now) if workers.reserve else []
        commands += self._lifecycle.check(now)
        if self._state.next_poll is None and workers.reserve:
            self._state.next_poll = now + RESERVE_S
        return commands + self._assignment.assign(now)

    # ------------------------------------------------------------------------------------------- events from a worker

    def worker_ready(self, number: int, pid: int, now: float) -> list[Command]:
        """Handle a worker that is ready for tasks."""
        worker = self._workers.get(number)
        if worker is None or worker.pid:
            return []
        return self._lifecycle.ready(worker, pid, now) + self._assignment.assign(now)

    def initializer_failed(self, report: str) -> None:
        """Handle an error of the user's initializer in a worker; it would fail in the next one, too."""
        self._lifecycle.initializer_failed(report)

    def outcomes(self, number: int, results: Sequence[Result], buffers: Sequence[Buffer], now: float) -> list[Command]:
        """Report the results of a worker, with the buffers of all of them in one sequence.

        Raises ProtocolError for a result that the worker cannot have; those before it have been reported.
        """
        worker = self._workers.get(number)
        if worker is None:
            return []
        state, held, finish = self._state, worker.held, self._state.finish
        at = ended = 0
        elapsed_s, function = 0.0, b""
        own: Sequence[Buffer] = ()
        for result in results:
            ticket, status, sizes = result.ticket, result.status, result.sizes
            if sizes or own:
                own = buffers[at : at + len(lengths(sizes))]
                at += len(own)
            attempt = held.get(ticket)
            if attempt is None:  # the pool has read it from the page before
                state.check_over(ticket)
                continue
            if attempt.behind:
                worker.followers -= 1
                if status == _INPUT_GONE:  # the one before has failed there, or is not there
                    del held[ticket]
                    state.requeue(attempt)
                    continue
            if status not in _FROM_WORKERS or not (result.body or sizes or status == _CANCELLED):
                raise ProtocolError(f"sent an invalid result, of status {status}")
            del held[ticket]
            if attempt.function is not function:
                if attempt.function != function:
                    self._measured(function, elapsed_s, ended)
                    elapsed_s, ended = 0.0, 0
                function = attempt.function
            if status < _CANCELLED:
                elapsed_s += result.elapsed_s
                ended += 1
            if status == _CANCELLED or (attempt.timeout_s is not None and attempt.overran(result.elapsed_s)):
                finish(attempt, outcome_frames.stopped(attempt, worker, result.elapsed_s))
            else:
                finish(attempt, attempt.outcome(result, worker.pid, now), own)
            worker.recalled = False
        self._measured(function, elapsed_s, ended)
        if results:
            self._lifecycle.limit.worked()
        worker.empty_recalls, worker.last_progress_at = 0, now
        return self._lifecycle.update(worker) + self._assignment.assign(now)

    def _measured(self, function: bytes, elapsed_s: float, ended: int) -> None:
        if ended:
            self._workers.estimates.measured(function, elapsed_s / ended, 1)

    def recall_finished(self, number: int, count: int, now: float) -> list[Command]:
        """Requeue the last `count` attempts of a worker. Raises ProtocolError if it does not have so many."""
        worker = self._workers.get(number)
        if worker is None:
            return []
        if count > len(worker.held):
            raise ProtocolError(f"worker {number} returned {count} tasks and had {len(worker.held)}")
        for _ in range(count):
            attempt = worker.held.popitem()[1]
            worker.followers -= attempt.behind > 0
            self._state.requeue(attempt)
        worker.tasks_left += count
        return self._lifecycle.after_recall(worker, now) + self._assignment.assign(now)

    def page_read(
        self, number: int, ticket: int, started_at: float, moving: bool, now: float, ended: int = 0
    ) -> list[Command]:
        """Handle what the page of a busy worker shows.

        Args:
            ticket: of the running task, 0 if none runs.
            started_at: when it started.
            moving: since the last call a record was sent or received, or a considerable part of one.
            ended: ticket of the task that has ended last, 0 if none has.
        """
        worker = self._workers.get(number)
        if worker is None or worker.killed:
            return []
        return self._lifecycle.page_read(worker, ticket, started_at, moving, now, ended)

    def blocked(self, number: int, ticket: int, now: float) -> list[Command]:
        """Handle whether a worker's task, of this ticket, waits for tasks of its own; 0: it does not."""
        worker = self._workers.get(number)
        if worker is None or worker.system_host or worker.killed:
            return []
        if (ticket in worker.held) == worker.blocked:
            return []
        if worker.blocked:
            self._reserve.unblock(worker, now)
            return []
        if self._reserve.is_full:
            if worker.stopping:
                return []
            return [self._lifecycle.stop(worker, worker.held[ticket], Disposition.REFUSE, now)]
        return self._reserve.block(worker, now) + self._assignment.assign(now)

    def broken(self, number: int, reason: str, ticket: int, ended: int, *, may_be_former: bool) -> list[Command]:
        """Kill a worker that violated the protocol.

        Its first task without a result is to blame, because everything that came before was valid.

        Args:
            reason: how it ends, for messages, as in "was killed because it sent an invalid record".
            ticket: of the task that its page shows.
            ended: ticket of the task that has ended last.
            may_be_former: an earlier task may have done it, whose result has come by another way.
        """
        worker = self._workers.get(number)
        if worker is None or worker.is_broken:
            return []
        return self._lifecycle.broken(worker, reason, ticket, ended, may_be_former=may_be_former)

    def worker_died(
        self, number: int, reason: str, ticket: int, started_at: float, now: float, *, is_collateral: bool = False
    ) -> list[Command]:
        """Handle the death of a worker, `reason` as in "died of SIGSEGV", whose page shows this ticket.

        With `is_collateral` it died of the same cause as another one, whose death counts.
        """
        worker = self._workers.remove(number)
        if worker is None:
            return []
        died = self._lifecycle.died(worker, reason, ticket, started_at, now, is_collateral=is_collateral)
        return died + self._assignment.assign(now)

    # --------------------------------------------------------------------------------- events from a process of threads

    def thread_refused(self, number: int, reason: str, now: float) -> list[Command]:
        """Handle a thread that could not be started, `reason` as in "too many open files"."""
        return [*self._threads.refused(number, reason, now), *self._assignment.assign(now)]

    def process_ends(self, process: int) -> None:
        """Start no more threads in this process: it is dead, and `process_died` follows."""
        self._lifecycle.abandon(process)

    def process_died(
        self, reason: str, pages: Mapping[int, tuple[int, float]], culprits: Collection[int], now: float
    ) -> list[Command]:
        """Handle the death of a process of threads, after `process_ends`.

        Args:
            reason: as in "died of SIGSEGV".
            pages: of its threads: the ticket that ran, and since when; (0, 0.0) for none.
            culprits: numbers of the threads that may have caused it.
        """
        self._threads.died(reason, pages, culprits, now)
        return self._assignment.assign(now)
