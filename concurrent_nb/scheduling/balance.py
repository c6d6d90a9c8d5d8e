"""Recalls of unstarted tasks: for idle slots when no task waits, and for owners whose tasks find no room.

Called by the scheduler after everything else. A task that a slave returns waits again, and a strategy places it.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.scheduling.scheduler_state import SchedulerState
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.tasks.task_record import TaskRecord

#: tasks for each slot that are left to a slave whose tasks are recalled for other owners
_LEFT_PER_SLOT: Final = 2


class Balance:
    """Decide which tasks are recalled from which slaves.

    Args:
        state: of the scheduler.
        after_s: time without an answer after which a slave's tasks are recalled, in seconds, above 0.

    Raises ConfigurationError for another `after_s`.
    """

    def __init__(self, state: SchedulerState, *, after_s: float) -> None:
        if not after_s > 0:
            raise ConfigurationError(f"rebalance_after_s is {after_s}, it must be more than 0 seconds")
        self._state = state
        self._after_s = after_s
        self._next_check_s = 0.0

    def next_deadline_s(self) -> float | None:
        """Return when to call `rebalance` again, None while nothing can be moved."""
        return self._next_check_s if self._wanted() > 0 or self._others_need_room() else None

    def rebalance(self, now: float) -> None:
        """Recall tasks that would start sooner elsewhere, or that keep others from starting.

        Strategies recall first, by rules of their own. Then, with any strategy, tasks of slaves that have answered
        nothing for `after_s` seconds are recalled, from the slave with most unstarted tasks first: while answers keep
        coming, even a long queue takes little time.
        """
        wanted = self._wanted()
        if wanted > 0:
            for strategy in self._state.strategies.all:
                strategy.rebalance(wanted, self._recaller(strategy))
            wanted = self._wanted()
        if now < self._next_check_s:
            return
        if wanted > 0:
            self._next_check_s = now + self._after_s
            self._recall_from_inactive(wanted, now)
        elif self._others_need_room():
            self._next_check_s = now + self._after_s
            self._make_room()

    # --------------------------------------------------------------------------------------- for idle slots

    def _wanted(self) -> int:
        """Return how many more tasks could start immediately elsewhere."""
        state = self._state
        return state.idle - len(state.recalled) if state.oversubscribed and not state.waiting else 0

    def _recall_from_inactive(self, wanted: int, now: float) -> None:
        quiet = [slave for slave in self._state.oversubscribed.values() if now - slave.last_activity_s >= self._after_s]
        quiet.sort(key=lambda slave: slave.started - len(slave.tasks))
        for slave in quiet:
            quiet_s = now - slave.last_activity_s
            wanted -= self._recall(slave, wanted, partial(self._has_waited, quiet_s))
            if wanted <= 0:
                return

    def _has_waited(self, quiet_s: float, task: TaskRecord) -> bool:
        """Return whether a task may leave a slave that has answered nothing for `quiet_s` seconds."""
        return not task.objects or quiet_s >= self._state.strategies.of(task.job).patience_s

    def _recaller(self, strategy: Strategy) -> Callable[[SlaveState, int], int]:
        of = self._state.strategies.of
        return lambda slave, most: self._recall(slave, most, lambda task: of(task.job) is strategy)

    def _recall(self, slave: SlaveState, most: int, may_move: Callable[[TaskRecord], bool]) -> int:
        """Recall the tasks that a slave got last; return how many. A task is recalled once in an attempt at most."""
        spare = min(slave.spare, most)
        chosen = [task for task in self._unstarted(slave) if may_move(task)][-spare:] if spare > 0 else []
        self._recall_all(chosen, slave)
        return len(chosen)

    # --------------------------------------------------------------------------------------- for other owners

    def _others_need_room(self) -> bool:
        """Return whether tasks wait while those of another owner may have been prefetched."""
        state = self._state
        return bool(state.strategies.prefetching_owners and state.waiting) and len(state.busy) > 1

    def _make_room(self) -> None:
        """Recall what jobs have prefetched by strategies of their own, from as many slots as other owners need."""
        state = self._state
        waiting, prefetching_owners = state.waiting, state.strategies.prefetching_owners
        needed = {owner: len(waiting) - waiting.of(owner) for owner in prefetching_owners}
        most_needed = max(needed.values())
        freed = 0
        for slave in list(state.oversubscribed.values()):
            if freed >= most_needed:
                return
            left = slave.slots * _LEFT_PER_SLOT
            movable = [
                task
                for task in self._unstarted(slave)[max(0, left - slave.started) :]
                if needed.get(task.job.owner, 0) > freed and state.strategies.has_own_prefetching(task.job)
            ]
            if movable or slave.recalled:
                freed += max(1, slave.slots)
            self._recall_all(movable, slave)

    # --------------------------------------------------------------------------------------- both

    def _unstarted(self, slave: SlaveState) -> list[TaskRecord]:
        recalled = self._state.recalled
        # Multi-slot tasks and system hosts do not compete for single idle slots.
        return [t for t in slave.tasks if t.width == 1 and not (t.started or t.cancelled or t in recalled)]

    def _recall_all(self, tasks: list[TaskRecord], slave: SlaveState) -> None:
        for task in tasks:
            self._state.recall(task, slave)
        if tasks:
            self._state.refresh(slave)
