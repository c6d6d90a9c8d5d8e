"""The process whose threads run tasks: start its threads, handle its death, and keep suspects alone in it. Pure."""

from collections.abc import Collection, Mapping
from typing import Final

from concurrent_nb.workers.slave_side.attempts import Attempt, Command, Disposition, Start
from concurrent_nb.workers.slave_side.pool_scheduler import outcome_frames
from concurrent_nb.workers.slave_side.pool_scheduler.attempt_queue import AttemptQueue
from concurrent_nb.workers.slave_side.pool_scheduler.pool_state import PoolState
from concurrent_nb.workers.slave_side.pool_scheduler.worker_lifecycle import WorkerLifecycle
from concurrent_nb.workers.slave_side.pool_scheduler.worker_table import WorkerState

#: most threads that are starting at the same time; the process can receive only so many channels at once
THREADS_STARTING_MAX: Final = 8


class ThreadProcess:
    """The workers that are threads of one process. A new process is started when the current one ends."""

    def __init__(self, state: PoolState, lifecycle: WorkerLifecycle) -> None:
        self.threads_max = state.slots
        self._state = state
        self._workers = state.workers
        self._lifecycle = lifecycle

    def start_threads(self, now: float) -> list[Start]:
        """Start as many threads as the waiting tasks can use."""
        state = self._state
        threads = [thread for thread in self._workers.threads.values() if not (thread.killed or thread.outdated)]
        starting = sum(not thread.pid for thread in threads)
        free = sum(thread.is_free for thread in threads)
        needed = len(state.threads) + len(state.suspected) - starting - free
        room = self.threads_max + self._workers.blocked_threads - len(threads)
        count = min(needed, room, THREADS_STARTING_MAX - starting)
        return [self._start_thread(now) for _ in range(count)]

    def _start_thread(self, now: float) -> Start:
        if not self._state.thread_process:
            self._state.thread_process = self._lifecycle.next_number()
        return self._lifecycle.start(now, process=self._state.thread_process)

    def next_thread(self) -> tuple[AttemptQueue, WorkerState | None]:
        """Choose the queue of the next task in a thread, and the thread that can start it now; None if none can."""
        state = self._state
        queue = state.suspected or state.threads
        if not queue:
            return queue, None
        at_work = [thread for thread in self._workers.threads.values() if thread.held]
        is_free = not at_work if queue is state.suspected else not any(thread.last.suspect for thread in at_work)
        return queue, self._workers.free_thread() if is_free else None

    def refused(self, number: int, reason: str, now: float) -> list[Command]:
        """Handle a thread that could not be started: the present ones must do."""
        refused = self._workers.remove(number)
        self.threads_max = max(1, len(self._workers.threads))
        if not self._workers.threads and self._lifecycle.limit.died(now):
            self._lifecycle.degrade_after_deaths(reason)
        # Those of a process that is to end may have waited for this one.
        threads = self._workers.threads.values()
        sibling = next((one for one in threads if refused is not None and one.process == refused.process), None)
        return [] if sibling is None else self._lifecycle.update(sibling)

    def died(self, reason: str, pages: Mapping[int, tuple[int, float]], culprits: Collection[int], now: float) -> None:
        """Handle the death of the process: end or requeue the attempts of its threads, and find the one to blame.

        Args:
            pages: of its threads: the ticket that ran, and since when; (0, 0.0) for none.
            culprits: numbers of the threads that may have caused it.
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
            self._state.requeue(attempt)
        # What broke one thread may have been done by another one: they share all memory.
        suspects = [] if killed and not broken else [attempt for worker, attempt, _ in ran if worker.number in culprits]
        for attempt in suspects:
            self._state.suspect(attempt)
        for worker, attempt, elapsed_s in ran:
            if attempt.disposition >= Disposition.CANCEL:
                self._state.finish(attempt, outcome_frames.stopped(attempt, worker, elapsed_s))
            elif suspects == [attempt]:
                self._state.finish(attempt, outcome_frames.died(attempt, worker, reason, elapsed_s))
            else:  # not kept here: the master's watch on its run time must begin anew
                self._state.return_to_master(attempt)
        if not (killed or suspects) and self._lifecycle.limit.died(now):
            self._lifecycle.degrade_after_deaths(reason)
