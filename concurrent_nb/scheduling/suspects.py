"""Placement of suspects, tasks that may have killed their slaves: each runs alone on a slave.

So one more loss of a slave is certainly the fault of its suspect, and a task costs the cluster no more slaves than
deaths are allowed. Called by the scheduler before and after all other tasks are placed, while there are suspects.

A suspect goes to a slave without tasks, else one is reserved for it: it gets no more tasks, and its unstarted tasks are
recalled. While other tasks wait too, at most half of the slaves, but at least one, are isolated so; if there is only
one slave, suspects and other tasks take turns there.

Tasks that wait for tasks of their own (system hosts mostly do, and tasks that have lent their slot) do not keep a
suspect from a slave; as a suspect, such a task does not keep other tasks from the last slave. Else they would wait for
each other.
"""

from math import inf

from concurrent_nb.ids import SessionId
from concurrent_nb.scheduling.placement import TOO_LARGE_AFTER_S, why_too_large
from concurrent_nb.scheduling.scheduler_state import SchedulerState
from concurrent_nb.scheduling.slave_state import SlaveState, is_multi_slot, is_system_host
from concurrent_nb.scheduling.task_lifecycle import TaskLifecycle
from concurrent_nb.scheduling.task_queue import QueuedRun
from concurrent_nb.tasks.task_record import TaskRecord
from concurrent_nb.wire.messages import HOSTS_MAX


class Suspects:
    """Decide which slave runs which suspect, and which slave is reserved for the next."""

    def __init__(self, state: SchedulerState, lifecycle: TaskLifecycle) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._isolated: dict[SessionId, SlaveState] = {}  # slaves that are reserved, or have a suspect
        self.give_up_s = inf  #: when the first suspect is refused, if no slave joins that is large enough

    def settle(self) -> None:
        """Open slaves whose suspect has ended, and those that need not be reserved any more."""
        state = self._state
        for slave in list(self._isolated.values()):
            if slave.suspect is not None and slave.suspect not in slave.tasks:
                slave.suspect, slave.reserved = None, self._stays_reserved(slave)
            if state.slaves.get(slave.id) is not slave:
                del self._isolated[slave.id]
        reserved = [slave for slave in self._isolated.values() if slave.reserved]
        most = self._reserved_max()
        for slave in reserved:
            if not slave.is_usable or most <= 0:
                slave.reserved = False
            else:
                most -= 1
        self._close()
        state.has_suspects = bool(self._isolated or state.suspects.total)

    def place(self, now: float) -> bool:
        """Assign suspects, reserve slaves for waiting ones. Returns whether slaves were opened for other tasks."""
        queue = self._state.suspects
        while (run := queue.first()) is not None:
            slave = min(
                (slave for slave in self._candidates(run) if slave.is_free_for_suspect),
                key=lambda slave: (slave.system_hosts, slave.load, slave.slots),
                default=None,
            )
            if slave is not None:
                for task in queue.take(1):
                    self._assign(slave, run, task, now)
            elif not self._is_refused(run, now):
                break
        if run is None:
            self.give_up_s = inf
        self._reserve_for(run)
        return self._close()

    def _stays_reserved(self, slave: SlaveState) -> bool:
        """Return whether a slave whose suspect has ended stays closed, for the next one."""
        return not self._others_wait() or any(
            other.is_usable and not other.closed for other in self._state.slaves.values() if other is not slave
        )

    def _others_wait(self) -> bool:
        state = self._state
        return bool(len(state.waiting) or len(state.multi_slot) or len(state.system_hosts))

    def _reserved_max(self) -> int:
        """Return how many slaves may be reserved at the same time."""
        state = self._state
        usable = sum(slave.is_usable for slave in state.slaves.values())
        taken = sum(slave.suspect is not None and not slave.suspect_may_wait for slave in self._isolated.values())
        most = max(1, usable // 2) if self._others_wait() else usable
        return min(most - taken, len(state.suspects))

    def _candidates(self, run: QueuedRun) -> list[SlaveState]:
        """List the slaves that may get a suspect when they are free for it."""
        cores = _cores(run)
        fit = [slave for slave in self._state.slaves.values() if slave.is_usable and slave.slots >= cores]
        if is_system_host(run.needs):
            fit = [slave for slave in fit if slave.system_hosts < HOSTS_MAX]
        free = [slave for slave in fit if slave.suspect is None]
        return free or [slave for slave in fit if slave.suspect_may_wait]

    def _reserve_for(self, run: QueuedRun | None) -> None:
        """Reserve slaves for a run of suspects and those behind it; open reserved slaves that do not fit them."""
        fit = [] if run is None else self._candidates(run)
        reserved = 0
        for slave in self._isolated.values():
            slave.reserved = slave.reserved and slave in fit
            reserved += slave.reserved
        others = [slave for slave in fit if not slave.reserved]
        others.sort(key=lambda slave: (slave.system_hosts, slave.started, slave.load / slave.slots))
        for slave in others[: max(0, self._reserved_max() - reserved)]:
            slave.reserved = True
            self._isolated[slave.id] = slave
            for task in slave.tasks:
                if not (task.started or task.cancelled or is_system_host(task.needs) or task in self._state.recalled):
                    self._state.recall(task, slave)

    def _assign(self, slave: SlaveState, run: QueuedRun, task: TaskRecord, now: float) -> None:
        state = self._state
        estimate_s = state.estimates.get(run.function)
        unknown_s = state.strategies.of(run.job).unknown_s
        if is_system_host(run.needs):
            slave.take_system_host(task, now)
        elif is_multi_slot(run.needs):
            slave.take_multi_slot(task, _cores(run) or slave.slots, unknown_s, now)
        else:
            slave.take([task], unknown_s if estimate_s is None else estimate_s, now)
        slave.suspect, slave.reserved = task, False
        slave.last_activity_s = now
        self._isolated[slave.id] = slave
        if run.objects:
            state.locations.hold(slave, [each for each, _ in run.objects])
        state.outbox.assign(slave.id, run, [task])
        state.refresh(slave)

    def _is_refused(self, run: QueuedRun, now: float) -> bool:
        """Refuse suspects that need more cores than any slave has, after a while. Returns whether it did."""
        state = self._state
        if not _cores(run) > state.most_slots > 0:
            self.give_up_s = inf
            return False
        self.give_up_s = min(self.give_up_s, now + TOO_LARGE_AFTER_S)
        if now < self.give_up_s:
            return False
        self.give_up_s = inf
        tasks = state.suspects.take(len(state.suspects))
        for task in tasks:
            self._lifecycle.refuse(task, why_too_large(state, task))
        if tasks and run.job.stop_on_error and not run.job.ended:
            self._lifecycle.end(run.job)
        return True

    def _close(self) -> bool:
        """Close isolated slaves, open those that no longer are. Returns whether a slave was opened."""
        state, opened = self._state, False
        others = any(slave.is_usable for slave in state.slaves.values() if slave.id not in self._isolated)
        for slave in list(self._isolated.values()):
            closed = slave.reserved or (slave.suspect is not None and (others or not slave.suspect_may_wait))
            if not (slave.reserved or slave.suspect):
                del self._isolated[slave.id]
            if closed != slave.closed:
                slave.closed = closed
                opened = opened or not closed
                state.placement_due = True
                state.refresh(slave)
        return opened


def _cores(run: QueuedRun) -> int:
    """Return how many cores a task of a run needs; 0: all of a slave."""
    return run.needs.cores if run.needs is not None else 1
