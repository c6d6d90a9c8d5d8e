"""The reserve: workers for the slots of blocked tasks, which wait for tasks of their own. Pure."""

from typing import Final

from concurrent_nb.workers.slave_side.attempts import Command, Dismiss
from concurrent_nb.workers.slave_side.pool_scheduler.outcome_frames import RESERVE_MAX
from concurrent_nb.workers.slave_side.pool_scheduler.pool_state import PoolState
from concurrent_nb.workers.slave_side.pool_scheduler.worker_lifecycle import WorkerLifecycle
from concurrent_nb.workers.slave_side.pool_scheduler.worker_table import WorkerState

#: a worker of the reserve is dismissed when it was not needed for this long
RESERVE_S: Final = 2.0


class Reserve:
    """Start a worker for each blocked one beyond those that the reserve has; dismiss them after a while without use."""

    def __init__(self, state: PoolState, lifecycle: WorkerLifecycle) -> None:
        self._state = state
        self._workers = state.workers
        self._lifecycle = lifecycle
        self._needed_at = 0.0

    @property
    def lent_slots(self) -> int:
        """Return how many slots blocked tasks have lent."""
        return min(self._workers.blocked + self._workers.blocked_threads, RESERVE_MAX)

    @property
    def is_full(self) -> bool:
        """Return whether no more tasks may be blocked."""
        return self._workers.blocked + self._workers.blocked_threads >= RESERVE_MAX

    def block(self, worker: WorkerState, now: float) -> list[Command]:
        """Lend a worker's slot; start another worker if the reserve has none for it."""
        workers = self._workers
        workers.block(worker)
        if worker.process or workers.blocked <= workers.reserve or self._state.degraded:
            return []
        workers.reserve += 1
        return [self._lifecycle.start(now)]

    def unblock(self, worker: WorkerState, now: float) -> None:
        """Take a worker's slot back."""
        self._workers.unblock(worker)
        self._needed_at = now

    def dismiss_unused(self, now: float) -> list[Command]:
        """Dismiss the workers that were not needed for a while."""
        workers = self._workers
        commands: list[Command] = []
        if now - self._needed_at >= RESERVE_S:
            while workers.idle and workers.reserve > workers.blocked and workers.free_slots >= 0:
                _, worker = workers.idle.popitem()
                worker.killed = worker.spent = True
                workers.reserve -= 1
                commands.append(Dismiss(worker.number))
        return commands
