"""The life of a worker: started, watched, recalled from, stopped, killed, replaced; and who is to blame for its death.

Pure. Returns commands for the pool; assigns no tasks.
"""

import math
from collections import deque
from typing import Final

from concurrent_nb.restart_limit import RestartLimit
from concurrent_nb.wire.messages import StartedTask
from concurrent_nb.workers.slave_side.attempts import (
    Attempt,
    Command,
    Dismiss,
    Disposition,
    Interrupt,
    Kill,
    Recall,
    Start,
)
from concurrent_nb.workers.slave_side.pool_scheduler import outcome_frames
from concurrent_nb.workers.slave_side.pool_scheduler.pool_state import PAGE_POLL_S, PoolState
from concurrent_nb.workers.slave_side.pool_scheduler.worker_table import WorkerState

#: nothing waits behind a task that has run this long
SLOW_S: Final = 0.02
#: a worker that has run no task yet, has some and starts none for this long is stuck
STUCK_S: Final = 30.0
#: a worker is broken if the result of an ended task does not come for this long, while nothing moves
RESULT_S: Final = 5.0
#: a worker that is not ready after this long is given up
START_S: Final = 60.0
#: a worker from which everything was recalled, unstarted, this often in a row is stuck
EMPTY_RECALLS_MAX: Final = 100
#: an initializer may take any time, but may end at most this many workers in a row
INITIALIZER_DEATHS: Final = 3


class WorkerLifecycle:
    """Start and end workers.

    Args:
        grace_s: seconds between the interrupt of a task and the kill of its worker.
        limit: after how many deaths without a task to blame no worker is started any more.
        tasks_max: tasks that a worker may get before another takes its place; 0: no limit. Not for threads.
        initializes: workers run the user's initializer before they are ready.
        result_s: seconds that the result of an ended task may take to come, while nothing moves.
    """

    def __init__(
        self,
        state: PoolState,
        *,
        grace_s: float,
        limit: RestartLimit,
        tasks_max: int,
        initializes: bool,
        result_s: float,
    ) -> None:
        self.has_initializer_failed = False
        self.limit = limit
        self._state = state
        self._workers = state.workers
        self._grace_s = grace_s
        self._result_s = result_s
        self._tasks_max = tasks_max or math.inf
        self._start_s = math.inf if initializes else START_S
        self._start_limit = RestartLimit(INITIALIZER_DEATHS - 1, math.inf) if initializes else limit
        self._next_worker = 1

    # ------------------------------------------------------------------------------------------------ start and watch

    def start(self, now: float, *, system_host: bool = False, process: int = 0) -> Start:
        """Start a worker; with `process`, as a thread of that one."""
        number = self.next_number()
        tasks_left = math.inf if system_host or process else self._tasks_max
        self._workers.add(WorkerState(number, now, system_host=system_host, process=process, tasks_left=tasks_left))
        if self._state.next_poll is None:
            self._state.next_poll = now + START_S
        return Start(number, process)

    def next_number(self) -> int:
        """Return a number that no worker and no process has had."""
        number, self._next_worker = self._next_worker, self._next_worker + 1
        return number

    def ready(self, worker: WorkerState, pid: int, now: float) -> list[Command]:
        """Mark a worker as ready for tasks."""
        worker.pid, worker.last_progress_at = pid, now
        if self._start_limit is not self.limit:
            self._start_limit.worked()
        return self.update(worker)

    def check(self, now: float) -> list[Command]:
        """Give up the workers that should have been ready by now, and set the next time to check."""
        commands: list[Command] = []
        busy = starting = False
        for worker in self._workers:
            busy = busy or bool(worker.held)
            if not worker.pid and not worker.killed:
                starting = True
                if now - worker.last_progress_at > self._start_s:
                    commands.append(self.give_up(worker, now))
        self._state.next_poll = now + PAGE_POLL_S if busy else now + START_S if starting else None
        return commands

    def page_read(
        self, worker: WorkerState, ticket: int, started_at: float, moving: bool, now: float, ended: int
    ) -> list[Command]:
        """Handle what the page of a busy worker shows: report a start, stop a task, recall what waits behind it."""
        attempt, first = worker.held.get(ticket), worker.first
        if moving or attempt is first:
            worker.last_progress_at = now
        if worker.stopping and now >= worker.kill_at and (attempt is None or ticket == worker.stopping):
            return [self.kill(worker)]
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
                started = StartedTask(attempt.job, attempt.index, attempt.number, worker.pid)
                self._state.reports.started.append(started)
            if not worker.recalled and attempt is not worker.last:
                commands.append(self.recall(worker))
        if attempt.timeout_s is not None and run_time_s >= attempt.timeout_s and worker.stopping != ticket:
            commands.append(self.stop(worker, attempt, Disposition.TIME_OUT, now))
        return commands

    def _without_progress(
        self, worker: WorkerState, first: Attempt, has_ended: bool, *, has_worked: bool, now: float
    ) -> list[Command]:
        """Decide about a worker from which nothing comes, although its first task does not run.

        Args:
            has_ended: that task has ended, so its result should have come; else it has not started.
            has_worked: the worker has run tasks before.
        """
        # A thread of a process may have to wait for another one that holds the interpreter.
        wait_s = self._result_s if (has_ended or has_worked) and not worker.process else max(STUCK_S, self._result_s)
        if now - worker.last_progress_at <= wait_s:
            return []
        if has_ended:
            reason = f"was killed because the result of a task that had ended did not come within {wait_s:g} s"
            return self._break(worker, first, reason)
        # An earlier task may have stopped the worker, so the first time no task is to blame.
        first.futile_workers += 1
        if first.futile_workers == 1 or worker.process:
            return [self.kill(worker)] if has_worked else [self.give_up(worker, now)]
        if first.timeout_s is not None:
            first.disposition = max(first.disposition, Disposition.TIME_OUT)
        return self._break(worker, first, f"was killed because it did nothing for {wait_s:g} s")

    def update(self, worker: WorkerState) -> list[Command]:
        """Update the table after a worker has changed; dismiss it if it is leaving and has no task."""
        commands: list[Command] = []
        if worker.is_leaving and not worker.killed:
            siblings = self._workers.siblings(worker)  # threads end together
            if not any(sibling.held or not sibling.pid for sibling in siblings):
                for sibling in siblings:
                    sibling.killed = True
                    commands.append(Dismiss(sibling.number))
        self._workers.update(worker)
        return commands

    # ---------------------------------------------------------------------------------------------- recall, stop, kill

    def recall(self, worker: WorkerState) -> Recall:
        """Recall what a worker has not started."""
        worker.recalled = True  # from now on, so that it gets nothing before the command is executed
        return Recall(worker.number)

    def after_recall(self, worker: WorkerState, now: float) -> list[Command]:
        """Handle what a worker still has after a recall: all of it has started."""
        worker.recalled = True
        if not worker.held:
            worker.empty_recalls += 1
            return [self.give_up(worker, now)] if worker.empty_recalls >= EMPTY_RECALLS_MAX else self.update(worker)
        last = worker.last
        worker.packs = deque([last.ticket])
        for attempt in worker.held.values():
            if attempt.disposition is Disposition.RETURN:
                attempt.disposition = Disposition.KEEP
        # Only the last one can be running; those before it have ended, and their results are about to come.
        if last.disposition is Disposition.CANCEL and worker.stopping != last.ticket:
            return [self.stop(worker, last, Disposition.CANCEL, now)]
        return []

    def stop(self, worker: WorkerState, attempt: Attempt, disposition: Disposition, now: float) -> Interrupt:
        """Stop a running task; if it goes on for `grace_s`, its worker is killed."""
        attempt.disposition = disposition
        worker.stopping, worker.kill_at = attempt.ticket, now + self._grace_s
        return Interrupt(worker.number, attempt.ticket)

    def kill(self, worker: WorkerState) -> Kill:
        """Kill a worker, and with it all threads of its process."""
        for sibling in self._workers.siblings(worker):
            sibling.killed = True
        if worker.process:
            self.abandon(worker.process)
        self._workers.idle.pop(worker.number, None)
        return Kill(worker.number)

    def abandon(self, process: int) -> None:
        """Start no more threads in this process."""
        if process == self._state.thread_process:
            self._state.thread_process = 0

    def give_up(self, worker: WorkerState, now: float) -> Kill:
        """Kill a worker that does not respond; no task is to blame."""
        if self.limit.died(now):
            self.degrade_after_deaths("does not answer")
        worker.stopping = 0
        return self.kill(worker)

    def broken(
        self, worker: WorkerState, reason: str, ticket: int, ended: int, *, may_be_former: bool
    ) -> list[Command]:
        """Kill a worker that violated the protocol, and find the task to blame."""
        first = worker.first
        is_sure = (ticket in worker.held or ended in worker.held) and not may_be_former
        if first is not None and not is_sure and worker.stopping not in worker.held:
            first.futile_workers += 1
            first = first if first.futile_workers > 1 else None
        return self._break(worker, first, reason)

    def _break(self, worker: WorkerState, culprit: Attempt | None, reason: str) -> list[Command]:
        worker.is_broken, worker.death_reason = True, reason
        worker.blamed = worker.stopping if worker.stopping in worker.held else culprit.ticket if culprit else 0
        return [self.kill(worker)]

    def restart_all(self, now: float, *, stop: bool) -> list[Command]:
        """Replace all workers: each one when its running task has ended, or with `stop` immediately."""
        commands: list[Command] = []
        for worker in list(self._workers):
            if worker.system_host or worker.killed or not (worker.pid or worker.process):
                continue  # it ends with its task, is about to end, or is new
            worker.outdated = True
            self._workers.idle.pop(worker.number, None)
            if worker.process:
                self.abandon(worker.process)
        for worker in list(self._workers):
            if not worker.outdated or worker.killed:
                continue
            if not worker.held:
                commands += self.update(worker)
            elif stop:
                commands.append(self.kill(worker))
            elif not worker.recalled:
                commands.append(self.recall(worker))
        return commands

    # ----------------------------------------------------------------------------------------------------------- death

    def died(
        self, worker: WorkerState, reason: str, ticket: int, started_at: float, now: float, *, is_collateral: bool
    ) -> list[Command]:
        """Handle the death of a worker that was removed from the table: end or requeue its attempts, replace it."""
        state = self._state
        # A task that was stopped by force is over, whatever the page shows; another running task is not to blame.
        culprit = worker.blamed if worker.is_broken else worker.stopping if worker.killed else ticket
        blamed = worker.held.pop(culprit, None)
        if worker.killed and worker.outdated and (stopped := worker.held.pop(ticket, None)) is not None:
            state.return_to_master(stopped)  # not kept here: the master's watch on its run time must begin anew
        for attempt in reversed(worker.held.values()):
            state.requeue(attempt)
        elapsed_s = worker.run_time_s(ticket, started_at, now) if ticket == culprit else 0.0
        if blamed is not None and blamed.disposition >= Disposition.CANCEL:
            state.finish(blamed, outcome_frames.stopped(blamed, worker, elapsed_s))
        elif blamed is not None:
            state.finish(blamed, outcome_frames.died(blamed, worker, reason, elapsed_s))
        elif not (worker.killed or is_collateral):
            limit = self.limit if worker.pid else self._start_limit
            if limit.died(now):
                self.degrade_after_deaths(
                    reason if limit is self.limit else f"{reason} while it was initialized", limit
                )
        return [] if state.degraded or worker.system_host or worker.spent else [self.start(now)]

    def degrade_after_deaths(self, reason: str, limit: RestartLimit | None = None) -> None:
        """Start no more workers, because more than `limit` have died without a task to blame."""
        limit = limit or self.limit
        within = f" within {limit.within_s:g} s" if math.isfinite(limit.within_s) else " in a row"
        deaths = f"{limit.deaths + 1} workers ended{within} without a task to blame"
        self._degrade(f"{deaths}; the last one {reason}. No more are started")
        self.has_initializer_failed = limit is not self.limit

    def initializer_failed(self, report: str) -> None:
        """Start no more workers, because the initializer has raised an error, as it would in the next one."""
        if not self._state.degraded:
            self.has_initializer_failed = True
            self._degrade(f"the initializer of the workers has failed:\n{report}")

    def _degrade(self, reason: str) -> None:
        self._state.degraded = True
        self._state.reports.degraded = reason
        self._state.return_all()
