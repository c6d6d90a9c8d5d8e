"""Unstarted tasks are asked back: for idle slots when nothing waits, and for owners who find no room.

Called by the scheduler after everything else. A task that is given back waits again, and the strategy places it.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.scheduling.scheduler_state import SchedulerState
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.tasks.task_record import TaskRecord

#: so many tasks for each slot are left to a slave from which room is taken for other owners
_LEFT_PER_SLOT: Final = 2


class Balance:
    """Decide which slave gives back which tasks."""

    def __init__(self, state: SchedulerState, *, after_s: float) -> None:
        if not after_s > 0:
            raise ConfigurationError(f"rebalance_after_s is {after_s}, it must be more than 0 seconds")
        self._state = state
        self._after_s = after_s
        self._next_check_s = 0.0

    def next_deadline_s(self) -> float | None:
        """Return when it is worth to look again, None while nothing can be moved."""
        return self._next_check_s if self._wanted() > 0 or self._others_need_room() else None

    def rebalance(self, now: float) -> None:
        """Ask for tasks that would start sooner elsewhere, or that keep others from starting.

        Strategies ask first, by rules of their own. Whatever the strategy, a slave is asked that has answered nothing
        for `after_s` seconds, the one with most unstarted tasks first: where answers keep coming, the queue is short in
        time however long it is.
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
        """Return how many tasks more could start elsewhere at once."""
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
        """Say whether a task is not left any longer to a slave that has answered nothing for so many seconds."""
        return not task.objects or quiet_s >= self._state.strategies.of(task.job).patience_s

    def _recaller(self, strategy: Strategy) -> Callable[[SlaveState, int], int]:
        of = self._state.strategies.of
        return lambda slave, most: self._recall(slave, most, lambda task: of(task.job) is strategy)

    def _recall(self, slave: SlaveState, most: int, may_move: Callable[[TaskRecord], bool]) -> int:
        """Ask for the tasks that it got last; return how many. None is asked for twice in one attempt."""
        spare = min(slave.spare, most)
        chosen = [task for task in self._unstarted(slave) if may_move(task)][-spare:] if spare > 0 else []
        self._recall_all(chosen, slave)
        return len(chosen)

    # --------------------------------------------------------------------------------------- for other owners

    def _others_need_room(self) -> bool:
        """Say whether somebody waits while tasks of another owner may have been handed out far ahead."""
        state = self._state
        return bool(state.strategies.prefetching_owners and state.waiting) and len(state.busy) > 1

    def _make_room(self) -> None:
        """Ask for what jobs have pushed far ahead by strategies of their own, on as many slots as others need."""
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
        # What takes several slots, or none, is no matter of idle slots.
        return [t for t in slave.tasks if t.width == 1 and not (t.started or t.cancelled or t in recalled)]

    def _recall_all(self, tasks: list[TaskRecord], slave: SlaveState) -> None:
        for task in tasks:
            self._state.recall(task, slave)
        if tasks:
            self._state.refresh(slave)
