"""Placement of multi-slot tasks and of system hosts, which take no slot. Strategies place all other tasks.

Called by the scheduler after the strategies, and active only when something has changed that could make room: a slave
that joined, left or was resized, or the end of such a task. One-slot tasks change nothing here.

A multi-slot task is assigned as soon as a slave has room for it besides its other multi-slot tasks, whatever one-slot
tasks it has: the slave keeps slots for it as they come free. So neither kind starves the other. The first in the queue
goes first, even if a smaller one behind it would fit; else large ones would never find room.
"""

from math import inf
from typing import Final

from concurrent_nb.scheduling.scheduler_state import SchedulerState
from concurrent_nb.scheduling.slave_state import SlaveState, is_multi_slot
from concurrent_nb.scheduling.task_lifecycle import TaskLifecycle
from concurrent_nb.scheduling.task_queue import QueuedRun
from concurrent_nb.tasks.task_record import TaskRecord

#: how long a task waits for a slave with enough slots while there are only smaller ones, in seconds
TOO_LARGE_AFTER_S: Final = 5.0


class Placement:
    """Decide which slave gets which multi-slot task and which system host.

    Args:
        state: of the scheduler.
        lifecycle: ends tasks that are refused.
        move_after_s: time without an answer after which a multi-slot task that waits at a slave may move to another.
    """

    def __init__(self, state: SchedulerState, lifecycle: TaskLifecycle, *, move_after_s: float) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._move_after_s = move_after_s
        self._next_move_s = 0.0
        self._most_slots = 0
        self._most_slots_since_s = 0.0
        self.give_up_s = inf  #: when the first multi-slot task is refused, if no slave joins that is large enough

    def place(self, now: float) -> None:
        """Assign tasks that fit; refuse tasks that are too large for every slave and have waited long enough."""
        state = self._state
        if state.placement_due:
            self._assign_queued(now)
        while now >= self.give_up_s:
            self._refuse(state.multi_slot.take(len(state.multi_slot)))
            self._assign_queued(now)

    def move(self, now: float) -> None:
        """Recall a multi-slot task that has not started, if another slave has enough free slots for it.

        Called while slaves are oversubscribed; as often as `Balance`, which has the deadline of both.
        """
        state = self._state
        if now < self._next_move_s or not state.idle or len(state.multi_slot):
            return
        self._next_move_s = now + self._move_after_s
        for slave in state.oversubscribed.values():
            if slave.multi_slot_load and now - slave.last_activity_s >= self._move_after_s:
                for task in slave.tasks:
                    if self._could_begin_elsewhere(task):
                        state.recall(task, slave)
                        state.refresh(slave)
                        return

    def _could_begin_elsewhere(self, task: TaskRecord) -> bool:
        needs = task.needs
        if needs is None or not is_multi_slot(needs) or task.started or task.cancelled or task in self._state.recalled:
            return False
        other = self._slave_for_multi_slot(needs.cores)
        return other is not None and other.load + (needs.cores or other.slots) <= other.slots

    def _assign_queued(self, now: float) -> None:
        state = self._state
        while (run := state.system_hosts.first()) is not None and (slave := self._slave_for_system_host()) is not None:
            for task in state.system_hosts.take(1):
                slave.take_system_host(task, now)
                self._assign(slave, run, task, now)
        while (run := state.multi_slot.first()) is not None:
            if (slave := self._slave_for_multi_slot(_cores(run))) is None:
                break
            for task in state.multi_slot.take(1):
                slave.take_multi_slot(task, _cores(run) or slave.slots, state.strategies.default.unknown_s, now)
                self._assign(slave, run, task, now)
        state.placement_due = False
        if state.most_slots != self._most_slots:
            self._most_slots, self._most_slots_since_s = state.most_slots, now
        too_large = run is not None and _cores(run) > state.most_slots > 0
        self.give_up_s = self._most_slots_since_s + TOO_LARGE_AFTER_S if too_large else inf

    def _assign(self, slave: SlaveState, run: QueuedRun, task: TaskRecord, now: float) -> None:
        slave.last_activity_s = now
        self._state.outbox.assign(slave.id, run, [task])
        self._state.refresh(slave)

    def _slave_for_system_host(self) -> SlaveState | None:
        """Return the slave with the fewest system hosts, whatever its load: a host mostly waits."""
        return min(
            (slave for slave in self._state.slaves.values() if slave.takes_system_host),
            key=lambda slave: slave.system_hosts,
            default=None,
        )

    def _slave_for_multi_slot(self, cores: int) -> SlaveState | None:
        """Return a slave where it can start immediately, else the one that is expected to have the slots soonest."""
        return min(
            (slave for slave in self._state.slaves.values() if slave.takes_multi_slot(cores)),
            key=lambda slave: (slave.load + (cores or slave.slots) > slave.slots, slave.in_flight_s / slave.slots),
            default=None,
        )

    def _refuse(self, tasks: list[TaskRecord]) -> None:
        """Refuse tasks of one job that were taken from the queue."""
        for task in tasks:
            self._lifecycle.refuse(task, why_too_large(self._state, task))
        if tasks and tasks[0].job.stop_on_error and not tasks[0].job.ended:
            self._lifecycle.end(tasks[0].job)


def why_too_large(state: SchedulerState, task: TaskRecord) -> str:
    """Return why every slave is too small for a task; "" if one is large enough, or if there are no slaves."""
    cores = task.needs.cores if task.needs is not None else 1
    if not cores > state.most_slots > 0:
        return ""
    return (
        f"task {task.name} needs {cores} cores of one slave, and the largest slave has {state.most_slots}: "
        "ask for fewer, or for all of one slave (cores=0, in a cell --needs cores=all)"
    )


def _cores(run: QueuedRun) -> int:
    return run.needs.cores if run.needs is not None else 1
